//! Tensor maps as arguments: what a kernel reads and writes through them, on the emulator and on a GPU if one has them, and
//! what is refused before anything is launched.
#![allow(clippy::print_stderr, reason = "where no GPU was tested, it says so")]

mod common;

use common::{launch, spec, symbol};
use lacuna_codegen::{
    ir::Elem,
    plan::{
        Access, Arg, Dim, Expr, MapBase, MapDim, MapRow, MapStride, Plan, Promotion, ScalarSpec, Swizzle, TensorMap,
    },
};
use lacuna_ptx::Target;
use lacuna_runtime::{Bindings, Device, Tensor};

/// A CTA copies 16 rows of a head of a document: in through one map, out through the other.
const COPY: &str = "\
.version 8.0
.target sm_90
.address_size 64

.visible .entry copy(.param .align 64 .b8 from[128], .param .align 64 .b8 to[128], .param .u32 first, .param .u32 len)
{
    .shared .align 1024 .b8 tile[2048];
    .shared .align 8 .b8 bar[8];
    .reg .pred %p<2>;
    .reg .b32 %r<8>;
    .reg .b64 %d<2>;
    mov.u32 %r0, %tid.x;
    setp.ne.u32 %p0, %r0, 0;
    @%p0 bra done;
    mbarrier.init.shared::cta.b64 [bar], 1;
    fence.mbarrier_init.release.cluster;
    mov.b64 %d0, from;
    cvta.param.u64 %d0, %d0;
    mov.b64 %d1, to;
    cvta.param.u64 %d1, %d1;
    mov.u32 %r1, 0;
    ld.param.u32 %r2, [len];
    ld.param.u32 %r3, [first];
    add.u32 %r3, %r3, %r2;
    mov.u32 %r4, 1073741824;
    mov.u32 %r5, %ctaid.x;
    shl.b32 %r5, %r5, 4;
    sub.u32 %r6, %r4, %r2;
    add.u32 %r5, %r5, %r6;
    mov.u32 %r6, %ctaid.y;
    mbarrier.arrive.expect_tx.shared::cta.b64 _, [bar], 2048;
    cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes [tile], [%d0, {%r1, %r5, %r3, %r4, %r6}], [bar];
full:
    mbarrier.try_wait.parity.shared::cta.b64 %p1, [bar], 0;
    @!%p1 bra full;
    cp.async.bulk.tensor.5d.global.shared::cta.bulk_group [%d1, {%r1, %r5, %r3, %r4, %r6}], [tile];
    cp.async.bulk.commit_group;
    cp.async.bulk.wait_group 0;
done:
    ret;
}
";

/// Rows of 32 floats, `[tokens, heads, 32]`, from document to document.
fn copy() -> Plan {
    let dims = || vec![symbol("tokens"), symbol("heads"), Dim::Fixed(32)];
    let map = |tensor: &str| {
        let extents = [Expr::symbol("heads"), 32.into()];
        let map = TensorMap::ragged(tensor, Elem::F32, [0, 1], extents, [16, 32]);
        Arg::TensorMap(map.swizzled(Swizzle::B128).promoted(Promotion::B128))
    };
    let number = |name: &str| ScalarSpec { name: name.to_owned(), elem: Elem::I32 };
    let args = vec![map("from"), map("to"), Arg::Scalar("first".to_owned()), Arg::Scalar("len".to_owned())];
    let grid = [Expr::scalar("len").ceil_div(16), Expr::symbol("heads"), 1.into()];
    Plan {
        name: "copy".to_owned(),
        target: Target::SM_90,
        tensors: vec![
            spec("from", Elem::F32, dims(), Access::Read, 16),
            spec("to", Elem::F32, dims(), Access::Write, 16),
        ],
        scalars: vec![number("first"), number("len")],
        requires: Vec::new(),
        workspace: 0.into(),
        launches: vec![launch(COPY, "copy", grid, 32, args)],
    }
}

