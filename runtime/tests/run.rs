//! Plans on the emulator: what they compute, and what is refused before they do.

mod common;

use std::sync::Arc;

use common::{AXPY, axpy, axpy_twice, copy, launch, ramp, spec, symbol};
use lacuna_codegen::{
    ir::Elem,
    plan::{Access, Arg, Dim, Expr, Plan, Requirement, Scalar, ScalarSpec},
};
use lacuna_ptx::Target;
use lacuna_runtime::{BenchOptions, Bindings, Device, Error, Stream, Tensor};

fn f32s(device: &Device, data: &[f32]) -> Tensor {
    Tensor::from_slice(device, &[data.len() as u64], data).unwrap()
}

/// Bindings of the axpy, whole.
fn whole(device: &Device, n: u64) -> (Bindings, Tensor) {
    let out = Tensor::uninit(device, Elem::F32, &[n]).unwrap();
    let bindings = Bindings::new()
        .tensor("x", &f32s(device, &ramp(n)))
        .tensor("y", &f32s(device, &vec![2.0; n as usize]))
        .tensor("out", &out)
        .float("a", 3.0);
    (bindings, out)
}

fn refusal(plan: &Plan, bindings: &Bindings) -> String {
    Device::emulator().run(plan, bindings).unwrap_err().to_string()
}

#[test]
fn an_axpy_with_a_ragged_tail() {
    let device = Device::emulator();
    let (bindings, out) = whole(&device, 1000);
    let report = device.run(&axpy(), &bindings).unwrap();
    let expected: Vec<f32> = ramp(1000).iter().map(|x| 3.0 * x + 2.0).collect();
    assert_eq!(out.to_vec::<f32>().unwrap(), expected);
    assert_eq!((report.launches, report.stats[0].ctas), (1, 8));
    assert!(report.millis > 0.0);
}

#[test]
fn launches_share_a_workspace() {
    let device = Device::emulator();
    let (bindings, out) = whole(&device, 300);
    let report = device.run(&axpy_twice(), &bindings).unwrap();
    let expected: Vec<f32> = ramp(300).iter().map(|x| 3.0 * (3.0 * x + 2.0) + 2.0).collect();
    assert_eq!(out.to_vec::<f32>().unwrap(), expected);
    let total = report.total().unwrap();
    assert_eq!((report.launches, total.ctas), (2, 6));
    assert_eq!(total.warp_instructions, 2 * report.stats[0].warp_instructions);
    assert_eq!(total.by_op.iter().map(|(_, n)| n).sum::<u64>(), total.warp_instructions);
}

#[test]
fn parts_of_fused_tensors_are_read_and_written_in_place() {
    let device = Device::emulator();
    let (tokens, heads) = (5, 2);
    let data = ramp(tokens * 3 * heads * 4);
    let fused = Tensor::from_slice(&device, &[tokens, 3, heads, 4], &data).unwrap();
    let k = fused.select(1, 1).unwrap();
    assert_eq!((k.shape(), k.strides()), (&[5, 2, 4][..], &[24, 4, 1][..]));
    let target = Tensor::zeros(&device, Elem::F32, &[tokens, heads, 3, 4]).unwrap();
    let middle = target.select(2, 1).unwrap();
    device.run(&copy(), &Bindings::new().tensor("from", &k).tensor("to", &middle)).unwrap();
    let got = target.to_vec::<f32>().unwrap();
    for (i, value) in got.iter().enumerate() {
        let (t, h, part, x) = (i / 24, i / 12 % 2, i / 4 % 3, i % 4);
        let expected = if part == 1 { data[t * 24 + 8 + h * 4 + x] } else { 0.0 };
        assert_eq!(*value, expected, "token {t}, head {h}, part {part}");
    }
    // The other parts of one tensor are no alias; the same part is.
    let parts = Tensor::from_slice(&device, &[tokens, heads, 3, 4], &data).unwrap();
    let part = |i| parts.select(2, i).unwrap();
    device.run(&copy(), &Bindings::new().tensor("from", &part(0)).tensor("to", &part(2))).unwrap();
    assert_eq!(part(0).to_vec::<f32>().unwrap(), part(2).to_vec::<f32>().unwrap());
    let error = refusal(&copy(), &Bindings::new().tensor("from", &part(1)).tensor("to", &part(1)));
    assert_eq!(error, "`copy`: output `to` shares memory with tensor `from`; an output needs memory of its own");
}

