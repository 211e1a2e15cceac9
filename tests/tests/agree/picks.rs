//! Which picks there can be: every other one is refused, and the refusal says what would be right.

use lacuna_dsl::{Error, Pick, Shape, Target};
use lacuna_tests::{Case, Picks, Seen, Work, widths};

const TARGETS: [Target; 5] = [Target::SM_80, Target::SM_86, Target::SM_89, Target::SM_90, Target::SM_120];

/// Whether the warps of a group-centric pick have work: those left over by the rows of the padded group, in bands of 16,
/// share the keys of a block in steps of 16.
pub(crate) fn fits(shape: &Shape, pick: &Pick) -> bool {
    let (warps, bands) = (pick["warps"], shape.group.div_ceil(16).next_power_of_two());
    let over_rows =
        (1..=warps).rev().find(|rows| warps.is_multiple_of(*rows) && bands.is_multiple_of(*rows)).unwrap_or(1);
    shape.block.is_multiple_of(16 * warps / over_rows)
}

/// Plans it; whether it can be, and that a refusal is one of the right kind.
fn plans(work: Work, target: Target, shape: &Shape, pick: &Pick, fits: bool) -> bool {
    let case = Case { shape: shape.clone(), pick: pick.clone(), ..Case::new(work, 64, 1, &[1]) };
    match work.plan(target, shape, pick) {
        Ok(plan) => {
            assert!(fits, "{case} on {target} should be refused");
            assert!(plan.launches[0].shared <= target.shared_per_cta(), "{case} on {target}");
            true
        }
        Err(Error::SharedMemory { kernel, pick: said, target: on, needs, limit }) => {
            assert!(fits, "{case} on {target} has warps without work");
            assert_eq!((on, limit), (target, u64::from(target.shared_per_cta())), "{case}");
            assert!(needs > limit, "{case} on {target}: {needs} bytes");
            let said = said.to_lowercase();
            let all = pick.iter().all(|(knob, value)| said.contains(&format!("{} = {value}", knob.to_lowercase())));
            assert!(all, "{kernel} at `{said}`, not {pick:?}");
            false
        }
        Err(Error::Unsupported(why)) => {
            assert!(!fits, "{case} on {target} is refused: {why}");
            assert!(why.contains("multiple of"), "{case} on {target}: {why}");
            false
        }
        Err(other) => panic!("{case} on {target}: {other}"),
    }
}

#[test]
fn query_major_picks() {
    let work = Work::QueryMajor(Seen::WindowSink(9, 2));
    let (mut planned, mut refused) = (0, 0);
    for target in TARGETS {
        for width in widths() {
            let shape = Case::new(work, width, 3, &[1]).shape;
            let before = planned;
            for pick in work.space(Target::SM_80).picks() {
                let ok = plans(work, target, &shape, &pick, true);
                *if ok { &mut planned } else { &mut refused } += 1;
            }
            assert!(planned > before, "no pick fits {target} at width {width}");
        }
    }
    assert!(planned > 2 * refused && refused > 0, "{planned} planned, {refused} refused");
}

#[test]
fn group_centric_picks() {
    let work = Work::GroupCentric(Picks::Nothing, 1);
    let (mut planned, mut refused) = (0, 0);
    for target in [Target::SM_80, Target::SM_86, Target::SM_90] {
        for (width, block) in widths().into_iter().flat_map(|width| [16, 32, 48, 64, 128].map(|block| (width, block))) {
            for group in [1, 17, 48, 64] {
                let shape = Case::new(work, width, group, &[1]).shape.with_block(block);
                for pick in work.space(Target::SM_80).picks() {
                    let ok = plans(work, target, &shape, &pick, fits(&shape, &pick));
                    *if ok { &mut planned } else { &mut refused } += 1;
                }
            }
        }
    }
    assert!(planned > refused && refused > 0, "{planned} planned, {refused} refused");
}

#[test]
fn shapes_that_no_kernel_is_made_for() {
    for work in [Work::QueryMajor(Seen::Causal), Work::GroupCentric(Picks::Nothing, 1)] {
        let right = Case::new(work, 64, 4, &[1]).shape;
        let wrong = [
            (Shape { dk: 48, ..right.clone() }, "Dk is 48; heads of 32, 64, 96, 128, 192 or 256 are right"),
            (Shape { dv: 512, ..right.clone() }, "Dv is 512; heads of 32, 64, 96, 128, 192 or 256 are right"),
            (Shape { group: 0, ..right.clone() }, "0 query heads share a KV head; from 1 to 64 are right"),
            (Shape { group: 65, ..right.clone() }, "65 query heads share a KV head; from 1 to 64 are right"),
            (right.clone().with_block(40), "blocks have 40 keys; a multiple of 16 is right"),
            (Shape { elem: lacuna_dsl::Elem::F32, ..right }, "tensor cores take bf16 and f16 here, not f32"),
        ];
        for (shape, message) in wrong {
            let error = work.plan(Target::SM_80, &shape, &work.space(Target::SM_80).picks()[0]).expect_err(message);
            assert_eq!(error.to_string(), message);
        }
    }
}
