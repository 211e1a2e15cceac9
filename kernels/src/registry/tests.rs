use super::*;
use crate::host::Dims;
use crate::inputs;
use crate::reference::{Pair, Problem};
use crate::tolerance;
use half::bf16;
use lacuna_dsl::{Elem, Pick, Target, Tunable};
use std::collections::BTreeSet;

#[test]
fn names_are_names_and_no_two_are_the_same() {
    let names: BTreeSet<&str> = KERNELS.iter().map(|k| k.name).collect();
    assert_eq!(names.len(), KERNELS.len());
    let plain = |name: &str| name.chars().all(|c| c.is_ascii_lowercase() || c == '-');
    assert!(names.iter().all(|name| plain(name)), "{names:?}");
    for kernel in KERNELS {
        assert_eq!(find(kernel.name).unwrap().name, kernel.name);
        assert!(kernel.settings.iter().all(|s| plain(s.name) && s.allowed.has(s.default)), "{}", kernel.name);
    }
    let names: Vec<&str> = settings().chunk_by(|a, b| a.name == b.name).map(|same| same[0].name).collect();
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len(), "settings of one name stand together");
    for kernel in KERNELS {
        let own: BTreeSet<&str> = kernel.settings.iter().map(|setting| setting.name).collect();
        assert_eq!(own.len(), kernel.settings.len(), "`{}` has each setting once", kernel.name);
    }
}

/// Options under which blocks are small.
fn small(kernel: &'static Kernel) -> Options {
    let given: &[(&str, u32)] = match kernel.name {
        "nsa-selected" => &[("block", 16), ("blocks", 3)],
        "moba" => &[("block", 32), ("top-k", 2)],
        _ => &[],
    };
    kernel.options(given.iter().copied()).unwrap()
}

#[test]
fn options_are_checked() {
    let kernel = find("nsa-selected").unwrap();
    assert_eq!(
        kernel.options([]).unwrap().iter().collect::<Vec<_>>(),
        [("block", 64), ("blocks", 16), ("by-block", 2)]
    );
    let message = |given| kernel.options([given]).unwrap_err().to_string();
    assert_eq!(message(("block", 48)), "`block` of `nsa-selected` is 48; 16, 32, 64 or 128 is right");
    assert_eq!(message(("blocks", 2)), "`blocks` of `nsa-selected` is 2; 3 to 1024 is right");
    assert_eq!(message(("window", 4)), "`nsa-selected` has no option `window`; it has block, blocks, by-block");
    let message = find("window").unwrap().options([("window", 0)]).unwrap_err().to_string();
    assert_eq!(message, "`window` of `window` is 0; 1 or more is right");
    let message = find("causal").unwrap().options([("window", 1)]).unwrap_err().to_string();
    assert_eq!(message, "`causal` has no option `window`; it has none");
    let message = |given| find("moba").unwrap().options([given]).unwrap_err().to_string();
    for block in [0, 16, 100, 1 << 31] {
        let want = format!("`block` of `moba` is {block}; a multiple of 16 from 32 on is right");
        assert_eq!(message(("block", block)), want);
    }
    for top in [0, 65] {
        assert_eq!(message(("top-k", top)), format!("`top-k` of `moba` is {top}; 1 to 64 is right"));
    }
    assert!(find("moba").unwrap().options([("block", 160_000), ("top-k", 64)]).is_ok());
}