#[test]
fn nothing_to_do_is_no_launch() {
    let device = Device::emulator();
    let (bindings, _) = whole(&device, 0);
    let report = device.run(&axpy(), &bindings.checked()).unwrap();
    assert_eq!((report.launches, report.stats.len()), (0, 0));
}

#[test]
fn enqueue_streams_and_bench_work_on_the_emulator() {
    let device = Device::emulator();
    let (bindings, out) = whole(&device, 10);
    let stream = Stream::new(&device).unwrap();
    device.enqueue(&axpy(), &bindings.clone().stream(&stream)).unwrap();
    stream.synchronize().unwrap();
    assert_eq!(out.to_vec::<f32>().unwrap()[0], -7.0);
    let timing = device.bench(&axpy(), &bindings, &BenchOptions::default()).unwrap();
    assert_eq!(timing.reps, 1);
    assert!(timing.min_ms > 0.0 && timing.min_ms == timing.median_ms);
    let each = device.bench_launches(&axpy_twice(), &bindings, &BenchOptions::default()).unwrap();
    assert!(each.len() == 2 && each.iter().all(|timing| timing.reps == 1 && timing.min_ms > 0.0), "{each:?}");
    let (nothing, _) = whole(&device, 0);
    let each = device.bench_launches(&axpy_twice(), &nothing, &BenchOptions::default()).unwrap();
    assert!(each.iter().all(|timing| timing.median_ms == 0.0), "no CTA takes no time: {each:?}");
    let error = device.enqueue(&axpy(), &bindings.checked()).unwrap_err();
    assert_eq!(error.to_string(), "`axpy`: a checked run waits for its end; use `Device::run`, not `Device::enqueue`");
    let compiled = device.compile(&axpy()).unwrap();
    assert_eq!((compiled[0].entry.as_str(), compiled[0].resources, compiled[0].cached), ("axpy", None, false));
}

#[test]
fn names() {
    let device = Device::emulator();
    let (bindings, out) = whole(&device, 8);
    assert_eq!(
        refusal(&axpy(), &bindings.clone().tensor("z", &out)),
        "`axpy`: there is no tensor `z`; the tensors are `x`, `y`, `out`"
    );
    assert_eq!(refusal(&axpy(), &bindings.clone().int("b", 1)), "`axpy`: there is no scalar `b`; the scalars are `a`");
    assert_eq!(refusal(&copy(), &Bindings::new().int("b", 1)), "`copy`: there is no scalar `b`; the scalars are none");
    assert_eq!(
        refusal(&copy(), &Bindings::new().tensor("from", &out)),
        "`copy`: tensor `to` is missing; it is f32 [tokens, heads, 4]"
    );
    let no_scalar = Bindings::new().tensor("x", &out).tensor("y", &out).tensor("out", &out);
    assert_eq!(refusal(&axpy(), &no_scalar), "`axpy`: scalar `a` is missing; it is an f32");
    assert_eq!(
        refusal(&axpy(), &bindings.clone().indices("x", 0, 1)),
        "`axpy`: values of `x` are to be checked, and it is no i32 input of the plan"
    );
    let other = Device::emulator_with(Default::default());
    assert_eq!(
        other.run(&axpy(), &bindings).unwrap_err().to_string(),
        format!("`axpy`: tensor `x` is on emulator, and the run is on {other}: copy it with `Tensor::to_device`")
    );
    let stream = Stream::new(&other).unwrap();
    assert_eq!(
        refusal(&axpy(), &bindings.stream(&stream)),
        format!("`axpy`: the stream is on {other}, and the run is on emulator")
    );
}

