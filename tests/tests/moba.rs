//! Attention to the blocks that a routing lists, against f64: on the emulator, and on a GPU where there is one.

use half::bf16;
use lacuna_dsl::{Elem, Pick, Shape, Tunable};
use lacuna_kernels::host::{Dims, Host, Precision, Sides};
use lacuna_kernels::inputs::{self, Qkv, Route};
use lacuna_kernels::moba::{Gate, Moba, RoutingIs};
use lacuna_kernels::reference::Problem;
use lacuna_kernels::reference::moba::{MobaConfig, Routed, Rule, attention, check_route, gate};
use lacuna_kernels::tolerance::{check_attention, plain_routed};
use lacuna_runtime::{Bindings, Device, Tensor};
use lacuna_tests::target_for;

struct Case {
    moba: Moba,
    pick: Pick,
    lengths: Vec<usize>,
    /// Keys of each document, where they are apart.
    keys: Option<Vec<usize>>,
    hk: usize,
    full_heads: Vec<i32>,
}

impl Case {
    fn new(width: u32, group: u32, block: u32, top: u32, lengths: &[usize]) -> Self {
        let shape = Shape::new(Elem::Bf16, width, width, group);
        let moba = Moba::new(shape, block, top).with_routing(RoutingIs::Given);
        Case { moba, pick: Pick::new(), lengths: lengths.to_vec(), keys: None, hk: 2, full_heads: Vec::new() }
    }

    /// The same with keys apart.
    fn with_keys(mut self, keys: &[usize]) -> Self {
        self.keys = Some(keys.to_vec());
        self.moba.shape = self.moba.shape.with_keys_apart();
        self
    }
}

fn ints(device: &Device, data: &[i32]) -> Tensor {
    Tensor::from_slice(device, &[data.len() as u64], data).expect("a table")
}

/// The outputs, the LSE and the routing, which is `routing` where it is given.
fn run(
    device: &Device,
    case: &Case,
    qkv: &Qkv<bf16>,
    routing: &Host<i32>,
    sides: Sides<'_>,
) -> (Vec<f32>, Vec<f32>, Host<i32>) {
    let target = target_for(device);
    let pick = case.moba.choose(target, &case.pick).expect("a pick");
    let plan = case.moba.plan(target, &pick).expect("a plan");
    let upload = |x: &Host<bf16>| Tensor::from_slice(device, &x.shape.map(|n| n as u64), &x.data).expect("a tensor");
    let [total, hq, top] = routing.shape.map(|n| n as u64);
    let o = Tensor::poisoned(device, Elem::Bf16, &[total, hq, case.moba.shape.dv.into()]).expect("o");
    let lse = Tensor::poisoned(device, Elem::F32, &[total, hq]).expect("lse");
    let mut bindings = Bindings::new()
        .tensor("q", &upload(&qkv.q))
        .tensor("k", &upload(&qkv.k))
        .tensor("v", &upload(&qkv.v))
        .tensor("cu_seqlens", &ints(device, sides.q))
        .tensor("o", &o)
        .tensor("lse", &lse)
        .float("scale", 0.125)
        .int("max_seqlen", *case.lengths.iter().max().expect("a document") as i32);
    if let Some(keys) = &case.keys {
        bindings = bindings.tensor("cu_seqlens_k", &ints(device, sides.k));
        if plan.scalars.iter().any(|scalar| scalar.name == "max_seqlen_k") {
            bindings = bindings.int("max_seqlen_k", *keys.iter().max().expect("a document") as i32);
        }
    }
    let made = match case.moba.routing {
        RoutingIs::Given => Tensor::from_slice(device, &[total, hq, top], &routing.data),
        _ => Tensor::poisoned(device, Elem::I32, &[total, hq, top]),
    };
    let made = made.expect("a routing");
    if plan.tensors.iter().any(|t| t.name == "routing") {
        bindings = bindings.tensor("routing", &made);
    }
    if case.moba.full_heads {
        bindings = bindings.tensor("full_heads", &Tensor::from_slice(device, &[hq], &case.full_heads).expect("heads"));
    }
    device.run(&plan, &bindings).unwrap_or_else(|error| panic!("{:?}: {error}", case.moba));
    let routing = match case.moba.routing {
        RoutingIs::Internal => routing.clone(),
        _ => Host::new(made.to_vec::<i32>().expect("a routing"), routing.shape),
    };
    (o.to_f32_vec().expect("o"), lse.to_vec::<f32>().expect("lse"), routing)
}

