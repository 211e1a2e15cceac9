//! What a score records, what it compiles to, and what it refuses.

use std::cell::Cell;

use lacuna_dsl::prelude::*;
use lacuna_dsl::score::{Arg, Holds};
use lacuna_dsl::{Error, Plan};

/// Every operation and every kind of argument.
#[score]
fn everything(logit: Logit, q: Pos, kv: Pos, far: u32, bias: PerHead, shift: i32, cap: f32, gain: PerHead) -> Logit {
    let near = (q - kv).abs().min(far);
    let bent = cap * (logit / cap).tanh() + shift;
    -(-bent * gain) + bias * near + (-near).exp2().max(0.25) - 1.0
}

/// Nothing at all.
#[score]
fn same(logit: Logit, _q: Pos, _kv: Pos) -> Logit {
    logit
}

/// The position alone.
#[score]
fn newest(_logit: Logit, _q: Pos, kv: Pos, step: f32) -> Logit {
    kv / step
}

/// Causal.
#[pattern]
fn causal(q: Pos, kv: Pos) -> Keep {
    kv.le(q)
}

#[schedule(tune(Rows in [64], Kv in [64], stages in [2], warps in [4]))]
fn tiled(
    cx: &Cx,
    q: Queries<Dk>,
    k: Keys<Dk>,
    v: Values<Dv>,
    docs: Segments,
    #[fixed] score: &Score,
    #[fixed] mask: &Mask,
) -> OutLse<Dv> {
    let (i, h, d) = cx.grid3(docs.tiles::<Rows>(), q.heads(), docs.count());
    let rows = q.tile(docs.at(d), i, h);
    let softmax = OnlineSoftmax::under(cx, &rows, score);
    for b in cx.pipelined(mask.visits::<Kv>(&rows), stages) {
        let s = softmax.logits(cx.dot(rows.q, k.block(b, h)), b);
        softmax.step(mask.keep(s, &rows, b), v.block(b, h));
    }
    softmax.finish()
}

/// The score is made inside the loop.
#[schedule(tune(Rows in [64], Kv in [64], stages in [2], warps in [4]))]
fn too_late(
    cx: &Cx,
    q: Queries<Dk>,
    k: Keys<Dk>,
    v: Values<Dv>,
    docs: Segments,
    #[fixed] score: &Score,
    #[fixed] mask: &Mask,
) -> OutLse<Dv> {
    let (i, h, d) = cx.grid3(docs.tiles::<Rows>(), q.heads(), docs.count());
    let rows = q.tile(docs.at(d), i, h);
    let plain = OnlineSoftmax::new(cx, &rows);
    for b in cx.pipelined(mask.visits::<Kv>(&rows), stages) {
        let softmax = OnlineSoftmax::under(cx, &rows, score);
        let s = softmax.logits(cx.dot(rows.q, k.block(b, h)), b);
        softmax.step(mask.keep(s, &rows, b), v.block(b, h));
    }
    plain.finish()
}

fn shape() -> Shape {
    Shape::new(Elem::Bf16, 32, 32, 2)
}

fn plan(score: Score) -> Result<Plan, Error> {
    Tiled::new(score, causal()).at(shape()).plan(Target::SM_80, &Default::default())
}

fn count(plan: &Plan, what: &str) -> usize {
    plan.launches[0].ptx.lines().filter(|line| line.trim_start().starts_with(what)).count()
}

#[test]
fn its_value_is_that_of_the_function() {
    let score = everything(10, -3, 20.0);
    let near: f64 = 10.0;
    let want = (20.0 * (7.0f64 / 20.0).tanh() - 3.0) * 2.0 + 0.5 * near + (-near).exp2().max(0.25) - 1.0;
    assert!((score.of(7.0, 4, 90, &[&[0.5], &[2.0]]) - want).abs() < 1e-12);
    assert_eq!(score.name(), "everything");
    let args: Vec<(&str, Arg)> = score.args().collect();
    assert_eq!(args, [("far", Arg::U32(10)), ("shift", Arg::I32(-3)), ("cap", Arg::F32(20.0))]);
    assert_eq!(score.tables().collect::<Vec<_>>(), [("bias", Holds::Number), ("gain", Holds::Number)]);
}

