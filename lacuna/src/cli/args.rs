//! Arguments that several commands take.

use std::str::FromStr;

use clap::builder::{PossibleValue, PossibleValuesParser};
use clap::{Arg, ArgMatches, Args, Command, FromArgMatches};
use lacuna::codegen::plan::Pick;
use lacuna::kernels::registry::{self, Kernel, Options};
use lacuna::ptx::Target;
use lacuna::runtime::{Device, Elem};

use super::failure::{Failure, Result};

/// A kernel by its name, and its options: from the registry.
#[derive(Clone, Debug)]
pub(crate) struct Chosen {
    /// The kernel.
    pub(crate) kernel: &'static Kernel,
    /// The options that were given.
    pub(crate) given: Vec<(&'static str, u32)>,
    /// The score that was given.
    pub(crate) score: Option<String>,
    /// Whether learnable sinks were asked for.
    pub(crate) sinks: bool,
}

impl Chosen {
    /// The kernel's options.
    ///
    /// # Errors
    /// For one that the kernel does not have, or a value out of range.
    pub(crate) fn options(&self) -> Result<Options> {
        Ok(self.kernel.options_under(self.score.as_deref(), self.sinks, self.given.iter().copied())?)
    }
}

impl FromArgMatches for Chosen {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let name: &String = matches
            .get_one("KERNEL")
            .ok_or_else(|| clap::Error::new(clap::error::ErrorKind::MissingRequiredArgument))?;
        let kernel = registry::find(name).ok_or_else(|| clap::Error::new(clap::error::ErrorKind::InvalidValue))?;
        let value =
            |setting: &registry::Setting| matches.get_one(setting.name).map(|&value: &u32| (setting.name, value));
        Ok(Chosen {
            kernel,
            given: registry::settings().chunk_by(|a, b| a.name == b.name).filter_map(|same| value(same[0])).collect(),
            score: matches.get_one("score").cloned(),
            sinks: matches.get_flag("sink-logits"),
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for Chosen {
    fn augment_args(command: Command) -> Command {
        let names = registry::KERNELS.iter().map(|kernel| PossibleValue::new(kernel.name).help(kernel.about));
        let kernel =
            Arg::new("KERNEL").required(true).value_parser(PossibleValuesParser::new(names)).help("Which kernel");
        let scores = registry::SCORES.iter().map(|score| PossibleValue::new(score.name).help(score.about));
        let score = Arg::new("score")
            .long("score")
            .value_name("SCORE")
            .value_parser(PossibleValuesParser::new(scores))
            .help_heading("Options of kernels")
            .help("Any kernel: what happens to each logit before the mask");
        let sinks = Arg::new("sink-logits")
            .long("sink-logits")
            .action(clap::ArgAction::SetTrue)
            .help_heading("Options of kernels")
            .help("Any kernel: a learnable sink for each query head, a logit that joins the softmax and has no value");
        let settings = registry::settings();
        let same = settings.chunk_by(|a, b| a.name == b.name);
        same.fold(command.arg(kernel).arg(score).arg(sinks), |command, variants| {
            let said = |setting: &&registry::Setting| {
                let has = |kernel: &&Kernel| kernel.settings.contains(setting);
                let mut kernels: Vec<String> =
                    registry::KERNELS.iter().filter(has).map(|k| k.name.to_owned()).collect();
                let of_score = registry::SCORES.iter().filter(|score| score.settings.contains(setting));
                kernels.extend(of_score.map(|score| format!("--score {}", score.name)));
                let registry::Setting { about, default, allowed, .. } = setting;
                format!("{}: {about}; {allowed} [default: {default}]", kernels.join(", "))
            };
            let help = variants.iter().map(said).collect::<Vec<_>>().join("; ");
            let allowed: Vec<registry::Allowed> = variants.iter().map(|setting| setting.allowed).collect();
            command.arg(
                Arg::new(variants[0].name)
                    .long(variants[0].name)
                    .value_name("N")
                    .value_parser(move |text: &str| {
                        // A value that only another kernel has is refused with the kernel.
                        let value = text.parse().ok().filter(|&value| allowed.iter().any(|allowed| allowed.has(value)));
                        let right = || allowed.iter().map(ToString::to_string).collect::<Vec<_>>().join(", or ");
                        value.ok_or_else(|| format!("{} is right", right()))
                    })
                    .allow_negative_numbers(true)
                    .help_heading("Options of kernels")
                    .help(help),
            )
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

/// `stages=3,rows=64`, in parts.
#[derive(Clone, Debug)]
pub(crate) struct Knob(pub(crate) String, pub(crate) u32);

impl FromStr for Knob {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) =
            text.split_once('=').ok_or_else(|| "a pick is a list such as stages=3,warps=4".to_owned())?;
        let value =
            value.trim().parse().map_err(|_| format!("`{}` of `{}` is not a number", value.trim(), name.trim()))?;
        Ok(Knob(name.trim().to_owned(), value))
    }
}

/// The pick of these knobs.
///
/// # Errors
/// For a knob that is named twice.
pub(crate) fn pick(knobs: &[Knob]) -> Result<Pick> {
    let mut pick = Pick::new();
    for Knob(name, value) in knobs {
        if pick.insert(name.clone(), *value).is_some() {
            return Err(Failure::usage(format!("the knob `{name}` is given twice")));
        }
    }
    Ok(pick)
}

/// `rows=64,stages=2`.
pub(crate) fn pick_text(pick: &Pick) -> String {
    pick.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(",")
}

/// Which device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// A GPU where there is one, else the emulator.
    Best,
    /// The emulator.
    Emulator,
    /// The GPU of that ordinal.
    Cuda(usize),
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "best" => Ok(Place::Best),
            "emulator" => Ok(Place::Emulator),
            "cuda" => Ok(Place::Cuda(0)),
            other => other
                .strip_prefix("cuda:")
                .and_then(|ordinal| ordinal.parse().ok())
                .map(Place::Cuda)
                .ok_or_else(|| "a device is `best`, `emulator`, `cuda`, or `cuda:` and a number".to_owned()),
        }
    }
}

/// The device that is meant: by the flag, else by `LACUNA_DEVICE`, else the best one.
///
/// # Errors
/// A value of `LACUNA_DEVICE` that is none; a device that cannot be used.
pub(crate) fn device(flag: Option<Place>) -> Result<Device> {
    let place = match (flag, std::env::var("LACUNA_DEVICE")) {
        (Some(place), _) => place,
        (None, Ok(text)) if !text.is_empty() => {
            text.parse().map_err(|why| Failure::usage(format!("LACUNA_DEVICE is `{text}`; {why}")))?
        }
        _ => Place::Best,
    };
    Ok(match place {
        Place::Best => Device::best(),
        Place::Emulator => Device::emulator(),
        Place::Cuda(ordinal) => Device::cuda(ordinal)?,
    })
}

/// The targets that kernels are compiled for, lowest first: the mma.sync family, and sm_90a, where warpgroups multiply.
pub(crate) const FAMILY: [Target; 6] =
    [Target::SM_80, Target::SM_86, Target::SM_89, Target::SM_90, Target::SM_90A, Target::SM_120];

/// The target for a device: the one that is wanted, if the device runs it; else the highest of these that it runs, and sm_80 for
/// the emulator.
///
/// # Errors
/// For a target that the device is not.
pub(crate) fn target(device: &Device, wanted: Option<Target>) -> Result<Target> {
    let can = |target: &Target| device.runs(*target);
    match wanted {
        Some(target) if can(&target) => Ok(target),
        Some(target) => {
            let right: Vec<String> = device.targets().iter().map(ToString::to_string).collect();
            Err(Failure::usage(format!("{device} does not run {target}; it runs {}", right.join(", "))))
        }
        None if !device.is_cuda() => Ok(Target::SM_80),
        None => Ok(FAMILY.into_iter().rfind(can).unwrap_or(Target::SM_80)),
    }
}

/// An element type of queries, keys and values.
///
/// # Errors
/// For one that tensor cores do not take here.
pub(crate) fn dtype(text: &str) -> Result<Elem, String> {
    match text {
        "bf16" => Ok(Elem::Bf16),
        "f16" => Ok(Elem::F16),
        _ => Err("bf16 or f16 is right".to_owned()),
    }
}