fn check(case: &Case, seed: u64) {
    let cu = inputs::cu_seqlens(&case.lengths);
    let cu_k = inputs::cu_seqlens(case.keys.as_ref().unwrap_or(&case.lengths));
    let sides = Sides { q: &cu, k: &cu_k };
    let (shape, blocks) = (&case.moba.shape, case.moba.blocks);
    let hq = case.hk * shape.group as usize;
    let tokens = case.lengths.iter().sum();
    let keys = cu_k[cu_k.len() - 1] as usize;
    let dims = Dims { total: tokens, keys, hq, hk: case.hk, dk: shape.dk as usize, dv: shape.dv as usize };
    let qkv: Qkv<bf16> = inputs::qkv(seed, dims);
    let rule = match case.moba.gate {
        Gate::Best => Rule::Past,
        Gate::Share(share) => Rule::Mass { share: share.into(), scale: 0.125 },
    };
    let config = MobaConfig { rule, ..MobaConfig::new(blocks.block as usize, blocks.top as usize) };
    let mut routing = inputs::routing(seed, &cu, &cu_k, hq, config.block, config.top, Route::Random);
    if case.moba.full_heads {
        for (i, row) in routing.data.chunks_mut(config.top).enumerate() {
            if case.full_heads[i % hq] != 0 {
                row.fill(-1);
            }
        }
    }
    let problem = Problem { q: &qkv.q, k: &qkv.k, v: &qkv.v, cu_seqlens: &cu, cu_seqlens_k: &cu_k, scale: 0.125 };
    let full = case.moba.full_heads.then_some(case.full_heads.as_slice());
    let gated = gate(&qkv.q, &qkv.k, sides, config);
    for device in [Device::emulator()].into_iter().chain(Device::cuda(0).ok()) {
        let (o, lse, routing) = run(&device, case, &qkv, &routing, sides);
        if case.moba.routing == RoutingIs::Returned {
            for (i, (row, gated)) in routing.data.chunks(config.top).zip(&gated).enumerate() {
                let place = sides.place(i / hq).expect("a document");
                if full.is_none_or(|full| full[i % hq] == 0) {
                    check_route(row, gated, place.position, config).unwrap_or_else(|bad| panic!("row {i}: {bad}"));
                }
            }
        }
        let routed = Routed { routing: &routing, config, full_heads: full };
        let (reference, plain) = (attention(&problem, &routed, None), plain_routed(&problem, &routed, None));
        let verdicts = check_attention(&o, &lse, &reference, &plain, Precision::Bf16);
        assert!(verdicts.ok(), "{:?} on {device}: {verdicts}", case.moba);
    }
}

#[test]
fn from_queries_and_keys_to_outputs() {
    for (group, block, top, lengths, chunks) in
        [(1, 32, 3, &[200][..], (1, 1)), (2, 64, 4, &[70, 0, 330], (2, 1)), (3, 48, 10, &[31, 900], (1, 3))]
    {
        let mut case = Case::new(64, group, block, top, lengths);
        case.moba = case.moba.with_routing(RoutingIs::Returned).in_chunks(chunks.0, chunks.1);
        check(&case, 5);
        case.moba = case.moba.covering(50);
        assert!(case.moba.full);
    }
}

#[test]
fn more_keys_than_queries_and_fewer() {
    for (heads, tokens) in [(1, 1), (2, 3)] {
        let case = Case::new(64, 2, 32, 4, &[40, 100, 0, 90]).with_keys(&[300, 60, 50, 0]);
        let mut case = Case { moba: case.moba.clone().in_chunks(heads, tokens), ..case };
        check(&case, 2);
        case.moba = case.moba.with_routing(RoutingIs::Returned);
        check(&case, 3);
    }
}

