//! MoBA's pooled keys and routing, against f64: on the emulator, and on a GPU where there is one.

use std::sync::OnceLock;

use lacuna_dsl::{Elem, Knobs as _, Plan, Schedule as _, Shape};
use lacuna_kernels::host::{Dims, Float, Host, Row};
use lacuna_kernels::inputs::{self, Qkv};
use lacuna_kernels::moba::{MobaPool, MobaPoolPick, MobaRoute, MobaRoutePick};
use lacuna_kernels::reference::moba::{MobaConfig, Pooled, Rule, Sides, check_route, gate, pool, route_row};
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
    lengths: Vec<usize>,
    seed: u64,
    pick: MobaRoutePick,
    full_heads: Option<Vec<i32>>,
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
        seed: 1,
        pick: MobaRoutePick::default(),
        full_heads: None,
    }
}

impl Case {
    fn shape(&self) -> Shape {
        Shape::new(self.elem, self.width, self.width, self.group as u32)
    }

    fn config(&self) -> MobaConfig {
        MobaConfig::new(self.block as usize, self.top as usize)
    }

    fn cu_seqlens(&self) -> Vec<i32> {
        inputs::cu_seqlens(&self.lengths)
    }

    fn draw<T: Float>(&self) -> Qkv<T> {
        let (total, hk, width) = (self.lengths.iter().sum(), self.kv_heads, self.width as usize);
        inputs::qkv(self.seed, Dims { total, hq: hk * self.group, hk, dk: width, dv: width })
    }

    fn pool_plan(&self, target: Target) -> Plan {
        let pick = &MobaPoolPick::default();
        MobaPool::new(self.block).stage(target, &self.shape(), pick).and_then(|s| s.compile()).expect("a plan")
    }

    fn route_plan(&self, target: Target) -> Plan {
        let mut schedule = MobaRoute::new(self.block, self.top);
        schedule.full_heads = self.full_heads.is_some();
        schedule.stage(target, &self.shape(), &self.pick).and_then(|s| s.compile()).expect("a plan")
    }

    fn longest(&self) -> i32 {
        self.lengths.iter().copied().max().unwrap_or(0) as i32
    }

    /// The pooled keys, and the routing that follows from them.
    fn run<T: Float + lacuna_runtime::Element>(&self, device: &Device, qkv: &Qkv<T>) -> (Host<T>, Host<i32>) {
        let upload = |x: &Host<T>| Tensor::from_slice(device, &x.shape.map(|n| n as u64), &x.data).expect("a tensor");
        let cu = self.cu_seqlens();
        let slots = Sides::same(&cu).slots(self.config());
        let shape = [slots, self.kv_heads, self.width as usize];
        let pooled = Tensor::zeros(device, self.elem, &shape.map(|n| n as u64)).expect("a tensor");
        let table = Tensor::from_slice(device, &[cu.len() as u64], &cu).expect("a tensor");
        let bindings = Bindings::new()
            .tensor("k", &upload(&qkv.k))
            .tensor("cu_seqlens", &table)
            .tensor("pooled", &pooled)
            .int("max_seqlen", self.longest());
        let run = |plan: &Plan, bindings: &Bindings| {
            device.run(plan, bindings).unwrap_or_else(|error| panic!("{self:?} on {device}: {error}"));
        };
        run(&self.pool_plan(target_for(device)), &bindings);
        let places = [qkv.q.shape[0], qkv.q.shape[1], self.top as usize];
        let routing = Tensor::poisoned(device, Elem::I32, &places.map(|n| n as u64)).expect("a tensor");
        let mut bindings = Bindings::new()
            .tensor("q", &upload(&qkv.q))
            .tensor("pooled", &pooled)
            .tensor("cu_seqlens", &table)
            .tensor("routing", &routing)
            .int("max_seqlen", self.longest());
        if let Some(full) = &self.full_heads {
            let full = Tensor::from_slice(device, &[full.len() as u64], full).expect("a tensor");
            bindings = bindings.tensor("full_heads", &full);
        }
        run(&self.route_plan(target_for(device)), &bindings);
        (
            Host::new(pooled.to_vec().expect("what it holds"), shape),
            Host::new(routing.to_vec().expect("what it holds"), places),
        )
    }

    /// Runs the case, and holds its means and its routing to f64.
    fn check_on<T: Float + lacuna_runtime::Element>(&self, qkv: &Qkv<T>) {
        let cu = self.cu_seqlens();
        let (sides, config) = (Sides::same(&cu), self.config());
        let Pooled { low, high, .. } = pool(&qkv.k, sides, config);
        let gated = gate(&qkv.q, &qkv.k, sides, config);
        for device in devices() {
            let (pooled, routing) = self.run(device, qkv);
            for (at, mean) in pooled.data.iter().enumerate() {
                let [low, mean, high] = [low.data[at], *mean, high.data[at]].map(|x| x.to_f32());
                assert!((low..=high).contains(&mean), "{self:?}: mean {at} is {mean}, from {low} to {high}");
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
                    panic!("{self:?} on {device}, token {token} head {head}: {error}\n{row:?}");
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
