//! Drawn trees: every use agrees with the tree's evaluation.

use lacuna_codegen::ir::Compare;
use lacuna_codegen::pattern::{Class, Given, Keep, Pattern, Pos, Table};
use proptest::prelude::*;

use crate::emitted::{COLS, Emitted, check_runs};

/// An expression over positions, two arguments and two tables.
#[derive(Clone, Debug)]
enum Num {
    Q,
    Kv,
    Arg(usize),
    /// A table, at the key's position or the query's.
    At(usize, bool),
    Int(i32),
    Add(Box<Num>, Box<Num>),
    Sub(Box<Num>, Box<Num>),
    Scale(Box<Num>, i32),
    Div(Box<Num>, u32),
    Rem(Box<Num>, u32),
    DivArg(Box<Num>),
    RemArg(Box<Num>),
    Min(Box<Num>, Box<Num>),
    Max(Box<Num>, Box<Num>),
}

#[derive(Clone, Debug)]
enum Truth {
    Compare(Compare, Num, Num),
    Not(Box<Truth>),
    And(Box<Truth>, Box<Truth>),
    Or(Box<Truth>, Box<Truth>),
}

impl Num {
    fn record(&self, q: Pos, kv: Pos, args: &[Pos], tables: &[Table]) -> Pos {
        let on = |n: &Num| n.record(q, kv, args, tables);
        match self {
            Num::Q => q,
            Num::Kv => kv,
            Num::Arg(n) => args[*n],
            Num::At(n, key) => tables[*n].at(if *key { kv } else { q }),
            Num::Int(n) => (*n).into(),
            Num::Add(a, b) => on(a) + on(b),
            Num::Sub(a, b) => on(a) - on(b),
            Num::Scale(a, n) => on(a) * *n,
            Num::Div(a, n) => on(a) / *n,
            Num::Rem(a, n) => on(a) % *n,
            Num::DivArg(a) => on(a) / args[1],
            Num::RemArg(a) => on(a) % args[1],
            Num::Min(a, b) => on(a).min(on(b)),
            Num::Max(a, b) => on(a).max(on(b)),
        }
    }

    fn eval(&self, q: i64, kv: i64, given: Given<'_>) -> i64 {
        let on = |n: &Num| n.eval(q, kv, given);
        let args = given.args;
        match self {
            Num::Q => q,
            Num::Kv => kv,
            Num::Arg(n) => args[*n],
            Num::At(n, key) => given.tables[*n][if *key { kv } else { q } as usize].into(),
            Num::Int(n) => (*n).into(),
            Num::Add(a, b) => on(a) + on(b),
            Num::Sub(a, b) => on(a) - on(b),
            Num::Scale(a, n) => on(a) * i64::from(*n),
            Num::Div(a, n) => on(a) / i64::from(*n),
            Num::Rem(a, n) => on(a) % i64::from(*n),
            Num::DivArg(a) => on(a) / args[1].max(1),
            Num::RemArg(a) => on(a) % args[1].max(1),
            Num::Min(a, b) => on(a).min(on(b)),
            Num::Max(a, b) => on(a).max(on(b)),
        }
    }
}

impl Truth {
    fn record(&self, q: Pos, kv: Pos, args: &[Pos], tables: &[Table]) -> Keep {
        let on = |t: &Truth| t.record(q, kv, args, tables);
        match self {
            Truth::Compare(op, a, b) => {
                let (a, b) = (a.record(q, kv, args, tables), b.record(q, kv, args, tables));
                match op {
                    Compare::Eq => a.eq_(b),
                    Compare::Ne => a.ne_(b),
                    Compare::Lt => a.lt(b),
                    Compare::Le => a.le(b),
                    Compare::Gt => a.gt(b),
                    Compare::Ge => a.ge(b),
                }
            }
            Truth::Not(a) => !on(a),
            Truth::And(a, b) => on(a) & on(b),
            Truth::Or(a, b) => on(a) | on(b),
        }
    }

    fn eval(&self, q: i64, kv: i64, given: Given<'_>) -> bool {
        let on = |t: &Truth| t.eval(q, kv, given);
        match self {
            Truth::Compare(op, a, b) => {
                let (a, b) = (a.eval(q, kv, given), b.eval(q, kv, given));
                match op {
                    Compare::Eq => a == b,
                    Compare::Ne => a != b,
                    Compare::Lt => a < b,
                    Compare::Le => a <= b,
                    Compare::Gt => a > b,
                    Compare::Ge => a >= b,
                }
            }
            Truth::Not(a) => !on(a),
            Truth::And(a, b) => on(a) && on(b),
            Truth::Or(a, b) => on(a) || on(b),
        }
    }
}

