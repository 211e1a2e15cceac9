//! Small plans over hand-written PTX, for the emulator and for a GPU alike.
#![allow(dead_code, missing_docs, unreachable_pub)]

use std::sync::Arc;

use lacuna_codegen::{
    ir::Elem,
    plan::{Access, Arg, Dim, Expr, Launch, Plan, ScalarSpec, TensorSpec},
};
use lacuna_ptx::Target;

/// `out[i] = a * x[i] + y[i]`.
pub const AXPY: &str = "\
.version 7.0
.target sm_80
.address_size 64

.visible .entry axpy(.param .u64 out, .param .u64 x, .param .u64 y, .param .f32 a, .param .u32 n)
{
    .reg .pred %p<1>;
    .reg .b32 %r<4>;
    .reg .b64 %d<6>;
    .reg .f32 %f<4>;
    mov.u32 %r0, %ctaid.x;
    mov.u32 %r1, %ntid.x;
    mov.u32 %r2, %tid.x;
    mad.lo.u32 %r3, %r0, %r1, %r2;
    ld.param.u32 %r0, [n];
    setp.ge.u32 %p0, %r3, %r0;
    @%p0 bra done;
    mul.wide.u32 %d0, %r3, 4;
    ld.param.u64 %d1, [x];
    ld.param.u64 %d2, [y];
    ld.param.u64 %d3, [out];
    add.u64 %d1, %d1, %d0;
    add.u64 %d2, %d2, %d0;
    add.u64 %d3, %d3, %d0;
    ld.global.f32 %f0, [%d1];
    ld.global.f32 %f1, [%d2];
    ld.param.f32 %f2, [a];
    fma.rn.f32 %f3, %f2, %f0, %f1;
    st.global.f32 [%d3], %f3;
done:
    ret;
}
";

/// `to[t, h, 0..4] = from[t, h, 0..4]`, both strided, a CTA a (t, h).
pub const COPY: &str = "\
.version 7.0
.target sm_80
.address_size 64

.visible .entry copy(.param .u64 from, .param .u64 from0, .param .u64 from1,
                     .param .u64 to, .param .u64 to0, .param .u64 to1)
{
    .reg .pred %p<1>;
    .reg .b32 %r<3>;
    .reg .b64 %d<10>;
    .reg .f32 %f<1>;
    mov.u32 %r0, %ctaid.x;
    mov.u32 %r1, %ctaid.y;
    mov.u32 %r2, %tid.x;
    setp.ge.u32 %p0, %r2, 4;
    @%p0 bra done;
    cvt.u64.u32 %d0, %r0;
    cvt.u64.u32 %d1, %r1;
    cvt.u64.u32 %d2, %r2;
    ld.param.u64 %d3, [from0];
    ld.param.u64 %d4, [from1];
    mad.lo.u64 %d5, %d0, %d3, %d2;
    mad.lo.u64 %d5, %d1, %d4, %d5;
    ld.param.u64 %d6, [to0];
    ld.param.u64 %d7, [to1];
    mad.lo.u64 %d8, %d0, %d6, %d2;
    mad.lo.u64 %d8, %d1, %d7, %d8;
    ld.param.u64 %d9, [from];
    mad.lo.u64 %d5, %d5, 4, %d9;
    ld.param.u64 %d9, [to];
    mad.lo.u64 %d8, %d8, 4, %d9;
    ld.global.f32 %f0, [%d5];
    st.global.f32 [%d8], %f0;
done:
    ret;
}
";

pub fn symbol(name: &str) -> Dim {
    Dim::Symbol(name.to_owned())
}

pub fn spec(name: &str, elem: Elem, dims: Vec<Dim>, access: Access, align: u32) -> TensorSpec {
    TensorSpec { name: name.to_owned(), elem, dims, access, align }
}

fn pointer(name: &str) -> Arg {
    Arg::Pointer(name.to_owned())
}

fn stride(tensor: &str, dim: usize) -> Arg {
    Arg::Stride { tensor: tensor.to_owned(), dim }
}

pub fn launch(ptx: &str, entry: &str, grid: [Expr; 3], threads: u32, args: Vec<Arg>) -> Launch {
    Launch {
        ptx: Arc::from(ptx),
        entry: entry.to_owned(),
        grid,
        threads,
        shared: 0,
        registers: 0,
        resident: 1,
        cluster: [1; 3],
        args,
    }
}

/// `out = a x + y` over f32 `[n]`.
pub fn axpy() -> Plan {
    let f32s = |name, access| spec(name, Elem::F32, vec![symbol("n")], access, 16);
    let grid = [Expr::symbol("n").ceil_div(128), 1.into(), 1.into()];
    let args =
        vec![pointer("out"), pointer("x"), pointer("y"), Arg::Scalar("a".to_owned()), Arg::Computed(Expr::symbol("n"))];
    Plan {
        name: "axpy".to_owned(),
        target: Target::SM_80,
        tensors: vec![f32s("x", Access::Read), f32s("y", Access::Read), f32s("out", Access::Write)],
        scalars: vec![ScalarSpec { name: "a".to_owned(), elem: Elem::F32 }],
        requires: Vec::new(),
        workspace: 0.into(),
        launches: vec![launch(AXPY, "axpy", grid, 128, args)],
    }
}

/// `out = a (a x + y) + y`, through a workspace that begins 256 bytes in.
pub fn axpy_twice() -> Plan {
    let mut plan = axpy();
    plan.name = "axpy-twice".to_owned();
    plan.workspace = Expr::symbol("n") * 4.into() + 256.into();
    let scratch = || Arg::Workspace { offset: 256.into() };
    let mut second = plan.launches[0].clone();
    plan.launches[0].args[0] = scratch();
    second.args[1] = scratch();
    plan.launches.push(second);
    plan
}

/// `to = from` over f32 `[tokens, heads, 4]`, with any strides of tokens and heads.
pub fn copy() -> Plan {
    let dims = || vec![symbol("tokens"), symbol("heads"), Dim::Fixed(4)];
    let args =
        vec![pointer("from"), stride("from", 0), stride("from", 1), pointer("to"), stride("to", 0), stride("to", 1)];
    Plan {
        name: "copy".to_owned(),
        target: Target::SM_80,
        tensors: vec![
            spec("from", Elem::F32, dims(), Access::Read, 16),
            spec("to", Elem::F32, dims(), Access::Write, 16),
        ],
        scalars: Vec::new(),
        requires: Vec::new(),
        workspace: 0.into(),
        launches: vec![launch(COPY, "copy", [Expr::symbol("tokens"), Expr::symbol("heads"), 1.into()], 32, args)],
    }
}

/// Numbers that differ everywhere.
pub fn ramp(n: u64) -> Vec<f32> {
    (0..n).map(|i| i as f32 * 0.5 - 3.0).collect()
}
