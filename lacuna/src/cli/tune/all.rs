//! The shapes whose winners lacuna ships: each schedule, short and long documents, small and large groups.

use lacuna::dsl::Shape;
use lacuna::kernels::registry::{self, Extents};
use lacuna::ptx::Target;
use lacuna::runtime::{Device, Elem};
use lacuna::tuning::Case;

use super::super::failure::Result;
use super::setup::Setup;

/// A kernel with options, documents, query heads over KV heads, and a width.
type Row = (&'static str, &'static [(&'static str, u32)], &'static [u32], [u64; 2], u64);

const K: u32 = 1024;

#[rustfmt::skip]
const ALL: &[Row] = &[
    // query-major
    ("causal",         &[],                               &[8 * K; 4],  [16, 16], 128),
    ("causal",         &[],                               &[32 * K],    [16, 16], 128),
    ("causal",         &[],                               &[2 * K; 8],  [32, 8],  128),
    ("causal",         &[],                               &[512; 32],   [16, 16], 128),
    ("causal",         &[],                               &[64 * K],    [64, 4],  128),
    ("causal",         &[],                               &[128 * K],   [8, 8],   128),
    ("full",           &[],                               &[8 * K; 4],  [16, 16], 128),
    ("full",           &[],                               &[32 * K],    [16, 16], 128),
    // group-centric and block-major, by the group
    ("nsa-selected",   &[],                               &[8 * K],     [64, 4],  128),
    ("nsa-selected",   &[],                               &[64 * K],    [64, 4],  128),
    ("nsa-selected",   &[],                               &[64 * K],    [16, 16], 128),
    ("nsa-selected",   &[],                               &[64 * K],    [32, 8],  128),
    ("nsa-selected",   &[],                               &[8 * K; 4],  [56, 8],  128),
    // query-major: masks, lists, other widths
    ("window",         &[("window", 1024)],               &[64 * K],    [16, 16], 128),
    ("bsr",            &[],                               &[16 * K],    [16, 16], 128),
    ("causal",         &[],                               &[8 * K; 4],  [16, 16], 64),
    ("causal",         &[],                               &[8 * K; 4],  [16, 16], 256),
    ("documents",      &[],                               &[4 * K; 16], [16, 16], 128),
    ("sink-window",    &[("window", 1024), ("sink", 4)],  &[32 * K],    [32, 8],  128),
    ("document-table", &[("packed", 16)],                 &[32 * K],    [16, 16], 128),
    // block-major, of several launches
    ("moba",           &[],                               &[32 * K],    [16, 16], 128),
];

/// Those shapes on a device.
///
/// # Errors
/// Never for these rows, unless a kernel loses an option.
pub(super) fn setups(device: &Device, target: Target) -> Result<Vec<Setup>> {
    let setup = |&(name, given, docs, [heads, kv_heads], width): &Row| {
        let kernel = registry::find(name).expect("the table is of kernels that there are");
        let options = kernel.options(given.iter().copied())?;
        let shape = Shape::new(Elem::Bf16, width as u32, width as u32, (heads / kv_heads) as u32);
        let extents = Extents { docs: docs.to_vec(), heads, kv_heads, dk: width, dv: width };
        Setup::new(&Case { kernel, options, shape, target }, &extents, None, device)
    };
    ALL.iter().map(setup).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use lacuna::runtime::tune::Subject as _;
    use std::collections::BTreeSet;

    #[test]
    fn every_shape_is_a_class_of_its_own_that_can_be_planned() {
        let setups = setups(&Device::emulator(), Target::SM_90).unwrap();
        let subjects: Vec<_> = setups.iter().map(|setup| setup.subject().unwrap()).collect();
        let classes: BTreeSet<String> =
            subjects.iter().map(|subject| format!("{} {}", subject.kernel(), subject.class())).collect();
        assert_eq!(classes.len(), setups.len());
        let schedules: BTreeSet<&str> =
            subjects.iter().flat_map(|subject| subject.schedules()).map(|schedule| schedule.name).collect();
        for schedule in ["query-major", "group-centric", "block-major", "block-sparse", "chosen-blocks"] {
            assert!(schedules.contains(schedule), "{schedule} is not among {schedules:?}");
        }
    }

    /// A winner of another text than today's is refused at launch, and serves nobody.
    #[test]
    fn shipped_winners_are_of_the_texts_that_are_compiled_today() {
        let target = Target::SM_90A;
        let setups = setups(&Device::emulator(), target).unwrap();
        let kernels: BTreeSet<String> = setups.iter().map(|setup| setup.kernel.clone()).collect();
        let of = |kernel: &String| lacuna::tuning::shipped("NVIDIA H200", kernel);
        let mut left = kernels.iter().map(|kernel| of(kernel).len()).sum::<usize>();
        assert!(left > 0, "none is shipped");
        for setup in setups {
            let subject = setup.subject().unwrap();
            for record in of(&setup.kernel).iter().filter(|record| record.class == subject.class().to_string()) {
                let schedules = subject.schedules();
                let way = schedules.iter().find(|way| way.name == record.schedule).expect("a schedule that there is");
                let plan = way.tunable.plan(target, &record.pick).unwrap();
                let is = lacuna::runtime::tune::text_hash(&plan);
                assert_eq!(is, record.ptx, "{} {}: tune it again, or take it out", setup.kernel, record.class);
                left -= 1;
            }
        }
        assert_eq!(left, 0, "so many are of no shape that is tuned");
    }

    #[test]
    fn a_setup_goes_through_json_and_means_the_same() {
        for setup in setups(&Device::emulator(), Target::SM_90).unwrap() {
            let text = serde_json::to_string(&setup).unwrap();
            let back: Setup = serde_json::from_str(&text).unwrap();
            assert_eq!(back, setup);
            assert_eq!(back.subject().unwrap().class(), setup.subject().unwrap().class());
        }
    }
}