fn num() -> impl Strategy<Value = Num> {
    let leaf = prop_oneof![
        3 => Just(Num::Q),
        3 => Just(Num::Kv),
        1 => (0usize..2).prop_map(Num::Arg),
        2 => (0usize..2, any::<bool>()).prop_map(|(n, key)| Num::At(n, key)),
        1 => (-20..40).prop_map(Num::Int),
    ];
    leaf.prop_recursive(3, 8, 2, |inner| {
        let two = (inner.clone().prop_map(Box::new), inner.clone().prop_map(Box::new));
        let one = inner.prop_map(Box::new);
        prop_oneof![
            2 => two.clone().prop_map(|(a, b)| Num::Add(a, b)),
            3 => two.clone().prop_map(|(a, b)| Num::Sub(a, b)),
            1 => (one.clone(), -3..4).prop_map(|(a, n)| Num::Scale(a, n)),
            1 => (one.clone(), 1u32..9).prop_map(|(a, n)| Num::Div(a, n)),
            1 => (one.clone(), 1u32..9).prop_map(|(a, n)| Num::Rem(a, n)),
            1 => one.clone().prop_map(Num::DivArg),
            1 => one.prop_map(Num::RemArg),
            1 => two.clone().prop_map(|(a, b)| Num::Min(a, b)),
            1 => two.prop_map(|(a, b)| Num::Max(a, b)),
        ]
    })
}

fn truth() -> impl Strategy<Value = Truth> {
    let ops = [Compare::Eq, Compare::Ne, Compare::Lt, Compare::Le, Compare::Gt, Compare::Ge];
    let leaf = (0usize..6, num(), num()).prop_map(move |(op, a, b)| Truth::Compare(ops[op], a, b));
    leaf.prop_recursive(3, 8, 2, |inner| {
        let inner = inner.prop_map(Box::new);
        prop_oneof![
            1 => inner.clone().prop_map(Truth::Not),
            2 => (inner.clone(), inner.clone()).prop_map(|(a, b)| Truth::And(a, b)),
            2 => (inner.clone(), inner).prop_map(|(a, b)| Truth::Or(a, b)),
        ]
    })
}

/// A number for every position that a test looks at: most in the order that documents and ranges have, some in none.
fn table() -> impl Strategy<Value = Vec<i32>> {
    let drawn = |step: std::ops::Range<i32>| prop::collection::vec(step, 260);
    let rising = drawn(-1..3).prop_map(|steps| {
        let sum = |at: &mut i32, step: i32| {
            *at += step;
            Some(*at)
        };
        steps.into_iter().scan(0, sum).collect()
    });
    prop_oneof![3 => rising, 1 => drawn(-30..90)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    /// Every use of a drawn tree agrees with its evaluation.
    #[test]
    fn drawn_trees_agree_in_every_use(
        tree in truth(),
        args in (0i64..40, 0i64..12),
        first in table(),
        second in table(),
        q0 in 0i64..80,
        kv0 in 0i64..80,
        len in 0i64..100,
        block in 1u32..20,
    ) {
        let args = [args.0, args.1];
        let given = Given { args: &args, tables: &[&first, &second] };
        let ranges = [("a", 0..=i32::MAX), ("b", 0..=i32::MAX)];
        let pattern = Pattern::record_with("drawn", &ranges, &["first", "second"], |q, kv, args, tables| {
            tree.record(q, kv, args, tables)
        });
        pattern.check().expect("no mistakes");
        let mask = &Emitted::keep(&pattern).eval(q0, kv0, 0, given)[0];
        let mut kept = 0;
        for n in 0..64 {
            let (q, kv) = (q0 + n / 8, kv0 + n % 8);
            let holds = tree.eval(q, kv, given);
            prop_assert_eq!(pattern.keeps(q, kv, given), holds, "({}, {}): {}", q, kv, &pattern);
            prop_assert_eq!(mask[n as usize] != 0, holds, "({}, {}): {}", q, kv, &pattern);
            kept += i64::from(holds);
        }
        match pattern.class(q0..=q0 + 7, kv0..=kv0 + 7, given) {
            Class::Empty => prop_assert_eq!(kept, 0),
            Class::Full => prop_assert_eq!(kept, 64),
            Class::Partial => {}
        }
        let wide = i64::from(block);
        let found = Emitted::class(&pattern, 8, block).eval_class(&pattern, (q0, 8), (kv0, wide), given);
        for (n, (some, every)) in (0..i64::from(COLS)).zip(found) {
            let first = kv0 + n * wide;
            let want = pattern.class(q0..=q0 + 7, first..=first + wide - 1, given);
            prop_assert_eq!((some || every, every), (want != Class::Empty, want == Class::Full), "{}", &pattern);
        }
        let full = Emitted::full(&pattern).eval(q0, kv0, 0, given)[0][0] != 0;
        prop_assert!(!full || kept == 64, "{}", &pattern);
        let runs = pattern.runs(q0..=q0 + 7, len, block, &args);
        check_runs(&pattern, &runs, q0..=q0 + 7, len, block.into(), given);
        prop_assert_eq!(Emitted::runs(&pattern, 8, block).eval_runs(q0, len, &args), runs, "{}", &pattern);
    }
}
