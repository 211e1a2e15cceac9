//! Tensors whose elements lie more than 2^31 elements apart: as far as 64 bits reach on the emulator, whose memory exists only
//! where it is touched, and as far as its memory does on a GPU.

use half::bf16;
use lacuna_dsl::{Elem, Shape, Target};
use lacuna_kernels::host::Host;
use lacuna_kernels::inputs::{Route, cu_seqlens, qkv, routing};
use lacuna_kernels::reference::moba::{self, MobaConfig, Routed};
use lacuna_kernels::reference::nsa::selected_attention;
use lacuna_kernels::reference::{Problem, attention, masks};
use lacuna_kernels::tolerance::{check_attention, plain_attention, plain_routed, plain_selected};
use lacuna_kernels::{host::Dims, host::Precision};
use lacuna_runtime::{Bindings, Device, Element, Tensor};
use lacuna_tests::{Case, Mixture, Picks, Routes, Seen, Work};

use crate::harness::devices;

/// A tensor `[tokens, heads, width]` with these strides, of which only the elements themselves are ever touched.
fn spread<T: Element>(device: &Device, data: &Host<T>, strides: [u64; 2]) -> Tensor {
    let shape = data.shape.map(|x| x as u64);
    let tensor = nothing(device, T::DTYPE, shape, strides);
    tensor.copy_from_slice(&data.data).expect("room for the elements");
    tensor
}

fn nothing(device: &Device, elem: Elem, shape: [u64; 3], [token, head]: [u64; 2]) -> Tensor {
    let span = (shape[0] - 1) * token + (shape[1] - 1) * head + shape[2];
    let all = Tensor::uninit(device, elem, &[span]).expect("room for the addresses");
    all.strided(0, &shape, &[token, head, 1]).expect("a view of all of it")
}

/// The strides of tokens and of heads.
fn far_apart(device: &Device, target: Target, work: Work, tokens: usize, strides: [u64; 2]) {
    let block = if matches!(work, Work::Moba(_)) { 32 } else { 64 };
    let case = Case::of(work, Shape::new(Elem::Bf16, 64, 64, 2).with_block(block), &[tokens]);
    let dims = Dims { total: tokens, keys: tokens, hq: 4, hk: 2, dk: 64, dv: 64 };
    let drawn = qkv::<bf16>(3, dims);
    let cu = cu_seqlens(&[tokens]);
    let picks = Host::new([-1, 0].repeat(2 * tokens), [tokens, 2, 2]);
    let routing = routing(3, &cu, &cu, 4, 32, 3, Route::Random);

    let problem = Problem { q: &drawn.q, k: &drawn.k, v: &drawn.v, cu_seqlens: &cu, cu_seqlens_k: &cu, scale: 0.125 };
    let (reference, plain) = match work {
        Work::QueryMajor(_) => (attention(&problem, &masks::causal), plain_attention(&problem, &masks::causal)),
        Work::GroupCentric(..) | Work::ByBlock(..) => {
            (selected_attention(&problem, &picks, 64), plain_selected(&problem, &picks, 64))
        }
        Work::Moba(_) => {
            let routed = Routed { routing: &routing, config: MobaConfig::new(32, 3), full_heads: None };
            (moba::attention(&problem, &routed, None), plain_routed(&problem, &routed, None))
        }
    };

    let plan = case.plan(target).expect("the default pick fits");
    let o = nothing(device, Elem::Bf16, [tokens as u64, 4, 64], strides);
    let lse = nothing(device, Elem::F32, [tokens as u64, 1, 4], strides);
    let lse = lse.select(1, 0).expect("one row a token");
    for output in [&o, &lse] {
        output.poison().expect("room for the elements");
    }
    let mut bindings = Bindings::new()
        .tensor("q", &spread(device, &drawn.q, strides))
        .tensor("k", &spread(device, &drawn.k, strides))
        .tensor("v", &spread(device, &drawn.v, strides))
        .tensor("o", &o)
        .tensor("lse", &lse)
        .tensor("cu_seqlens", &Tensor::from_slice(device, &[2], &cu).expect("room"))
        .float("scale", 0.125);
    bindings = match work {
        Work::QueryMajor(_) => bindings.int("max_seqlen", tokens as i32),
        Work::Moba(_) => {
            bindings.int("max_seqlen", tokens as i32).tensor("routing", &spread(device, &routing, strides))
        }
        Work::GroupCentric(..) | Work::ByBlock(..) => bindings.tensor("picks", &spread(device, &picks, strides)),
    };
    device
        .run(&plan, &bindings)
        .unwrap_or_else(|error| panic!("{case} for {target} with strides {strides:?}: {error}"));
    let (o, lse) = (o.to_f32_vec().expect("outputs"), lse.to_f32_vec().expect("LSE"));
    let verdicts = check_attention(&o, &lse, &reference, &plain, Precision::Bf16);
    assert!(verdicts.ok(), "{case} for {target} with strides {strides:?}:\n{verdicts}");
}

/// What is run, and of how many tokens. A routing chunk by chunk has strides of its own, and tokens enough for blocks behind the
/// own one.
fn works() -> [(Work, usize); 4] {
    let moba = |chunks| Work::Moba(Mixture { chunks, ..Mixture::new(Routes::Drawn(Route::Random), 3) });
    let few = [Work::QueryMajor(Seen::Causal), Work::GroupCentric(Picks::Everything, 2)];
    [(few[0], 5), (few[1], 5), (moba([1, 1]), 70), (moba([2, 3]), 70)]
}

#[test]
fn offsets_past_two_to_the_31() {
    let device = Device::emulator_with(lacuna_emulator::Options::default());
    for (work, tokens) in works() {
        // Past 2^31 elements by the token, past 2^32 by the token, by the head, and each stride past 2^32 by itself: as far as 2^34
        // where tensor maps have them.
        for (target, farthest) in [(Target::SM_80, (1 << 35) + 8), (Target::SM_90A, 1 << 34)] {
            for strides in [[1 << 30, 64], [(1 << 31) + 8, 256], [256, (1 << 31) + 64], [farthest, 1 << 32]] {
                far_apart(&device, target, work, tokens, strides);
            }
        }
    }
}

/// On a GPU the last token, or the last query head, lies past 2^31 elements: for all that it runs, some 40 GB.
#[test]
fn offsets_past_two_to_the_31_on_a_gpu() {
    let Some(device) = devices().iter().find(|device| device.is_cuda()) else { return };
    // Of 16 bits are q, k, v and o; of 32 the LSE and a routing.
    if Tensor::uninit(device, Elem::Bf16, &[8 << 31]).is_err() {
        println!("{device} has no room for tensors of 2^31 elements: not tried there");
        return;
    }
    for target in device.targets() {
        for (work, tokens) in works() {
            for strides in [[(1 << 31) / (tokens as u64 - 1) / 8 * 8 + 8, 256], [256, (1 << 30) + 64]] {
                far_apart(device, target, work, tokens, strides);
            }
        }
    }
}
