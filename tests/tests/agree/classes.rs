//! The classifier's lists: every block of every tile stands in the right one, whatever the pattern.

use std::collections::BTreeMap;

use lacuna_codegen::plan::Plan;
use lacuna_dsl::{Elem, Keep, Mask, Pick, Pos, Schedule, Shape, Table, Target, Tunable};
use lacuna_kernels::classified::{Classify, TableBounds};
use lacuna_kernels::{inputs, patterns};
use lacuna_runtime::{Bindings, Device, Tensor};

use crate::harness::devices;

/// A mask with its tables, which have a number for each token.
struct Case {
    mask: Mask,
    tables: BTreeMap<String, Vec<i32>>,
    lengths: Vec<usize>,
}

fn case(mask: Mask, lengths: &[usize], tables: &[(&str, Vec<i32>)]) -> Case {
    let tables = tables.iter().map(|(name, table)| ((*name).to_owned(), table.clone())).collect();
    Case { mask, tables, lengths: lengths.to_vec() }
}

/// A mask of any predicate.
fn record(name: &str, tables: &[&str], f: impl FnOnce(Pos, Pos, &[Pos], &[Table]) -> Keep) -> Mask {
    Mask::record(name, &[("step", 70)], tables, f)
}

fn cases() -> Vec<Case> {
    let lengths: &[usize] = &[299, 0, 130, 1, 64];
    let cu = inputs::cu_seqlens(lengths);
    let [enter, leave] = inputs::token_tree(3, &cu);
    let wild: Vec<i32> = (0..494).map(|at: i32| [i32::MIN, i32::MAX, 0, -1, at][(at * at / 90 % 5) as usize]).collect();
    vec![
        case(patterns::document_table(), lengths, &[("docs", inputs::document_table(&cu, 5))]),
        case(patterns::document_table(), lengths, &[("docs", wild.clone())]),
        case(patterns::token_tree(), lengths, &[("enter", enter), ("leave", leave)]),
        case(patterns::ranges(), lengths, &[("ends", inputs::ranges(4, &cu))]),
        case(patterns::ranges(), &[300], &[("ends", vec![300; 300])]),
        case(patterns::causal(), &[300, 64], &[]),
        case(patterns::full(), &[128, 300], &[]),
        case(patterns::longformer(20, 3), &[300], &[]),
        case(record("every 70th", &[], |q, kv, args, _| ((q - kv) % args[0]).eq_(0)), &[300], &[]),
        case(record("every 4th of 32", &[], |q, kv, _, _| ((q / 32 - kv / 32) % 4).eq_(0)), lengths, &[]),
        case(
            record("near in the table", &["x"], |q, kv, args, t| (t[0].at(q) - t[0].at(kv)).abs().le(args[0])),
            lengths,
            &[("x", wild)],
        ),
    ]
}

/// Runs a plan on tensors and the case's own.
fn run(device: &Device, plan: &Plan, given: &Case, tensors: &BTreeMap<String, Tensor>) {
    let mut bindings = Bindings::new();
    for spec in &plan.tensors {
        bindings = bindings.tensor(&spec.name, &tensors[&spec.name]);
    }
    for scalar in &plan.scalars {
        bindings = match given.mask.args().find(|(name, _)| *name == scalar.name) {
            Some((name, value)) => bindings.int(name, value as i32),
            None => bindings.int(&scalar.name, given.lengths.iter().max().copied().unwrap_or(0) as i32),
        };
    }
    device.run(plan, &bindings).unwrap_or_else(|error| panic!("{} on {device}: {error}", plan.name));
}

/// The Partial and the Full blocks of a tile.
type Lists = (Vec<i32>, Vec<i32>);