#[test]
fn arguments_and_tables_are_given_at_launch() {
    let first = plan(everything(10, -3, 20.0)).unwrap();
    let second = plan(everything(99, 4, 1.5)).unwrap();
    assert_eq!(first.launches[0].ptx, second.launches[0].ptx);
    for name in ["far", "shift", "cap", "scale"] {
        assert!(first.scalars.iter().any(|s| s.name == name), "{name}");
    }
    for name in ["bias", "gain"] {
        let table = first.tensors.iter().find(|t| t.name == name).expect(name);
        assert_eq!((table.elem, table.dims.len()), (Elem::F32, 1));
    }
    let given = Tiled::new(everything(10, -3, 20.0), causal()).at(shape()).given(Target::SM_80).unwrap();
    assert_eq!(given["cap"], lacuna_codegen::plan::Scalar::F32(20.0));
    assert_eq!(given["shift"], lacuna_codegen::plan::Scalar::I32(-3));
    assert_eq!(given["far"], lacuna_codegen::plan::Scalar::I32(10));
}

#[test]
fn what_is_the_same_for_all_logits_is_computed_once() {
    let plain = plan(same()).unwrap();
    let scored = plan(everything(10, -3, 20.0)).unwrap();
    // A warp has 16 rows of 64 keys: 32 logits a thread.
    assert_eq!(count(&scored, "tanh.approx.f32"), 32);
    assert_eq!(count(&plain, "tanh"), 0);
    // Two tables.
    assert_eq!(count(&scored, "ld.global"), count(&plain, "ld.global") + 2);
    // One division, 2 rows and 16 columns to convert beside the two whole arguments.
    assert_eq!(count(&scored, "div"), count(&plain, "div") + 1);
    assert_eq!((count(&plain, "cvt.rn.f32.s32"), count(&scored, "cvt.rn.f32.s32")), (0, 2 + 16 + 2));
}

#[test]
fn a_score_without_the_logit_compiles() {
    let plan = plan(newest(4.0)).unwrap();
    assert!(count(&plan, "mma.sync") > 0);
}

#[test]
fn a_score_is_made_before_the_loop() {
    let error = TooLate::new(everything(1, 1, 1.0), causal()).at(shape()).plan(Target::SM_80, &Default::default());
    let message = error.unwrap_err().to_string();
    assert!(message.contains("a score reads its tables inside a loop or branch"), "{message}");
    assert!(message.contains("dsl/tests/score.rs"), "{message}");
}

#[test]
fn whole_arguments_end_where_i32_does() {
    let message = plan(everything(u32::MAX, 0, 1.0)).unwrap_err().to_string();
    assert!(message.contains("`far` of `everything` is 4294967295; whole arguments end at 2147483647"), "{message}");
}

#[test]
fn a_logit_of_another_score_is_refused() {
    let kept: Cell<Option<Logit>> = Cell::new(None);
    let _ = Score::record("first", &[], &[], |logit, _, _, _, _| {
        kept.set(Some(logit));
        logit
    });
    let other = Score::record("second", &[], &[], |logit, _, _, _, _| logit + kept.get().unwrap());
    let message = other.check().unwrap_err().to_string();
    assert!(message.contains("this belongs to another score"), "{message}");
    let message = plan(other).unwrap_err().to_string();
    assert!(message.contains("this belongs to another score"), "{message}");
}