#[test]
fn types_and_shapes() {
    let device = Device::emulator();
    let (bindings, _) = whole(&device, 8);
    let zeros = |elem, shape: &[u64]| Tensor::zeros(&device, elem, shape).unwrap();
    assert_eq!(
        refusal(&axpy(), &bindings.clone().tensor("x", &zeros(Elem::Bf16, &[8]))),
        "`axpy`: tensor `x` holds bf16; it must hold f32"
    );
    assert_eq!(
        refusal(&axpy(), &bindings.clone().tensor("x", &zeros(Elem::F32, &[2, 4]))),
        "`axpy`: tensor `x` has 2 dimensions, [2, 4]; it must have 1: f32 [n]"
    );
    assert_eq!(
        refusal(&axpy(), &bindings.clone().tensor("y", &zeros(Elem::F32, &[9]))),
        "`axpy`: `n` is 8 in tensor `x` (dimension 0) and 9 in tensor `y` (dimension 0); they must be equal"
    );
    let mut paired = axpy();
    let what = "`n` must be 3 times 2".to_owned();
    paired.requires.push(Requirement { what, left: Expr::symbol("n"), right: 6.into() });
    assert_eq!(refusal(&paired, &bindings), "`axpy`: `n` must be 3 times 2; here it would have to be 6, and it is 8");
    let (from, to) = (zeros(Elem::F32, &[3, 2, 4]), zeros(Elem::F32, &[3, 2, 5]));
    assert_eq!(
        refusal(&copy(), &Bindings::new().tensor("from", &from).tensor("to", &to)),
        "`copy`: dimension 2 of tensor `to` is 5; the plan is compiled for 4"
    );
    assert_eq!(
        refusal(&axpy(), &bindings.clone().scalar("a", Scalar::I32(3))),
        "`axpy`: scalar `a` is the i32 3; it must be an f32"
    );
    assert_eq!(refusal(&axpy(), &bindings.float("a", f32::NAN)), "`axpy`: scalar `a` is NaN; it must be a number");
    let mut plan = axpy();
    plan.scalars[0].elem = Elem::I32;
    let (bindings, _) = whole(&device, 8);
    assert_eq!(refusal(&plan, &bindings), "`axpy`: scalar `a` is the f32 3.0; it must be an i32");
}

#[test]
fn strides_and_addresses() {
    let device = Device::emulator();
    let (bindings, _) = whole(&device, 8);
    let store = Tensor::zeros(&device, Elem::F32, &[64]).unwrap();
    assert_eq!(
        refusal(&axpy(), &bindings.clone().tensor("x", &store.strided(0, &[8], &[2]).unwrap())),
        "`axpy`: the last dimension of tensor `x` has stride 2; it must be contiguous (stride 1)"
    );
    let shifted = store.slice(0, 1..9).unwrap();
    let address = shifted.address();
    assert_eq!(
        refusal(&axpy(), &bindings.clone().tensor("x", &shifted)),
        format!("`axpy`: tensor `x` begins at address {address:#x}, which is not a multiple of 16 bytes")
    );
    let to = Tensor::zeros(&device, Elem::F32, &[2, 2, 4]).unwrap();
    let from = store.strided(0, &[2, 2, 4], &[21, 4, 1]).unwrap();
    assert_eq!(
        refusal(&copy(), &Bindings::new().tensor("from", &from).tensor("to", &to)),
        "`copy`: dimension 0 of tensor `from` has a stride of 21 elements, 84 bytes, which is not a multiple of 16 bytes"
    );
    let (from, fold) = (to.clone(), store.strided(0, &[2, 2, 4], &[0, 4, 1]).unwrap());
    assert_eq!(
        refusal(&copy(), &Bindings::new().tensor("from", &from).tensor("to", &fold)),
        "`copy`: output `to` of shape [2, 2, 4] and strides [0, 4, 1] has two elements at one address"
    );
    // An input may be a broadcast, and the stride of one element may be anything.
    let broadcast = store.strided(0, &[2, 2, 4], &[0, 4, 1]).unwrap();
    device.run(&copy(), &Bindings::new().tensor("from", &broadcast).tensor("to", &to)).unwrap();
    let one = store.strided(0, &[1, 2, 4], &[3, 4, 1]).unwrap();
    let to = to.slice(0, 0..1).unwrap();
    device.run(&copy(), &Bindings::new().tensor("from", &one).tensor("to", &to)).unwrap();
}

