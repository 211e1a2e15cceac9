//! GPU targets and PTX language versions.

use std::fmt;

/// A PTX language version, `.version MAJOR.MINOR`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// Major number.
    pub major: u8,
    /// Minor number.
    pub minor: u8,
}

impl Version {
    /// `MAJOR.MINOR`.
    pub const fn new(major: u8, minor: u8) -> Self {
        Self { major, minor }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// A `.target`: a compute capability, and whether its architecture-specific features (`a`) are allowed.
///
/// ```
/// use lacuna_ptx::Target;
/// let hopper: Target = "sm_90a".parse().unwrap();
/// assert!(hopper.runs_on(90) && !hopper.runs_on(100));
/// assert!(Target::SM_80.runs_on(90));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    /// Compute capability, ten times major plus minor: 80, 86, 89, 90, 100, 120.
    pub capability: u16,
    /// The `a` suffix: features of exactly this architecture, and code that runs on no other.
    pub specific: bool,
}

impl Target {
    /// Ampere, GA100.
    pub const SM_80: Target = Target { capability: 80, specific: false };
    /// Ampere, GA10x.
    pub const SM_86: Target = Target { capability: 86, specific: false };
    /// Ada.
    pub const SM_89: Target = Target { capability: 89, specific: false };
    /// Hopper, portable.
    pub const SM_90: Target = Target { capability: 90, specific: false };
    /// Hopper with its own features (wgmma, setmaxnreg).
    pub const SM_90A: Target = Target { capability: 90, specific: true };
    /// Blackwell, data centre.
    pub const SM_100: Target = Target { capability: 100, specific: false };
    /// Blackwell, data centre, with its own features (tcgen05).
    pub const SM_100A: Target = Target { capability: 100, specific: true };
    /// Blackwell, consumer.
    pub const SM_120: Target = Target { capability: 120, specific: false };
    /// Blackwell, consumer, with its own features.
    pub const SM_120A: Target = Target { capability: 120, specific: true };

    /// Every target that this crate knows, in order.
    pub const ALL: [Target; 9] = [
        Self::SM_80,
        Self::SM_86,
        Self::SM_89,
        Self::SM_90,
        Self::SM_90A,
        Self::SM_100,
        Self::SM_100A,
        Self::SM_120,
        Self::SM_120A,
    ];

    /// Whether PTX for this target can run on a GPU of compute capability `capability`.
    pub const fn runs_on(self, capability: u16) -> bool {
        if self.specific { self.capability == capability } else { self.capability <= capability }
    }

    /// Whether an instruction that needs `lowest` may stand in PTX for this target.
    pub const fn has(self, lowest: Target) -> bool {
        if lowest.specific {
            self.specific && self.capability == lowest.capability
        } else {
            lowest.capability <= self.capability
        }
    }

    /// Shared memory that one CTA may use, in bytes (CUDA C++ Programming Guide, table of compute capabilities).
    pub const fn shared_per_cta(self) -> u32 {
        match self.capability {
            80 => 163 * 1024,
            86 | 89 | 120 => 99 * 1024,
            _ => 227 * 1024,
        }
    }

    /// The lowest PTX version that knows this target.
    pub const fn since(self) -> Version {
        match (self.capability, self.specific) {
            (80, _) => Version::new(7, 0),
            (86, _) => Version::new(7, 1),
            (89, _) => Version::new(7, 8),
            (90, false) => Version::new(7, 8),
            (90, true) => Version::new(8, 0),
            (100, _) => Version::new(8, 6),
            _ => Version::new(8, 7),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sm_{}{}", self.capability, if self.specific { "a" } else { "" })
    }
}

/// The text is not a target that this crate knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown target `{0}`; known: sm_80, sm_86, sm_89, sm_90, sm_90a, sm_100, sm_100a, sm_120, sm_120a")]
pub struct UnknownTarget(pub String);

impl std::str::FromStr for Target {
    type Err = UnknownTarget;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|t| t.to_string() == text).ok_or_else(|| UnknownTarget(text.to_owned()))
    }
}

/// The text is not a PTX version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a PTX version such as 8.0")]
pub struct BadVersion(pub String);

impl std::str::FromStr for Version {
    type Err = BadVersion;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts = text.split_once('.').and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
        let (major, minor) = parts.ok_or_else(|| BadVersion(text.to_owned()))?;
        Ok(Version { major, minor })
    }
}
