//! State never leaks out of a staged body: what the macro cannot see is told when the schedule is staged.

use std::cell::Cell;

use lacuna_dsl::prelude::*;
use lacuna_dsl::{Error, Staging};

fn shape() -> Shape {
    Shape::new(Elem::Bf16, 64, 64, 4)
}

/// Stages a function that no macro has seen.
#[track_caller]
fn stage(body: impl FnOnce(&Cx, Queries<Dk>)) -> Result<lacuna_dsl::Staged, Error> {
    Staging::new("test", Target::SM_80, &shape()).run(|cx| {
        let q = <Queries<Dk> as lacuna_dsl::Input>::declare(cx, "q");
        cx.grid1(q.tokens());
        body(cx, q);
    })
}

/// The mistakes, without their files.
#[track_caller]
fn mistakes(body: impl FnOnce(&Cx, Queries<Dk>)) -> Vec<String> {
    match stage(body) {
        Err(Error::Staging(mistakes)) => {
            mistakes.iter().map(|m| format!("{}: {}: {}", m.loc.line(), m.message, m.label)).collect()
        }
        other => panic!("staged to {other:?}"),
    }
}

#[test]
fn a_value_does_not_leave_its_loop() {
    let escaped = Cell::new(None);
    let line = line!();
    let told = mistakes(|cx, _| {
        for i in cx.range(0, 8) {
            escaped.set(Some(i + 1));
        }
        let _ = escaped.get().unwrap() * 2;
    });
    let [told] = told.as_slice() else { panic!("{told:?}") };
    assert!(told.contains(&format!("this value was made inside the loop at {}:{}", file!(), line + 2)), "{told}");
    assert!(told.starts_with(&format!("{}: ", line + 5)) && told.contains("keep it in a `cx.var(..)`"), "{told}");
}

#[test]
fn a_value_does_not_leave_its_branch() {
    let escaped = Cell::new(None);
    let told = mistakes(|cx, _| {
        let n = cx.scalar(4);
        cx.when(n.lt(8), || escaped.set(Some(n * 2)));
        let _ = escaped.get().unwrap() + n;
    });
    assert!(told.len() == 1 && told[0].contains("inside the branch"), "{told:?}");
}

#[test]
fn a_value_does_not_go_from_round_to_round() {
    // The staged body runs once, so the sum of the first round would be all there is; the second loop sees it.
    let sum = Cell::new(None);
    let told = mistakes(|cx, _| {
        sum.set(Some(cx.scalar(0)));
        for i in cx.range(0, 8) {
            sum.set(Some(sum.get().unwrap() + i));
        }
        for i in cx.range(0, 8) {
            let _ = sum.get().unwrap() + i;
        }
    });
    assert_eq!(told.len(), 1, "{told:?}");
}

#[test]
fn a_loop_is_not_left_before_its_end() {
    let line = line!();
    let told = mistakes(|cx, _| {
        for i in cx.range(0, 8) {
            for j in cx.range(0, i) {
                let _ = i + j;
                if cx.extent::<Dk>() == 64 {
                    break;
                }
            }
        }
    });
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].starts_with(&format!("{}: this loop is left before its end", line + 3)), "{told:?}");
}

#[test]
fn a_value_does_not_go_from_schedule_to_schedule() {
    let kept = Cell::new(None);
    stage(|cx, _| kept.set(Some((cx.scalar(3), cx.var::<Scalar<I32>>("n", 0))))).unwrap();
    let told = mistakes(|_, _| {
        let (value, state) = kept.get().unwrap();
        let _ = value + 1;
        state.set(state.get() + 1);
    });
    assert_eq!(told.len(), 3, "{told:?}");
    assert!(told[0].contains("this value belongs to another schedule"), "{told:?}");
    assert!(told[1].contains("this state belongs to another schedule"), "{told:?}");
}

#[test]
fn an_inner_staging_does_not_disturb_the_outer() {
    stage(|cx, _| {
        let n = cx.scalar(1);
        stage(|inner, _| {
            inner.scalar(2);
        })
        .unwrap();
        let _ = n + 1;
    })
    .unwrap();
}

#[test]
fn a_panic_ends_its_run() {
    let panicked = std::panic::catch_unwind(|| {
        stage(|cx, _| {
            for _ in cx.range(0, 8) {
                if cx.extent::<Dk>() == 64 {
                    std::panic::panic_any(7);
                }
            }
        })
    });
    assert_eq!(panicked.unwrap_err().downcast_ref(), Some(&7));
    stage(|cx, _| {
        let _ = cx.scalar(1) + 1;
    })
    .unwrap();
}

#[test]
fn state_goes_from_round_to_round() {
    let staged = stage(|cx, _| {
        let sum = cx.var::<Scalar<I32>>("sum", 0);
        for i in cx.range(0, 8) {
            sum.set(sum.get() + i);
        }
        let _ = sum.get() + 1;
    });
    assert_eq!(staged.unwrap().func.vars.len(), 1);
}

#[test]
fn state_made_in_a_loop_is_new_in_each_round() {
    use lacuna_codegen::ir::Op;
    let staged = stage(|cx, _| {
        for i in cx.range(0, 8) {
            let sum = cx.var::<Scalar<I32>>("sum", 0);
            sum.set(sum.get() + i);
        }
    });
    let func = staged.unwrap().func;
    let Some(Op::For { body, .. }) = func.body.iter().map(|s| &s.op).find(|op| matches!(op, Op::For { .. })) else {
        panic!("no loop in {func:?}")
    };
    let writes = body.iter().filter(|s| matches!(s.op, Op::Write(..))).count();
    assert_eq!(writes, 2, "the first content, and the sum");
}

#[test]
fn an_axis_without_extent_is_told() {
    let told = mistakes(|cx, _| {
        cx.iota::<Rows>();
    });
    assert!(
        told[0].contains("nothing says how wide `Rows` is") && told[0].contains("tune(Rows in [64, 32])"),
        "{told:?}"
    );
}

#[test]
fn a_schedule_has_one_grid() {
    let told = mistakes(|cx, q| {
        cx.grid1(q.tokens());
    });
    assert!(told[0].contains("a schedule has one grid"), "{told:?}");
    let none = Staging::new("test", Target::SM_80, &shape()).run(|_| ()).unwrap_err();
    assert!(none.to_string().contains("does not say which CTAs there are"), "{none}");
}

#[test]
fn a_pipelined_loop_needs_a_stage() {
    struct One(Scalar<I32>);
    impl BlockList for One {
        type Block = Scalar<I32>;
        fn bounds(&self) -> (Scalar<I32>, Scalar<I32>) {
            (self.0, self.0)
        }
        fn at(&self, index: Scalar<I32>) -> Scalar<I32> {
            index
        }
    }
    let told = mistakes(|cx, _| for _ in cx.pipelined(One(cx.scalar(1)), 0) {});
    assert!(told[0].contains("at least 1 stage"), "{told:?}");
}
