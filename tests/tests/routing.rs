//! MoBA's pooled keys and routing, against f64: on the emulator, and on a GPU where there is one.

use std::sync::OnceLock;

use lacuna_dsl::{Elem, Knobs as _, Pick, Plan, Schedule as _, Shape, Tunable};
use lacuna_kernels::host::{Dims, Float, Host, Row};
use lacuna_kernels::inputs::{self, Qkv};
use lacuna_kernels::moba::{MobaPool, MobaPoolPick, MobaRoute, MobaRoutePick, VmobaRoute};
use lacuna_kernels::reference::moba::{MobaConfig, Pooled, Rule, Sides, check_route, gate, pool};
use lacuna_ptx::Target;
use lacuna_ptx::tools::assemble;
use lacuna_runtime::{Bindings, Device, Tensor};
use lacuna_tests::{target_for, widths};

/// The emulator, and CUDA device 0 where it can be used.
fn devices() -> &'static [Device] {
    static DEVICES: OnceLock<Vec<Device>> = OnceLock::new();
    DEVICES.get_or_init(|| [Device::emulator()].into_iter().chain(Device::cuda(0).ok()).collect())
}

/// What is routed.
#[derive(Clone, Debug)]
struct Case {
    elem: Elem,
    width: u32,
    group: usize,
    kv_heads: usize,
    block: u32,
    top: u32,
    /// Queries of each document.
    lengths: Vec<usize>,
    /// Keys of each, where they are apart.
    keys: Option<Vec<usize>>,
    seed: u64,
    /// A pick of the gate's and the target that has it, where that is not the usual one.
    pick: Option<(Target, Pick)>,
    full_heads: Option<Vec<i32>>,
    /// VMoBA's, where it is that.
    threshold: Option<f32>,
}

fn case(width: u32, block: u32, top: u32, lengths: &[usize]) -> Case {
    Case {
        elem: Elem::Bf16,
        width,
        group: 1,
        kv_heads: 2,
        block,
        top,
        lengths: lengths.to_vec(),
        keys: None,
        seed: 1,
        pick: None,
        full_heads: None,
        threshold: None,
    }
}

impl Case {
    fn shape(&self) -> Shape {
        let shape = Shape::new(self.elem, self.width, self.width, self.group as u32);
        if self.keys.is_some() { shape.with_keys_apart() } else { shape }
    }

    fn config(&self) -> MobaConfig {
        let mass = |share: f32| Rule::Mass { share: share.into(), scale: self.scale().into() };
        let rule = self.threshold.map_or(Rule::Past, mass);
        MobaConfig { rule, ..MobaConfig::new(self.block as usize, self.top as usize) }
    }

    fn scale(&self) -> f32 {
        1.0 / (self.width as f32).sqrt()
    }

    /// Where documents begin, on the side of the queries and on that of the keys.
    fn cu_seqlens(&self) -> [Vec<i32>; 2] {
        [&self.lengths, self.keys.as_ref().unwrap_or(&self.lengths)].map(|lengths| inputs::cu_seqlens(lengths))
    }

    fn draw<T: Float>(&self) -> Qkv<T> {
        let (total, hk, width) = (self.lengths.iter().sum(), self.kv_heads, self.width as usize);
        let keys = self.keys.as_ref().map_or(total, |keys| keys.iter().sum());
        inputs::qkv(self.seed, Dims { total, keys, hq: hk * self.group, hk, dk: width, dv: width })
    }

    fn pool_plan(&self, target: Target) -> Plan {
        let pick = &MobaPoolPick::default();
        MobaPool::new(self.block).stage(target, &self.shape(), pick).and_then(|s| s.compile()).expect("a plan")
    }

    fn route_plan(&self, target: Target) -> Plan {
        if let Some(threshold) = self.threshold {
            return self.planned(&VmobaRoute::new(self.block, self.top, threshold).at(self.shape()), target);
        }
        let mut schedule = MobaRoute::new(self.block, self.top);
        schedule.full_heads = self.full_heads.is_some();
        self.planned(&schedule.at(self.shape()), target)
    }

    fn planned(&self, gate: &dyn Tunable, target: Target) -> Plan {
        let pick = self.pick.as_ref().map_or_else(Pick::new, |(_, pick)| pick.clone());
        gate.choose(target, &pick).and_then(|pick| gate.plan(target, &pick)).expect("a plan")
    }

