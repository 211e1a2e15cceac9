//! The classes of blocks: right for every box, on integers and as IR.

use lacuna_codegen::pattern::{Class, Given, Keep, Pattern, Pos};

use crate::emitted::{COLS, Emitted};

/// How many positions are looked at.
const LEN: i64 = 300;

/// A pattern with arguments and tables, and whether no block stays Partial that is not.
type Case = (Pattern, Vec<i64>, Vec<Vec<i32>>, bool);

fn patterns() -> Vec<Case> {
    let documents =
        Pattern::record_with("documents", &[], &["docs"], |q, kv, _, t| t[0].at(q).eq_(t[0].at(kv)) & kv.le(q));
    let ends = Pattern::record_with("ends", &[], &["end"], |q, kv, _, t| kv.lt(t[0].at(q)));
    let bucket = |of: fn(i64) -> i64| (0..LEN).map(|at| of(at) as i32).collect::<Vec<i32>>();
    vec![
        (documents, vec![], vec![bucket(|at| [0, 1, 2, 9][(at / 77) as usize])], true),
        (ends, vec![], vec![bucket(|at| (at / 48 + 1) * 48)], true),
        (Pattern::record("causal", &[], |q, kv, _| kv.le(q)), vec![], vec![], true),
        (Pattern::record("chunks", &["n"], |q, kv, a| (q / a[0]).eq_(kv / a[0])), vec![48], vec![], true),
        // Every fourth block of 16, and every 70th key: empty blocks are found by the remainder.
        (Pattern::record("strided", &[], |q, kv, _| ((q / 16 - kv / 16) % 4).eq_(0)), vec![], vec![], false),
        (Pattern::record("dilated", &["n"], |q, kv, a| ((q - kv) % a[0]).eq_(0)), vec![70], vec![], false),
        (Pattern::record("backwards", &["n"], |q, kv, a| ((kv - q) % a[0]).ge(a[0] - 9)), vec![70], vec![], false),
    ]
}

#[test]
fn every_block_of_every_pattern_is_classed_right() {
    for (pattern, args, tables, exact) in patterns() {
        let tables: Vec<&[i32]> = tables.iter().map(Vec::as_slice).collect();
        let given = Given { args: &args, tables: &tables };
        let mask: Vec<Vec<bool>> = (0..LEN).map(|q| (0..LEN).map(|kv| pattern.keeps(q, kv, given)).collect()).collect();
        for (rows, block) in [(1, 16), (16, 16), (64, 32), (128, 64), (5, 7), (64, 128)] {
            let emitted = Emitted::class(&pattern, rows as u32, block as u32);
            let mut seen = [0; 3];
            for q0 in (0..LEN - rows + 1).step_by(rows as usize) {
                for kv0 in (0..LEN - block + 1).step_by((block * i64::from(COLS)) as usize) {
                    let found = emitted.eval_class(&pattern, (q0, rows), (kv0, block), given);
                    for (n, (some, every)) in (0..i64::from(COLS)).zip(found) {
                        let first = kv0 + n * block;
                        if first + block > LEN {
                            break;
                        }
                        let class = pattern.class(q0..=q0 + rows - 1, first..=first + block - 1, given);
                        let kept = (q0..q0 + rows)
                            .flat_map(|q| (first..first + block).map(move |kv| (q, kv)))
                            .filter(|&(q, kv)| mask[q as usize][kv as usize])
                            .count() as i64;
                        let what = format!("{pattern}: {rows} queries from {q0}, {block} keys from {first}");
                        let truth = match kept {
                            0 => Class::Empty,
                            kept if kept == rows * block => Class::Full,
                            _ => Class::Partial,
                        };
                        assert!(class == truth || (class == Class::Partial && !exact), "{what}: {class:?}, {truth:?}");
                        assert_eq!((some, every), (class != Class::Empty, class == Class::Full), "{what}");
                        seen[class as usize] += 1;
                    }
                }
            }
            let empties = !exact && rows + block > 60;
            assert!(seen[0] > 0 || empties, "{pattern}: no block of {rows} by {block} is left out: {seen:?}");
        }
    }
}

#[test]
fn a_block_at_the_end_of_what_can_be_counted_is_classed_right() {
    let causal = Pattern::record("causal", &[], |q, kv, _| kv.le(q));
    let window = Pattern::record("window", &["n"], |q, kv, args| kv.le(q) & (q - kv).lt(args[0]));
    let top = i64::from(i32::MAX) - 1;
    for (pattern, args) in [(causal, vec![]), (window, vec![i64::from(i32::MAX)])] {
        let emitted = Emitted::class(&pattern, 16, 16);
        let found = emitted.eval_class(&pattern, (top - 15, 16), (top - 127, 16), (&args).into());
        let want = [[(true, true)].repeat(7), vec![(true, false)]].concat();
        assert_eq!(found, want, "{pattern}");
    }
}

/// What decides between bounds in closed form and a classifier: the tree alone.
#[test]
fn bounds_say_which_blocks_are_visited_or_they_do_not() {
    let bounded = |f: fn(Pos, Pos, &[Pos]) -> Keep| Pattern::record("p", &["n"], f).is_bounded();
    assert!(bounded(|q, kv, _| kv.le(q)));
    assert!(bounded(|_, _, _| Keep::always()));
    assert!(bounded(|q, kv, n| kv.le(q) & ((q - kv).lt(n[0]) | kv.lt(4))));
    assert!(bounded(|q, kv, n| (q / n[0]).eq_(kv / n[0])));
    assert!(bounded(|q, kv, n| (q - kv).abs().ge(n[0])));
    // A remainder of positions hides some keys of every block; what bounds the key is enough.
    assert!(bounded(|q, kv, n| kv.le(q) & ((q - kv) % n[0]).eq_(0)));
    assert!(!bounded(|q, kv, n| ((q - kv) % n[0]).eq_(0)));
    assert!(!bounded(|q, kv, n| kv.le(q) | ((q - kv) % n[0]).eq_(0)));
    // One of whole blocks empties most of them.
    assert!(!bounded(|q, kv, n| kv.le(q) & ((q / 64 - kv / 64) % n[0]).eq_(0)));
    assert!(!patterns().iter().any(|(pattern, ..)| !pattern.tables.is_empty() && pattern.is_bounded()));
}

/// What decides whether CTAs do tile after tile where nothing else is asked for.
#[test]
fn what_is_seen_depends_on_the_query_or_it_does_not() {
    let looks = |f: fn(Pos, Pos, &[Pos]) -> Keep| Pattern::record("p", &["n"], f).looks_at_query();
    assert!(looks(|q, kv, _| kv.le(q)));
    assert!(looks(|q, kv, n| kv.le(q) & (q - kv).lt(n[0])), "a window");
    assert!(looks(|q, kv, n| (q / n[0]).eq_(kv / n[0])));
    assert!(!looks(|_, _, _| Keep::always()));
    assert!(!looks(|_, kv, n| kv.lt(n[0])));
}