#[test]
fn outputs_have_memory_of_their_own() {
    let device = Device::emulator();
    let (bindings, out) = whole(&device, 8);
    assert_eq!(
        refusal(&axpy(), &bindings.clone().tensor("y", &out)),
        "`axpy`: output `out` shares memory with tensor `y`; an output needs memory of its own"
    );
    let store = Tensor::zeros(&device, Elem::F32, &[16]).unwrap();
    let (low, high) = (store.slice(0, 0..8).unwrap(), store.slice(0, 8..16).unwrap());
    device.run(&axpy(), &bindings.clone().tensor("x", &low).tensor("out", &high)).unwrap();
    let across = store.slice(0, 4..12).unwrap();
    assert!(refusal(&axpy(), &bindings.tensor("x", &across).tensor("out", &high)).contains("shares memory"));
}

#[test]
fn grids_arguments_and_limits() {
    let device = Device::emulator();
    let (bindings, _) = whole(&device, 8);
    let with = |change: &dyn Fn(&mut Plan)| {
        let mut plan = axpy();
        change(&mut plan);
        refusal(&plan, &bindings)
    };
    assert_eq!(
        with(&|plan| plan.launches[0].grid[0] = (1u64 << 31).into()),
        "`axpy`: the grid of `axpy` has 2147483648 CTAs along x; at most 2147483647 fit"
    );
    assert_eq!(
        with(&|plan| plan.launches[0].grid[1] = 65536.into()),
        "`axpy`: the grid of `axpy` has 65536 CTAs along y; at most 65535 fit"
    );
    assert_eq!(
        with(&|plan| plan.launches[0].grid[2] = Expr::symbol("m")),
        "`axpy`: the grid of `axpy` along z cannot be computed: nothing gives `m` a number"
    );
    assert_eq!(
        with(&|plan| plan.launches[0].args[4] = Arg::Computed(Expr::symbol("n") * (1u64 << 28).into())),
        "`axpy`: argument 4 of `axpy` is 2147483648; at most 2147483647 fits an i32"
    );
    assert_eq!(
        with(&|plan| plan.workspace = Expr::Const(u64::MAX) + 1.into()),
        "`axpy`: the size of the workspace cannot be computed: arithmetic on extents is out of range"
    );
    assert_eq!(
        with(&|plan| plan.launches[0].shared = 163 * 1024 + 1),
        "`axpy`: `axpy` needs 166913 bytes of shared memory a CTA; emulator has 166912"
    );
    assert_eq!(
        with(&|plan| plan.launches[0].threads = 2048),
        "`axpy`: `axpy` runs 2048 threads a CTA; emulator runs 1 to 1024 of it"
    );
    assert_eq!(
        with(&|plan| plan.launches[0].cluster = [2, 1, 1]),
        "`axpy`: the grid of `axpy` has 1 CTAs along x, which clusters of 2 do not divide"
    );
    assert_eq!(
        with(&|plan| (plan.launches[0].cluster, plan.launches[0].grid[0]) = ([2, 1, 1], 2.into())),
        "`axpy`: `axpy` runs in clusters of [2, 1, 1] CTAs; emulator has none but those that a kernel requires (.reqnctapercluster)"
    );
    assert!(
        with(&|plan| plan.workspace = (1u64 << 50).into()).starts_with("emulator: no room for 1125899906842624 bytes")
    );
}

#[test]
fn a_negative_scalar_is_no_extent() {
    let device = Device::emulator();
    let mut plan = axpy();
    plan.scalars.push(ScalarSpec { name: "blocks".to_owned(), elem: Elem::I32 });
    plan.launches[0].grid[1] = Expr::scalar("blocks");
    let (bindings, _) = whole(&device, 8);
    assert_eq!(
        refusal(&plan, &bindings.int("blocks", -1)),
        "`axpy`: the grid of `axpy` along y cannot be computed: `blocks` is -1, and must not be negative"
    );
}