/// The emulator, and a GPU that has tensor maps.
fn devices() -> Vec<Device> {
    let mut devices = vec![Device::emulator()];
    match Device::cuda(0) {
        Ok(device) => devices.push(device),
        Err(why) => eprintln!("tested on the emulator alone: {why}"),
    }
    devices
}

const TOKENS: u64 = 100;
const HEADS: u64 = 3;

fn ramp() -> Vec<f32> {
    (0..TOKENS * HEADS * 32).map(|i| i as f32 + 1.0).collect()
}

/// What is copied of a document, and what stays.
fn expected(first: u64, len: u64) -> Vec<f32> {
    let row = HEADS * 32;
    ramp()
        .into_iter()
        .enumerate()
        .map(|(i, x)| if (first..first + len).contains(&(i as u64 / row)) { x } else { -1.0 })
        .collect()
}

#[test]
fn a_ragged_map_keeps_to_its_document() {
    for device in devices() {
        for (first, len) in [(0, 1), (0, 100), (7, 33), (40, 48), (99, 1)] {
            let from = Tensor::from_slice(&device, &[TOKENS, HEADS, 32], &ramp()).unwrap();
            let to = Tensor::from_slice(&device, &[TOKENS, HEADS, 32], &vec![-1.0f32; ramp().len()]).unwrap();
            let bindings = Bindings::new().tensor("from", &from).tensor("to", &to);
            let bindings = bindings.int("first", first).int("len", len);
            device.run(&copy(), &bindings).unwrap_or_else(|error| panic!("{device}: {error}"));
            assert_eq!(to.to_vec::<f32>().unwrap(), expected(first as u64, len as u64), "{device}, {len} from {first}");
        }
    }
}

#[test]
fn maps_follow_strides_and_the_workspace() {
    for device in devices() {
        // From the middle part of a fused tensor into the workspace, and from there out.
        let fused: Vec<f32> = (0..TOKENS)
            .flat_map(|t| {
                (0..3).flat_map(move |part| {
                    (0..HEADS * 32).map(move |i| if part == 1 { (t * HEADS * 32 + i) as f32 + 1.0 } else { 0.5 })
                })
            })
            .collect();
        let fused = Tensor::from_slice(&device, &[TOKENS, 3, HEADS, 32], &fused).unwrap();
        let from = fused.select(1, 1).unwrap();
        let to = Tensor::from_slice(&device, &[TOKENS, HEADS, 32], &vec![-1.0f32; ramp().len()]).unwrap();
        let mut plan = copy();
        plan.workspace = Expr::Const(512 + TOKENS * HEADS * 128);
        let mut second = plan.launches[0].clone();
        let scratch = |arg: &mut Arg| {
            let Arg::TensorMap(map) = arg else { panic!("{arg:?}") };
            map.base = MapBase::Workspace(512.into());
            let strides = [HEADS * 32, HEADS * 32, (1 << 34) - HEADS * 32, 32];
            map.outer
                .iter_mut()
                .zip(strides)
                .for_each(|(dim, elements)| dim.stride = MapStride::Elements(elements.into()));
        };
        scratch(&mut plan.launches[0].args[1]);
        scratch(&mut second.args[0]);
        plan.launches.push(second);
        let bindings = Bindings::new().tensor("from", &from).tensor("to", &to).int("first", 10).int("len", 50);
        device.run(&plan, &bindings).unwrap_or_else(|error| panic!("{device}: {error}"));
        assert_eq!(to.to_vec::<f32>().unwrap(), expected(10, 50), "{device}");
    }
}

/// Why a run of the plan is refused, with one change to its first map.
fn refusal(change: impl FnOnce(&mut TensorMap)) -> String {
    let device = Device::emulator();
    let mut plan = copy();
    let Arg::TensorMap(map) = &mut plan.launches[0].args[0] else { panic!("{:?}", plan.launches[0].args[0]) };
    change(map);
    let zeros = || Tensor::zeros(&device, Elem::F32, &[TOKENS, HEADS, 32]).unwrap();
    let bindings = Bindings::new().tensor("from", &zeros()).tensor("to", &zeros()).int("first", 0).int("len", 20);
    device.run(&plan, &bindings).expect_err("the map is none").to_string()
}

