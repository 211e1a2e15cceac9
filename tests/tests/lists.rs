//! Block lists turned around, against going through everybody's picks: on the emulator, and on a GPU where there is one.

use lacuna_dsl::{Elem, Shape, Target};
use lacuna_kernels::host::Host;
use lacuna_kernels::inputs::{self, Locality, Spoil};
use lacuna_kernels::lists::{Chosen, CountPicksPick, InverseLists, ScatterPicksPick};
use lacuna_kernels::reference::lists::inverse_lists;
use lacuna_ptx::tools::assemble;
use lacuna_runtime::{Bindings, Device, Tensor};
use lacuna_tests::target_for;
use proptest::prelude::*;

/// What a kernel's lists are.
#[derive(Debug, PartialEq, Eq)]
struct Lists {
    /// For each head, up to where its last list ends.
    entries: Vec<Vec<i32>>,
    /// For each head, up to the last piece.
    work: Vec<Vec<[i32; 4]>>,
}

fn run(device: &Device, lists: &InverseLists, picks: &Host<i32>, cu_seqlens: &[i32]) -> Lists {
    let [total, heads, n] = picks.shape.map(|extent| extent as u64);
    let slots = total.div_ceil(lists.chosen.block.into()) + cu_seqlens.len() as u64 - 1;
    let plan = lists.plan(target_for(device)).expect("a plan");
    let tensor = |shape: &[u64], data: &[i32]| Tensor::from_slice(device, shape, data).expect("a tensor");
    let poisoned = |shape: &[u64]| Tensor::poisoned(device, Elem::I32, shape).expect("a tensor");
    let pieces = (total * n).div_ceil(lists.tile.into()) + slots;
    let (entries, work) = (poisoned(&[heads, total * n]), poisoned(&[heads, pieces, 4]));
    let bindings = Bindings::new()
        .tensor("picks", &tensor(&[total, heads, n], &picks.data))
        .tensor("cu_seqlens", &tensor(&[cu_seqlens.len() as u64], cu_seqlens))
        .tensor("list_work", &work)
        .tensor("list_entries", &entries);
    device.run(&plan, &bindings).unwrap_or_else(|error| panic!("{lists:?}: {error}"));
    let ints = |tensor: &Tensor| tensor.to_vec::<i32>().expect("what it holds");
    let (work, all) = (ints(&work), ints(&entries));
    let work: Vec<Vec<[i32; 4]>> = (0..heads as usize)
        .map(|head| {
            let all = work.chunks_exact(4).skip(head * pieces as usize).take(pieces as usize);
            let all: Vec<[i32; 4]> = all.map(|piece| piece.try_into().expect("four numbers")).collect();
            let some = all.iter().take_while(|piece| piece[1] > 0).count();
            assert!(all[some..].iter().all(|piece| piece[1] == 0), "behind the last piece there is none: {all:?}");
            all[..some].to_vec()
        })
        .collect();
    let entries = work
        .iter()
        .enumerate()
        .map(|(head, work)| {
            let end = work.iter().map(|[first, many, ..]| first + many).max().unwrap_or(0);
            all[head * (total * n) as usize..][..end as usize].to_vec()
        })
        .collect();
    Lists { entries, work }
}

#[track_caller]
fn check(lists: &InverseLists, picks: &Host<i32>, cu_seqlens: &[i32]) {
    let wanted = inverse_lists(picks, cu_seqlens, lists.chosen.block as usize);
    let heads = 0..picks.shape[1];
    let wanted = Lists {
        entries: heads.clone().map(|head| wanted.entries(head)).collect(),
        work: heads.map(|head| wanted.work(head, lists.tile as usize)).collect(),
    };
    for device in [Device::emulator()].into_iter().chain(Device::cuda(0).ok()) {
        let found = run(&device, lists, picks, cu_seqlens);
        assert!(
            found == wanted,
            "{lists:?} of {:?} over {cu_seqlens:?} on {device}\n{found:?}\n{wanted:?}",
            picks.shape
        );
    }
}

fn lists(block: u32, tile: u32) -> InverseLists {
    InverseLists::new(Shape::new(Elem::Bf16, 64, 64, 1), Chosen::picks(block), tile)
}

#[test]
fn counting_and_placing_go_the_same_way() {
    let (count, scatter) = (CountPicksPick::default(), ScatterPicksPick::default());
    assert_eq!((count.chunk, count.slot), (scatter.chunk, scatter.slot));
}

/// One token, ragged and empty documents, chunks that end inside of documents, and documents inside of chunks.
const LENGTHS: [&[usize]; 8] =
    [&[1], &[63], &[64], &[65, 0, 0, 1], &[0, 700], &[5, 600, 31, 0, 64, 3], &[513], &[1; 40]];

