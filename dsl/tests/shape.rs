//! What a shape, a pick and a mask refuse, and what they say.

use lacuna_dsl::Error;
use lacuna_dsl::prelude::*;

fn refused(shape: Shape) -> String {
    match shape.check() {
        Err(Error::Unsupported(message)) => message,
        other => panic!("{shape:?} gives {other:?}"),
    }
}

#[test]
fn shapes() {
    let good = Shape::new(Elem::F16, 128, 32, 64);
    assert_eq!(good.check(), Ok(()));
    assert_eq!(refused(Shape { dk: 112, ..good.clone() }), "Dk is 112; heads of 32, 64, 96, 128, 192 or 256 are right");
    assert_eq!(refused(Shape { dv: 16, ..good.clone() }), "Dv is 16; heads of 32, 64, 96, 128, 192 or 256 are right");
    assert_eq!(refused(Shape { group: 0, ..good.clone() }), "0 query heads share a KV head; from 1 to 64 are right");
    assert_eq!(refused(Shape { group: 65, ..good.clone() }), "65 query heads share a KV head; from 1 to 64 are right");
    assert_eq!(refused(Shape { elem: Elem::F32, ..good.clone() }), "tensor cores take bf16 and f16 here, not f32");
    assert_eq!(refused(good.clone().with_block(40)), "blocks have 40 keys; a multiple of 16 is right");
    assert_eq!(refused(good.with_block(0)), "blocks have 0 keys; a multiple of 16 is right");
}

/// Keys at most `far` away.
#[pattern]
fn near(q: Pos, kv: Pos, far: u32) -> Keep {
    (q - kv).abs().le(far)
}

#[test]
fn masks() {
    let mask = near(3);
    assert_eq!(mask.check(), Ok(()));
    assert_eq!(mask.args().collect::<Vec<_>>(), [("far", 3)]);
    let kept: Vec<i64> = (0..10).filter(|&kv| mask.keeps(4, kv)).collect();
    assert_eq!(kept, [1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(near(i32::MAX as u32).check(), Ok(()));
    let message = near(1 << 31).check().unwrap_err().to_string();
    assert_eq!(message, "`far` of `near` is 2147483648; positions end at 2147483647, so nothing above it means more");
}

/// Two masks, so that two arguments have one name.
#[schedule(tune(Rows in [64, 32], Kv in [64], depth in [2, 3], warps in [4]))]
fn twice(
    cx: &Cx,
    q: Queries<Dk>,
    k: Keys<Dk>,
    v: Values<Dv>,
    docs: Segments,
    #[fixed] a: &Mask,
    #[fixed] b: Mask,
) -> OutLse<Dv> {
    let (i, h, d) = cx.grid3(docs.tiles::<Rows>(), q.heads(), docs.count());
    let rows = q.tile(docs.at(d), i, h);
    let softmax = OnlineSoftmax::new(cx, &rows);
    for block in cx.pipelined(a.visits::<Kv>(&rows), depth) {
        let s = a.keep(cx.dot(rows.q, k.block(block, h)), &rows, block);
        softmax.step(b.keep(s, &rows, block), v.block(block, h));
    }
    softmax.finish()
}

#[test]
fn picks() {
    assert_eq!(TwicePick::default(), TwicePick { rows: 64, kv: 64, depth: 2, warps: 4 });
    let pick = TwicePick { depth: 3, ..Default::default() };
    assert_eq!(TwicePick::from_pick(&pick.to_pick()), Ok(pick));
    let part = [("depth".to_owned(), 3)].into();
    assert_eq!(TwicePick::from_pick(&part), Ok(pick), "what is not named has its default");
    let wrong = [("stages".to_owned(), 3)].into();
    let message = TwicePick::from_pick(&wrong).unwrap_err().to_string();
    assert_eq!(message, "there is no knob `stages`; this schedule has rows, kv, depth, warps");
    let knobs: Vec<String> =
        TwicePick::space(Target::SM_80).knobs.into_iter().map(|(name, values)| format!("{name} {values:?}")).collect();
    assert_eq!(knobs, ["rows [64, 32]", "kv [64]", "depth [2, 3]", "warps [4]"]);
}

#[test]
fn arguments_of_one_name_stay_apart() {
    use lacuna_codegen::plan::Scalar;
    let shape = Shape::new(Elem::Bf16, 64, 64, 1);
    let given = Twice::new(near(3), near(5)).at(shape.clone()).given(Target::SM_80).unwrap();
    assert_eq!(given, [("far".to_owned(), Scalar::I32(3)), ("far_2".to_owned(), Scalar::I32(5))].into());
    let both = near(3);
    let given = Twice::new(both.clone(), both).at(shape).given(Target::SM_80).unwrap();
    assert_eq!(given, [("far".to_owned(), Scalar::I32(3))].into(), "one mask used twice has its arguments once");
}

#[test]
fn a_wild_argument_is_told_where_the_mask_is_used() {
    let shape = Shape::new(Elem::Bf16, 64, 64, 1);
    let schedule = Twice::new(near(1 << 31), near(5));
    let error = schedule.stage(Target::SM_80, &shape, &TwicePick::default()).unwrap_err();
    assert!(error.to_string().contains("`far` of `near` is 2147483648"), "{error}");
}