    /// What a plan of either launch is given besides its own tensors.
    fn bindings(&self, device: &Device, plan: &Plan) -> Bindings {
        let longest = |lengths: &[usize]| lengths.iter().copied().max().unwrap_or(0) as i32;
        let tables = self.cu_seqlens();
        let mut bindings = Bindings::new();
        for (name, cu) in ["cu_seqlens", "cu_seqlens_k"].into_iter().zip(&tables) {
            if plan.tensors.iter().any(|tensor| tensor.name == name) {
                bindings =
                    bindings.tensor(name, &Tensor::from_slice(device, &[cu.len() as u64], cu).expect("a tensor"));
            }
        }
        for scalar in &plan.scalars {
            bindings = match scalar.name.as_str() {
                "max_seqlen" => bindings.int("max_seqlen", longest(&self.lengths)),
                "max_seqlen_k" => bindings.int("max_seqlen_k", longest(self.keys.as_ref().expect("keys apart"))),
                "scale" => bindings.float("scale", self.scale()),
                name => panic!("what is `{name}`?"),
            };
        }
        bindings
    }

    /// What is compiled for a device: what all GPUs of its kind run, and products of warpgroups where it has them.
    fn targets(&self, device: &Device) -> Vec<Target> {
        match &self.pick {
            Some((target, _)) => vec![*target],
            None => {
                [target_for(device)].into_iter().chain(device.runs(Target::SM_90A).then_some(Target::SM_90A)).collect()
            }
        }
    }

    /// The pooled keys, and the routing that follows from them.
    fn run<T: Float + lacuna_runtime::Element>(
        &self,
        device: &Device,
        target: Target,
        qkv: &Qkv<T>,
    ) -> (Host<T>, Host<i32>) {
        let upload = |x: &Host<T>| Tensor::from_slice(device, &x.shape.map(|n| n as u64), &x.data).expect("a tensor");
        let [cu_q, cu_k] = self.cu_seqlens();
        let slots = Sides { q: &cu_q, k: &cu_k }.slots(self.config());
        let shape = [slots, self.kv_heads, self.width as usize];
        let pooled = Tensor::zeros(device, self.elem, &shape.map(|n| n as u64)).expect("a tensor");
        let run = |plan: &Plan, bindings: &Bindings| {
            device.run(plan, bindings).unwrap_or_else(|error| panic!("{self:?} on {device}: {error}"));
        };
        let plan = self.pool_plan(target);
        run(&plan, &self.bindings(device, &plan).tensor("k", &upload(&qkv.k)).tensor("pooled", &pooled));
        let places = [qkv.q.shape[0], qkv.q.shape[1], self.top as usize];
        let routing = Tensor::poisoned(device, Elem::I32, &places.map(|n| n as u64)).expect("a tensor");
        let plan = self.route_plan(target);
        let mut bindings = self.bindings(device, &plan);
        bindings = bindings.tensor("q", &upload(&qkv.q)).tensor("pooled", &pooled).tensor("routing", &routing);
        if let Some(full) = &self.full_heads {
            let full = Tensor::from_slice(device, &[full.len() as u64], full).expect("a tensor");
            bindings = bindings.tensor("full_heads", &full);
        }
        run(&plan, &bindings);
        assert_eq!(routing.first_poison().expect("what it holds"), None, "{self:?}: a place was not written");
        (
            Host::new(pooled.to_vec().expect("what it holds"), shape),
            Host::new(routing.to_vec().expect("what it holds"), places),
        )
    }

    /// What is found on the emulator, of these numbers, for each of its targets.
    fn routings_of<T: Float + lacuna_runtime::Element>(&self, qkv: &Qkv<T>) -> Vec<Host<i32>> {
        let device = Device::emulator();
        self.targets(&device).into_iter().map(|target| self.run(&device, target, qkv).1).collect()
    }