#[test]
fn every_kernel_and_every_block_compiles_for_every_target_of_the_family() {
    for kernel in KERNELS {
        let blocks: &[u32] = if kernel.needs(Need::Picks) { &[16, 32, 64, 128] } else { &[64] };
        for (&block, target) in
            blocks.iter().flat_map(|b| [Target::SM_80, Target::SM_86, Target::SM_120].map(|t| (b, t)))
        {
            let given = kernel.needs(Need::Picks).then_some(("block", block));
            let options = kernel.options(given).unwrap();
            // Two blocks of 128 keys and values, 128 wide, are more than the smaller GPUs' shared memory.
            let width = if block == 128 && target != Target::SM_80 { 64 } else { 128 };
            let attention = kernel.build(Shape::new(Elem::Bf16, width, width, 4), &options).unwrap();
            let pick = attention.pick(target, &Default::default()).unwrap();
            let plan = attention.plan(target, &pick).unwrap();
            assert_eq!(plan.tensors.iter().any(|t| t.name == "picks"), kernel.needs(Need::Picks), "{}", kernel.name);
            assert!(plan.tensors.iter().any(|t| t.name == "cu_seqlens"), "{} honours cu_seqlens", kernel.name);
            let given = attention.given(target).unwrap();
            let names: BTreeSet<&str> = plan.scalars.iter().map(|s| s.name.as_str()).collect();
            let known: BTreeSet<&str> = given.keys().map(String::as_str).chain(["scale", "max_seqlen"]).collect();
            assert!(names.is_subset(&known), "{names:?} of {}", kernel.name);
        }
    }
}

#[test]
fn the_mask_of_the_kernel_is_the_mask_of_the_reference() {
    let rows: &[(&str, &[(&str, u32)])] = &[
        ("causal", &[]),
        ("full", &[]),
        ("window", &[("window", 7)]),
        ("sink-window", &[("window", 5), ("sink", 3)]),
        ("prefix-lm", &[("prefix", 100)]),
        ("prefix-lm", &[("prefix", 0)]),
        ("dilated", &[("step", 7)]),
        ("dilated", &[("step", 1)]),
        ("block-diagonal", &[("chunk", 48)]),
        ("block-diagonal", &[("chunk", 1)]),
        ("longformer", &[("reach", 20), ("global", 3)]),
        ("longformer", &[("reach", 0), ("global", 0)]),
        ("documents", &[]),
    ];
    for &(name, given) in rows {
        let kernel = find(name).unwrap();
        let attention =
            kernel.build(Shape::new(Elem::F16, 32, 32, 1), &kernel.options(given.iter().copied()).unwrap()).unwrap();
        let attention::Sees::Mask { mask, reference } = &attention.sees else { panic!("{name} has a mask") };
        // Also for queries that are before every key.
        for (q, kv) in (-60..300).flat_map(|q| (0..300).map(move |kv| (q, kv))) {
            assert_eq!(mask.keeps(q, kv), reference(q, kv), "{name} at {q}, {kv}");
        }
    }
}

/// Every kernel takes documents with keys of their own, and says so by its tensors.
#[test]
fn every_kernel_compiles_with_keys_apart() {
    use lacuna_codegen::plan::Dim;
    for kernel in KERNELS {
        for group in [1, 16] {
            let shape = Shape::new(Elem::Bf16, 64, 64, group).with_keys_apart();
            let attention = kernel.build(shape, &kernel.options([]).unwrap()).unwrap();
            let pick = attention.pick(Target::SM_80, &Default::default()).unwrap();
            let plan = attention.plan(Target::SM_80, &pick).unwrap();
            let first = |name: &str| match &plan.tensors.iter().find(|t| t.name == name).unwrap().dims[0] {
                Dim::Symbol(symbol) => symbol.clone(),
                Dim::Fixed(extent) => panic!("{name} is of {extent}"),
            };
            let names = ["q", "k", "v", "o", "lse", "cu_seqlens", "cu_seqlens_k"].map(first);
            let ends = "segments_plus_one";
            assert_eq!(names, ["tokens", "tokens_k", "tokens_k", "tokens", "tokens", ends, ends], "{}", kernel.name);
            let known: BTreeSet<String> = attention.given(Target::SM_80).unwrap().into_keys().collect();
            let mut scalars = plan.scalars.iter().filter(|s| !known.contains(&s.name));
            assert!(scalars.all(|s| ["scale", "max_seqlen", "max_seqlen_k"].contains(&&*s.name)), "{}", kernel.name);
        }
    }
}

