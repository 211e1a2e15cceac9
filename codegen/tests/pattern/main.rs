//! Patterns: every use of a predicate agrees with the predicate.

mod class;
mod drawn;
mod emitted;
mod interp;
mod tables;

use emitted::{COLS, Emitted, check_runs};
use lacuna_codegen::ir::{Binary, Builder, Compare, Op};
use lacuna_codegen::pattern::{Class, Keep, Pattern, Pos};
use lacuna_ptx::Target;

/// A pattern with its mask written by hand.
struct Case {
    pattern: Pattern,
    by_hand: fn(i64, i64, &[i64]) -> bool,
    args: Vec<Vec<i64>>,
    /// Whether runs visit no block without a pair that counts.
    exact: bool,
}

fn case(pattern: Pattern, exact: bool, args: &[&[i64]], by_hand: fn(i64, i64, &[i64]) -> bool) -> Case {
    Case { pattern, by_hand, args: args.iter().map(|a| a.to_vec()).collect(), exact }
}

fn causal() -> Pattern {
    Pattern::record("causal", &[], |q, kv, _| kv.le(q))
}

fn window_sink() -> Pattern {
    Pattern::record("window_sink", &["window", "sink"], |q, kv, args| {
        kv.le(q) & ((q - kv).lt(args[0]) | kv.lt(args[1]))
    })
}

fn cases() -> Vec<Case> {
    let windows: &[&[i64]] = &[&[0], &[1], &[5], &[16], &[40], &[1000], &[i32::MAX as i64]];
    vec![
        case(causal(), true, &[&[]], |q, kv, _| kv <= q),
        case(Pattern::record("full", &[], |_, _, _| Keep::always()), true, &[&[]], |_, _, _| true),
        case(Pattern::record("nothing", &[], |_, _, _| Keep::never()), true, &[&[]], |_, _, _| false),
        case(Pattern::record("strict", &[], |q, kv, _| kv.lt(q)), true, &[&[]], |q, kv, _| kv < q),
        case(Pattern::record("later", &[], |q, kv, _| !kv.le(q)), false, &[&[]], |q, kv, _| kv > q),
        case(
            Pattern::record("window", &["window"], |q, kv, args| kv.le(q) & (q - kv).lt(args[0])),
            true,
            windows,
            |q, kv, args| kv <= q && q - kv < args[0],
        ),
        case(
            Pattern::record("both ways", &["window"], |q, kv, args| (q - kv).abs().le(args[0])),
            true,
            windows,
            |q, kv, args| (q - kv).abs() <= args[0],
        ),
        case(
            window_sink(),
            true,
            &[&[0, 0], &[0, 3], &[16, 0], &[16, 4], &[7, 20], &[1000, 1], &[1, 1000], &[i32::MAX as i64; 2]],
            |q, kv, args| kv <= q && (q - kv < args[0] || kv < args[1]),
        ),
        case(
            Pattern::record("prefix", &["prefix"], |q, kv, args| kv.le(q) | kv.lt(args[0])),
            true,
            windows,
            |q, kv, args| kv <= q || kv < args[0],
        ),
        case(
            Pattern::record("longformer", &["window", "global"], |q, kv, args| {
                (q - kv).abs().le(args[0]) | q.lt(args[1]) | kv.lt(args[1])
            }),
            true,
            &[&[4, 0], &[4, 3], &[9, 17], &[0, 1], &[200, 2]],
            |q, kv, args| (q - kv).abs() <= args[0] || q < args[1] || kv < args[1],
        ),
        case(
            Pattern::record("block diagonal", &["block"], |q, kv, args| (q / args[0]).eq_(kv / args[0])),
            true,
            &[&[1], &[4], &[16], &[24], &[1000]],
            |q, kv, args| q / args[0] == kv / args[0],
        ),
        case(Pattern::record("block causal", &[], |q, kv, _| (kv / 8).le(q / 8)), true, &[&[]], |q, kv, _| {
            kv / 8 <= q / 8
        }),
        case(
            Pattern::record("dilated", &["window", "step"], |q, kv, args| {
                kv.le(q) & (q - kv).lt(args[0]) & ((q - kv) % args[1]).eq_(0)
            }),
            false,
            &[&[64, 1], &[64, 4], &[30, 7], &[64, 100]],
            |q, kv, args| kv <= q && q - kv < args[0] && (q - kv) % args[1] == 0,
        ),
        case(Pattern::record("not itself", &[], |q, kv, _| q.ne_(kv)), false, &[&[]], |q, kv, _| q != kv),
        case(
            Pattern::record_ranged("shifted", &[("offset", i32::MIN..=i32::MAX)], |q, kv, args| kv.le(q + args[0])),
            true,
            &[&[-50], &[0], &[13], &[1000], &[i32::MAX as i64], &[i32::MIN as i64]],
            |q, kv, args| kv <= q + args[0],
        ),
        case(
            Pattern::record("two bands", &["near", "far"], |q, kv, args| {
                kv.le(q) & ((q - kv).lt(args[0]) | ((q - kv).ge(args[1]) & (q - kv).lt(args[1] + 8)))
            }),
            false,
            &[&[8, 30], &[30, 8], &[1, 64]],
            |q, kv, args| kv <= q && (q - kv < args[0] || (q - kv >= args[1] && q - kv < args[1] + 8)),
        ),
    ]
}

