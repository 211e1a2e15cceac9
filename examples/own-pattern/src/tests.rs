use super::*;

#[test]
fn the_pattern_is_the_mask_by_hand() {
    for (stride, summary) in [(32, 4), (1, 0), (7, 7), (5, 9)] {
        let (mask, by_hand) = (fixed(stride, summary), by_hand(stride.into(), summary.into()));
        for (q, kv) in (0..200).flat_map(|q| (0..200).map(move |kv| (q, kv))) {
            assert_eq!(mask.keeps(q, kv), by_hand(q, kv), "{stride}, {summary} at {q}, {kv}");
        }
    }
}

#[test]
fn every_pick_computes_attention() {
    let attention = ByToken::new(fixed(32, 4)).at(Shape::new(Elem::Bf16, 64, 64, 8));
    let trial = Trial::<bf16>::draw(&attention.shape, 2, &[100, 0, 1, 33]);
    let device = Device::emulator();
    // Four warps cannot share blocks of 32 keys, which rows of one group leave them to.
    for pick in attention.space().picks().into_iter().filter(|pick| pick["kv"] == 64 || pick["warps"] <= 2) {
        let result = trial.run(&device, &attention, &pick).unwrap_or_else(|e| panic!("{pick:?}: {e}"));
        let verdicts = trial.check(&result, by_hand(32, 4));
        assert!(verdicts.ok(), "{pick:?}: {verdicts}");
        let other = trial.check(&result, by_hand(32, 5));
        assert!(!other.ok(), "{pick:?} is taken for another mask: {other}");
    }
}

#[test]
fn the_ptx_is_what_it_was() {
    let attention = ByToken::new(fixed(32, 4)).at(Shape::new(Elem::Bf16, 64, 64, 8));
    let plan = attention.plan(Target::SM_80, &ByTokenPick::default().to_pick()).unwrap();
    insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
        insta::assert_snapshot!("by_token", plan.launches[0].ptx);
    });
}
