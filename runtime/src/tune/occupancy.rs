//! How many CTAs a multiprocessor holds, and what keeps it from holding more.

use lacuna_ptx::Target;

/// What a multiprocessor has (CUDA C++ Programming Guide, technical specifications by compute capability).
struct Limits {
    capability: u16,
    threads: u32,
    ctas: u32,
    /// Bytes, all of which resident CTAs share.
    shared: u32,
}

const KIB: u32 = 1024;

#[rustfmt::skip]
const LIMITS: [Limits; 5] = [
    Limits { capability: 80,  threads: 2048, ctas: 32, shared: 164 * KIB },
    Limits { capability: 86,  threads: 1536, ctas: 16, shared: 100 * KIB },
    Limits { capability: 89,  threads: 1536, ctas: 24, shared: 100 * KIB },
    Limits { capability: 90,  threads: 2048, ctas: 32, shared: 228 * KIB },
    Limits { capability: 120, threads: 1536, ctas: 24, shared: 100 * KIB },
];

/// Registers of a quarter of a multiprocessor: a warp's stand in one quarter.
const REGISTERS_A_QUARTER: u32 = 16384;

/// What the system takes of shared memory for each CTA.
const RESERVED: u32 = KIB;

/// What a CTA takes.
#[derive(Clone, Copy, Debug)]
pub struct Cta {
    /// Its threads.
    pub threads: u32,
    /// Registers a thread, where they are known.
    pub registers: Option<u32>,
    /// Bytes of shared memory, static and dynamic.
    pub shared: u32,
}

/// What resides on a multiprocessor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Occupancy {
    /// CTAs.
    pub ctas: u32,
    /// Their warps.
    pub warps: u32,
    /// Warps that would reside if nothing limited but threads.
    pub most_warps: u32,
    /// What limits, first of all.
    pub limited_by: &'static str,
    /// CTAs that each of them allows.
    pub allowed: Vec<(&'static str, u32)>,
}

/// What resides on a multiprocessor of the GPU that `target` names; `None` for one that is not in the table.
pub fn occupancy(target: Target, cta: Cta) -> Option<Occupancy> {
    let limits = LIMITS.iter().find(|limits| limits.capability == target.capability)?;
    let warps = cta.threads.div_ceil(32).max(1);
    // Registers are given out 8 a thread, shared memory by 128 bytes.
    let by_registers = cta.registers.map(|registers| {
        let of_warp = registers.max(1).next_multiple_of(8) * 32;
        REGISTERS_A_QUARTER / of_warp * 4 / warps
    });
    let shared = (cta.shared + RESERVED).next_multiple_of(128);
    let mut allowed = Vec::new();
    allowed.extend(by_registers.map(|ctas| ("registers", ctas)));
    allowed.push(("shared memory", limits.shared / shared));
    allowed.push(("threads", limits.threads / (warps * 32)));
    allowed.push(("CTAs", limits.ctas));
    let &(limited_by, ctas) = allowed.iter().min_by_key(|(_, ctas)| *ctas)?;
    Some(Occupancy { ctas, warps: ctas * warps, most_warps: limits.threads / 32, limited_by, allowed })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As NVIDIA's occupancy calculator has it.
    #[test]
    fn the_scarcest_limits() {
        let of = |target, threads, registers, shared| {
            let found = occupancy(target, Cta { threads, registers, shared }).unwrap();
            (found.ctas, found.warps, found.limited_by)
        };
        assert_eq!(of(Target::SM_80, 128, Some(255), 0), (2, 8, "registers"));
        assert_eq!(of(Target::SM_80, 256, Some(32), 0), (8, 64, "registers"));
        assert_eq!(of(Target::SM_80, 256, Some(33), 0), (6, 48, "registers"));
        assert_eq!(of(Target::SM_80, 128, Some(64), 81 * KIB), (2, 8, "shared memory"));
        assert_eq!(of(Target::SM_80, 128, Some(64), 82 * KIB), (1, 4, "shared memory"));
        assert_eq!(of(Target::SM_90, 128, Some(64), 75 * KIB), (3, 12, "shared memory"));
        assert_eq!(of(Target::SM_89, 1024, Some(16), 0), (1, 32, "threads"));
        assert_eq!(of(Target::SM_86, 32, None, 0), (16, 16, "CTAs"));
        assert_eq!(occupancy("sm_100".parse().unwrap(), Cta { threads: 32, registers: None, shared: 0 }), None);
    }
}