#[test]
fn a_plan_must_fit_its_own_ptx() {
    let device = Device::emulator();
    let (bindings, _) = whole(&device, 8);
    let with = |change: &dyn Fn(&mut Plan)| {
        let mut plan = axpy();
        change(&mut plan);
        refusal(&plan, &bindings)
    };
    assert_eq!(
        with(&|plan| plan.launches[0].entry = "saxpy".to_owned()),
        "`axpy` is not a valid plan: its PTX has no entry `saxpy`"
    );
    assert_eq!(
        with(&|plan| drop(plan.launches[0].args.pop())),
        "`axpy` is not a valid plan: entry `axpy` has 5 parameters, and its launch gives 4 arguments"
    );
    assert_eq!(
        with(&|plan| plan.launches[0].args.swap(2, 3)),
        "`axpy` is not a valid plan: parameter 2 of `axpy` is .u64, and its launch gives .f32"
    );
    assert_eq!(
        with(&|plan| plan.target = Target::SM_90),
        "`axpy` is not a valid plan: it is for sm_90, and its PTX is for sm_80"
    );
    assert_eq!(
        with(&|plan| plan.launches[0].args[0] = Arg::Pointer("o".to_owned())),
        "`axpy` is not a valid plan: argument 0 of `axpy` is of no tensor `o`"
    );
    assert_eq!(
        with(&|plan| plan.launches[0].args[0] = Arg::Stride { tensor: "x".to_owned(), dim: 1 }),
        "`axpy` is not a valid plan: argument 0 of `axpy` is of no dimension 1 of `x`"
    );
    assert_eq!(
        with(&|plan| plan.launches[0].args[3] = Arg::Scalar("b".to_owned())),
        "`axpy` is not a valid plan: argument 3 of `axpy` is of no scalar `b`"
    );
    assert_eq!(
        with(&|plan| plan.launches[0].args[0] = Arg::Workspace { offset: 4.into() }),
        "`axpy` is not a valid plan: argument 0 of `axpy` lies at byte 4 of a workspace of 0 bytes"
    );
    assert_eq!(
        with(&|plan| plan.launches[0].cluster = [1, 0, 1]),
        "`axpy` is not a valid plan: the clusters of `axpy` have no CTAs along y"
    );
    assert_eq!(
        with(&|plan| plan.tensors[0].align = 12),
        "`axpy` is not a valid plan: tensor `x` is aligned to 12, which is no power of two"
    );
    let required = AXPY.replace(".param .u32 n)\n", ".param .u32 n)\n.reqntid 64, 1, 1\n");
    assert_eq!(
        with(&|plan| plan.launches[0].ptx = Arc::from(required.as_str())),
        "`axpy` is not a valid plan: entry `axpy` requires [64, 1, 1] threads, and its launch has 128"
    );
    let broken = AXPY.replace("fma.rn.f32", "fma.f32");
    let error = with(&|plan| plan.launches[0].ptx = Arc::from(broken.as_str()));
    assert!(error.starts_with("the PTX of `axpy` cannot be read: ") && error.contains("28:5"), "{error}");
}

#[test]
fn a_fault_of_the_kernel_names_its_line() {
    let device = Device::emulator();
    let (bindings, _) = whole(&device, 8);
    let mut plan = axpy();
    plan.launches[0].args[4] = Arg::Computed(Expr::symbol("n") + 1.into());
    let error = device.run(&plan, &bindings).unwrap_err();
    assert!(matches!(error, Error::Fault { .. }));
    let text = error.to_string();
    assert!(text.starts_with("`axpy`, launch `axpy`: ") && text.contains("ld.global.f32"), "{text}");
}

