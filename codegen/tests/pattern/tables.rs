//! Patterns that read tables: packed documents, trees of tokens, neighbourhoods, and a range for each token.

use lacuna_codegen::ir::Builder;
use lacuna_codegen::pattern::{Class, Given, Keep, Pattern, Pos, Table};
use lacuna_ptx::Target;

use crate::emitted::{COLS, Emitted};

const LEN: usize = 120;

/// Whether the query sees the key, given arguments and tables.
type ByHand = fn(usize, usize, &[i64], &[Vec<i32>]) -> bool;

/// A pattern, its mask by hand, and what it is given.
struct Case {
    pattern: Pattern,
    by_hand: ByHand,
    args: Vec<i64>,
    tables: Vec<Vec<i32>>,
}

/// Parents of the tokens of a tree that grows to several sides, in the order in which a decoder drafts them.
fn parents() -> Vec<Option<usize>> {
    (0..LEN).map(|token| if token == 0 { None } else { Some((token - 1) / (1 + token % 3)) }).collect()
}

/// When a walk through the tree enters each token, and when it has left all that is below it.
fn walk() -> [Vec<i32>; 2] {
    let (parents, mut enter, mut leave) = (parents(), vec![0; LEN], vec![0; LEN]);
    let mut clock = 0;
    let mut stack = vec![(0, false)];
    while let Some((token, done)) = stack.pop() {
        if done {
            leave[token] = clock;
            continue;
        }
        enter[token] = clock;
        clock += 1;
        stack.push((token, true));
        stack.extend((0..LEN).filter(|&child| parents[child] == Some(token)).map(|child| (child, false)));
    }
    [enter, leave]
}

fn cases() -> Vec<Case> {
    let record = |name, args: &[&str], tables: &[&str], f: fn(Pos, Pos, &[Pos], &[Table]) -> Keep| {
        let args: Vec<_> = args.iter().map(|&arg| (arg, 0..=i32::MAX)).collect();
        Pattern::record_with(name, &args, tables, f)
    };
    vec![
        Case {
            pattern: record("documents", &[], &["docs"], |q, kv, _, t| t[0].at(q).eq_(t[0].at(kv)) & kv.le(q)),
            by_hand: |q, kv, _, t| t[0][q] == t[0][kv] && kv <= q,
            args: vec![],
            tables: vec![(0..LEN).map(|token| [0, 0, 3, 3, 3, -1, 7, 7][token / 15]).collect()],
        },
        // A token of the tree sees those that it descends from, and itself.
        Case {
            pattern: record("tree", &[], &["enter", "leave"], |q, kv, _, t| {
                t[0].at(kv).le(t[0].at(q)) & t[0].at(q).lt(t[1].at(kv))
            }),
            by_hand: |q, kv, _, _| {
                let parents = parents();
                std::iter::successors(Some(q), |&token| parents[token]).any(|token| token == kv)
            },
            args: vec![],
            tables: walk().to_vec(),
        },
        // Places on a plane, of any sign and size, and how far one sees.
        Case {
            pattern: record("neighbours", &["reach"], &["x", "y"], |q, kv, args, t| {
                (t[0].at(q) - t[0].at(kv)).abs().le(args[0]) & (t[1].at(q) - t[1].at(kv)).abs().le(args[0])
            }),
            by_hand: |q, kv, args, t| t.iter().all(|t| (i64::from(t[q]) - i64::from(t[kv])).abs() <= args[0]),
            args: vec![2],
            tables: vec![
                (0..LEN as i32).map(|token| if token == 50 { i32::MIN } else { token % 11 }).collect(),
                (0..LEN as i32).map(|token| if token == 51 { i32::MAX } else { token / 11 - 5 }).collect(),
            ],
        },
        Case {
            pattern: record("ranges", &[], &["first", "end"], |q, kv, _, t| kv.ge(t[0].at(q)) & kv.lt(t[1].at(q))),
            by_hand: |q, kv, _, t| (i64::from(t[0][q])..i64::from(t[1][q])).contains(&(kv as i64)),
            args: vec![],
            tables: vec![
                (0..LEN as i32).map(|q| if q % 40 == 7 { i32::MIN } else { q - q % 32 }).collect(),
                (0..LEN as i32).map(|q| if q % 40 == 8 { i32::MAX } else { q + 1 + q % 5 }).collect(),
            ],
        },
    ]
}

impl Case {
    fn tables(&self) -> Vec<&[i32]> {
        self.tables.iter().map(Vec::as_slice).collect()
    }