#[test]
fn the_mask_on_tables_is_the_mask_of_the_reference() {
    let cu_seqlens = inputs::cu_seqlens(&[13, 0, 300, 7]);
    for name in ["document-table", "token-tree", "ranges"] {
        let kernel = find(name).unwrap();
        let attention = kernel.build(Shape::new(Elem::F16, 32, 32, 1), &kernel.options([]).unwrap()).unwrap();
        let extras = attention.extras(&Extras::new(), &cu_seqlens, 1, 5).unwrap();
        let attention::Sees::Tabled(tabled) = &attention.sees else { panic!("{name} reads tables") };
        assert_eq!(tabled.mask.tables().collect::<Vec<_>>(), tabled.names, "{name}");
        let by_hand = tabled.by_hand(&extras);
        for pair in cu_seqlens.windows(2) {
            let (start, end) = (pair[0] as usize, pair[1] as usize);
            let tables: Vec<&[i32]> = tabled.names.iter().map(|&n| &extras[n].data[start..end]).collect();
            let mut kept = 0;
            let len = (end - start) as i64;
            for (q, kv) in (0..len).flat_map(|q| (0..len).map(move |kv| (q, kv))) {
                let want = by_hand(&Pair { start, q, kv, head: 0 });
                assert_eq!(tabled.mask.keeps_in(q, kv, &tables), want, "{name} at {q}, {kv} from {start}");
                kept += i64::from(want);
            }
            assert!(len < 100 || (len * 4..len * len * 3 / 4).contains(&kept), "{name} keeps {kept} pairs of {len}");
        }
    }
}

#[test]
fn tables_that_are_given_are_checked() {
    let kernel = find("token-tree").unwrap();
    let attention = kernel.build(Shape::new(Elem::F16, 32, 32, 1), &kernel.options([]).unwrap()).unwrap();
    let cu_seqlens = inputs::cu_seqlens(&[3, 2]);
    let table = |shape: &[usize]| Ints { shape: shape.to_vec(), data: vec![0; shape.iter().product()] };
    let refused = |given: &[(&str, &[usize])]| {
        let given = given.iter().map(|&(name, shape)| (name.to_owned(), table(shape))).collect();
        attention.extras(&given, &cu_seqlens, 1, 0).unwrap_err().to_string()
    };
    assert_eq!(refused(&[("enter", &[5])]), "the table enter is given, and leave is not; they belong together");
    assert_eq!(
        refused(&[("enter", &[4]), ("leave", &[5])]),
        "the table enter has 4 numbers and there are 5 tokens; it needs one for each token"
    );
    assert_eq!(refused(&[("enter", &[5, 1]), ("leave", &[5])]), "enter has 2 dimensions, [5, 1]; it needs 1: [tokens]");
    let given: Extras = ["enter", "leave", "other"].map(|name| (name.to_owned(), table(&[5]))).into();
    let taken = attention.extras(&given, &cu_seqlens, 1, 0).unwrap();
    assert_eq!(taken.keys().collect::<Vec<_>>(), ["enter", "leave"]);
    assert!(taken.values().all(|taken| *taken == table(&[5])));
}

