//! What GPUs can do, in numbers: the ceilings of the static model.

use crate::DeviceInfo;

/// The ceilings of a GPU for the instructions that kernels here use.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Profile {
    /// The GPU: `NVIDIA H200`.
    pub name: &'static str,
    /// Ten times major plus minor.
    pub capability: u16,
    /// Streaming multiprocessors.
    pub sms: u32,
    /// The clock under load, in Hz.
    pub clock: f64,
    /// FLOPs a second of `mma.sync` whose right operand serves 32 rows of a warp, or more.
    pub mma: f64,
    /// The same where it serves 16: each is read from shared memory for one product.
    pub mma_16_rows: f64,
    /// Bytes a second that L2 delivers.
    pub l2: f64,
    /// Bytes a second that memory delivers.
    pub hbm: f64,
    /// Whether that was measured, or taken from data sheets.
    pub measured: bool,
}

/// Exponentials of a multiprocessor a clock, on every GPU of the family (CUDA C++ Programming Guide, throughput of native
/// arithmetic instructions).
const EXPS: f64 = 16.0;

/// FLOPs of `wgmma` of a Hopper multiprocessor a clock, under sustained load: 860 TFLOP/s on an H200.
const WARPGROUPS: f64 = 3712.0;

impl Profile {
    /// An NVIDIA H200, measured.
    pub const H200: Profile = Profile {
        name: "NVIDIA H200",
        capability: 90,
        sms: 132,
        clock: 1.755e9,
        mma: 635e12,
        mma_16_rows: 460e12,
        l2: 8.9e12,
        hbm: 4.5e12,
        measured: true,
    };

    /// Those that are told apart, the first of a capability standing for it. What is not measured is from data sheets:
    /// tensor cores at nine tenths of their rate with f32 sums, memory at nine tenths, L2 at what its slices deliver in
    /// public measurements.
    #[rustfmt::skip]
    pub const ALL: [Profile; 7] = [
        Profile::H200,
        Profile { name: "NVIDIA H100", hbm: 3.0e12, measured: false, ..Profile::H200 },
        Profile { name: "NVIDIA A100", capability: 80, sms: 108, clock: 1.41e9, mma: 280e12, mma_16_rows: 265e12, l2: 4.5e12, hbm: 1.75e12, measured: false },
        Profile { name: "NVIDIA GeForce RTX 3090", capability: 86, sms: 82, clock: 1.70e9, mma: 64e12, mma_16_rows: 64e12, l2: 2.2e12, hbm: 0.84e12, measured: false },
        Profile { name: "NVIDIA GeForce RTX 4090", capability: 89, sms: 128, clock: 2.52e9, mma: 149e12, mma_16_rows: 149e12, l2: 4.6e12, hbm: 0.91e12, measured: false },
        Profile { name: "NVIDIA L40S", capability: 89, sms: 142, clock: 2.4e9, mma: 160e12, mma_16_rows: 160e12, l2: 4.6e12, hbm: 0.78e12, measured: false },
        Profile { name: "NVIDIA GeForce RTX 5090", capability: 120, sms: 170, clock: 2.4e9, mma: 188e12, mma_16_rows: 188e12, l2: 6.0e12, hbm: 1.6e12, measured: false },
    ];

    /// The profile of a GPU: by its name, else that of its capability for as many multiprocessors. `None` for one that is
    /// like none of them.
    pub fn of(info: &DeviceInfo) -> Option<Profile> {
        let named = Profile::ALL.iter().find(|profile| info.name.starts_with(profile.name));
        if let Some(profile) = named {
            return Some(*profile);
        }
        let like = Profile::of_capability(info.capability?)?;
        let sms = info.sms.unwrap_or(like.sms);
        let times = f64::from(sms) / f64::from(like.sms);
        let scaled = Profile { sms, mma: like.mma * times, mma_16_rows: like.mma_16_rows * times, ..like };
        Some(Profile { l2: like.l2 * times, measured: false, ..scaled })
    }

    /// The profile that stands for a capability.
    pub fn of_capability(capability: u16) -> Option<Profile> {
        Profile::ALL.into_iter().find(|profile| profile.capability == capability)
    }

    /// Exponentials a second.
    pub fn exps(&self) -> f64 {
        EXPS * f64::from(self.sms) * self.clock
    }

    /// FLOPs a second for so many rows a warp, or where warpgroups multiply.
    pub fn products(&self, rows_a_warp: u32, by_warpgroups: bool) -> f64 {
        match rows_a_warp {
            _ if by_warpgroups => WARPGROUPS * f64::from(self.sms) * self.clock,
            ..=16 => self.mma_16_rows,
            _ => self.mma,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Device;

    fn info(name: &str, capability: u16, sms: u32) -> DeviceInfo {
        let info = Device::emulator().info();
        DeviceInfo { name: name.to_owned(), capability: Some(capability), sms: Some(sms), ..info }
    }

    #[test]
    fn a_gpu_has_the_profile_of_its_name_or_of_its_kind() {
        assert_eq!(Profile::of(&info("NVIDIA H200", 90, 132)), Some(Profile::H200));
        let h100 = Profile::of(&info("NVIDIA H100 80GB HBM3", 90, 132)).unwrap();
        assert!(h100.hbm < Profile::H200.hbm && !h100.measured);
        let unknown = Profile::of(&info("NVIDIA GeForce RTX 4060", 89, 24)).unwrap();
        let like = Profile::of_capability(89).unwrap();
        assert_eq!((unknown.sms, unknown.mma / unknown.exps()), (24, like.mma / like.exps()));
        assert_eq!(Profile::of(&info("NVIDIA B200", 100, 148)), None);
        assert_eq!(Profile::of(&Device::emulator().info()), None);
    }

    /// The measured rates: 635 TFLOP/s against 132 * 4096 FLOP a clock; exponentials at 16 a clock.
    #[test]
    fn no_ceiling_is_above_what_its_units_do_in_a_clock() {
        for profile in Profile::ALL {
            assert!(profile.mma_16_rows <= profile.mma && profile.hbm < profile.l2, "{}", profile.name);
            let a_clock = profile.mma / (f64::from(profile.sms) * profile.clock);
            assert!((200.0..4100.0).contains(&a_clock), "{}: {a_clock} FLOPs a clock and SM", profile.name);
        }
        assert!((Profile::H200.exps() / 3.7e12 - 1.0).abs() < 0.01);
        assert!((Profile::H200.products(16, true) / 860e12 - 1.0).abs() < 0.01);
    }
}