#[test]
fn a_predicate_is_what_was_written() {
    for Case { pattern, by_hand, args, .. } in cases() {
        for args in &args {
            for (q, kv) in (0..90).flat_map(|q| (0..90).map(move |kv| (q, kv))) {
                assert_eq!(
                    pattern.keeps(q, kv, args),
                    by_hand(q, kv, args),
                    "{} at ({q}, {kv}), {args:?}",
                    pattern.name
                );
            }
        }
    }
}

#[test]
fn a_class_is_sound_and_exact_for_plain_bounds() {
    for Case { pattern, by_hand, args, exact } in cases() {
        for args in &args {
            for (q0, kv0) in (0..72).step_by(8).flat_map(|q| (0..72).step_by(4).map(move |kv| (q, kv))) {
                let pairs = || (q0..q0 + 8).flat_map(|q| (kv0..kv0 + 4).map(move |kv| (q, kv)));
                let kept = pairs().filter(|&(q, kv)| by_hand(q, kv, args)).count();
                let truth =
                    [Class::Empty, Class::Partial, Class::Full][usize::from(kept > 0) + usize::from(kept == 32)];
                let class = pattern.class(q0..=q0 + 7, kv0..=kv0 + 3, args);
                assert!(class == truth || class == Class::Partial, "{} {args:?}: {class:?}", pattern.name);
                // A window of nothing is empty between two bounds, each of which lets a part of the box through.
                if exact && args.first() != Some(&0) && !["longformer", "block diagonal"].contains(&&*pattern.name) {
                    let apart = pattern.name == "window_sink" && truth != class;
                    assert!(class == truth || apart, "{} {args:?} at {q0}, {kv0}: {class:?}", pattern.name);
                }
            }
        }
    }
}

#[test]
fn the_mask_on_tiles_is_the_predicate() {
    for Case { pattern, by_hand, args, .. } in cases() {
        let emitted = Emitted::keep(&pattern);
        for args in &args {
            for (q0, kv0) in (0..60).step_by(7).flat_map(|q| (0..60).step_by(5).map(move |kv| (q, kv))) {
                let mask = &emitted.eval(q0, kv0, 0, args)[0];
                for (n, &kept) in mask.iter().enumerate() {
                    let (q, kv) = (q0 + n as i64 / i64::from(COLS), kv0 + n as i64 % i64::from(COLS));
                    assert_eq!(kept != 0, by_hand(q, kv, args), "{} at ({q}, {kv}), {args:?}", pattern.name);
                }
            }
        }
    }
}