#[test]
fn lists_that_are_given_are_checked() {
    let kernel = find("bsr").unwrap();
    let options = kernel.options([("query-block", 64), ("key-block", 32)]).unwrap();
    let attention = kernel.build(Shape::new(Elem::F16, 32, 32, 2), &options).unwrap();
    let cu_seqlens = inputs::cu_seqlens(&[70, 30]);
    let ints = |shape: &[usize], data: Vec<i32>| Ints { shape: shape.to_vec(), data };
    let refused = |lists: Ints, counts: Option<Ints>| {
        let counts = counts.map(|counts| ("lists_counts".to_owned(), counts));
        let given = [("lists".to_owned(), lists)].into_iter().chain(counts).collect();
        attention.extras(&given, &cu_seqlens, 4, 0).unwrap_err().to_string()
    };
    let none = |shape: &[usize]| ints(shape, vec![-1; shape.iter().product()]);
    assert_eq!(
        refused(none(&[2, 2]), None),
        "lists has 2 dimensions, [2, 2]; it needs 4: [documents, heads, tiles, blocks]"
    );
    assert_eq!(refused(none(&[3, 1, 2, 1]), None), "lists has 3 documents; 2 is right");
    assert_eq!(refused(none(&[2, 3, 2, 1]), None), "lists has 3 heads; 1 or 4 is right");
    assert_eq!(refused(none(&[2, 4, 1, 1]), None), "lists has 1 tiles; 2, for 70 tokens in tiles of 64, is right");
    assert!(refused(none(&[2, 4, 2, 0]), None).contains("no room for a block"));
    let entry = |block| ints(&[2, 1, 2, 2], vec![0, 1, 2, 0, 0, block, -1, -1]);
    assert_eq!(refused(entry(1), None), "lists[1, 0, 0, 1] is 1; the document has blocks 0 to 0, and -1 ends a list");
    assert_eq!(refused(entry(-2), None), "lists[1, 0, 0, 1] is -2; the document has blocks 0 to 0, and -1 ends a list");
    let counts = |count| Some(ints(&[2, 1, 2], vec![2, 2, count, 0]));
    assert_eq!(
        refused(entry(0), counts(3)),
        "lists_counts[1, 0, 0] is 3; a list has room for 2 blocks, so 0 to 2 is right"
    );
    assert_eq!(refused(entry(0), Some(ints(&[2, 4, 2], vec![0; 16]))), "lists_counts has 4 heads; 1 is right");

    // What is right is written out for every head; lengths that are not given are those up to the first -1.
    let given = Extras::from([("lists".to_owned(), entry(-1))]);
    let taken = attention.extras(&given, &cu_seqlens, 2, 0).unwrap();
    assert_eq!(taken["lists"].shape, [2, 2, 2, 2]);
    assert_eq!(taken["lists"].data, [0, 1, 2, 0, 0, 1, 2, 0, 0, -1, -1, -1, 0, -1, -1, -1]);
    assert_eq!(taken["lists_counts"], ints(&[2, 2, 2], vec![2, 2, 2, 2, 1, 0, 1, 0]));
    let alone = Extras::from([("lists_counts".to_owned(), none(&[2, 1, 2]))]);
    let message = attention.extras(&alone, &cu_seqlens, 2, 0).unwrap_err().to_string();
    assert_eq!(message, "the table lists_counts is given, and lists is not; they belong together");
}

/// Two blocks of 32 keys cover 64 tokens, and no more; a routing that is given is kept to.
#[test]
fn moba_that_may_see_every_block_is_dense() {
    let kernel = find("moba").unwrap();
    let options = kernel.options([("block", 32), ("top-k", 2)]).unwrap();
    let of = |max_seqlen, routing| {
        let known = Known { max_seqlen, routing, ..Known::default() };
        kernel.build_for(Shape::new(Elem::Bf16, 64, 64, 2), &options, &known).unwrap().schedule_name
    };
    assert_eq!(of(Some(64), RoutingIs::Internal), "query-major");
    assert_eq!(of(Some(64), RoutingIs::Returned), "query-major");
    assert_eq!(of(Some(65), RoutingIs::Internal), "chosen-blocks");
    assert_eq!(of(None, RoutingIs::Internal), "chosen-blocks");
    assert_eq!(of(Some(64), RoutingIs::Given), "chosen-blocks");
}

/// 64k tokens of 16 heads: parts of 7 blocks each, 2 x 128 + 4 bytes wide, are 1.9 GB.
#[test]
fn moba_is_done_in_chunks_that_fit() {
    let kernel = find("moba").unwrap();
    let extents = [("tokens", 65536), ("heads_q", 16), ("heads_kv", 16), ("segments_plus_one", 2)];
    let extents: BTreeMap<String, u64> = extents.map(|(name, extent)| (name.to_owned(), extent)).into();
    let of = |given: &[(&str, u32)], known: bool| {
        let options = kernel.options(given.iter().copied()).unwrap();
        let known = Known { extents: known.then(|| extents.clone()), ..Known::default() };
        let attention = kernel.build_for(Shape::new(Elem::Bf16, 128, 128, 1), &options, &known).unwrap();
        let plan = attention.plan(Target::SM_80, &attention.pick(Target::SM_80, &Default::default()).unwrap()).unwrap();
        let chunks = plan.launches.iter().filter(|launch| launch.entry == "chosen_blocks").count();
        (chunks, plan.workspace.eval(&extents, &BTreeMap::new()).unwrap())
    };
    assert_eq!(of(&[], false).0, 1, "nothing is known of extents");
    assert!(of(&[], false).1 > 1_900_000_000);
    let (chunks, bytes) = of(&[("workspace", 500)], true);
    assert!(chunks > 3 && bytes <= 500_000_000, "{chunks} chunks, {bytes} bytes");
    assert_eq!(of(&[("workspace", 500), ("head-chunks", 2), ("token-chunks", 3)], true).0, 6);
    let options = kernel.options([("workspace", 1)]).unwrap();
    let known = Known { extents: Some(extents.clone()), ..Known::default() };
    let refused = kernel.build_for(Shape::new(Elem::Bf16, 128, 128, 1), &options, &known).unwrap_err().to_string();
    assert!(refused.contains("the workspace may have 1000000 bytes, and "), "{refused}");
}