    /// Runs the case, and holds its means and its routing to f64.
    fn check_on<T: Float + lacuna_runtime::Element>(&self, qkv: &Qkv<T>) {
        let [cu_q, cu_k] = self.cu_seqlens();
        let (sides, config) = (Sides { q: &cu_q, k: &cu_k }, self.config());
        let Pooled { low, high, .. } = pool(&qkv.k, sides, config);
        let gated = gate(&qkv.q, &qkv.k, sides, config);
        let all =
            devices().iter().flat_map(|device| self.targets(device).into_iter().map(move |target| (device, target)));
        for (device, target) in all {
            let (pooled, routing) = self.run(device, target, qkv);
            for (at, mean) in pooled.data.iter().enumerate() {
                let [low, mean, high] = [low.data[at], *mean, high.data[at]].map(|x| x.to_f32());
                let is = (low..=high).contains(&mean) || low.is_nan() && mean.is_nan();
                assert!(is, "{self:?}: mean {at} is {mean}, from {low} to {high}");
            }
            for (at, gated) in gated.iter().enumerate() {
                let Row { token, head } = Row { token: at / qkv.q.shape[1], head: at % qkv.q.shape[1] };
                let row = routing.row(token, head);
                if self.full_heads.as_ref().is_some_and(|full| full[head] != 0) {
                    assert!(row.iter().all(|&block| block == -1), "{self:?}: a full head has {row:?}");
                    continue;
                }
                let position = sides.place(token).expect("a token of a document").position;
                if let Err(error) = check_route(row, gated, position, config) {
                    panic!("{self:?} on {device} for {target}, token {token} head {head}: {error}\n{row:?}");
                }
            }
        }
    }

    fn check(&self) {
        match self.elem {
            Elem::F16 => self.check_on(&self.draw::<half::f16>()),
            _ => self.check_on(&self.draw::<half::bf16>()),
        }
    }
}

const LENGTHS: [&[usize]; 6] = [&[1], &[300], &[0, 33, 0, 500], &[64, 64, 64], &[129, 1, 77, 0], &[700, 90]];

#[test]
fn every_width_and_element() {
    for (n, width) in widths().into_iter().enumerate() {
        for elem in [Elem::Bf16, Elem::F16] {
            let lengths = LENGTHS[(n * 2 + (elem == Elem::F16) as usize) % LENGTHS.len()];
            Case { elem, seed: n as u64, ..case(width, [32, 16, 64, 48][n % 4], 4, lengths) }.check();
        }
    }
}

#[test]
fn every_number_of_blocks_a_row_has_room_for() {
    for (n, top) in [1, 2, 3, 5, 8, 9, 10, 13, 14, 17, 25, 26, 64].into_iter().enumerate() {
        Case { kv_heads: 1, seed: n as u64, ..case(32, 16, top, &[1500, 0, 70]) }.check();
        // More than there are.
        Case { seed: n as u64, ..case(64, 32, top, &[100, 33]) }.check();
    }
}

/// Rows whose lists are full long before their last tile of candidates.
#[test]
fn candidates_of_several_tiles() {
    for (n, top) in [2, 4, 7, 8, 12, 30].into_iter().enumerate() {
        let elem = [Elem::Bf16, Elem::F16][n % 2];
        Case { elem, kv_heads: 1, seed: n as u64, ..case(32, 16, top, &[6300, 2200]) }.check();
    }
}

#[test]
fn every_pick() {
    for target in [Target::SM_80, Target::SM_90A] {
        for (n, pick) in MobaRoutePick::space(target).picks().into_iter().enumerate() {
            // Warps that would share rows.
            if pick.get("warps").is_some_and(|warps| pick["rows"] < 16 * warps) {
                continue;
            }
            let pick = Some((target, pick));
            Case { pick, kv_heads: 1, seed: n as u64, ..case(64, 16, [4, 15][n % 2], &[40, 1300]) }.check();
        }
    }
}

#[test]
fn query_heads_that_share_keys_choose_for_themselves() {
    for (group, kv_heads) in [(4, 2), (3, 1), (8, 1), (64, 1)] {
        Case { group, kv_heads, ..case(64, 16, 3, &[150, 0, 40]) }.check();
    }
}

#[test]
fn blocks_of_any_length() {
    for (n, block) in [16, 32, 48, 80, 128, 208, 512, 1024].into_iter().enumerate() {
        Case { kv_heads: 1, seed: n as u64, ..case(64, block, 3, &[(block as usize * 5).min(1100), 17, 0]) }.check();
    }
    // Longer than every document.
    case(32, 160_000, 3, &[200, 1]).check();
}