#[test]
fn a_box_that_is_called_full_is_full() {
    for Case { pattern, by_hand, args, .. } in cases() {
        let emitted = Emitted::full(&pattern);
        for args in &args {
            for (q0, kv0) in (0..60).step_by(5).flat_map(|q| (0..60).step_by(3).map(move |kv| (q, kv))) {
                let surely = emitted.eval(q0, kv0, 0, args)[0][0] != 0;
                let full = (q0..q0 + 8).all(|q| (kv0..kv0 + 8).all(|kv| by_hand(q, kv, args)));
                assert!(full || !surely, "{} {args:?} at {q0}, {kv0}", pattern.name);
                let plain =
                    ["causal", "window", "both ways", "prefix", "block diagonal", "block causal", "full", "shifted"];
                if plain.contains(&&*pattern.name) {
                    assert_eq!(surely, full, "{} {args:?} at {q0}, {kv0}", pattern.name);
                }
            }
        }
    }
}

#[test]
fn runs_cover_what_counts_and_nothing_else() {
    for Case { pattern, by_hand, args, exact } in cases() {
        for (rows, block) in [(1, 16), (8, 16), (16, 4), (7, 1), (64, 16)] {
            let emitted = Emitted::runs(&pattern, rows, block);
            for (args, len) in args.iter().flat_map(|args| [0, 1, 33, 96].map(|len| (args, len))) {
                for q0 in (0..len).step_by(rows as usize) {
                    let q = q0..=q0 + i64::from(rows) - 1;
                    let runs = pattern.runs(q.clone(), len, block, args);
                    check_runs(&pattern, &runs, q.clone(), len, block.into(), args.into());
                    assert_eq!(emitted.eval_runs(q0, len, args), runs, "{} {args:?}", pattern.name);
                    if !exact {
                        continue;
                    }
                    for b in runs.iter().cloned().flatten() {
                        let keys = b * i64::from(block)..((b + 1) * i64::from(block)).min(len);
                        let kept = q.clone().any(|q| keys.clone().any(|kv| by_hand(q, kv, args)));
                        assert!(kept, "{} {args:?}: block {b} of {runs:?} for queries {q:?} of {len}", pattern.name);
                    }
                }
            }
        }
    }
}

#[test]
#[expect(clippy::single_range_in_vec_init, reason = "one run is meant")]
fn runs_are_told_apart_where_their_order_is_known() {
    assert_eq!(window_sink().runs(1000..=1015, 2048, 16, &[64, 4]), [0..1, 58..64]);
    assert_eq!(window_sink().runs(16..=31, 2048, 16, &[64, 4]), [0..1, 1..2]);
    assert_eq!(causal().runs(64..=127, 1000, 32, &[]), [0..4]);
    let full = Pattern::record("full", &[], |_, _, _| Keep::always());
    assert_eq!(full.runs(0..=0, 1000, 32, &[]), [0..32]);
    let nothing = Pattern::record("nothing", &[], |q, kv, _| kv.lt(q) & kv.gt(q));
    assert_eq!(nothing.runs(0..=63, 1000, 32, &[]), []);
    // A window behind the query and one ahead of it.
    let split =
        Pattern::record("split", &["gap"], |q, kv, args| (q - kv).abs().ge(args[0]) & (q - kv).abs().le(args[0] + 9));
    assert_eq!(split.runs(500..=507, 2000, 10, &[100]), [39..41, 60..62]);
}