#[test]
fn blocks_by_their_share_of_the_softmax() {
    for (share, lengths) in [(0.3, &[200, 0, 45][..]), (0.0, &[130]), (1.0, &[300])] {
        let mut case = Case::new(64, 2, 32, 4, lengths);
        case.moba = Moba::by_share(case.moba.shape, 32, 4, share).with_routing(RoutingIs::Returned);
        check(&case, 2);
        case.moba = case.moba.in_chunks(2, 3);
        check(&case, 2);
    }
}

#[test]
fn neighbouring_blocks_joined() {
    for (joined, group, top) in [(2, 1, 4), (4, 2, 5), (2, 2, 16)] {
        let mut case = Case::new(64, group, 32, top, &[70, 0, 530]);
        case.pick.insert("joined".to_owned(), joined);
        case.moba = case.moba.with_routing(RoutingIs::Returned);
        check(&case, 2);
        case.moba = case.moba.in_chunks(2, 3);
        check(&case, 2);
    }
}

#[test]
fn parts_in_f32() {
    for (width, group, block) in [(64, 1, 32), (128, 2, 64)] {
        let mut case = Case::new(width, group, block, 4, &[70, 0, 330]);
        case.pick.insert("part_bits".to_owned(), 32);
        check(&case, 2);
        case.moba = case.moba.in_chunks(2, 2);
        check(&case, 2);
    }
}

/// A table that none of a document's choices can be in passes over the document.
#[test]
fn lists_by_tables_of_few_slots() {
    for (slots, chunks) in [(1, (1, 1)), (7, (2, 3)), (16, (1, 2)), (64, (1, 1))] {
        let mut case = Case::new(64, 2, 32, 4, &[700, 0, 33, 520, 1]);
        case.moba = case.moba.in_chunks(chunks.0, chunks.1);
        (case.moba.list_slots, case.moba.list_chunk) = (slots, 128);
        check(&case, 4);
        let mut apart = Case::new(64, 1, 32, 4, &[40, 100, 0, 90]).with_keys(&[300, 60, 50, 400]);
        (apart.moba.list_slots, apart.moba.list_chunk) = (slots, 64);
        check(&apart, 5);
        case.moba = case.moba.with_routing(RoutingIs::Returned);
        case.moba.blocks.fused = false;
        check(&case, 8);
        case.moba = Moba::by_share(case.moba.shape, 32, 4, 0.3).with_routing(RoutingIs::Returned);
        (case.moba.list_slots, case.moba.list_chunk) = (slots, 256);
        check(&case, 6);
        case.moba.blocks.fused = false;
        check(&case, 7);
    }
}

#[test]
fn one_chunk() {
    check(&Case::new(64, 1, 32, 3, &[200]), 1);
    check(&Case::new(64, 2, 64, 4, &[70, 0, 330]), 2);
    check(&Case::new(128, 1, 128, 3, &[500, 129]), 3);
    check(&Case::new(64, 3, 48, 5, &[31, 400]), 4);
    check(&Case::new(64, 1, 64, 1, &[200]), 1);
}

#[test]
fn chunks() {
    for (heads, tokens) in [(2, 1), (1, 3), (2, 2), (3, 5)] {
        let mut case = Case::new(64, 2, 32, 4, &[70, 0, 230]);
        case.moba = case.moba.in_chunks(heads, tokens);
        check(&case, 2);
    }
}

#[test]
fn own_block_as_a_part() {
    for (heads, tokens) in [(1, 1), (2, 2)] {
        let mut case = Case::new(64, 2, 32, 4, &[70, 0, 230]);
        case.moba = case.moba.in_chunks(heads, tokens);
        case.moba = case.moba.with_routing(RoutingIs::Returned);
        case.moba.blocks.fused = false;
        check(&case, 2);
    }
}

#[test]
fn some_heads_attend_fully() {
    let mut case = Case::new(64, 2, 32, 4, &[70, 0, 230]);
    case.moba.full_heads = true;
    case.full_heads = vec![0, 1, 1, 0];
    check(&case, 2);
}