/// What the device finds for tiles of `rows` queries and blocks of `kv` keys, tile by tile of each document.
fn found(device: &Device, case: &Case, rows: u32, kv: u32) -> Vec<Vec<Lists>> {
    let cu = inputs::cu_seqlens(&case.lengths);
    let total = *cu.last().expect("cu_seqlens begin with 0") as usize;
    let slots = |width: u32| total.div_ceil(width as usize) + case.lengths.len();
    let longest = case.lengths.iter().max().copied().unwrap_or(0);
    let (tiles, blocks) = (slots(rows), longest.div_ceil(kv as usize));
    let uninit = |shape: &[usize]| {
        let shape: Vec<u64> = shape.iter().map(|&extent| extent as u64).collect();
        Tensor::poisoned(device, Elem::I32, &shape).expect("memory")
    };
    let upload = |data: &[i32]| Tensor::from_slice(device, &[data.len() as u64], data).expect("memory");
    let mut tensors: BTreeMap<String, Tensor> =
        case.tables.iter().map(|(n, table)| (n.clone(), upload(table))).collect();
    tensors.insert("cu_seqlens".to_owned(), upload(&cu));
    tensors.insert("visits".to_owned(), uninit(&[tiles, blocks]));
    for name in ["partial_counts", "full_counts"] {
        tensors.insert(name.to_owned(), uninit(&[tiles]));
    }
    for name in case.mask.bounded() {
        for end in ["least", "largest"] {
            tensors.insert(format!("{name}_{end}"), uninit(&[slots(kv)]));
        }
    }
    let shape = Shape::new(Elem::Bf16, 32, 32, 1);
    let pick = |knobs: &[(&str, u32)]| knobs.iter().map(|&(knob, value)| (knob.to_owned(), value)).collect::<Pick>();
    if !case.mask.bounded().is_empty() {
        let plan = TableBounds::new(case.mask.clone()).at(shape.clone()).plan(Target::SM_80, &pick(&[("kv", kv)]));
        run(device, &plan.expect("a plan"), case, &tensors);
    }
    let plan = Classify::new(case.mask.clone()).at(shape).plan(Target::SM_80, &pick(&[("rows", rows), ("kv", kv)]));
    run(device, &plan.expect("a plan"), case, &tensors);
    let read = |name: &str| tensors[name].to_vec::<i32>().expect("memory");
    let (visits, partial, full) = (read("visits"), read("partial_counts"), read("full_counts"));
    let lists = |(document, pair): (usize, &[i32])| {
        let tile = |tile: usize| {
            let slot = pair[0] as usize / rows as usize + document + tile;
            let row = &visits[slot * blocks..(slot + 1) * blocks];
            let (partial, full) = (partial[slot] as usize, full[slot] as usize);
            (row[..partial].to_vec(), row[blocks - full..].iter().rev().copied().collect())
        };
        (0..((pair[1] - pair[0]) as usize).div_ceil(rows as usize)).map(tile).collect()
    };
    cu.windows(2).enumerate().map(lists).collect()
}

/// Every block that holds a pair that counts is listed once; those listed as Full hold nothing but such pairs, and lie before
/// the document's end. The lists are those that integers make, and ascend.
#[test]
fn every_block_stands_in_the_right_list() {
    let mut seen = [0; 3];
    for (case, device) in cases().iter().flat_map(|case| devices().iter().map(move |device| (case, device))) {
        let cu = inputs::cu_seqlens(&case.lengths);
        let args: Vec<i64> = case.mask.args().map(|(_, value)| value.into()).collect();
        for (rows, kv) in [(128, 64), (128, 32), (64, 64), (64, 32)] {
            let found = found(device, case, rows, kv);
            for (pair, lists) in cu.windows(2).zip(found) {
                let (start, len) = (pair[0] as usize, (pair[1] - pair[0]) as usize);
                let tables: Vec<&[i32]> =
                    case.mask.tables().map(|name| &case.tables[name][start..start + len]).collect();
                let given = lacuna_codegen::pattern::Given { args: &args, tables: &tables };
                let keeps: Vec<Vec<bool>> = (0..len)
                    .map(|q| (0..len).map(|k| case.mask.keeps_in(q as i64, k as i64, &tables)).collect())
                    .collect();
                for (tile, (partial, full)) in lists.into_iter().enumerate() {
                    let first = tile * rows as usize;
                    let queries = first..(first + rows as usize).min(len);
                    let (mut want_partial, mut want_full) = (Vec::new(), Vec::new());
                    for block in 0..len.div_ceil(kv as usize) {
                        let keys = block * kv as usize..((block + 1) * kv as usize).min(len);
                        let kept =
                            keeps[queries.clone()].iter().flat_map(|row| &row[keys.clone()]).filter(|&&kept| kept);
                        let (kept, all) = (kept.count(), queries.len() * keys.len());
                        let whole = keys.len() == kv as usize;
                        let what = format!("{} on {device}: queries {queries:?}, keys {keys:?}", case.mask.pattern());
                        let block = block as i32;
                        let listed = [partial.contains(&block), full.contains(&block)];
                        assert!(kept == 0 || listed[0] != listed[1], "{what}: {listed:?}");
                        assert!(!listed[1] || (kept == all && whole), "{what} is called full");
                        let ends = |range: &std::ops::Range<usize>| range.start as i64..=range.end as i64 - 1;
                        let class = case.mask.pattern().class(ends(&queries), ends(&keys), given);
                        match class {
                            lacuna_codegen::pattern::Class::Empty => {}
                            lacuna_codegen::pattern::Class::Full if whole => want_full.push(block),
                            _ => want_partial.push(block),
                        }
                        seen[usize::from(listed[0]) + 2 * usize::from(listed[1])] += 1;
                    }
                    assert_eq!((partial, full), (want_partial, want_full), "{}", case.mask.pattern());
                }
            }
        }
    }
    assert!(seen.iter().all(|&count| count > 100), "empty, partial and full blocks: {seen:?}");
}
