//! What holds of attention whatever the numbers: of what is computed on the emulator, with small drawn shapes.
//!
//! A failure prints the case, its seed included: the numbers are drawn from the seed alone.

use lacuna_dsl::{Elem, Pick, Shape, Target};
use lacuna_emulator::Options;
use lacuna_kernels::inputs::{Locality, Route, Spoil};
use lacuna_runtime::Device;
use lacuna_tests::{Case, Mixture, Outcome, Picks, Problem, Routes, Seen, Work, run, widths};
use proptest::prelude::*;
use proptest::sample::{Index, select};

fn config() -> ProptestConfig {
    ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() }
}

fn compute(problem: &Problem) -> Outcome {
    let plan = problem.case.plan(Target::SM_80).unwrap_or_else(|error| panic!("{}: {error}", problem.case));
    run(&Device::emulator(), &plan, problem).unwrap_or_else(|error| panic!("{}: {error}", problem.case))
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

fn seen() -> impl Strategy<Value = Seen> {
    prop_oneof![
        Just(Seen::Full),
        Just(Seen::Causal),
        (1..100u32).prop_map(Seen::Window),
        (1..60u32, 0..60u32).prop_map(|(window, sink)| Seen::WindowSink(window, sink)),
        (0..100u32).prop_map(Seen::PrefixLm),
        (1..40u32).prop_map(Seen::Dilated),
        (1..100u32).prop_map(Seen::BlockDiagonal),
        (0..60u32, 0..60u32).prop_map(|(reach, global)| Seen::Longformer(reach, global)),
    ]
}

fn work() -> impl Strategy<Value = Work> {
    let picks = select(vec![
        Picks::Drawn(Locality::PerToken),
        Picks::Wild,
        Picks::Spoiled(Spoil::Empty),
        Picks::Spoiled(Spoil::Repeat),
    ]);
    prop_oneof![
        seen().prop_map(Work::QueryMajor),
        (picks, 1..6usize).prop_map(|(picks, n)| Work::GroupCentric(picks, n))
    ]
}

prop_compose! {
    /// A case of any schedule, at any of its picks that its group allows.
    fn cases()(
        work in work(),
        lengths in prop::collection::vec(prop_oneof![Just(0usize), 1..90usize], 1..4),
        width in select(widths().to_vec()),
        group in prop_oneof![1..9u32, Just(16), Just(20)],
        elem in select(vec![Elem::Bf16, Elem::F16]),
        pick in any::<Index>(),
        hk in 1..3usize,
        seed in any::<u32>(),
    ) -> Case {
        let mut case = Case::new(work, width, group, &lengths);
        case.pick = pick.get(&picks_of(&case)).clone();
        case.shape.elem = elem;
        case.hk = hk;
        case.seed = seed.into();
        case
    }
}

prop_compose! {
    /// Mixtures of block attention: any routing, blocks, choices, chunks, and keys apart or not.
    fn mixtures()(
        routes in select(vec![Routes::Made, Routes::Drawn(Route::Random), Routes::Garbage, Routes::Repeated]),
        (top, block) in (select(vec![1, 2, 3, 5, 12, 64]), select(vec![32u32, 64, 96, 1024])),
        share in select(vec![None, None, Some(0), Some(40), Some(100)]),
        chunks in (1..3u32, 1..4u32),
        documents in prop::collection::vec((prop_oneof![Just(0usize), 1..150usize], 0..150usize), 1..4),
        apart in any::<bool>(),
        width in select(vec![(32, 32), (64, 64), (128, 128), (192, 128)]),
        group in prop_oneof![1..6u32, Just(16)],
        elem in select(vec![Elem::Bf16, Elem::F16]),
        hk in 1..3usize,
        seed in any::<u32>(),
    ) -> Case {
        let mixture = Mixture { chunks: chunks.into(), share, ..Mixture::new(routes, top) };
        let (lengths, keys): (Vec<usize>, Vec<usize>) = documents.into_iter().unzip();
        let shape = Shape::new(elem, width.0, width.1, group).with_block(block);
        let case = Case { hk, seed: seed.into(), ..Case::of(Work::Moba(mixture), shape, &lengths) };
        if apart { case.with_keys(&keys) } else { case }
    }
}

fn any_cases() -> impl Strategy<Value = Case> {
    prop_oneof![2 => cases(), 1 => mixtures()]
}

/// The picks that fit the GPU with the shape of a case.
fn picks_of(case: &Case) -> Vec<Pick> {
    let fits = |pick: &Pick| case.work.plan(Target::SM_80, &case.shape, pick).is_ok();
    case.work.space(Target::SM_80).picks().into_iter().filter(fits).collect()
}

proptest! {
    #![proptest_config(config())]

    /// Nothing depends on which warp goes first: whatever the order of turns, the result is the same, bit for bit.
    #[test]
    fn the_order_of_turns_changes_nothing(case in any_cases(), seed in 1..u64::MAX) {
        let problem = Problem::draw(&case);
        let plan = case.plan(Target::SM_80).expect("a case that can be planned is drawn");
        let options = Options { seed, resident: 3, ..Options::default() };
        let other = run(&Device::emulator_with(options), &plan, &problem);
        let other = other.unwrap_or_else(|error| panic!("{case}: {error}"));
        let plain = compute(&problem);
        prop_assert!(bits(&plain.o) == bits(&other.o), "outputs of {case}");
        prop_assert!(bits(&plain.lse) == bits(&other.lse), "LSE of {case}");
    }

    /// Documents do not see one another: a batch is its documents, bit for bit.
    #[test]
    fn a_batch_is_its_documents(case in any_cases()) {
        let batch = Problem::draw(&case);
        let together = compute(&batch);
        let (mut o, mut lse) = (Vec::new(), Vec::new());
        for document in 0..case.lengths.len() {
            let alone = compute(&batch.document(document));
            o.extend(bits(&alone.o));
            lse.extend(bits(&alone.lse));
        }
        prop_assert!(bits(&together.o) == o, "outputs of {case}");
        prop_assert!(bits(&together.lse) == lse, "LSE of {case}");
    }

    /// Query heads of a group are alike: in another order, their results are in that order, bit for bit.
    #[test]
    fn heads_of_a_group_may_be_in_any_order(case in any_cases(), turn in any::<Index>(), flip in any::<bool>()) {
        let group = case.shape.group as usize;
        let turn = turn.index(group);
        let within = |h: usize| if flip { group - 1 - (h + turn) % group } else { (h + turn) % group };
        let order: Vec<usize> = (0..case.hq()).map(|head| head / group * group + within(head % group)).collect();
        let problem = Problem::draw(&case);
        let (plain, permuted) = (compute(&problem), compute(&problem.with_heads(&order)));
        let width = case.shape.dv as usize;
        for (row, head) in (0..case.total()).flat_map(|token| order.iter().map(move |&from| (token, from))).enumerate() {
            let from = head.0 * case.hq() + head.1;
            prop_assert_eq!(permuted.lse[row].to_bits(), plain.lse[from].to_bits(), "LSE of row {} of {}", row, &case);
            let of = |o: &[f32], row: usize| bits(&o[row * width..(row + 1) * width]);
            prop_assert!(of(&permuted.o, row) == of(&plain.o, from), "outputs of row {row} of {case}");
        }
    }

    /// With every block chosen, mixed attention is causal attention: each within the tolerance of the same result.
    #[test]
    fn every_block_chosen_is_causal(
        length in 1..200usize,
        (width, block) in (select(widths().to_vec()), select(vec![32u32, 64])),
        (group, made) in (1..6u32, any::<bool>()),
        seed in any::<u32>(),
    ) {
        let mut case = Case { seed: seed.into(), ..Case::new(Work::QueryMajor(Seen::Causal), width, group, &[length]) };
        case.shape.block = block;
        let dense = Problem::draw(&case);
        let routes = if made { Routes::Made } else { Routes::Everything };
        let work = Work::Moba(Mixture::new(routes, (length as u32).div_ceil(block)));
        let mixed = compute(&dense.under(&Case { work, pick: work.default_pick(&case.shape), ..case.clone() }));
        let outcomes = [compute(&dense), Outcome { routing: None, ..mixed }];
        for (name, verdicts) in ["causal", "mixed"].iter().zip(dense.judge(&[&outcomes[0], &outcomes[1]])) {
            prop_assert!(verdicts.ok(), "{name} of {case}:\n{verdicts}");
        }
    }

    /// With every block picked, selected attention is causal attention: each within the tolerance of the same result.
    #[test]
    fn every_block_picked_is_causal(
        length in 1..200usize,
        width in select(widths().to_vec()),
        group in 1..9u32,
        seed in any::<u32>(),
    ) {
        let case = Case { seed: seed.into(), ..Case::new(Work::QueryMajor(Seen::Causal), width, group, &[length]) };
        let dense = Problem::draw(&case);
        let picks = Work::GroupCentric(Picks::Everything, 5);
        let selected = dense.under(&Case { work: picks, pick: picks.default_pick(&case.shape), ..case.clone() });
        let outcomes = [compute(&dense), compute(&selected)];
        for (name, verdicts) in ["causal", "selected"].iter().zip(dense.judge(&[&outcomes[0], &outcomes[1]])) {
            prop_assert!(verdicts.ok(), "{name} of {case}:\n{verdicts}");
        }
    }

    /// A window that reaches back to the first token is causal attention, bit for bit; so is a sink that reaches the last.
    #[test]
    fn a_window_over_everything_is_causal(
        length in 1..200usize,
        more in 0..100u32,
        pick in any::<Index>(),
        width in select(widths().to_vec()),
        seed in any::<u32>(),
    ) {
        let length_u32 = length as u32;
        let mut case = Case { seed: seed.into(), ..Case::new(Work::QueryMajor(Seen::Causal), width, 2, &[length]) };
        case.pick = pick.get(&picks_of(&case)).clone();
        let causal = Problem::draw(&case);
        let expected = compute(&causal);
        let wide = [Seen::Window(length_u32 + more), Seen::WindowSink(1 + more, length_u32), Seen::WindowSink(length_u32, more)];
        for seen in wide {
            let same = compute(&causal.under(&Case { work: Work::QueryMajor(seen), ..case.clone() }));
            prop_assert!(bits(&same.o) == bits(&expected.o), "outputs of {seen} for {case}");
            prop_assert!(bits(&same.lse) == bits(&expected.lse), "LSE of {seen} for {case}");
        }
    }
}
