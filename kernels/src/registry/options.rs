//! What a caller may choose about a kernel besides its shape.

use std::collections::BTreeMap;
use std::fmt;

use lacuna_codegen::one_of;

use super::{Kernel, SCORES, ScoreKind, find_score};

/// Something that a caller may choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    /// What it is called everywhere: `window`.
    pub name: &'static str,
    /// One line on what it means.
    pub about: &'static str,
    /// Its value where none is given.
    pub default: u32,
    /// The values that it may have.
    pub allowed: Allowed,
}

/// The values of a [`Setting`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// From the first to the second, both included.
    Range(u32, u32),
    /// One of these.
    OneOf(&'static [u32]),
    /// The multiples of the first, from the second on.
    Steps(u32, u32),
}

impl Allowed {
    /// Whether this value is one of them.
    pub fn has(&self, value: u32) -> bool {
        match self {
            Allowed::Range(low, high) => (*low..=*high).contains(&value),
            Allowed::OneOf(values) => values.contains(&value),
            Allowed::Steps(step, low) => (*low..=i32::MAX as u32).contains(&value) && value.is_multiple_of(*step),
        }
    }
}

/// `1 to 64`, `1 or more`, `16, 32 or 64`, `a multiple of 16 from 32 on`.
impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Allowed::Range(low, high) if *high == i32::MAX as u32 => write!(f, "{low} or more"),
            Allowed::Range(low, high) => write!(f, "{low} to {high}"),
            Allowed::OneOf(values) => f.write_str(&one_of(values)),
            Allowed::Steps(step, low) => write!(f, "a multiple of {step} from {low} on"),
        }
    }
}

/// A value for each setting of a kernel. [`Kernel::options`] makes them.
#[derive(Clone, Debug)]
pub struct Options {
    kernel: &'static str,
    values: BTreeMap<&'static str, u32>,
    /// The score that it is under.
    pub score: Option<&'static ScoreKind>,
    /// Whether each row has a learnable sink.
    pub sinks: bool,
}

impl PartialEq for Options {
    fn eq(&self, other: &Self) -> bool {
        let of = |options: &Self| (options.kernel, options.score.map(|score| score.name), options.sinks);
        of(self) == of(other) && self.values == other.values
    }
}

/// An option that a kernel does not take.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadOption {
    /// No setting has that name.
    #[error("`{kernel}` has no option `{name}`; it has {known}")]
    Unknown {
        /// The kernel.
        kernel: &'static str,
        /// The name that was given.
        name: String,
        /// The names that there are.
        known: String,
    },
    /// No score has that name.
    #[error("there is no score `{name}`; {known} is right")]
    NoScore {
        /// The name that was given.
        name: String,
        /// The names that there are.
        known: String,
    },
    /// A score for a kernel that has one.
    #[error("`{kernel}` is under the score `{own}`; under `{score}` there is `causal`")]
    TwoScores {
        /// The kernel.
        kernel: &'static str,
        /// Its score.
        own: &'static str,
        /// The one that was given.
        score: String,
    },
    /// A value that the setting cannot have.
    #[error("`{name}` of `{kernel}` is {value}; {allowed} is right")]
    Value {
        /// The kernel.
        kernel: &'static str,
        /// The setting.
        name: &'static str,
        /// The value that was given.
        value: u32,
        /// What would be right.
        allowed: Allowed,
    },
}

impl Options {
    pub(super) fn of<'a>(
        kernel: &Kernel,
        score: Option<&str>,
        sinks: bool,
        given: impl IntoIterator<Item = (&'a str, u32)>,
    ) -> Result<Self, BadOption> {
        let score = match score {
            None => None,
            Some(name) => Some(find_score(name).ok_or_else(|| BadOption::NoScore {
                name: name.to_owned(),
                known: one_of(&SCORES.iter().map(|score| score.name).collect::<Vec<_>>()),
            })?),
        };
        let of_score = score.map_or(&[][..], |score| score.settings);
        let own = |setting: &&Setting| kernel.settings.iter().all(|known| known.name != setting.name);
        let settings: Vec<&Setting> = kernel.settings.iter().chain(of_score.iter().filter(own)).collect();
        let mut values: BTreeMap<_, _> = settings.iter().map(|s| (s.name, s.default)).collect();
        for (name, value) in given {
            let Some(setting) = settings.iter().find(|s| s.name == name) else {
                let known: Vec<&str> = settings.iter().map(|s| s.name).collect();
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                return Err(BadOption::Unknown { kernel: kernel.name, name: name.to_owned(), known });
            };
            if !setting.allowed.has(value) {
                let (name, allowed) = (setting.name, setting.allowed);
                return Err(BadOption::Value { kernel: kernel.name, name, value, allowed });
            }
            values.insert(setting.name, value);
        }
        Ok(Options { kernel: kernel.name, values, score, sinks })
    }

    /// The same with another value of a setting.
    pub(super) fn with(&self, name: &'static str, value: u32) -> Self {
        let mut options = self.clone();
        options.values.insert(name, value);
        options
    }

    /// The kernel that they are for.
    pub fn kernel(&self) -> &'static str {
        self.kernel
    }

    /// The value of a setting.
    ///
    /// # Panics
    /// If the kernel has no such setting.
    pub fn get(&self, name: &str) -> u32 {
        *self.values.get(name).unwrap_or_else(|| panic!("`{}` has no setting `{name}`", self.kernel))
    }

    /// Every setting with its value, in the order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u32)> {
        self.values.iter().map(|(name, value)| (*name, *value))
    }
}
