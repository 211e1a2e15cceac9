use super::*;

#[test]
fn the_pattern_is_the_mask_by_hand() {
    for (stride, summary) in [(32, 4), (1, 0), (7, 7), (5, 9)] {
        let (mask, sees) = (fixed(stride, summary), seen(stride.into(), summary.into()));
        for (q, kv) in (0..200).flat_map(|q| (0..200).map(move |kv| (q, kv))) {
            assert_eq!(mask.keeps(q, kv), sees(q, kv), "{stride}, {summary} at {q}, {kv}");
        }
    }
}

#[test]
fn the_score_is_the_score_by_hand() {
    for (boost, half) in [(2.0, 16.0), (-1.0, 0.5), (0.0, 3.0)] {
        let (score, scored) = (near(boost, half), scored(boost.into(), half.into()));
        for (q, kv) in (0..40).flat_map(|q| (0..=q).map(move |kv| (q, kv))) {
            let (is, want) = (score.of(0.75, q, kv, &[]), scored(0.75, q, kv, 0));
            assert!((is - want).abs() < 1e-12, "{boost}, {half} at {q}, {kv}: {is}, by hand {want}");
        }
    }
}

fn attention() -> ByToken {
    ByToken::new(fixed(32, 4))
}

fn shape() -> Shape {
    Shape::new(Elem::Bf16, 64, 64, 8)
}

#[test]
fn every_pick_computes_attention_under_the_score() {
    let attention = attention().with_score(near(2.0, 16.0)).at(shape());
    let drawn = Trial::<bf16>::draw(&attention.shape, 2, &[100, 0, 1, 33]);
    let trial = drawn.clone().under(scored(2.0, 16.0));
    let device = Device::emulator();
    // Four warps cannot share blocks of 32 keys, which rows of one group leave them to.
    for pick in attention.space(Target::SM_80).picks().into_iter().filter(|pick| pick["kv"] == 64 || pick["warps"] <= 2)
    {
        let result = trial.run(&device, &attention, &pick).unwrap_or_else(|e| panic!("{pick:?}: {e}"));
        let verdicts = trial.check(&result, seen(32, 4));
        assert!(verdicts.ok(), "{pick:?}: {verdicts}");
        let other = trial.check(&result, seen(32, 5));
        assert!(!other.ok(), "{pick:?} is taken for another mask: {other}");
        for score in [scored(1.9, 16.0), scored(2.0, 14.0)] {
            let other = drawn.clone().under(score).check(&result, seen(32, 4));
            assert!(!other.ok(), "{pick:?} is taken for another score: {other}");
        }
    }
}

#[test]
fn without_a_score_logits_stay_as_they_are() {
    let attention = attention().at(shape());
    let trial = Trial::<bf16>::draw(&attention.shape, 2, &[70, 33]);
    let result = trial.run(&Device::emulator(), &attention, &Default::default()).unwrap();
    let verdicts = trial.check(&result, seen(32, 4));
    assert!(verdicts.ok(), "{verdicts}");
    let other = trial.under(scored(2.0, 16.0)).check(&result, seen(32, 4));
    assert!(!other.ok(), "no score is taken for one: {other}");
}

/// Without a GPU: every candidate that is among the first is held to f64, and the model chooses.
#[test]
fn it_tunes_in_one_call() {
    let attention = attention().with_score(near(2.0, 16.0)).at(shape());
    let timed = Trial::<bf16>::draw(&attention.shape, 4, &[2048]);
    let small = Trial::<bf16>::draw(&attention.shape, 2, &[100, 0, 1, 33]).under(scored(2.0, 16.0));
    let device = Device::emulator();
    let tuned = lacuna::tune(&device, &attention, (&timed, &small), seen(32, 4)).unwrap();
    assert!(attention.space(Target::SM_80).picks().contains(&tuned.pick));
    assert!(tuned.to_string().contains("the model's choice for sm_80") && tuned.found.is_none(), "{tuned}");
    assert!(small.check(&small.run(&device, &attention, &tuned.pick).unwrap(), seen(32, 4)).ok());
    let wrong = lacuna::tune(&device, &attention, (&timed, &small), seen(32, 5)).unwrap_err();
    assert!(wrong.to_string().contains("is wrong: "), "another mask: {wrong}");
}

#[test]
fn the_ptx_is_what_it_was() {
    let pick = ByTokenPick::default().to_pick();
    for (name, attention) in [("by_token", attention()), ("by_token_near", attention().with_score(near(2.0, 16.0)))] {
        let plan = attention.at(shape()).plan(Target::SM_80, &pick).unwrap();
        insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
            insta::assert_snapshot!(name, plan.launches[0].ptx);
        });
    }
}

/// `main.rs` is all that an author writes beside the tests.
#[test]
fn it_is_less_than_60_lines() {
    let code = |line: &&str| !line.trim().is_empty() && !line.trim_start().starts_with("//");
    let lines = include_str!("main.rs").lines().filter(code).count();
    assert!((1..60).contains(&lines), "{lines} lines");
}
