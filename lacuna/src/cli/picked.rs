//! The pick of a command: the one that is asked for, else the one that was tuned, else the one without a tuner.

use lacuna::codegen::plan::Pick;
use lacuna::dsl::Shape;
use lacuna::kernels::registry::{Attention, Extents, Kernel, Known, Options};
use lacuna::ptx::Target;
use lacuna::runtime::Device;
use lacuna::runtime::tune::{Records, Stamp, choice};
use lacuna::tuning::{self, Case};

use super::failure::Result;

/// A pick, and why this one.
pub(crate) struct Picked {
    /// The kernel under the schedule that was chosen.
    pub(crate) attention: Attention,
    /// The pick.
    pub(crate) pick: Pick,
    /// Why, for people.
    pub(crate) why: String,
}

/// What is to be launched.
pub(crate) struct Launching<'a> {
    pub(crate) kernel: &'static Kernel,
    pub(crate) options: &'a Options,
    pub(crate) shape: Shape,
    pub(crate) target: Target,
    pub(crate) known: &'a Known,
    pub(crate) extents: &'a Extents,
}

impl Launching<'_> {
    /// The pick on a device, where these knobs are wanted.
    ///
    /// # Errors
    /// A knob that there is not; where no pick can be planned, why the first one cannot.
    pub(crate) fn picked(&self, device: &Device, wanted: &Pick) -> Result<Picked> {
        let Launching { kernel, options, shape, target, known, extents } = self;
        if !wanted.is_empty() {
            let attention = kernel.build_for(shape.clone(), options, known)?;
            let pick = attention.pick(*target, wanted)?;
            return Ok(Picked { attention, pick, why: "as asked for".to_owned() });
        }
        let case = Case { kernel, options: (*options).clone(), shape: shape.clone(), target: *target };
        let subject = case.at(known, extents, None)?;
        let (records, stamp) = (Records::user(), Stamp::of(&device.info()));
        let (local, shipped) = (records.load(&stamp.gpu, kernel.name), tuning::shipped(&stamp.gpu, kernel.name));
        super::output::warn(&records.warnings());
        let profile = tuning::profile(device);
        let chosen = choice(&subject, (&local, &shipped), &stamp, profile.as_ref())?;
        let attention =
            subject.into_attention(&chosen.schedule).expect("what is chosen is one of the subject's schedules");
        Ok(Picked { attention, pick: chosen.pick, why: chosen.why.to_string() })
    }
}