#[test]
fn routings_that_are_given_are_checked() {
    let kernel = find("moba").unwrap();
    let cu_seqlens = inputs::cu_seqlens(&[70, 0, 30]);
    let attention = |full: u32| {
        let options = kernel.options([("block", 32), ("top-k", 2), ("full-heads", full)]).unwrap();
        let known = Known { routing: RoutingIs::Given, ..Known::default() };
        kernel.build_for(Shape::new(Elem::F16, 32, 32, 2), &options, &known).unwrap()
    };
    let ints = |shape: &[usize], value: i32| Ints { shape: shape.to_vec(), data: vec![value; shape.iter().product()] };
    let complete = |full: u32, given: &[(&str, Ints)]| {
        let given = given.iter().map(|(name, ints)| ((*name).to_owned(), ints.clone())).collect();
        attention(full).extras(&given, &cu_seqlens, 4, 9).map_err(|error| error.to_string())
    };
    let refused = |full, given: &[(&str, Ints)], want: &str| assert_eq!(complete(full, given).unwrap_err(), want);
    let routing = ints(&[100, 4, 3], 0);
    refused(0, &[("routing", routing)], "routing has 3 blocks a row, and top-k is 2; both must be the same");
    let want = "routing has 2 query heads and q has 4; both must have the same number";
    refused(0, &[("routing", ints(&[100, 2, 2], 0))], want);
    let want = "full_heads is given, and nothing reads it: full-heads must be 1 or more";
    refused(0, &[("full_heads", ints(&[4], 1))], want);
    let want = "full_heads has numbers for 3 heads; it needs them for 4, the query heads";
    refused(1, &[("full_heads", ints(&[3], 1))], want);
    refused(5, &[], "5 heads are to be full, and there are 4; 0 to 4 is right");

    // What is not given is drawn; rows of full heads have no choices.
    let drawn = complete(2, &[]).unwrap();
    assert_eq!(drawn["full_heads"].data, [1, 1, 0, 0]);
    let row = |token: usize, head: usize| &drawn["routing"].data[(token * 4 + head) * 2..][..2];
    assert_eq!((row(69, 0), row(69, 1), row(69, 2)[0], row(99, 3)), (&[-1, -1][..], &[-1, -1][..], 2, &[0, -1][..]));
    let mut data = vec![0; 100 * 4 * 2];
    data[5] = 1;
    let given = Ints { shape: vec![100, 4, 2], data };
    assert_eq!(complete(0, &[("routing", given.clone())]).unwrap()["routing"], given);
}