/// Queries and keys end together: a query stands where its key would, or before every key.
#[test]
fn documents_with_other_numbers_of_keys_than_queries() {
    let both: [(&[usize], &[usize]); 5] = [
        (&[100], &[700]),
        (&[1, 1, 1], &[300, 17, 0]),
        (&[300, 0, 90], &[120, 64, 500]),
        (&[70, 33], &[0, 1]),
        (&[64, 10, 0], &[64, 26, 5]),
    ];
    for (n, (queries, keys)) in both.into_iter().enumerate() {
        for top in [1, 3, 16] {
            let keys = Some(keys.to_vec());
            let case = Case { keys, seed: n as u64, group: 1 + n % 3, ..case(64, 16, top, queries) };
            case.check();
            Case { threshold: Some(0.6), ..case.clone() }.check();
            let hq = case.group * case.kv_heads;
            Case { full_heads: Some((0..hq as i32).map(|head| head % 2).collect()), ..case }.check();
        }
    }
}

#[test]
fn batches_without_tokens() {
    for lengths in [&[0][..], &[0, 0, 0]] {
        case(64, 32, 3, lengths).check();
    }
}

#[test]
fn a_head_that_attends_fully_is_sent_nowhere() {
    for full in [[0, 1, 0, 1], [1, 1, 1, 1], [0, 0, 0, 0]] {
        for top in [1, 4, 20] {
            Case { group: 2, full_heads: Some(full.to_vec()), ..case(64, 16, top, &[90, 0, 300]) }.check();
        }
    }
}

/// Every key is the same, so every score of a row is: the first blocks win.
#[test]
fn of_equal_scores_the_lower_block_comes_first() {
    for top in [2, 4, 9, 13, 20] {
        let case = Case { kv_heads: 1, ..case(64, 16, top, &[2100, 0, 100]) };
        let mut qkv = case.draw::<half::bf16>();
        let key = qkv.k.row(0, 0).to_vec();
        qkv.k.data.chunks_mut(64).for_each(|row| row.copy_from_slice(&key));
        let [cu, _] = case.cu_seqlens();
        for routing in case.routings_of(&qkv) {
            for token in 0..routing.shape[0] {
                let place = Sides::same(&cu).place(token).expect("a token of a document");
                let (own, mut wanted) = (place.position as i32 / 16, vec![-1; top as usize]);
                wanted[0] = own;
                wanted.iter_mut().skip(1).zip(0..own).for_each(|(entry, block)| *entry = block);
                assert_eq!(routing.row(token, 0), wanted, "token {token}, top {top}");
            }
        }
    }
}

/// NaN and -inf are no scores: a row that has no other is sent to its own block, and a block that has no other to no
/// row.
#[test]
fn what_has_no_score_is_not_taken() {
    for (top, none) in [(3, f32::NAN), (3, f32::NEG_INFINITY), (15, f32::NAN), (15, f32::NEG_INFINITY)] {
        let case = Case { kv_heads: 1, ..case(64, 16, top, &[400]) };
        let mut qkv = case.draw::<half::bf16>();
        for key in qkv.k.data.chunks_mut(64) {
            key[0] = half::bf16::from_f32(key[0].to_f32().abs().max(0.5));
        }
        // A query whose scores are all none, and a block that is none to every query.
        qkv.q.row_mut(300, 0).fill(half::bf16::from_f32(0.0));
        qkv.q.row_mut(300, 0)[0] = half::bf16::from_f32(none);
        case.check_on(&qkv);
        Case { threshold: Some(0.5), ..case.clone() }.check_on(&qkv);
        for routing in case.routings_of(&qkv) {
            let mut only = vec![-1; top as usize];
            only[0] = 300 / 16;
            assert_eq!(routing.row(300, 0), only);
            assert!(routing.row(301, 0).iter().all(|&block| block >= 0), "{:?}", routing.row(301, 0));
        }

        let mut qkv = case.draw::<half::bf16>();
        qkv.k.row_mut(100, 0)[5] = half::bf16::NAN;
        case.check_on(&qkv);
        Case { threshold: Some(0.5), ..case.clone() }.check_on(&qkv);
        for routing in case.routings_of(&qkv) {
            for token in 200..400 {
                let row = routing.row(token, 0);
                assert!(!row[1..].contains(&(100 / 16)), "token {token}: {row:?}");
                assert_eq!(
                    row.iter().filter(|&&block| block >= 0).count(),
                    (token / 16).min(top as usize),
                    "token {token}"
                );
            }
        }
    }
}

