//! What the shipped schedules stage to: their interface, and that every pick that is offered compiles or says why not.

use lacuna_codegen::Error;
use lacuna_codegen::ir::Op;
use lacuna_codegen::plan::{Arg, Dim, Expr, Pick, Scalar};
use lacuna_dsl::Staged;
use lacuna_dsl::prelude::*;
use lacuna_kernels::dense::{QueryMajor, QueryMajorPick};
use lacuna_kernels::nsa::{GroupCentric, GroupCentricPick};
use lacuna_kernels::patterns::{causal, full, window, window_sink};

fn shape() -> Shape {
    Shape::new(Elem::Bf16, 64, 128, 4)
}

fn query_major(mask: Mask) -> Staged {
    QueryMajor::new(mask).stage(Target::SM_80, &shape(), &QueryMajorPick::default()).unwrap()
}

fn group_centric(shape: &Shape) -> Staged {
    GroupCentric::new().stage(Target::SM_80, shape, &GroupCentricPick::default()).unwrap()
}

/// Arguments as one reads them: `q q.0 q.1 k ..`.
fn args(staged: &Staged) -> String {
    let show = |arg: &Arg| match arg {
        Arg::Pointer(name) | Arg::Scalar(name) => name.clone(),
        Arg::Stride { tensor, dim } => format!("{tensor}.{dim}"),
        Arg::Computed(expr) | Arg::Wide(expr) => format!("({})", expression(expr)),
        Arg::Workspace { .. } => "workspace".to_owned(),
        Arg::Counter => "counter".to_owned(),
        Arg::TensorMap(map) => format!("{map:?}"),
    };
    staged.args.iter().map(show).collect::<Vec<_>>().join(" ")
}

fn expression(expr: &Expr) -> String {
    match expr {
        Expr::Const(value) => value.to_string(),
        Expr::Symbol(name) | Expr::Scalar(name) => name.clone(),
        Expr::Add(a, b) => format!("{} + {}", expression(a), expression(b)),
        Expr::Sub(a, b) => format!("{} - {}", expression(a), expression(b)),
        Expr::Mul(a, b) => format!("{} * {}", expression(a), expression(b)),
        Expr::CeilDiv(a, b) => format!("ceil({} / {})", expression(a), expression(b)),
        Expr::Min(a, b) => format!("min({}, {})", expression(a), expression(b)),
        Expr::Max(a, b) => format!("max({}, {})", expression(a), expression(b)),
    }
}

fn tensors(staged: &Staged) -> Vec<String> {
    let dim = |dim: &Dim| match dim {
        Dim::Symbol(name) => name.clone(),
        Dim::Fixed(extent) => extent.to_string(),
    };
    let show = |t: &lacuna_codegen::plan::TensorSpec| {
        let dims: Vec<String> = t.dims.iter().map(dim).collect();
        format!("{} {}[{}] {:?} {}", t.name, t.elem.name(), dims.join(", "), t.access, t.align)
    };
    staged.tensors.iter().map(show).collect()
}

/// How often each kind of operation stands in a func, loops and branches included.
fn count(staged: &Staged, which: fn(&Op) -> bool) -> usize {
    fn walk(body: &[lacuna_codegen::ir::Stmt], which: fn(&Op) -> bool) -> usize {
        let inner = |op: &Op| match op {
            Op::For { body, .. } | Op::If { body, .. } => walk(body, which),
            _ => 0,
        };
        body.iter().map(|s| usize::from(which(&s.op)) + inner(&s.op)).sum()
    }
    walk(&staged.func.body, which)
}

#[test]
fn query_major_interface() {
    let staged = query_major(window_sink(128, 4));
    assert_eq!(staged.grid.each_ref().map(expression), ["ceil(max_seqlen / 128)", "heads_q", "segments_plus_one - 1"]);
    assert_eq!(
        tensors(&staged),
        [
            "q bf16[tokens, heads_q, 64] Read 16",
            "k bf16[tokens, heads_kv, 64] Read 16",
            "v bf16[tokens, heads_kv, 128] Read 16",
            "cu_seqlens i32[segments_plus_one] Read 4",
            "o bf16[tokens, heads_q, 128] Write 16",
            "lse f32[tokens, heads_q] Write 4",
        ]
    );
    assert_eq!(
        args(&staged),
        "q q.0 q.1 k k.0 k.1 v v.0 v.1 cu_seqlens max_seqlen scale window sink o o.0 o.1 lse lse.0"
    );
    assert_eq!(staged.given, [("sink".to_owned(), Scalar::I32(4)), ("window".to_owned(), Scalar::I32(128))].into());
    assert_eq!(
        staged.pick,
        "warps = 4, Rows = 128, Kv = 64, stages = 2, overlap = 1, turns = 1, pack = 1, persist = 1"
    );
}

#[test]
fn group_centric_interface() {
    let staged = group_centric(&shape());
    assert_eq!(staged.grid.each_ref().map(expression), ["tokens", "heads_kv", "1"]);
    assert_eq!(
        tensors(&staged),
        [
            "q bf16[tokens, heads_q, 64] Read 16",
            "k bf16[tokens, heads_kv, 64] Read 16",
            "v bf16[tokens, heads_kv, 128] Read 16",
            "picks i32[tokens, heads_kv, blocks] Read 4",
            "cu_seqlens i32[segments_plus_one] Read 4",
            "o bf16[tokens, heads_q, 128] Write 16",
            "lse f32[tokens, heads_q] Write 4",
        ]
    );
    assert_eq!(
        args(&staged),
        "q q.0 q.1 k k.0 k.1 v v.0 v.1 picks picks.0 picks.1 cu_seqlens (segments_plus_one - 1) scale (blocks) o o.0 o.1 lse lse.0"
    );
    assert_eq!(staged.given, Default::default());
}