#[test]
fn no_block_is_visited_that_the_mask_empties() {
    let rows: &[(&str, &[(&str, u32)])] = &[
        ("causal", &[]),
        ("full", &[]),
        ("window", &[("window", 37)]),
        ("sink-window", &[("window", 37), ("sink", 3)]),
        ("prefix-lm", &[("prefix", 100)]),
        ("prefix-lm", &[("prefix", 0)]),
        ("dilated", &[("step", 3)]),
        ("block-diagonal", &[("chunk", 48)]),
        ("block-diagonal", &[("chunk", 5)]),
        ("longformer", &[("reach", 20), ("global", 3)]),
    ];
    for &(name, given) in rows {
        let kernel = find(name).unwrap();
        let options = kernel.options(given.iter().copied()).unwrap();
        let attention = kernel.build(Shape::new(Elem::F16, 32, 32, 1), &options).unwrap();
        let attention::Sees::Mask { mask, reference } = &attention.sees else { panic!("{name} has a mask") };
        let args: Vec<i64> = mask.args().map(|(_, value)| value.into()).collect();
        for (len, tile, block) in [(300, 64, 32), (256, 128, 64), (90, 16, 16)] {
            for first in (0..len).step_by(tile) {
                let q = first..=(first + tile as i64).min(len) - 1;
                let runs = mask.pattern().runs(q.clone(), len, block, &args);
                let visited: Vec<i64> = runs.into_iter().flatten().collect();
                let seen = |&b: &i64| {
                    let mut keys = b * i64::from(block)..((b + 1) * i64::from(block)).min(len);
                    keys.any(|kv| q.clone().any(|q| reference(q, kv)))
                };
                let wanted: Vec<i64> = (0..(len + i64::from(block) - 1) / i64::from(block)).filter(seen).collect();
                assert_eq!(visited, wanted, "{name} {given:?}: queries {q:?} of {len}, blocks of {block}");
            }
        }
    }
}

#[test]
fn an_attention_names_the_schedule_that_computes_it() {
    let named = |kernel: &str, score, group, given: &[(&str, u32)]| {
        let kernel = find(kernel).unwrap();
        let options = kernel.options_under(score, false, given.iter().copied()).unwrap();
        let attention = kernel.build(Shape::new(Elem::Bf16, 64, 64, group), &options).unwrap();
        let plan = attention.plan(Target::SM_80, &attention.pick(Target::SM_80, &Default::default()).unwrap()).unwrap();
        (attention.schedule_name, plan.name)
    };
    for (kernel, score, group, given, name, plan) in [
        ("causal", None, 1, &[][..], "query-major", "query_major"),
        ("document-table", None, 1, &[], "query-major-classified", "query_major_classified"),
        ("document-table", Some("softcap"), 1, &[], "query-major", "query_major"),
        ("bsr", None, 1, &[], "block-sparse", "block_sparse"),
        ("nsa-selected", None, 8, &[], "block-major", "by_block"),
        ("nsa-selected", None, 16, &[], "group-centric", "group_centric"),
        ("nsa-selected", None, 8, &[("by-block", 0)], "group-centric", "group_centric"),
        ("nsa-selected", Some("softcap"), 8, &[], "group-centric", "group_centric"),
        ("moba", None, 4, &[("top-k", 3)], "chosen-blocks", "moba"),
    ] {
        assert_eq!(named(kernel, score, group, given), (name, plan.to_owned()), "{kernel} {score:?} {group} {given:?}");
    }
}

#[test]
fn picks_that_are_asked_for_are_kept_or_refused() {
    let kernel = find("causal").unwrap();
    let attention = kernel.build(Shape::new(Elem::Bf16, 64, 64, 1), &kernel.options([]).unwrap()).unwrap();
    let pick = attention.pick(Target::SM_80, &[("rows".to_owned(), 64), ("stages".to_owned(), 3)].into()).unwrap();
    assert_eq!((pick["rows"], pick["stages"]), (64, 3));
    let message =
        |name: &str, value| attention.pick(Target::SM_80, &[(name.to_owned(), value)].into()).unwrap_err().to_string();
    assert_eq!(message("row", 64), "query-major has no knob `row`; it has warps, rows, kv, stages");
    assert_eq!(message("stages", 9), "the knob `stages` of query-major is 9; 2, 3 or 1 is right");
}

/// The knobs in the order of the space: rows, keys, stages, warps.
/// Also where the space has millions of picks, as that of a chain of launches has.
#[test]
fn what_is_chosen_for_a_tuner_is_the_default_pick() {
    for kernel in KERNELS {
        let shape = Shape::new(Elem::Bf16, 128, 128, if kernel.name == "nsa-selected" { 16 } else { 1 });
        let attention = kernel.build(shape, &kernel.options([]).unwrap()).unwrap();
        for target in [Target::SM_80, Target::SM_90A] {
            let chosen = attention.choose(target, &Pick::new()).unwrap();
            assert_eq!(chosen, attention.pick(target, &Pick::new()).unwrap(), "{} for {target}", kernel.name);
            assert!(attention.space(target).has(&chosen), "{} for {target}", kernel.name);
        }
    }
}

