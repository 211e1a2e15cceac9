//! Drawn trees: every use agrees with the tree's evaluation.

use lacuna_codegen::ir::Compare;
use lacuna_codegen::pattern::{Class, Keep, Pattern, Pos};
use proptest::prelude::*;

use crate::emitted::{Emitted, check_runs};

/// An expression over positions and two arguments.
#[derive(Clone, Debug)]
enum Num {
    Q,
    Kv,
    Arg(usize),
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
    fn record(&self, q: Pos, kv: Pos, args: &[Pos]) -> Pos {
        let on = |n: &Num| n.record(q, kv, args);
        match self {
            Num::Q => q,
            Num::Kv => kv,
            Num::Arg(n) => args[*n],
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

    fn eval(&self, q: i64, kv: i64, args: &[i64]) -> i64 {
        let on = |n: &Num| n.eval(q, kv, args);
        match self {
            Num::Q => q,
            Num::Kv => kv,
            Num::Arg(n) => args[*n],
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
    fn record(&self, q: Pos, kv: Pos, args: &[Pos]) -> Keep {
        let on = |t: &Truth| t.record(q, kv, args);
        match self {
            Truth::Compare(op, a, b) => {
                let (a, b) = (a.record(q, kv, args), b.record(q, kv, args));
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

    fn eval(&self, q: i64, kv: i64, args: &[i64]) -> bool {
        let on = |t: &Truth| t.eval(q, kv, args);
        match self {
            Truth::Compare(op, a, b) => {
                let (a, b) = (a.eval(q, kv, args), b.eval(q, kv, args));
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    /// Every use of a drawn tree agrees with its evaluation.
    #[test]
    fn drawn_trees_agree_in_every_use(
        tree in truth(),
        args in (0i64..40, 0i64..12),
        q0 in 0i64..80,
        kv0 in 0i64..80,
        len in 0i64..100,
        block in 1u32..20,
    ) {
        let args = [args.0, args.1];
        let pattern = Pattern::record("drawn", &["a", "b"], |q, kv, args| tree.record(q, kv, args));
        pattern.check().expect("no mistakes");
        let mask = &Emitted::keep(&pattern).eval(q0, kv0, 0, &args)[0];
        let mut kept = 0;
        for n in 0..64 {
            let (q, kv) = (q0 + n / 8, kv0 + n % 8);
            let holds = tree.eval(q, kv, &args);
            prop_assert_eq!(pattern.keeps(q, kv, &args), holds, "({}, {}): {}", q, kv, &pattern);
            prop_assert_eq!(mask[n as usize] != 0, holds, "({}, {}): {}", q, kv, &pattern);
            kept += i64::from(holds);
        }
        match pattern.class(q0..=q0 + 7, kv0..=kv0 + 7, &args) {
            Class::Empty => prop_assert_eq!(kept, 0),
            Class::Full => prop_assert_eq!(kept, 64),
            Class::Partial => {}
        }
        let full = Emitted::full(&pattern).eval(q0, kv0, 0, &args)[0][0] != 0;
        prop_assert!(!full || kept == 64, "{}", &pattern);
        let runs = pattern.runs(q0..=q0 + 7, len, block, &args);
        check_runs(&pattern, &runs, q0..=q0 + 7, len, block.into(), &args);
        prop_assert_eq!(Emitted::runs(&pattern, 8, block).eval_runs(q0, len, &args), runs, "{}", &pattern);
    }
}