    fn keeps(&self, q: usize, kv: usize) -> bool {
        (self.by_hand)(q, kv, &self.args, &self.tables)
    }
}

#[test]
fn a_predicate_on_tables_is_what_was_written() {
    for case in cases() {
        let tables = case.tables();
        let given = Given { args: &case.args, tables: &tables };
        let mut kept = 0;
        for (q, kv) in (0..LEN).flat_map(|q| (0..LEN).map(move |kv| (q, kv))) {
            let want = case.keeps(q, kv);
            assert_eq!(case.pattern.keeps(q as i64, kv as i64, given), want, "{} at {q}, {kv}", case.pattern);
            kept += usize::from(want);
        }
        assert!((LEN..LEN * LEN / 2).contains(&kept), "{} keeps {kept} pairs, which shows little", case.pattern);
    }
}

#[test]
fn the_mask_on_tiles_reads_the_tables() {
    for case in cases() {
        let tables = case.tables();
        let given = Given { args: &case.args, tables: &tables };
        let emitted = Emitted::keep(&case.pattern);
        for (q0, kv0) in (0..LEN - 8).step_by(7).flat_map(|q| (0..LEN - 8).step_by(5).map(move |kv| (q, kv))) {
            let mask = &emitted.eval(q0 as i64, kv0 as i64, 0, given)[0];
            for (n, &kept) in mask.iter().enumerate() {
                let (q, kv) = (q0 + n / COLS as usize, kv0 + n % COLS as usize);
                assert_eq!(kept != 0, case.keeps(q, kv), "{} at {q}, {kv}", case.pattern);
            }
        }
    }
}

#[test]
fn runs_know_nothing_of_tables_and_leave_out_nothing() {
    let runs = |case: usize| cases()[case].pattern.runs(64..=127, 1000, 32, &[]);
    assert_eq!((runs(0).len(), &runs(0)[0]), (1, &(0..4)), "causal is known all the same");
    assert_eq!((runs(3).len(), &runs(3)[0]), (1, &(0..32)));
}

#[test]
fn a_pattern_with_tables_shows_itself() {
    let shown: Vec<String> = cases().iter().map(|case| case.pattern.to_string()).collect();
    assert_eq!(shown[0], "docs[q] == docs[kv] & kv <= q");
    assert_eq!(shown[1], "enter[kv] <= enter[q] & enter[q] + 1 <= leave[kv]");
    assert_eq!(shown[3], "first[q] <= kv & kv + 1 <= end[q]");
}

#[test]
fn tables_are_indexed_by_positions() {
    let lesson = |f: fn(Pos, Pos, &[Table]) -> Keep| {
        let pattern = Pattern::record_with("wrong", &[], &["t"], |q, kv, _, t| f(q, kv, t));
        let mut b = Builder::new("test", Target::SM_80, 4);
        let zero = b.int(0);
        pattern.emit_full(&mut b, (zero, zero), (zero, zero), &[]);
        assert_eq!(b.finish().expect_err("a mistake").len(), 1);
        pattern.check().expect_err("a mistake").to_string()
    };
    let found = lesson(|q, _, t| t[0].at(q / 2).eq_(1));
    assert!(found.contains("a table has a number for each position, not for what is computed from one"), "{found}");
    assert!(found.contains("`table.at(q)` or `table.at(kv)`") && found.contains("tables.rs"), "{found}");
    assert!(lesson(|q, _, t| (q / t[0].at(q)).lt(3)).contains("a divisor cannot depend on a position"));
    assert!(lesson(|q, _, t| (q * t[0].at(q)).lt(3)).contains("positions cannot be multiplied"));

    let mut stolen = None;
    Pattern::record_with("first", &[], &["t"], |_, _, _, t| {
        stolen = Some(t[0]);
        Keep::always()
    });
    let table = stolen.expect("recorded");
    let second = Pattern::record("second", &[], |q, _, _| table.at(q).eq_(1));
    assert!(second.check().expect_err("another's").to_string().contains("belongs to another pattern"));
}

#[test]
fn positions_past_a_table_read_zero() {
    let same = &cases()[0].pattern;
    let given = Given { args: &[], tables: &[&[0, 0, 5]] };
    assert!(same.keeps(3, 0, given) && !same.keeps(3, 2, given));
    assert_eq!(same.class(2..=3, 0..=1, given), Class::Partial, "one of the two reads 5, the other 0");
    assert_eq!(same.class(3..=9, 0..=1, given), Class::Full);
}