#[test]
fn checked_mode_looks_at_inputs() {
    let device = Device::emulator();
    let (bindings, _) = whole(&device, 8);
    device.run(&axpy(), &bindings.clone().checked()).unwrap();
    let bad = f32s(&device, &[0.0, 1.0, f32::INFINITY, f32::NAN, 0.0, 0.0, 0.0, 0.0]);
    let bindings = bindings.tensor("y", &bad);
    device.run(&axpy(), &bindings).unwrap();
    assert_eq!(refusal(&axpy(), &bindings.checked()), "y[2] is inf: only finite numbers are allowed here");
    let mut plan = axpy();
    plan.tensors.push(spec("picks", Elem::I32, vec![symbol("n"), Dim::Fixed(2)], Access::Read, 4));
    let (bindings, _) = whole(&device, 3);
    let picks = |data: [i32; 6]| Tensor::from_slice(&device, &[3, 2], &data).unwrap();
    let bindings = bindings.indices("picks", -1, 7).checked();
    device.run(&plan, &bindings.clone().tensor("picks", &picks([0, -1, 6, 0, 0, 0]))).unwrap();
    assert_eq!(
        refusal(&plan, &bindings.clone().tensor("picks", &picks([0, -1, 6, 7, 9, 0]))),
        "picks[1, 1] is 7, which is not in -1..7"
    );
    let bindings = bindings.cu_seqlens("picks", 9);
    device.run(&plan, &bindings.clone().tensor("picks", &picks([0, 2, 2, 3, 8, 9]))).unwrap();
    assert_eq!(
        refusal(&plan, &bindings.tensor("picks", &picks([0, 2, 1, 3, 8, 9]))),
        "picks[2] is 1, less than 2 before it: cumulative sequence lengths never go down"
    );
}

#[test]
fn checked_mode_finds_what_was_not_written() {
    let device = Device::emulator();
    let mut plan = axpy();
    plan.launches[0].args[4] = Arg::Computed(Expr::symbol("n") - 1.into());
    let (bindings, out) = whole(&device, 8);
    out.copy_from_slice(&[1.0f32; 8]).unwrap();
    device.run(&plan, &bindings).unwrap();
    assert_eq!(out.to_vec::<f32>().unwrap()[7], 1.0);
    assert_eq!(refusal(&plan, &bindings.checked()), "`axpy` did not write out[7]");
    // Within a larger tensor, the neighbours of the output keep their values.
    let store = Tensor::from_slice(&device, &[3, 2, 2, 4], &ramp(48)).unwrap();
    let to = store.select(2, 0).unwrap();
    let from = Tensor::zeros(&device, Elem::F32, &[3, 2, 4]).unwrap();
    device.run(&copy(), &Bindings::new().tensor("from", &from).tensor("to", &to).checked()).unwrap();
    for (i, value) in store.to_vec::<f32>().unwrap().into_iter().enumerate() {
        assert_eq!(value, if i / 4 % 2 == 0 { 0.0 } else { ramp(48)[i] });
    }
}

/// Each CTA of a pair stores the rank of the other.
const PAIRS: &str = "\
.version 7.8
.target sm_90
.address_size 64

.visible .entry pairs(.param .u64 out)
.explicitcluster
.reqnctapercluster 2, 1, 1
{
    .reg .pred %p<1>;
    .reg .b32 %r<3>;
    .reg .b64 %d<2>;
    mov.u32 %r0, %tid.x;
    mov.u32 %r1, %cluster_ctarank;
    mov.u32 %r2, %ctaid.x;
    ld.param.u64 %d0, [out];
    mul.wide.u32 %d1, %r2, 4;
    add.u64 %d0, %d0, %d1;
    xor.b32 %r1, %r1, 1;
    setp.eq.u32 %p0, %r0, 0;
    @%p0 st.global.u32 [%d0], %r1;
    ret;
}
";

#[test]
fn clusters_are_those_that_a_kernel_requires() {
    let device = Device::emulator();
    let out = Tensor::uninit(&device, Elem::I32, &[4]).unwrap();
    let bindings = Bindings::new().tensor("out", &out);
    let mut launch =
        launch(PAIRS, "pairs", [Expr::symbol("n"), 1.into(), 1.into()], 32, vec![Arg::Pointer("out".to_owned())]);
    launch.cluster = [2, 1, 1];
    let mut plan = Plan {
        name: "pairs".to_owned(),
        target: Target::SM_90,
        tensors: vec![spec("out", Elem::I32, vec![symbol("n")], Access::Write, 4)],
        scalars: Vec::new(),
        requires: Vec::new(),
        workspace: 0.into(),
        launches: vec![launch],
    };
    device.run(&plan, &bindings).unwrap();
    assert_eq!(out.to_vec::<i32>().unwrap(), [1, 0, 1, 0]);
    for cluster in [[1, 1, 1], [4, 1, 1]] {
        plan.launches[0].cluster = cluster;
        assert_eq!(
            refusal(&plan, &bindings),
            format!(
                "`pairs` is not a valid plan: entry `pairs` requires clusters of [2, 1, 1], and its launch has {cluster:?}"
            )
        );
    }
}