#[test]
fn the_default_pick_is_the_first_that_fits_and_does_not_spill() {
    let kernel = find("causal").unwrap();
    let default = |(dk, dv), target, wanted: &[(&str, u32)]| {
        let attention = kernel.build(Shape::new(Elem::Bf16, dk, dv, 1), &kernel.options([]).unwrap()).unwrap();
        let wanted = wanted.iter().map(|&(name, value)| (name.to_owned(), value)).collect();
        let pick = attention.pick(target, &wanted).unwrap();
        ["rows", "kv", "stages", "warps"].map(|knob| pick[knob])
    };
    assert_eq!(default((128, 128), Target::SM_80, &[]), [128, 64, 2, 4]);
    assert_eq!(default((128, 128), Target::SM_86, &[]), [128, 64, 2, 4], "the first, where it fits");
    assert_eq!(default((192, 128), Target::SM_90, &[]), [128, 32, 2, 4], "blocks of 64 keys would spill");
    assert_eq!(default((192, 192), Target::SM_90, &[]), [64, 64, 1, 4], "128 rows would spill, 2 stages leave 4 warps");
    assert_eq!(default((192, 192), Target::SM_86, &[]), [64, 32, 1, 4], "two CTAs in 99 KiB of shared memory");
    assert_eq!(default((256, 256), Target::SM_90, &[]), [64, 64, 1, 4]);
    assert_eq!(default((256, 256), Target::SM_80, &[]), [64, 32, 1, 4], "64 keys leave one CTA");
    assert_eq!(default((256, 256), Target::SM_86, &[]), [128, 32, 1, 8], "one CTA, with 8 warps");
    assert_eq!(default((256, 256), Target::SM_90, &[("rows", 64)]), [64, 64, 2, 4]);
    assert_eq!(default((256, 256), Target::SM_90, &[("rows", 128), ("warps", 4)]), [128, 32, 1, 4], "they all spill");
}

#[test]
fn a_result_is_held_to_the_plain_computation() {
    let dims = Dims { total: 90, keys: 90, hq: 4, hk: 2, dk: 32, dv: 32 };
    let x = inputs::qkv::<bf16>(3, dims);
    let cu_seqlens = inputs::cu_seqlens(&[50, 40]);
    let p = Problem { q: &x.q, k: &x.k, v: &x.v, cu_seqlens: &cu_seqlens, cu_seqlens_k: &cu_seqlens, scale: 0.2 };
    for kernel in KERNELS {
        let options = small(kernel);
        let attention = kernel.build(Shape::new(Elem::Bf16, 32, 32, 2), &options).unwrap();
        let picks =
            kernel.selection(&options).map(|config| crate::reference::nsa::select(&x.q, &x.k, &cu_seqlens, config));
        let extras = attention.extras(&Extras::new(), &cu_seqlens, 4, 1).unwrap();
        let tables = attention.tables(&Tables::new(), 4, 1).unwrap();
        let expected = attention.expected(&p, picks.as_ref(), &extras, &tables, None);
        let rounded: Vec<f32> = expected.plain.o.data.iter().map(|&x| bf16::from_f32(x).to_f32()).collect();
        let stored = crate::host::Precision::Bf16;
        assert!(expected.check(&rounded, &expected.plain.lse.data, stored).ok(), "{}", kernel.name);
        assert!(!expected.check(&vec![0.0; rounded.len()], &expected.plain.lse.data, stored).ok(), "{}", kernel.name);
        let rows = [crate::host::Row { token: 70, head: 3 }];
        let one = attention.expected(&p, picks.as_ref(), &extras, &tables, Some(&rows));
        assert_eq!(one.reference.o.data, expected.reference.o.gather(&rows).data);
        let (row, _) = tolerance::locate(71 * 4 * 32 - 1, 4, 32);
        assert_eq!(row, rows[0]);
    }
}
