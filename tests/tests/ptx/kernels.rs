//! The shipped kernels in the shapes that are looked at, and ptxas.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock};

use lacuna_codegen::plan::Launch;
use lacuna_dsl::{Elem, Error, Pick, Plan, Shape, Target, Tunable};
use lacuna_kernels::registry::{Attention, KERNELS, Kernel};
use lacuna_ptx::tools::{Usage, assemble};

/// One target of each kind that mma.sync kernels are made for.
pub(crate) const TARGETS: [Target; 5] = [Target::SM_80, Target::SM_86, Target::SM_89, Target::SM_90, Target::SM_120];

/// Every kernel whose PTX is its own: `documents` is `causal` with a table that every kernel takes.
pub(crate) fn kernels() -> impl Iterator<Item = &'static Kernel> {
    KERNELS.iter().filter(|kernel| kernel.name != "documents")
}

/// Query heads of a KV head: NSA's 16, and a common 4 where it changes little.
pub(crate) fn group(kernel: &Kernel) -> u32 {
    if kernel.name == "nsa-selected" { 16 } else { 4 }
}

/// A kernel of bf16 heads of one width, with its default options.
pub(crate) fn attention(kernel: &'static Kernel, width: u32, group: u32) -> Attention {
    attention_of(kernel, width, width, group)
}

/// The same with values of another width.
pub(crate) fn attention_of(kernel: &'static Kernel, dk: u32, dv: u32, group: u32) -> Attention {
    let options = kernel.options([]).expect("defaults are allowed");
    let shape = Shape::new(Elem::Bf16, dk, dv, group);
    kernel.build(shape, &options).expect("a shape that kernels are made for")
}

/// The default pick of a kernel for a target.
pub(crate) fn default_pick(attention: &Attention, target: Target) -> Pick {
    let name = attention.kernel.name;
    attention.pick(target, &Pick::new()).unwrap_or_else(|error| panic!("{name} for {target}: {error}"))
}

/// The picks that are looked at: every one, but where several launches have knobs of their own, which are too many together:
/// the default one.
pub(crate) fn picks(attention: &Attention, target: Target) -> Vec<Pick> {
    let space = attention.space(target);
    if space.size() > 200 { vec![default_pick(attention, target)] } else { space.picks() }
}

/// The plan at one pick; nothing where the pick needs more shared memory than the target has, or more registers.
pub(crate) fn plan(attention: &Attention, target: Target, pick: &Pick) -> Option<Plan> {
    match attention.plan(target, pick) {
        Ok(plan) => Some(plan),
        Err(Error::SharedMemory { .. }) => None,
        Err(Error::Unsupported(why)) if why.contains("threads begin with") => None,
        Err(error) => panic!("{} for {target} at {}: {error}", attention.kernel.name, written(pick)),
    }
}

/// The text of a plan's attention.
pub(crate) fn text(plan: &Plan) -> &str {
    &attending(plan).ptx
}

/// The launch that attends: the last that multiplies.
pub(crate) fn attending(plan: &Plan) -> &Launch {
    plan.attending()
}

/// A pick in a word: `kv64 rows128 stages2 warps4`.
pub(crate) fn written(pick: &Pick) -> String {
    pick.iter().map(|(knob, value)| format!("{knob}{value}")).collect::<Vec<_>>().join(" ")
}

/// What ptxas makes of a plan's attention.
///
/// # Panics
/// If there is no ptxas, or it refuses the text; if another launch spills.
pub(crate) fn assembled(plan: &Plan) -> Usage {
    for launch in plan.launches.iter().filter(|launch| launch.entry != attending(plan).entry) {
        let usage = used(launch, plan);
        assert_eq!((usage.spill_stores, usage.spill_loads, usage.stack), (0, 0, 0), "{}: {}", plan.name, launch.entry);
    }
    used(attending(plan), plan)
}

/// What ptxas made of texts.
type Texts = BTreeMap<(Arc<str>, Target), Arc<OnceLock<Usage>>>;

/// What ptxas makes of a launch. Kernels share launches and tests share kernels, so each text is assembled once.
fn used(launch: &Launch, plan: &Plan) -> Usage {
    static KNOWN: Mutex<Texts> = Mutex::new(Texts::new());
    let known = {
        let mut known = KNOWN.lock().expect("nobody panics who holds it");
        Arc::clone(known.entry((Arc::clone(&launch.ptx), plan.target)).or_default())
    };
    let make = || {
        let assembled = assemble(&launch.ptx, plan.target).unwrap_or_else(|error| panic!("{}: {error}", plan.name));
        let usage = assembled.usage(&launch.entry);
        usage.unwrap_or_else(|| panic!("ptxas reports nothing of `{}`:\n{}", launch.entry, assembled.log)).clone()
    };
    known.get_or_init(make).clone()
}