#[test]
fn what_hardware_cannot_have_is_refused() {
    let begin = "`copy`: `copy` cannot be given argument 0 of `copy`: ";
    let reason = |change: fn(&mut TensorMap)| {
        let text = refusal(change);
        text.strip_prefix(begin).unwrap_or_else(|| panic!("{text}")).to_owned()
    };
    assert_eq!(reason(|map| map.outer[0].tile = 512), "a box has 512 elements along dimension 1; expected 1 to 256");
    assert_eq!(
        reason(|map| map.inner.tile = 16),
        "the rows of a box are 64 bytes; under a swizzle over 128 they are as long as that"
    );
    assert_eq!(
        reason(|map| map.outer[3].stride = MapStride::Elements(33.into())),
        "the stride of dimension 4 is 132 bytes; expected a multiple of 16 below 2^40"
    );
    assert_eq!(reason(|map| map.outer[3].extent = 0.into()), "dimension 4 has 0 elements; expected 1 to 2^32");
    assert_eq!(
        reason(|map| map.outer.push(map.outer[0].clone())),
        "a tensor map has 1 to 5 dimensions, and this one 6"
    );
    assert_eq!(
        reason(|map| *map = TensorMap {
            base: MapBase::Tensor("from".to_owned()),
            elem: Elem::F32,
            inner: MapRow { extent: 6.into(), tile: 6 },
            outer: vec![MapDim { extent: 2.into(), stride: MapStride::Elements(8.into()), tile: 1 }],
            swizzle: Swizzle::None,
            promotion: Promotion::None,
        }),
        "the rows of a box are 24 bytes; expected a multiple of 16"
    );
}

#[test]
fn maps_of_what_the_plan_does_not_have_are_the_plans_fault() {
    let text = refusal(|map| map.base = MapBase::Tensor("other".to_owned()));
    assert_eq!(text, "`copy` is not a valid plan: argument 0 of `copy` is of no tensor `other`");
    let text = refusal(|map| map.outer[0].stride = MapStride::Dim { tensor: "from".to_owned(), dim: 3 });
    assert_eq!(text, "`copy` is not a valid plan: argument 0 of `copy` is of no dimension 3 of `from`");
    let text = refusal(|map| map.base = MapBase::Workspace(64.into()));
    assert_eq!(text, "`copy` is not a valid plan: argument 0 of `copy` lies at byte 64 of a workspace of 0 bytes");
    let device = Device::emulator();
    let mut plan = copy();
    plan.launches[0].args.swap(1, 2);
    let zeros = || Tensor::zeros(&device, Elem::F32, &[TOKENS, HEADS, 32]).unwrap();
    let bindings = Bindings::new().tensor("from", &zeros()).tensor("to", &zeros()).int("first", 0).int("len", 20);
    assert_eq!(
        device.run(&plan, &bindings).unwrap_err().to_string(),
        "`copy` is not a valid plan: parameter 1 of `copy` is .align 64 .b8 [128], and its launch gives .u32"
    );
}

#[test]
fn a_map_of_nothing_is_no_fault_where_nothing_is_launched() {
    let device = Device::emulator();
    let empty = || Tensor::zeros(&device, Elem::F32, &[0, HEADS, 32]).unwrap();
    let mut plan = copy();
    for arg in &mut plan.launches[0].args[..2] {
        let Arg::TensorMap(map) = arg else { panic!("{arg:?}") };
        map.outer[0].extent = Expr::symbol("tokens");
    }
    let bindings = Bindings::new().tensor("from", &empty()).tensor("to", &empty()).int("first", 0).int("len", 0);
    assert_eq!(device.run(&plan, &bindings).unwrap().launches, 0);
}