#[test]
fn few_operations_are_emitted() {
    let compares = |op: &Op| matches!(op, Op::Compare(..));
    let arithmetic = |op: &Op| !matches!(op, Op::Const(_) | Op::Param(_) | Op::Iota(_) | Op::Broadcast(_));

    let full = Emitted::full(&causal());
    // The two sums of the test's own, and `kv_hi <= q_lo`.
    assert_eq!((full.count(arithmetic), full.count(compares)), (3, 1));
    assert_eq!(full.count(|op| matches!(op, Op::Compare(Compare::Le, ..))), 1);

    let keep = Emitted::keep(&causal());
    assert_eq!((keep.count(arithmetic), keep.count(compares)), (3, 1));

    // kv <= q, kv > q - window, kv < sink: two compares and two connectives an element, the sink's compare a column.
    let keep = Emitted::keep(&window_sink());
    let on_tiles: Vec<&Op> = (0..keep.func.body.len())
        .filter(|&n| keep.rank(n) == 2)
        .map(|n| &keep.func.body[n].op)
        .filter(|op| arithmetic(op))
        .collect();
    assert_eq!(on_tiles.len(), 4, "{on_tiles:?}");

    // Two bounds on one side are one bound.
    let twice = Pattern::record("twice", &["end"], |q, kv, args| kv.le(q) & kv.lt(args[0]));
    assert_eq!(Emitted::keep(&twice).count(compares), 1);

    // min(q_hi + 1, len), and up to blocks.
    let runs = Emitted::runs(&causal(), 64, 16);
    assert_eq!(runs.count(arithmetic), 1 + 4);
}

#[test]
fn large_positions_do_not_overflow() {
    let top = i64::from(i32::MAX) - 1;
    for Case { pattern, by_hand, args, .. } in cases() {
        let (keep, full) = (Emitted::keep(&pattern), Emitted::full(&pattern));
        for args in &args {
            for (q0, kv0) in [(top - 7, top - 7), (top - 7, 0), (0, top - 7), (top - 7, top - 50), (top - 40, top - 9)]
            {
                let mask = &keep.eval(q0, kv0, 0, args)[0];
                for (n, &kept) in mask.iter().enumerate() {
                    let (q, kv) = (q0 + n as i64 / 8, kv0 + n as i64 % 8);
                    assert_eq!(kept != 0, by_hand(q, kv, args), "{} at ({q}, {kv}), {args:?}", pattern.name);
                }
                if full.eval(q0, kv0, 0, args)[0][0] != 0 {
                    assert!(mask.iter().all(|&kept| kept != 0), "{} at {q0}, {kv0}, {args:?}", pattern.name);
                }
            }
            let (block, len) = (64, (1 << 31) - 64);
            let runs = Emitted::runs(&pattern, 8, block);
            for q0 in [0, 1 << 30, top - 100] {
                let host = pattern.runs(q0..=q0 + 7, len, block, args);
                assert_eq!(runs.eval_runs(q0, len, args), host, "{} {args:?}", pattern.name);
                for kv in [0, 1, q0 - 70, q0 - 1, q0, q0 + 7, q0 + 8, q0 + 70, len - 1] {
                    let counts = (0..len).contains(&kv) && (q0..q0 + 8).any(|q| by_hand(q, kv, args));
                    assert!(
                        !counts || host.iter().any(|run| run.contains(&(kv / 64))),
                        "{} {kv} {host:?}",
                        pattern.name
                    );
                }
            }
        }
    }
}

#[test]
fn one_query_makes_a_mask_of_columns() {
    let pattern = window_sink();
    let emitted = Emitted::new(&pattern, |b, [q0, kv0, _], args| {
        let cols = b.axis("Cols", COLS);
        let c = b.iota(cols);
        let kv = b.binary(Binary::Add, c, kv0);
        vec![pattern.emit_keep(b, q0, kv, args, &[])]
    });
    let want: Vec<i64> = (40..48).map(|kv| pattern.keeps(45, kv, &[4, 2]).into()).collect();
    assert_eq!(emitted.eval(45, 40, 0, &[4, 2]), [want]);
}

