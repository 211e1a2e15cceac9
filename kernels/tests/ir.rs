//! The tile IR of the shipped schedules as they are staged, before any pass: small sizes, whole text.

use lacuna_codegen::ir;
use lacuna_dsl::prelude::*;
use lacuna_kernels::dense::{QueryMajor, QueryMajorPick};
use lacuna_kernels::lists::{
    Chosen, CountPicks, CountPicksPick, ListWork, ListWorkPick, NumberSlots, NumberSlotsPick, ScatterPicks,
    ScatterPicksPick, SumCounts, SumCountsPick, SumLengths, SumLengthsPick,
};
use lacuna_kernels::nsa::{GroupCentric, GroupCentricPick};
use lacuna_kernels::patterns::{causal, full, window, window_sink};

fn query_major(mask: Mask) -> String {
    let pick = QueryMajorPick { rows: 32, kv: 16, stages: 2, warps: 2, ..Default::default() };
    let shape = Shape::new(Elem::Bf16, 32, 64, 4);
    QueryMajor::new(mask).stage(Target::SM_80, &shape, &pick).unwrap().func.to_string()
}

fn group_centric() -> String {
    let pick = GroupCentricPick { stages: 2, warps: 2 };
    let shape = Shape::new(Elem::F16, 32, 64, 6).with_block(32);
    GroupCentric::new().stage(Target::SM_80, &shape, &pick).unwrap().func.to_string()
}

fn lists() -> [(&'static str, String); 6] {
    let shape = Shape::new(Elem::Bf16, 32, 32, 1).with_block(32);
    let chosen = Chosen::picks(32);
    let (slots, work) = (NumberSlotsPick { lane: 128, warps: 4 }, ListWorkPick { lane: 128, warps: 4 });
    let count = CountPicksPick { lane: 64, chunk: 256, slot: 128, warps: 1 };
    let counts = SumCountsPick { lane: 128, warps: 4 };
    let lengths = SumLengthsPick { lane: 128, warps: 4 };
    let scatter = ScatterPicksPick { lane: 64, chunk: 256, slot: 128, warps: 1 };
    let text = |staged: Result<lacuna_dsl::Staged, lacuna_dsl::Error>| staged.unwrap().func.to_string();
    [
        ("number_slots", text(NumberSlots::new(32).stage(Target::SM_80, &shape, &slots))),
        ("list_work", text(ListWork::new(16).stage(Target::SM_80, &shape, &work))),
        ("count_picks", text(CountPicks::new(chosen).with_picks().stage(Target::SM_80, &shape, &count))),
        ("sum_counts", text(SumCounts.stage(Target::SM_80, &shape, &counts))),
        ("sum_lengths", text(SumLengths::new(16).stage(Target::SM_80, &shape, &lengths))),
        ("scatter_picks", text(ScatterPicks::new(chosen).with_picks().stage(Target::SM_80, &shape, &scatter))),
    ]
}

#[test]
fn staged() {
    insta::assert_snapshot!("query_major_causal", query_major(causal()));
    insta::assert_snapshot!("query_major_window_sink", query_major(window_sink(8, 2)));
    insta::assert_snapshot!("group_centric", group_centric());
    for (name, text) in lists() {
        insta::assert_snapshot!(name, text);
    }
}

#[test]
fn staged_text_reads_back() {
    let texts = [query_major(full()), query_major(window(8)), query_major(window_sink(8, 2)), group_centric()];
    for text in texts.into_iter().chain(lists().map(|(_, text)| text)) {
        assert_eq!(ir::read(&text).unwrap().to_string(), text);
    }
}
