//! A plan goes through JSON unchanged.

use std::sync::Arc;

use lacuna_codegen::ir::Elem;
use lacuna_codegen::plan::{Access, Arg, Dim, Expr, Launch, Plan, Requirement, Scalar, ScalarSpec, TensorSpec};
use lacuna_ptx::Target;

/// One of every kind of part that a plan can have.
fn plan() -> Plan {
    let tokens = || Expr::symbol("tokens");
    let all = (tokens() + 1.into()) * Expr::scalar("max_seqlen") - 2.into();
    Plan {
        name: "everything".to_owned(),
        target: Target::SM_90A,
        tensors: vec![TensorSpec {
            name: "q".to_owned(),
            elem: Elem::Bf16,
            dims: vec![Dim::Symbol("tokens".to_owned()), Dim::Fixed(64)],
            access: Access::Read,
            align: 16,
        }],
        scalars: vec![ScalarSpec { name: "scale".to_owned(), elem: Elem::F32 }],
        requires: vec![Requirement { what: "it holds".to_owned(), left: tokens(), right: all.clone() }],
        workspace: all.clone().ceil_div(8).min(tokens()).max(1u64),
        launches: vec![Launch {
            ptx: Arc::from("// \"text\"\n\t\u{e9}"),
            entry: "main".to_owned(),
            grid: [tokens(), 1.into(), 2.into()],
            threads: 128,
            shared: 1 << 16,
            registers: 255,
            resident: 2,
            cluster: [2, 1, 1],
            args: vec![
                Arg::Pointer("q".to_owned()),
                Arg::Stride { tensor: "q".to_owned(), dim: 0 },
                Arg::Scalar("scale".to_owned()),
                Arg::Computed(all.clone()),
                Arg::Wide(tokens()),
                Arg::Workspace { offset: all },
                Arg::Counter,
            ],
        }],
    }
}

#[test]
fn every_part_of_a_plan_comes_back() {
    let text = serde_json::to_string(&plan()).unwrap();
    assert!(!text.contains('\n'), "one line: {text}");
    let back: Plan = serde_json::from_str(&text).unwrap();
    assert_eq!(format!("{back:?}"), format!("{:?}", plan()));
}

#[test]
fn a_number_comes_back_bit_for_bit() {
    for scalar in [Scalar::I32(i32::MIN), Scalar::F32(0.1), Scalar::F32(f32::MIN_POSITIVE)] {
        let text = serde_json::to_string(&scalar).unwrap();
        assert_eq!(serde_json::from_str::<Scalar>(&text).unwrap(), scalar, "{text}");
    }
}

#[test]
fn a_target_that_there_is_not_is_refused() {
    let text = serde_json::to_string(&plan()).unwrap().replace("sm_90a", "sm_1");
    assert!(serde_json::from_str::<Plan>(&text).unwrap_err().to_string().contains("sm_1"));
}