#[test]
fn recordings_nest_and_keep_apart() {
    let outer = Pattern::record("outer", &["w"], |q, kv, args| {
        let near = (q - kv).lt(args[0]);
        let inner = Pattern::record("inner", &[], |q, kv, _| kv.lt(q));
        assert!(inner.keeps(3, 2, &[]) && !inner.keeps(2, 2, &[]));
        near & kv.le(q)
    });
    outer.check().expect("no mistakes");
    assert!(outer.keeps(5, 4, &[2]) && !outer.keeps(5, 3, &[2]));

    let foreign = Pattern::record("outer", &[], |q, _, _| {
        let inner = Pattern::record("inner", &[], |_, kv, _| kv.lt(q));
        let message = inner.check().expect_err("q is another pattern's").to_string();
        assert!(message.contains("belongs to another pattern") && message.contains("main.rs"), "{message}");
        q.lt(1)
    });
    foreign.check().expect("the outer one is right");

    let threads: Vec<_> = (1..5)
        .map(|n| {
            std::thread::spawn(move || {
                Pattern::record("causal", &[], |q, kv, _| (kv + n).le(q)).keeps(5, 5 - i64::from(n), &[])
            })
        })
        .collect();
    assert!(threads.into_iter().all(|t| t.join().expect("no panic")));

    let panicked = std::panic::catch_unwind(|| Pattern::record("broken", &[], |_, _, _| panic!("the author's")));
    assert!(panicked.is_err());
    assert!(causal().keeps(1, 1, &[]));
}

#[test]
fn mistakes_are_told_at_their_line() {
    let lesson = |f: fn(Pos, Pos, &[Pos]) -> Keep| {
        let pattern = Pattern::record("wrong", &["n"], f);
        let mut b = Builder::new("test", Target::SM_80, 4);
        let zero = b.int(0);
        pattern.emit_full(&mut b, (zero, zero), (zero, zero), &[zero]);
        assert_eq!(b.finish().expect_err("a mistake").len(), 1);
        pattern.check().expect_err("a mistake").to_string()
    };
    assert!(lesson(|q, kv, _| (q * kv).lt(3)).contains("positions cannot be multiplied"));
    assert!(lesson(|q, kv, _| (q / kv).lt(3)).contains("a divisor cannot depend on a position"));
    assert!(lesson(|q, _, _| (q % 0).lt(3)).contains("a divisor must be positive: this is 0"));
    assert!(lesson(|q, _, _| (q * u32::MAX * u32::MAX).lt(3)).contains("too large"));
}

#[test]
fn a_pattern_shows_itself() {
    assert_eq!(causal().to_string(), "kv <= q");
    assert_eq!(window_sink().to_string(), "kv <= q & (q + 1 <= kv + window | kv + 1 <= sink)");
    let dilated = Pattern::record("dilated", &["step"], |q, kv, args| !((q - kv) % args[0]).ne_(0));
    assert_eq!(dilated.to_string(), "(q - kv) % (step) == 0");
}

/// What is the same for every query does not look at where it is.
#[test]
fn looks_at_the_query() {
    let looks = |f: fn(Pos, Pos, &[Pos]) -> Keep| Pattern::record("p", &["n"], f).looks_at_query();
    assert!(!looks(|_, _, _| Keep::always()) && !looks(|_, _, _| Keep::never()));
    assert!(!looks(|_, kv, args| kv.lt(args[0]) & (kv % 3).ne_(1)));
    assert!(!looks(|q, kv, _| (q + kv).le(q)), "the query's position cancels");
    assert!(looks(|q, kv, _| kv.le(q)) && looks(|q, _, _| q.lt(3)));
    assert!(looks(|q, kv, args| kv.lt(args[0]) | ((q / 16 - kv / 16) % 4).eq_(0)));
    let table = |at: fn(Pos, Pos) -> Pos| {
        Pattern::record_with("p", &[], &["x"], |q, kv, _, tables| tables[0].at(at(q, kv)).ge(0)).looks_at_query()
    };
    assert!(table(|q, _| q) && !table(|_, kv| kv));
}
