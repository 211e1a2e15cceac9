//! Several plans as one.

use std::collections::BTreeMap;
use std::sync::Arc;

use lacuna_codegen::Temporary;
use lacuna_codegen::ir::Elem;
use lacuna_codegen::plan::{
    Access, Arg, Dim, Expr, Launch, MapBase, MapDim, MapRow, MapStride, Plan, Promotion, RAGGED_ORIGIN, Requirement,
    Scalar, ScalarSpec, Swizzle, TensorMap, TensorSpec, WRAP,
};
use lacuna_ptx::Target;

fn tensor(name: &str, elem: Elem, dims: &[&str], access: Access) -> TensorSpec {
    let dims = dims.iter().map(|&d| d.parse().map_or_else(|_| Dim::Symbol(d.to_owned()), Dim::Fixed)).collect();
    TensorSpec { name: name.to_owned(), elem, dims, access, align: elem.bytes() }
}

/// A plan of one launch over its tensors: a pointer, then the strides of each.
fn plan(name: &str, tensors: Vec<TensorSpec>, more: Vec<Arg>) -> Plan {
    let mut args = Vec::new();
    for t in &tensors {
        args.push(Arg::Pointer(t.name.clone()));
        args.extend((0..t.dims.len() - 1).map(|dim| Arg::Stride { tensor: t.name.clone(), dim }));
    }
    args.extend(more);
    let launch = Launch {
        ptx: Arc::from(format!("// {name}")),
        entry: name.to_owned(),
        grid: [Expr::symbol("tokens"), Expr::Const(1), Expr::Const(1)],
        threads: 32,
        shared: 0,
        registers: 0,
        resident: 1,
        cluster: [1; 3],
        args,
    };
    Plan {
        name: name.to_owned(),
        target: Target::SM_80,
        tensors,
        scalars: vec![ScalarSpec { name: "scale".to_owned(), elem: Elem::F32 }],
        requires: vec![Requirement { what: "they agree".to_owned(), left: Expr::symbol("slots"), right: 7.into() }],
        workspace: Expr::Const(0),
        launches: vec![launch],
    }
}

fn counts(access: Access) -> TensorSpec {
    tensor("counts", Elem::I32, &["heads", "slots", "chunks"], access)
}

fn first() -> Plan {
    plan("count", vec![tensor("picks", Elem::I32, &["tokens", "heads"], Access::Read), counts(Access::Write)], vec![])
}

fn second() -> Plan {
    let out = tensor("out", Elem::F32, &["tokens"], Access::Write);
    plan("sum", vec![counts(Access::Read), out], vec![Arg::Computed(Expr::symbol("slots"))])
}

fn temporaries() -> Vec<Temporary> {
    let flags = Temporary::new("flags", Elem::I32, [Expr::symbol("tokens")]);
    let slots = Expr::symbol("tokens").ceil_div(64);
    vec![flags, Temporary::new("counts", Elem::I32, [Expr::symbol("heads"), slots, Expr::Const(3)])]
}

fn flagged() -> Plan {
    plan("flag", vec![tensor("flags", Elem::I32, &["tokens"], Access::Write)], vec![])
}

fn value(expr: &Expr) -> u64 {
    let symbols = BTreeMap::from([("tokens".to_owned(), 1000), ("heads".to_owned(), 2)]);
    expr.eval(&symbols, &BTreeMap::<String, Scalar>::new()).unwrap()
}