/// The softmax has a score, and the products go to it as they are.
#[schedule(tune(Rows in [64], Kv in [64], stages in [2], warps in [4]))]
fn unscored(
    cx: &Cx,
    q: Queries<Dk>,
    k: Keys<Dk>,
    v: Values<Dv>,
    docs: Segments,
    #[fixed] mask: &Mask,
    #[optional] score: Option<&Score>,
) -> OutLse<Dv> {
    let (i, h, d) = cx.grid3(docs.tiles::<Rows>(), q.heads(), docs.count());
    let rows = q.tile(docs.at(d), i, h);
    let softmax = OnlineSoftmax::under(cx, &rows, score);
    for b in cx.pipelined(mask.visits::<Kv>(&rows), stages) {
        let s = cx.dot(rows.q, k.block(b, h));
        softmax.step(mask.keep(s, &rows, b), v.block(b, h)); // here
    }
    softmax.finish()
}

#[test]
fn products_without_the_score_are_told_at_their_step() {
    let error = Unscored::new(causal()).with_score(same()).at(shape()).plan(Target::SM_80, &Default::default());
    let message = error.unwrap_err().to_string();
    assert!(message.contains("these scores are not under the softmax's score"), "{message}");
    assert!(message.contains("`softmax.logits(cx.dot(..), b)`"), "{message}");
    let step = include_str!("score.rs").lines().position(|line| line.ends_with("v.block(b, h)); // here")).unwrap() + 1;
    assert!(message.contains(&format!("dsl/tests/score.rs:{step}:")), "line {step}: {message}");
    // Without a score there is nothing to leave out.
    Unscored::new(causal()).at(shape()).plan(Target::SM_80, &Default::default()).unwrap();
}

/// A mistake in a score is told at its line, before any schedule has it.
#[track_caller]
fn refused(score: &Score, line: u32) {
    let message = score.check().unwrap_err().to_string();
    assert!(message.contains("the index of a table is a whole number"), "{message}");
    assert!(message.contains("`u32` and `i32` arguments and integers, by `+`, `-`, `*`"), "{message}");
    assert!(message.contains(&format!("dsl/tests/score.rs:{line}:")), "line {line}: {message}");
}

#[test]
fn the_index_of_a_table_is_whole() {
    #[score]
    fn halves(logit: Logit, q: Pos, kv: Pos, bias: PerHeadTable) -> Logit {
        logit + bias.at((q - kv) / 2)
    }
    refused(&halves(), line!() - 2);
    #[score]
    fn fraction(logit: Logit, _q: Pos, _kv: Pos, bias: Table) -> Logit {
        logit + bias.at(0.5)
    }
    refused(&fraction(), line!() - 2);
    #[score]
    fn by_logit(logit: Logit, _q: Pos, _kv: Pos, bias: Table) -> Logit {
        logit + bias.at(logit)
    }
    refused(&by_logit(), line!() - 2);
    #[score]
    fn by_float(logit: Logit, q: Pos, _kv: Pos, step: f32, bias: Table) -> Logit {
        logit + bias.at(q * step)
    }
    refused(&by_float(1.0), line!() - 2);
    #[score]
    fn by_entry(logit: Logit, q: Pos, kv: Pos, bucket: Table, bias: PerHeadTable) -> Logit {
        logit + bias.at(bucket.at(q - kv))
    }
    refused(&by_entry(), line!() - 2);
    #[score]
    fn whole(logit: Logit, q: Pos, kv: Pos, ahead: u32, turn: i32, bias: Table) -> Logit {
        logit + bias.at(((q - kv).abs().max(1) * turn - 3 + ahead).min(9))
    }
    whole(1, -1).check().unwrap();
}

#[test]
fn tables_that_are_called_alike_are_refused() {
    #[score]
    fn named_as_an_input(logit: Logit, q: Pos, kv: Pos, k: Table) -> Logit {
        logit + k.at(q - kv)
    }
    let message = plan(named_as_an_input()).unwrap_err().to_string();
    assert!(message.contains("two tensors are called `k`"), "{message}");
}