/// VMoBA: the last block, also a cut one, is as good as any, and a row takes no more than its share of the mass wants.
#[test]
fn where_the_mass_decides_a_row_takes_what_it_wants_of_all_other_blocks() {
    let mut n = 0;
    for threshold in [0.0, 0.2, 0.5, 0.9, 1.0] {
        for top in [1, 2, 4, 9, 20, 64] {
            let lengths = LENGTHS[n % LENGTHS.len()];
            let elem = [Elem::Bf16, Elem::F16][n % 2];
            Case { elem, threshold: Some(threshold), seed: n as u64, ..case([64, 32, 128][n % 3], 16, top, lengths) }
                .check();
            n += 1;
        }
    }
    Case { kv_heads: 1, group: 2, threshold: Some(0.3), ..case(64, 16, 12, &[1400, 0, 30]) }.check();
}

#[test]
fn nothing_is_wanted_of_a_mass_of_none() {
    let case = Case { kv_heads: 1, threshold: Some(0.0), ..case(64, 16, 5, &[200]) };
    for routing in case.routings_of(&case.draw::<half::bf16>()) {
        for token in 0..200 {
            assert_eq!(routing.row(token, 0), [token as i32 / 16, -1, -1, -1, -1]);
        }
    }
}

/// A hundred times the same query, whose best block moves: what is behind the query's own block is never taken.
#[test]
fn only_complete_blocks_before_the_own_are_taken() {
    let case = Case { kv_heads: 1, ..case(64, 16, 4, &[640]) };
    let mut qkv = case.draw::<half::bf16>();
    let query = qkv.q.row(0, 0).to_vec();
    // The later the key, the better.
    for token in 0..640 {
        qkv.q.row_mut(token, 0).copy_from_slice(&query);
        let scaled = query.iter().map(|x| half::bf16::from_f32(x.to_f32() * (1.0 + (token / 16) as f32)));
        qkv.k.row_mut(token, 0).iter_mut().zip(scaled).for_each(|(k, x)| *k = x);
    }
    for routing in case.routings_of(&qkv) {
        for token in 0..640 {
            let own = token as i32 / 16;
            let wanted: Vec<i32> = (0..4).map(|back| (own - back).max(-1)).collect();
            assert_eq!(routing.row(token, 0), wanted, "token {token}");
        }
    }
}

#[test]
fn neither_spills_at_its_default_pick() {
    for target in [Target::SM_80, Target::SM_90A] {
        for width in widths() {
            for top in [2, 3, 8, 13, 64] {
                for full in [false, true] {
                    let case = Case { full_heads: full.then(Vec::new), ..case(width, 128, top, &[]) };
                    let mass = Case { threshold: Some(0.5), ..case.clone() };
                    for plan in [case.pool_plan(target), case.route_plan(target), mass.route_plan(target)] {
                        let launch = &plan.launches[0];
                        let assembled = assemble(&launch.ptx, target).expect("PTX");
                        let used = assembled.usage(&launch.entry).expect("what it takes");
                        let remark =
                            assembled.log.lines().find(|line| line.contains("(C7") && !line.contains("(C7519)"));
                        assert_eq!(remark, None, "{} D{width} T{top} for {target}", plan.name);
                        let multiplies = target == Target::SM_90A && plan.name != "moba_pool";
                        assert_eq!(launch.ptx.contains("wgmma.mma_async"), multiplies, "{} for {target}", plan.name);
                        let spills = used.spill_stores + used.spill_loads + used.stack;
                        assert_eq!(spills, 0, "{} D{width} T{top} for {target}: {used:?}", plan.name);
                    }
                }
            }
        }
    }
}

#[test]
fn numbers_of_blocks_and_keys_that_cannot_be_are_refused() {
    let refusal = |block, top| {
        let shape = Shape::new(Elem::Bf16, 64, 64, 1);
        let staged = MobaRoute::new(block, top).stage(Target::SM_80, &shape, &MobaRoutePick::default());
        staged.expect_err("a refusal").to_string()
    };
    assert!(refusal(128, 0).contains("a row has 0 blocks"), "{}", refusal(128, 0));
    assert!(refusal(128, 65).contains("from 1 to 64 are right"), "{}", refusal(128, 65));
    assert!(refusal(0, 3).contains("blocks have 0 keys"), "{}", refusal(0, 3));
    assert!(refusal(40, 3).contains("a multiple of 16 is right"), "{}", refusal(40, 3));
    assert!(refusal(1 << 31, 3).contains("below 2^31"), "{}", refusal(1 << 31, 3));
}