#[test]
fn what_lies_between_launches_is_in_the_workspace() {
    let whole = Plan::chain("all", [flagged(), first(), second()], &temporaries()).unwrap();
    assert_eq!(whole.name, "all");
    let names: Vec<&str> = whole.tensors.iter().map(|t| t.name.as_str()).collect();
    assert_eq!(names, ["picks", "out"], "temporaries are not the caller's");
    assert_eq!(whole.scalars.len(), 1, "one number of one name");
    assert_eq!(whole.launches.iter().map(|l| l.entry.as_str()).collect::<Vec<_>>(), ["flag", "count", "sum"]);

    // 1000 flags of 4 bytes, then 2 x 16 x 3 counts, each from a multiple of 256 bytes on.
    assert_eq!(value(&whole.workspace), 4096 + 512);
    let args = &whole.launches[2].args;
    let Arg::Workspace { offset } = &args[0] else { panic!("{:?}", args[0]) };
    assert_eq!(value(offset), 4096);
    let strides: Vec<u64> =
        args[1..3].iter().map(|a| if let Arg::Wide(e) = a { value(e) } else { panic!("{a:?}") }).collect();
    assert_eq!(strides, [48, 3]);
    assert_eq!(args[3], Arg::Pointer("out".to_owned()));
    let Arg::Computed(slots) = &args[4] else { panic!("{:?}", args[4]) };
    assert_eq!(value(slots), 16, "what the symbol of a temporary stands for");
    assert_eq!(whole.requires.len(), 1, "a requirement that several plans have is one");
    assert_eq!((value(&whole.requires[0].left), value(&whole.requires[0].right)), (16, 7));
}

#[test]
fn a_plans_own_workspace_lies_behind() {
    let mut own = second();
    own.workspace = Expr::Const(100);
    own.launches[0].args.push(Arg::Workspace { offset: Expr::Const(8) });
    let whole = Plan::chain("all", [flagged(), first(), own.clone(), own], &temporaries()).unwrap();
    assert_eq!(value(&whole.workspace), 4096 + 512 + 256 + 256);
    let place = |launch: usize| match whole.launches[launch].args.last() {
        Some(Arg::Workspace { offset }) => value(offset),
        other => panic!("{other:?}"),
    };
    assert_eq!((place(2), place(3)), (4096 + 512 + 8, 4096 + 512 + 256 + 8));
}

#[test]
fn tensor_maps_follow_their_tensors_into_the_workspace() {
    let ragged = |tensor: &str| {
        let extents = [Expr::symbol("slots"), Expr::Const(3)];
        Arg::TensorMap(TensorMap::ragged(tensor, Elem::I32, [0, 1], extents, [64, 4]).swizzled(Swizzle::B32))
    };
    let mut maps = second();
    maps.workspace = Expr::Const(100);
    let row = MapRow { extent: Expr::symbol("slots"), tile: 8 };
    let own = MapBase::Workspace(Expr::Const(16));
    let scratch = TensorMap {
        base: own,
        elem: Elem::F32,
        inner: row,
        outer: vec![],
        swizzle: Swizzle::None,
        promotion: Promotion::None,
    };
    maps.launches[0].args = vec![ragged("counts"), ragged("out"), Arg::TensorMap(scratch)];
    let whole = Plan::chain("all", [flagged(), first(), maps], &temporaries()).unwrap();
    let map = |i: usize| match &whole.launches[2].args[i] {
        Arg::TensorMap(map) => map,
        other => panic!("{other:?}"),
    };
    let begins = |i: usize| match &map(i).base {
        MapBase::Workspace(offset) => value(offset),
        MapBase::Tensor(name) => panic!("{name}"),
    };
    let strides = |i: usize| -> Vec<u64> {
        let elements =
            |dim: &MapDim| if let MapStride::Elements(e) = &dim.stride { value(e) } else { panic!("{dim:?}") };
        map(i).outer.iter().map(elements).collect()
    };
    // Counts are 2 x 16 x 3 behind 4096 bytes of flags.
    assert_eq!((begins(0), strides(0)), (4096, vec![48, 48, WRAP - 48, 3]));
    assert_eq!(value(&map(0).outer[3].extent), 16, "what the symbol of a temporary stands for");
    assert_eq!(map(1).base, MapBase::Tensor("out".to_owned()));
    assert_eq!(map(1).outer[2].stride, MapStride::WrapLess { tensor: "out".to_owned(), dim: 0 });
    assert_eq!((begins(2), value(&map(2).inner.extent)), (4096 + 512 + 16, 16));

    let renamed = whole.with_tensor("out", "gradient");
    let Arg::TensorMap(map) = &renamed.launches[2].args[1] else { panic!("{:?}", renamed.launches[2].args[1]) };
    assert!(!format!("{map:?}").contains("\"out\""), "{map:?}");
}

