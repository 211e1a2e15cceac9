//! The static model: how long a candidate takes, without running it.
//!
//! It orders candidates, so that good ones are timed first, and chooses where nothing was timed. Its times are those of a
//! GPU's [`Profile`]; it is not calibrated to any one kernel, and each record has its word beside the measured time.
//!
//! ```text
//!   compute  = FLOPs that are done / ceiling of the products  +  exponentials / theirs  +  rounds x barriers  +  CTAs x starts
//!   memory   = the longer of L2's bytes and HBM's
//!   time     = the longer of the two + what of the shorter one is not hidden behind it, by the CTAs and stages in flight
//!              x the busiest multiprocessor's CTAs over the mean's
//!              + what other launches move, and a launch each
//! ```

use lacuna_codegen::Work;
use lacuna_codegen::plan::{MAX_REGISTERS, Plan};

use super::occupancy::{Cta, occupancy};
use super::profile::Profile;

/// Clocks of a round of a pipelined loop that neither multiply nor wait for memory: a barrier, addresses, the reduction of a
/// softmax. From the H200's dense kernels: 2.95 ms where products and exponentials alone take 2.3.
const ROUND: f64 = 600.0;

/// Seconds from the start of a CTA to its first product, and from its last one to its end: latencies of memory, twice.
const START: f64 = 1e-6;

/// The same where warpgroups multiply, and a warpgroup of its own fetches: what a consumer waits for in a round, and from the
/// start of a CTA that has a multiprocessor for itself to its first product, and behind its last. From the H200's dense kernels:
/// 1.57 ms of width 128, 1.08 ms of width 64, 2.84 ms of width 256.
const ROUND_OF_WARPGROUPS: f64 = 100.0;
const START_OF_WARPGROUPS: f64 = 2.5e-6;

/// What of the exponentials is not hidden behind the products of other rounds and warpgroups.
const BESIDE_PRODUCTS: f64 = 0.5;

/// What of memory's time is not, where a producer is ahead of the products.
const BEHIND_PRODUCER: f64 = 0.1;

/// Seconds of a further launch: its ramp and its drain, in a stream.
const LAUNCH: f64 = 4e-6;

/// What a spilled register costs, as a share of the whole time. A thread that spills loads what it spilled in every round.
const SPILL: f64 = 0.02;

/// What the model says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prediction {
    /// Milliseconds.
    pub ms: f64,
    /// CTAs of the launch that attends that a multiprocessor holds.
    pub resident: u32,
    /// Their warps.
    pub warps: u32,
    /// Registers of a thread, as far as is known.
    pub registers: u32,
    /// What takes longest.
    pub bound: &'static str,
}

/// What is known of registers: what the compiler said of texts that it has seen, and by how much its word differs from the
/// estimate on the whole.
#[derive(Clone, Debug, Default)]
pub struct Registers {
    said: std::collections::BTreeMap<String, u32>,
    offset: i64,
}

impl Registers {
    /// From what was said: the hash of each plan's text, the estimate, and the compiler's word.
    pub fn known(said: impl IntoIterator<Item = (String, u32, u32)>) -> Self {
        let all: Vec<(String, u32, u32)> = said.into_iter().collect();
        let mut differences: Vec<i64> =
            all.iter().map(|(_, guess, said)| i64::from(*said) - i64::from(*guess)).collect();
        differences.sort_unstable();
        let offset = differences.get(differences.len() / 2).copied().unwrap_or(0);
        Registers { said: all.into_iter().map(|(text, _, said)| (text, said)).collect(), offset }
    }

    /// Registers of a text: the compiler's word where it has seen it, else the estimate as corrected by its word on others.
    pub fn of(&self, text: &str, estimate: u32) -> u32 {
        let corrected = || (i64::from(estimate) + self.offset).clamp(16, i64::from(u32::MAX)) as u32;
        self.said.get(text).copied().unwrap_or_else(corrected)
    }
}