#[test]
fn one_product_a_block_each_and_a_mask_under_a_branch() {
    for staged in [query_major(causal()), query_major(window_sink(9, 9)), group_centric(&shape())] {
        assert_eq!(count(&staged, |op| matches!(op, Op::For { .. })), 1, "runs share one loop");
        assert_eq!(count(&staged, |op| matches!(op, Op::Dot(..))), 1);
        assert_eq!(count(&staged, |op| matches!(op, Op::Accumulate(..))), 1);
        assert_eq!(count(&staged, |op| matches!(op, Op::Load(_))), 3);
        assert_eq!(count(&staged, |op| matches!(op, Op::Store(..))), 2);
        assert_eq!(count(&staged, |op| matches!(op, Op::If { .. })), 1);
    }
}

#[test]
fn groups_are_padded_to_whole_bands() {
    for (group, padded) in [(1, 16), (3, 16), (16, 16), (17, 32), (64, 64)] {
        let staged = group_centric(&Shape { group, ..shape() });
        let axis = staged.func.axes.iter().find(|a| a.name == "Group").unwrap();
        assert_eq!(axis.extent, padded);
    }
}

#[test]
fn staging_is_deterministic() {
    let twice = [(); 2].map(|()| format!("{:?}", query_major(window_sink(128, 4))));
    assert_eq!(twice[0], twice[1]);
    let plans = [(); 2].map(|()| query_major(causal()).compile().unwrap().launches[0].ptx.clone());
    assert_eq!(plans[0], plans[1]);
}

#[test]
fn arguments_of_masks_are_not_baked() {
    let [a, b] = [window_sink(128, 4), window_sink(7, 300)].map(|mask| query_major(mask).compile().unwrap());
    assert_eq!(a.launches[0].ptx, b.launches[0].ptx);
}

#[test]
fn lines_are_the_schedules_own() {
    let staged = query_major(causal());
    for stmt in &staged.func.body {
        let loc = stmt.loc.unwrap();
        assert!(loc.file().ends_with("dense/query_major.rs"), "{stmt:?}");
    }
}

/// Every pick compiles, or is refused for a reason that is the schedule's.
#[track_caller]
fn compiles(schedule: &impl Tunable, least: usize) {
    let compiled = |pick: &Pick| match schedule.plan(Target::SM_80, pick) {
        Ok(plan) => {
            assert_eq!(plan.launches[0].ptx.matches(".entry").count(), 1);
            true
        }
        Err(Error::Unsupported(_) | Error::SharedMemory { .. }) => false,
        Err(error) => panic!("{pick:?}: {error}"),
    };
    let picks = schedule.space(Target::SM_80).picks();
    assert!(compiled(&picks[0]), "the default pick");
    let count = picks.iter().filter(|pick| compiled(pick)).count();
    assert!(count >= least, "{count} of {}", picks.len());
}

#[test]
fn every_pick_compiles() {
    for elem in [Elem::Bf16, Elem::F16] {
        for (dk, dv) in [(32, 32), (64, 64), (128, 128)] {
            let shape = Shape { elem, dk, dv, ..shape() };
            compiles(&QueryMajor::new(causal()).at(shape.clone()), 12);
            compiles(&GroupCentric::new().at(shape), 6);
        }
    }
    for mask in [full(), window(128)] {
        compiles(&QueryMajor::new(mask).at(shape()), 12);
    }
    for group in [1, 3, 5, 6, 7, 17, 64] {
        compiles(&GroupCentric::new().at(Shape { group, ..shape() }), 4);
    }
}

/// With keys apart there is a second table, and nothing else of the interface changes but the keys' extent.
#[test]
fn keys_apart() {
    let shape = shape().with_keys_apart();
    let staged = QueryMajor::new(causal()).stage(Target::SM_80, &shape, &QueryMajorPick::default()).unwrap();
    assert_eq!(
        tensors(&staged),
        [
            "q bf16[tokens, heads_q, 64] Read 16",
            "k bf16[tokens_k, heads_kv, 64] Read 16",
            "v bf16[tokens_k, heads_kv, 128] Read 16",
            "cu_seqlens i32[segments_plus_one] Read 4",
            "cu_seqlens_k i32[segments_plus_one] Read 4",
            "o bf16[tokens, heads_q, 128] Write 16",
            "lse f32[tokens, heads_q] Write 4",
        ]
    );
    assert_eq!(staged.grid, query_major(causal()).grid);
}

/// No tensor of the lists alone says how many keys there are.
#[test]
fn lists_by_themselves_are_not_of_keys_apart() {
    let lists = lacuna_kernels::lists::InverseLists::new(
        shape().with_keys_apart(),
        lacuna_kernels::lists::Chosen::picks(64),
        16,
    );
    let message = lists.plan(Target::SM_80).unwrap_err().to_string();
    assert!(message.contains("with keys apart, chain them with what reads the keys"), "{message}");
    assert_eq!(lists.plans(Target::SM_80).unwrap().len(), 5);
}