/// The address of a row of a ragged map, as hardware makes it, and whether it is in bounds.
#[test]
fn a_ragged_map_ends_where_the_document_ends() {
    let extents = [Expr::symbol("heads"), Expr::Const(128)];
    let map = TensorMap::ragged("k", Elem::Bf16, [0, 1], extents, [64, 64]);
    assert_eq!(map.box_bytes(), 64 * 64 * 2);
    let tensor = |dim: usize| [3 * 128, 128, 1][dim];
    for (first, len) in [(0u64, 1u64), (0, 1341), (700, 641), (1 << 29, 1 << 20)] {
        for row in [0, 1, len - 1, len, len + 63] {
            let x = u64::from(RAGGED_ORIGIN) - len + row;
            let coords = [x, first + len, u64::from(RAGGED_ORIGIN), 1];
            let (mut address, mut inside) = (0u64, true);
            for (coord, dim) in coords.into_iter().zip(&map.outer) {
                let stride: u64 = match &dim.stride {
                    MapStride::Dim { dim, .. } => tensor(*dim),
                    MapStride::WrapLess { dim, .. } => WRAP - tensor(*dim),
                    MapStride::Elements(expr) => value(expr),
                };
                address = address.wrapping_add(coord.wrapping_mul(stride * 2));
                inside &= coord < value(&dim.extent);
            }
            assert_eq!(address, ((first + row) * 3 * 128 + 128) * 2, "{first} {len} {row}");
            assert_eq!(inside, row < len, "{first} {len} {row}");
        }
    }
}

#[test]
fn an_extent_that_an_input_has_as_well_is_a_condition() {
    let mut other = second();
    other.tensors.push(tensor("weights", Elem::F32, &["slots"], Access::Read));
    let whole = Plan::chain("all", [flagged(), first(), other], &temporaries()).unwrap();
    let condition = whole.requires.last().unwrap();
    assert_eq!((&condition.left, value(&condition.right)), (&Expr::symbol("slots"), 16));
}

#[test]
fn what_does_not_go_together_is_refused() {
    let refused =
        |plans: Vec<Plan>, temporaries: &[Temporary]| Plan::chain("all", plans, temporaries).unwrap_err().to_string();
    let all = temporaries();
    assert!(refused(vec![], &[]).contains("a chain has one plan at least"));
    assert!(refused(vec![flagged(), second(), first()], &all).contains("`counts` is read before it is written"));
    assert!(refused(vec![first(), second()], &all).contains("nothing writes `flags`"));
    let mut elsewhere = second();
    elsewhere.target = Target::SM_90;
    assert!(refused(vec![flagged(), first(), elsewhere], &all).contains("`sum` is for sm_90, and others for sm_80"));
    let mut halves = second();
    halves.tensors[0].elem = Elem::F32;
    assert!(refused(vec![flagged(), first(), halves], &all).contains("`counts` is another tensor in `sum`"));
    let mut renamed = second();
    renamed.tensors[0].dims[2] = Dim::Symbol("slots".to_owned());
    assert!(refused(vec![flagged(), first(), renamed], &all).contains("`slots` stands for two extents"));
    let mut fixed = second();
    fixed.tensors[0].dims[2] = Dim::Fixed(4);
    assert!(refused(vec![flagged(), first(), fixed], &all).contains("`counts` has 4 elements a row in `sum`"));
    let mut other = second();
    other.tensors.push(tensor("picks", Elem::I32, &["tokens"], Access::Read));
    assert!(refused(vec![flagged(), first(), other], &all).contains("`picks` is two different tensors"));
    let mut number = second();
    number.scalars[0].elem = Elem::I32;
    assert!(refused(vec![flagged(), first(), number], &all).contains("`scale` is two different numbers"));
    let backwards = plan("write", vec![tensor("picks", Elem::I32, &["tokens", "heads"], Access::Write)], vec![]);
    assert!(refused(vec![flagged(), first(), backwards], &all).contains("`picks` is read before it is written"));
}