#[test]
fn drawn_selections_are_turned_around() {
    for (case, lengths) in LENGTHS.into_iter().enumerate() {
        let cu_seqlens = inputs::cu_seqlens(lengths);
        for (more, locality) in [Locality::PerToken, Locality::PerBlock].into_iter().enumerate() {
            let (block, n, heads) = ([64, 32, 16, 128][case % 4], [4, 3, 16, 7][(case + more) % 4], 1 + case % 3);
            let picks = inputs::picks(case as u64, &cu_seqlens, heads, block as usize, n, locality);
            check(&lists(block, [8, 1, 128, 5][case % 4]), &picks, &cu_seqlens);
        }
    }
}

#[test]
fn picks_that_are_no_block_are_in_no_list_and_repeated_ones_stand_twice() {
    for (case, spoil) in [Spoil::Shuffle, Spoil::OutOfRange, Spoil::Empty, Spoil::Repeat].into_iter().enumerate() {
        let cu_seqlens = inputs::cu_seqlens(&[200, 0, 77, 1]);
        let mut picks = inputs::picks(case as u64, &cu_seqlens, 2, 32, 6, Locality::PerToken);
        inputs::spoil(case as u64, &mut picks, &cu_seqlens, 32, spoil);
        check(&lists(32, 16), &picks, &cu_seqlens);
    }
    let nothing = Host::filled(-1, [70, 2, 4]);
    check(&lists(64, 16), &nothing, &[0, 70]);
    let all_one = Host::filled(1, [70, 2, 4]);
    check(&lists(64, 16), &all_one, &[0, 70]);
    let wild = Host::filled(i32::MAX, [70, 1, 4]);
    check(&lists(16, 16), &wild, &[0, 40, 70]);
    check(&lists(16, 16), &wild.map(|_| i32::MIN), &[0, 40, 70]);
}

#[test]
fn more_slots_than_one_table_and_more_chunks_than_are_summed_together() {
    let mut small = lists(16, 4);
    (small.chunk, small.slots) = (16, 64);
    let cu_seqlens = inputs::cu_seqlens(&[900, 0, 17, 700]);
    let picks = inputs::picks(3, &cu_seqlens, 2, 16, 5, Locality::PerToken);
    check(&small, &picks, &cu_seqlens);
    // More slots than the offsets' CTA has lanes.
    let cu_seqlens: Vec<i32> = (0..=1500).map(|d| d / 3).collect();
    let picks = Host::new((0..500).map(|token| token % 4 - 1).collect(), [500, 1, 1]);
    check(&lists(16, 4), &picks, &cu_seqlens);
}

#[test]
fn a_warp_has_registers_for_all_that_it_keeps() {
    for target in [Target::SM_80, Target::SM_90] {
        for plan in lists(64, 128).plans(target).expect("plans") {
            let launch = &plan.launches[0];
            let usage =
                assemble(&launch.ptx, target).expect("PTX").usage(&launch.entry).expect("what it takes").clone();
            assert_eq!((usage.spill_stores, usage.spill_loads), (0, 0), "{} for {target}", plan.name);
        }
    }
}

#[test]
fn a_tile_of_no_entries_and_too_many_picks_are_refused() {
    let none = lists(64, 0).plan(Target::SM_80).expect_err("no tiles");
    assert!(none.to_string().contains("a tile of a list has no entries"), "{none}");
    let mut many = lists(64, 1);
    (many.chunk, many.slots) = (65536, 65536);
    let many = many.plan(Target::SM_80).expect_err("too many at a time");
    assert!(many.to_string().contains("2^31 for the product"), "{many}");
    let plan = lists(64, 1).plan(Target::SM_80).expect("a plan");
    let holds = |tokens: u64, blocks: u64| {
        let symbols = [("tokens", tokens), ("blocks", blocks)].map(|(name, extent)| (name.to_owned(), extent)).into();
        let requirement = plan.requires.iter().find(|r| r.what.contains("below 2^31")).expect("a requirement");
        let value = |expr: &lacuna_dsl::Expr| expr.eval(&symbols, &Default::default()).expect("a number");
        value(&requirement.left) == value(&requirement.right)
    };
    assert!(holds(1 << 27, 15) && holds((1 << 31) - 1, 1) && holds(5, 0));
    assert!(!holds(1 << 27, 16) && !holds(1 << 20, 1 << 20));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// Any picks at all, of blocks that there are and of others, in any documents.
    #[test]
    fn any_picks_are_turned_around(
        lengths in proptest::collection::vec(0usize..150, 1..6),
        heads in 1usize..3,
        n in 1usize..20,
        block in 1u32..5,
        tile in 1u32..40,
        chunk in 1u32..80,
        seed in any::<u64>(),
    ) {
        let cu_seqlens = inputs::cu_seqlens(&lengths);
        let total = cu_seqlens[lengths.len()] as usize;
        let mut state = seed | 1;
        let mut next = || {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            (state >> 33) as i32
        };
        let picks = (0..total * heads * n).map(|_| if next() % 16 == 0 { next() } else { next() % 9 - 1 }).collect();
        let mut lists = lists(16 * block, tile);
        lists.chunk = chunk;
        check(&lists, &Host::new(picks, [total, heads, n]), &cu_seqlens);
    }
}