/// Each CTA draws a number and stores it where it says; whoever draws the last takes all of them back.
const DRAW: &str = "\
.version 7.0
.target sm_80
.address_size 64

.visible .entry draw(.param .u64 out, .param .u32 n, .param .u64 counter)
{
    .reg .pred %p<1>;
    .reg .b32 %r<4>;
    .reg .b64 %d<3>;
    mov.u32 %r0, %tid.x;
    setp.ne.u32 %p0, %r0, 0;
    @%p0 bra done;
    ld.param.u64 %d0, [counter];
    atom.global.add.u32 %r1, [%d0], 1;
    ld.param.u64 %d1, [out];
    mul.wide.u32 %d2, %r1, 4;
    add.u64 %d1, %d1, %d2;
    st.global.u32 [%d1], %r1;
    ld.param.u32 %r2, [n];
    sub.u32 %r3, 0, %r2;
    sub.u32 %r2, %r2, 1;
    setp.eq.u32 %p0, %r1, %r2;
    @%p0 atom.global.add.u32 %r2, [%d0], %r3;
done:
    ret;
}
";

/// Two launches that draw, each for itself.
fn draw() -> Plan {
    let args = |name: &str| vec![Arg::Pointer(name.to_owned()), Arg::Computed(Expr::symbol("n")), Arg::Counter];
    let grid = || [Expr::symbol("n"), 1.into(), 1.into()];
    let out = |name| spec(name, Elem::I32, vec![symbol("n")], Access::Write, 4);
    Plan {
        name: "draw".to_owned(),
        target: Target::SM_80,
        tensors: vec![out("first"), out("second")],
        scalars: Vec::new(),
        requires: Vec::new(),
        workspace: 0.into(),
        launches: ["first", "second"].map(|name| launch(DRAW, "draw", grid(), 32, args(name))).into(),
    }
}

#[test]
fn every_launch_finds_its_counter_at_zero_and_leaves_it_there() {
    let device = Device::emulator();
    let drawn = || Tensor::uninit(&device, Elem::I32, &[40]).unwrap();
    let (first, second) = (drawn(), drawn());
    let bindings = Bindings::new().tensor("first", &first).tensor("second", &second);
    for _ in 0..2 {
        for out in [&first, &second] {
            out.poison().unwrap();
        }
        device.run(&draw(), &bindings).unwrap();
        for out in [&first, &second] {
            assert_eq!(out.to_vec::<i32>().unwrap(), (0..40).collect::<Vec<_>>());
        }
    }
    device.enqueue(&draw(), &bindings).unwrap();
    let with = |launch: usize, from: &str, to: &str| {
        let mut plan = draw();
        plan.launches[launch].ptx = Arc::from(DRAW.replace(from, to));
        plan
    };
    let kept = with(1, "@%p0 atom", "// atom");
    let error = "`draw` is not a valid plan: `draw` leaves its counter at 40";
    assert_eq!(refusal(&kept, &bindings), error);
    assert_eq!(device.enqueue(&kept, &bindings).unwrap_err().to_string(), error);
    let one_less = with(0, "sub.u32 %r3, 0, %r2;", "sub.u32 %r3, 1, %r2;");
    assert_eq!(refusal(&one_less, &bindings), "`draw` is not a valid plan: `draw` leaves its counter at 1");
    let mut narrow = draw();
    narrow.launches[0].args.swap(1, 2);
    assert_eq!(
        refusal(&narrow, &bindings),
        "`draw` is not a valid plan: parameter 1 of `draw` is .u32, and its launch gives .u64"
    );
    // What was refused leaves nothing behind.
    device.run(&draw(), &bindings).unwrap();
}