/// How long a plan takes that does this work, and whose attending launch has so many registers a thread.
pub fn predict(work: &Work, plan: &Plan, registers: u32, stages: u32, profile: &Profile) -> Prediction {
    let launch = plan.attending();
    let spilled = registers.saturating_sub(MAX_REGISTERS);
    let cta = Cta { threads: launch.threads, registers: Some(registers.min(MAX_REGISTERS)), shared: launch.shared };
    let held = occupancy(plan.target, cta);
    let resident = held.as_ref().map_or(launch.resident, |held| held.ctas).max(1);
    let warps = resident * launch.threads.div_ceil(32);

    let products = work.done / profile.products(work.rows_a_warp, launch.by_warpgroups());
    // With one warp a scheduler nothing hides the latency between its own products; with four or more, it is hidden.
    let schedulers = (f64::from(warps) / 4.0).max(0.25);
    let (asynchronous, beside) = (launch.by_warpgroups(), launch.overlaps());
    let products = if asynchronous { products } else { products * (1.0 + 0.25 / schedulers) };
    let softmax = work.exps / profile.exps() * if beside { BESIDE_PRODUCTS } else { 1.0 };
    let (round, start) = if asynchronous { (ROUND_OF_WARPGROUPS, START_OF_WARPGROUPS) } else { (ROUND, START) };
    let rounds = work.rounds * round / (profile.clock * f64::from(profile.sms) * f64::from(resident));
    let starts = work.ctas * start / (f64::from(profile.sms) * f64::from(resident));
    let compute = products + softmax + rounds + starts;
    let (l2, hbm) = (work.l2_bytes / profile.l2, work.hbm_bytes / profile.hbm);
    let memory = l2.max(hbm);

    let exposed = if asynchronous { BEHIND_PRODUCER } else { 1.0 / (f64::from(resident) * f64::from(stages.max(1))) };
    let (longer, shorter) = (compute.max(memory), compute.min(memory));
    let ctas = work.ctas.max(1.0) / f64::from(profile.sms);
    let uneven = ctas.ceil() / ctas;
    let launches = LAUNCH * plan.launches.len() as f64 + work.besides_bytes / profile.hbm;
    let seconds = (longer + shorter * exposed) * uneven * (1.0 + SPILL * f64::from(spilled)) + launches;

    let bounds = [
        ("products", products),
        ("softmax", softmax),
        ("rounds", rounds),
        ("starts", starts),
        ("L2", l2),
        ("HBM", hbm),
    ];
    let bound =
        bounds.into_iter().fold(("launches", launches), |most, bound| if bound.1 > most.1 { bound } else { most });
    Prediction { ms: seconds * 1e3, resident, warps, registers, bound: bound.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lacuna_codegen::plan::{Expr, Launch};
    use lacuna_ptx::Target;

    fn plan(threads: u32, shared: u32, launches: usize) -> Plan {
        let launch = Launch {
            ptx: "mma.sync".into(),
            entry: "attend".to_owned(),
            grid: [1, 1, 1].map(Expr::Const),
            threads,
            shared,
            registers: 200,
            resident: 1,
            cluster: [1; 3],
            args: Vec::new(),
        };
        let (tensors, scalars, requires) = (Vec::new(), Vec::new(), Vec::new());
        let (name, workspace) = ("test".to_owned(), Expr::Const(0));
        let launches = vec![launch; launches];
        Plan { name, target: Target::SM_90, tensors, scalars, requires, workspace, launches }
    }

    /// Dense causal attention, 4 documents of 8k, 16 heads of 128, tiles of 128 x 64: measured at 2.95 ms.
    fn dense() -> Work {
        Work {
            flops: 1.10e12,
            done: 1.12e12,
            exps: 2.2e9,
            rounds: 266_000.0,
            l2_bytes: 8.7e9,
            hbm_bytes: 0.54e9,
            besides_bytes: 0.0,
            rows_a_warp: 32,
            ctas: 4096.0,
        }
    }

    fn ms(work: &Work, plan: &Plan, registers: u32, stages: u32) -> f64 {
        predict(work, plan, registers, stages, &Profile::H200).ms
    }

    #[test]
    fn it_is_near_what_an_h200_took() {
        let near = |is: f64, took: f64| assert!((0.75..1.25).contains(&(is / took)), "{is} ms, and it took {took}");
        near(ms(&dense(), &plan(128, 96 << 10, 1), 255, 2), 2.95);
        // Heads of 64: half of the products and of the bytes.
        let narrow = Work { done: 0.56e12, l2_bytes: 4.35e9, hbm_bytes: 0.27e9, ..dense() };
        near(ms(&narrow, &plan(128, 48 << 10, 1), 255, 2), 1.71);
        // By warpgroups, rounds of 128 keys; of width 64 and 256 as well.
        let warpgroups = |rows: u32, ptx: &str| {
            let mut plan = plan(128 * (rows / 64 + 1), 200 << 10, 1);
            (plan.target, plan.launches[0].ptx) = (Target::SM_90A, ptx.into());
            plan
        };
        let deferred = "wgmma.mma_async wgmma.wait_group.sync.aligned 1;";
        let wide = Work { rounds: 133_000.0, rows_a_warp: 64, ..dense() };
        near(ms(&wide, &warpgroups(128, deferred), 240, 3), 1.57);
        near(ms(&wide, &warpgroups(128, "wgmma.mma_async"), 240, 2), 1.94);
        let narrow = Work { done: 0.56e12, l2_bytes: 2.9e9, hbm_bytes: 0.27e9, rounds: 89_000.0, ctas: 2752.0, ..wide };
        near(ms(&narrow, &warpgroups(192, deferred), 240, 2), 1.08);
        let broad = Work { done: 2.24e12, l2_bytes: 17.4e9, hbm_bytes: 1.1e9, rounds: 213_000.0, ..wide };
        near(ms(&broad, &warpgroups(128, deferred), 240, 2), 2.84);
        // NSA selected, token by token: a group of 16 for each of 4 KV heads, 64k tokens.
        let selected = Work {
            flops: 2.2e12,
            done: 2.2e12,
            exps: 4.3e9,
            rounds: 4.2e6,
            l2_bytes: 137e9,
            hbm_bytes: 2.3e9,
            besides_bytes: 0.0,
            rows_a_warp: 16,
            ctas: 262_144.0,
        };
        near(ms(&selected, &plan(128, 74 << 10, 1), 160, 2), 13.9);
    }

    #[test]
    fn what_is_worse_takes_longer() {
        let base = ms(&dense(), &plan(128, 96 << 10, 1), 255, 2);
        let worse = [
            ("one stage", ms(&dense(), &plan(128, 96 << 10, 1), 255, 1)),
            ("one CTA at a time", ms(&dense(), &plan(128, 200 << 10, 1), 255, 2)),
            ("16 rows a warp", ms(&Work { rows_a_warp: 16, ..dense() }, &plan(128, 96 << 10, 1), 255, 2)),
            ("spills", ms(&dense(), &plan(128, 96 << 10, 1), 280, 2)),
            ("more rounds", ms(&Work { rounds: 600_000.0, ..dense() }, &plan(128, 96 << 10, 1), 255, 2)),
            ("10 launches more", ms(&dense(), &plan(128, 96 << 10, 11), 255, 2)),
            ("1 GB in other launches", ms(&Work { besides_bytes: 1e9, ..dense() }, &plan(128, 96 << 10, 1), 255, 2)),
            ("133 CTAs on 132 SMs", ms(&Work { ctas: 133.0, ..dense() }, &plan(128, 96 << 10, 1), 255, 2)),
        ];
        for (what, worse) in worse {
            assert!(worse > base, "{what}: {worse} ms, and {base} without");
        }
    }

    #[test]
    fn the_compilers_word_on_registers_counts() {
        let known = Registers::known([("a".to_owned(), 100, 112), ("b".to_owned(), 90, 98), ("c".to_owned(), 50, 58)]);
        assert_eq!((known.of("a", 100), known.of("new", 100)), (112, 108));
        assert_eq!(Registers::default().of("new", 100), 100);
        let (few, many) = (plan(128, 16 << 10, 1), plan(128, 16 << 10, 1));
        let (few, many) =
            (predict(&dense(), &few, 96, 2, &Profile::H200), predict(&dense(), &many, 240, 2, &Profile::H200));
        assert!(few.resident > many.resident && few.ms < many.ms, "{few:?} {many:?}");
    }
}
