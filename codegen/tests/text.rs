//! The text form of a func: what is printed reads back as the same func, and no text makes the reader panic.

use lacuna_codegen::ir::{
    Axis, AxisId, Best, BestId, Binary, Buffer, BufferId, Builder, Compare, Const, Elem, Fold, Func, Op, Overlap,
    Param, ParamId, Partition, Reduce, Roles, Slice, Stmt, Table, TableId, Tensor, Type, Unary, Value, ValueId, Var,
    VarId, read,
};
use lacuna_codegen::passes;
use lacuna_codegen::pattern::Pattern;
use lacuna_ptx::Target;
use proptest::prelude::*;

/// Every operation, before and after the passes.
const SAMPLE: &str = r#"func @group_centric target sm_90a warps 4 {
  axis Group = 16
  axis Kv = 64
  axis Dk = 128
  axis "value width" = 64
  axis Twice#4 = 1
  axis Twice#5 = 2
  param q : bf16[token, head, Dk]
  param k : bf16[token, head, Dk]
  param o : bf16[token, head, token]
  param table : i32[n]
  param scale : f32
  param n : i32
  var %m : f32<Group> = -inf
  var %l : partial f32<Group> = 0.0
  var %acc : f32<Group, "value width"> = 1e-7
  var %at : i32 = -3
  var %laps : i32 = 0 lasts
  var %seen : bool = false
  buffer $k : bf16<Kv, Dk> x 3
  table $counts over Twice#4
  best $picks : 7 over Group
  partition rows Group x 1 cols Kv x 4
  %0 = program_id 0
  %1 = param scale
  %2 = const 0
  %3 = const -2147483648
  %4 = const 0f7FC00000
  %5 = const 3.4028235e38
  %6 = const true
  %7 = param n
  %8 = element table[%0]
  %9 = segment table of %7 at %0
  exit %6
  %10 = load q[%0, %2] rows head count %7 : bf16<Group, Dk>
  %11 = iota Kv
  %12 = iota Twice#5
  %13 = neg %5 : f32
  %14 = not %6 : bool
  %15 = add %0, %2 : i32
  %16 = lt %0, %2 : bool
  %17 = select %16, %0, %2 : i32
  %18 = fma %1, %5, %5 : f32
  %19 = broadcast %18 : f32<Group, Kv>
  %20 = reduce max %19 : f32<Group>
  %21 = reduce sum %19 : partial f32<Group>
  %22 = convert %19 : bf16<Group, Kv>
  copy_async $k[%2] = k[%0, %2] rows token count %7
  commit
  wait 1
  barrier
  %23 = shared $k[%2]
  %24 = operand %23 : bf16<Kv, Dk>
  for %25 in %2..%7 pipelined 3 {
    %26 = dot %10 . %23 : f32<Group, Kv>
    for %27 in %2..%25 {
      accumulate %acc += %22 . %24
    }
    if %16 {
      write %l = %21
    }
  }
  %28 = merge max %m sum %l acc %acc scale %1
  %38 = merge max %m sum %l scale %1
  %29 = read %acc
  %30 = read %seen : f32
  %31 = fold any %14 : bool
  %32 = scan %12 : i32<Twice#5>
  %33 = total %32
  set_element table[%32] = %33 where %31
  %34 = get $counts[%32] : i32<Twice#5>
  set $counts[%32] = %34 where %6
  %35 = count_up $counts[%12] where %6 : i32<Twice#5>
  take $picks += %19 at %2
  settle $picks
  %36 = best_column $picks[0]
  %37 = best_score $picks[6]
  clear $picks
  take $picks += %19 at %2 after %37, %36
  store o[%0, %2] rows token#0 count %7 = %22
  store o[%0, %2] rows head count %7 = %22
}
"#;

#[test]
fn the_sample_prints_as_it_is_written() {
    let func = read(SAMPLE).expect("a func");
    assert_eq!(func.to_string(), SAMPLE);
    assert_eq!((func.axes.len(), func.values.len(), func.target), (6, 39, Target::SM_90A));
    assert!(matches!(func.vars[0].init, Const::F32(bits) if f32::from_bits(bits) == f32::NEG_INFINITY));
}

#[test]
fn space_and_comments_do_not_matter() {
    let text = "; a comment\nfunc @f target sm_80\n warps 1 { axis A=8 ; here\n %0=const 1 %1 = add %0,%0:i32 }";
    let func = read(text).expect("a func");
    assert_eq!(
        func.to_string(),
        "func @f target sm_80 warps 1 {\n  axis A = 8\n  %0 = const 1\n  %1 = add %0, %0 : i32\n}\n"
    );
}

#[test]
fn errors_have_their_place() {
    let error = |body: &str| {
        let text = format!("func @f target sm_80 warps 4 {{\n  axis A = 8\n  param t : bf16[x, x]\n  {body}\n}}\n");
        read(&text).expect_err(body).to_string()
    };
    let head = |text: &str| read(text).expect_err(text).to_string();
    assert_eq!(head(""), "1:1: `func` should stand here, not the end of the text");
    assert_eq!(head("func @f target sm_12 warps 1 {}").split(';').next(), Some("1:16: unknown target `sm_12`"));
    assert_eq!(head("func @f target sm_80 warps 4 {"), "1:31: an operation should stand here, not the end of the text");
    assert_eq!(head("func @f target sm_80 warps 4 {} x"), "1:33: the end of the text should stand here, not `x`");
    assert_eq!(head("func @\"f"), "1:7: this quoted name does not end on its line");
    assert_eq!(head("func @\"\\x\""), "1:8: after `\\` in a name stands `\"`, `\\`, `n` or `u{..}`");
    assert_eq!(error("%0 = frobnicate %1"), "4:8: `frobnicate` is no operation");
    assert_eq!(error("%0 = iota B"), "4:13: \"B\" is not the name of an axis");
    assert_eq!(error("%0 = add %1, 3 : i32"), "4:16: `%` should stand here, not `3`");
    assert_eq!(error("%0 = add %1, %2"), "4:8: the type of what this makes should stand behind it, `: f32<..>`");
    assert_eq!(error("%0 = const 99999999999"), "4:14: `99999999999` is not a constant of 32 bits");
    assert_eq!(error("%0 = const 1e99"), "4:14: `1e99` is not a constant of 32 bits");
    assert_eq!(error("%99999999 = const 1"), "4:4: values are numbered below 1048576");
    assert_eq!(error("%0 = const 1 %0 = const true"), "4:16: %0 is made a second time, as another type");
    assert_eq!(error("%0 = load t[%1] rows x count %1 : bf16<A>"), "4:24: \"x\" is several: `x#0` says which");
    assert_eq!(error("axis A#3 = 8"), "4:8: this is number 1 of its kind, and says that it is number 3");
    assert_eq!(error("%0 = iota A#3"), "4:13: number 3 is not called \"A\"");
    assert_eq!(error("wait ~"), "4:8: `~` means nothing here");
    let deep = "if %0 {".repeat(100);
    assert_eq!(error(&deep), "4:458: loops and branches are nested more than 64 deep");
}

#[test]
fn what_a_pattern_emits_reads_back() {
    let pattern = Pattern::record("window_sink", &["window", "sink"], |q, kv, args| {
        kv.le(q) & ((q - kv).lt(args[0]) | kv.lt(args[1]))
    });
    let mut b = Builder::new("mask", Target::SM_80, 4);
    let (rows, cols) = (b.axis("Rows", 16), b.axis("Cols", 64));
    let (q, kv) = (b.iota(rows), b.iota(cols));
    let args = [b.scalar_param("window", Elem::I32), b.scalar_param("sink", Elem::I32)];
    let len = b.scalar_param("len", Elem::I32);
    pattern.emit_keep(&mut b, q, kv, &args, &[]);
    pattern.emit_full(&mut b, (len, len), (len, len), &args);
    pattern.emit_runs(&mut b, (len, len), len, 64, &args);
    let text = b.finish().expect("no mistakes").to_string();
    assert_eq!(read(&text).expect("a func").to_string(), text);
    insta::assert_snapshot!(text);
}

fn names() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "[A-Za-z_][A-Za-z0-9_]{0,6}",
        1 => Just("Kv".to_owned()),
        1 => Just("inf".to_owned()),
        1 => any::<String>(),
    ]
}

fn elems() -> impl Strategy<Value = Elem> {
    prop_oneof![Just(Elem::Bf16), Just(Elem::F16), Just(Elem::F32), Just(Elem::I32), Just(Elem::Bool)]
}

fn types() -> impl Strategy<Value = Type> {
    let axes = proptest::collection::vec((0u32..3).prop_map(AxisId), 0..3);
    (elems(), axes, any::<bool>()).prop_map(|(elem, axes, partial)| Type { elem, axes, partial })
}

fn constants() -> impl Strategy<Value = Const> {
    prop_oneof![
        any::<i32>().prop_map(Const::I32),
        any::<u32>().prop_map(Const::F32),
        any::<f32>().prop_map(Const::f32),
        any::<bool>().prop_map(Const::Bool),
    ]
}

const VALUES: u32 = 40;

fn ops() -> impl Strategy<Value = Op> {
    let v = || (0..VALUES).prop_map(ValueId);
    let var = || (0u32..3).prop_map(VarId);
    let buffer = || (0u32..2).prop_map(BufferId);
    let tensor = || (0u32..2).prop_map(ParamId);
    let table = || (0u32..2).prop_map(TableId);
    let best = || (0u32..2).prop_map(BestId);
    let list = || proptest::collection::vec((0..VALUES).prop_map(ValueId), 0..4);
    let slice = || {
        (tensor(), list(), prop::option::of(0usize..2), v()).prop_map(|(tensor, index, along, count)| Slice {
            tensor,
            index,
            along,
            count,
        })
    };
    let simple = prop_oneof![
        constants().prop_map(Op::Const),
        (0u32..3).prop_map(|p| Op::Param(ParamId(p))),
        any::<u8>().prop_map(Op::ProgramId),
        (0usize..Unary::ALL.len(), v()).prop_map(|(op, a)| Op::Unary(Unary::ALL[op], a)),
        (0usize..9, v(), v()).prop_map(|(op, a, b)| Op::Binary(Binary::ALL[op], a, b)),
        (0usize..6, v(), v()).prop_map(|(op, a, b)| Op::Compare(Compare::ALL[op], a, b)),
        (v(), v(), v()).prop_map(|(a, b, c)| Op::Select(a, b, c)),
        (v(), v(), v()).prop_map(|(a, b, c)| Op::Fma(a, b, c)),
        v().prop_map(Op::Convert),
        (0u32..3).prop_map(|a| Op::Iota(AxisId(a))),
        v().prop_map(Op::Broadcast),
        (any::<bool>(), v()).prop_map(|(max, a)| Op::Reduce(if max { Reduce::Max } else { Reduce::Sum }, a)),
        (tensor(), list()).prop_map(|(tensor, index)| Op::Element { tensor, index }),
        (tensor(), prop::collection::vec(v(), 0..2), v(), v()).prop_map(|(table, row, segments, at)| Op::Segment {
            table,
            row,
            segments,
            at
        }),
    ];
    let lanes = prop_oneof![
        (0usize..Fold::ALL.len(), v()).prop_map(|(op, a)| Op::Fold(Fold::ALL[op], a)),
        v().prop_map(Op::Scan),
        v().prop_map(Op::Total),
        (tensor(), list(), v(), v()).prop_map(|(tensor, index, value, keep)| Op::SetElement {
            tensor,
            index,
            value,
            keep
        }),
        (table(), v()).prop_map(|(table, index)| Op::TableGet { table, index }),
        (table(), v(), v(), v()).prop_map(|(table, index, value, keep)| Op::TableSet { table, index, value, keep }),
        (table(), v(), v(), v()).prop_map(|(table, index, value, keep)| Op::TableAdd { table, index, value, keep }),
        (table(), v(), v()).prop_map(|(table, key, keep)| Op::CountUp { table, key, keep }),
    ];
    let bests = prop_oneof![
        (best(), v(), v(), prop::option::of([v(), v()])).prop_map(|(best, scores, first, after)| Op::Take {
            best,
            scores,
            first,
            after
        }),
        best().prop_map(Op::Settle),
        best().prop_map(Op::Clear),
        (best(), any::<u32>()).prop_map(|(best, n)| Op::BestColumn(best, n)),
        (best(), any::<u32>()).prop_map(|(best, n)| Op::BestScore(best, n)),
    ];
    let storage = prop_oneof![
        slice().prop_map(Op::Load),
        (slice(), v()).prop_map(|(slice, tile)| Op::Store(slice, tile)),
        (v(), v()).prop_map(|(a, b)| Op::Dot(a, b)),
        var().prop_map(Op::Read),
        (var(), v()).prop_map(|(var, a)| Op::Write(var, a)),
        (var(), v(), v()).prop_map(|(var, a, b)| Op::Accumulate(var, a, b)),
        (var(), var(), prop::option::of(var()), v()).prop_map(|(max, sum, acc, scale)| Op::Merge {
            max,
            sum,
            acc,
            scale
        }),
        v().prop_map(Op::Exit),
        (slice(), buffer(), v()).prop_map(|(from, buffer, slot)| Op::CopyAsync { from, buffer, slot }),
        Just(Op::Commit),
        any::<u32>().prop_map(Op::Wait),
        Just(Op::Barrier),
        (buffer(), v()).prop_map(|(buffer, slot)| Op::Shared(buffer, slot)),
        v().prop_map(Op::Operand),
    ];
    let roles = prop_oneof![
        (buffer(), v(), v()).prop_map(|(buffer, slot, phase)| Op::Acquire { buffer, slot, phase }),
        (buffer(), v(), v()).prop_map(|(buffer, slot, phase)| Op::Await { buffer, slot, phase }),
        (buffer(), v()).prop_map(|(buffer, slot)| Op::Release { buffer, slot }),
        (slice(), buffer(), v()).prop_map(|(from, buffer, slot)| Op::Fill { from, buffer, slot }),
        (var(), v(), v(), any::<bool>()).prop_map(|(acc, lhs, rhs, fresh)| Op::Start { acc, lhs, rhs, fresh }),
        Just(Op::Publish),
        Just(Op::Turn),
        Just(Op::Pass),
        Just(Op::Fence),
        Just(Op::Close),
        any::<u32>().prop_map(Op::Land),
        prop::collection::vec(v(), 1..3).prop_map(Op::Hold),
    ];
    let leaf = prop_oneof![simple, lanes, bests, storage, roles];
    leaf.prop_recursive(3, 24, 6, move |inner| {
        let body = proptest::collection::vec(inner, 0..6)
            .prop_map(|ops| ops.into_iter().map(|op| Stmt { result: None, op, loc: None }).collect::<Vec<_>>());
        prop_oneof![
            (v(), v(), v(), any::<Option<u32>>(), body.clone()).prop_map(|(index, lo, hi, pipelined, body)| Op::For {
                index,
                lo,
                hi,
                pipelined,
                body
            }),
            (v(), body.clone()).prop_map(|(cond, body)| Op::If { cond, body }),
            (v(), body.clone()).prop_map(|(cond, body)| Op::Leave { cond, body }),
            (v(), body.clone()).prop_map(|(cond, body)| Op::Again { cond, body }),
            body.clone().prop_map(Op::Loop),
            (any::<bool>(), body).prop_map(|(first, body)| if first { Op::Produce(body) } else { Op::Consume(body) }),
        ]
    })
}

/// Gives every operation but loops and branches a result, and every loop an index of its own.
fn number(body: &mut [Stmt], next: &mut u32) {
    for stmt in body {
        match &mut stmt.op {
            Op::For { index, body, .. } => {
                *index = ValueId(*next);
                *next += 1;
                number(body, next);
            }
            op if op.body().is_some() => number(op.body_mut().expect("it has one"), next),
            _ => {
                stmt.result = Some(ValueId(*next));
                *next += 1;
            }
        }
    }
}

prop_compose! {
    /// A func that names what exists, and makes no other sense.
    fn funcs()(
        name in names(),
        target in 0usize..Target::ALL.len(),
        warps in any::<u32>(),
        axes in proptest::collection::vec((names(), any::<u32>()), 3),
        dims in proptest::collection::vec((names(), elems(), proptest::collection::vec(names(), 2..4)), 2),
        scalar in (names(), elems()),
        vars in proptest::collection::vec((names(), types(), constants(), any::<bool>()), 3),
        buffers in proptest::collection::vec((names(), types(), any::<u32>(), any::<bool>()), 2),
        tables in proptest::collection::vec((names(), 0u32..3), 2),
        bests in proptest::collection::vec((names(), 0u32..3, any::<u32>()), 2),
        partition in proptest::option::of((proptest::option::of(0u32..3), proptest::option::of(0u32..3), any::<u32>(), any::<u32>())),
        roles in proptest::option::of((any::<u32>(), any::<u32>())),
        overlap in 0usize..Overlap::ALL.len(),
        turns in any::<bool>(),
        (persist, draws) in (any::<bool>(), any::<bool>()),
        ops in proptest::collection::vec(ops(), 0..12),
        types in proptest::collection::vec(types(), 400),
    ) -> Func {
        let mut params: Vec<Param> =
            dims.into_iter().map(|(name, elem, dims)| Param::Tensor(Tensor { name, elem, dims })).collect();
        params.push(Param::Scalar { name: scalar.0, elem: scalar.1 });
        let mut body: Vec<Stmt> = ops.into_iter().map(|op| Stmt { result: None, op, loc: None }).collect();
        let mut count = 0;
        number(&mut body, &mut count);
        Func {
            name,
            target: Target::ALL[target],
            warps,
            axes: axes.into_iter().map(|(name, extent)| Axis { name, extent }).collect(),
            params,
            vars: vars.into_iter().map(|(name, ty, init, lasts)| Var { name, ty, init, lasts, loc: None }).collect(),
            values: types.into_iter().map(|ty| Value { ty, loc: None }).collect(),
            buffers: buffers.into_iter().map(|(name, ty, slots, ring)| Buffer { name, ty, slots, ring }).collect(),
            tables: tables.into_iter().map(|(name, axis)| Table { name, axis: AxisId(axis) }).collect(),
            bests: bests.into_iter().map(|(name, axis, count)| Best { name, axis: AxisId(axis), count }).collect(),
            partition: partition.map(|(row_axis, col_axis, rows, cols)| Partition {
                row_axis: row_axis.map(AxisId),
                col_axis: col_axis.map(AxisId),
                rows,
                cols,
                roles: roles.map(|(producer, consumer)| Roles { producer, consumer, ctas: 1 + producer % 3 }),
            }),
            overlap: Overlap::ALL[overlap],
            turns,
            persist,
            // Tiles are drawn by CTAs that do several.
            draws: persist && draws,
            body,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_drawn_func_reads_back(func in funcs()) {
        let text = func.to_string();
        let back = match read(&text) {
            Ok(back) => back,
            Err(error) => return Err(TestCaseError::fail(format!("{error}\n{text}"))),
        };
        prop_assert_eq!(back.to_string(), text);
        // It hardly makes sense; the verifier says so, and does not panic.
        let _ = passes::verify(&func);
        prop_assert_eq!(format!("{:?}", back.body), format!("{:?}", func.body));
        prop_assert_eq!(format!("{:?}", back.vars), format!("{:?}", func.vars));
        prop_assert_eq!(back.axes, func.axes);
        prop_assert_eq!(back.params, func.params);
        prop_assert_eq!(back.buffers, func.buffers);
        prop_assert_eq!(back.tables, func.tables);
        prop_assert_eq!(back.bests, func.bests);
        prop_assert_eq!(back.partition, func.partition);
        prop_assert_eq!((back.persist, back.draws), (func.persist, func.draws));
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in any::<String>(), words in "[a-z%@$#{}<>:=., 0-9\"\\\\-]{0,80}") {
        let _ = read(&text);
        let _ = read(&words);
        let _ = read(&format!("func @f target sm_80 warps 4 {{ axis A = 8 {words}"));
    }

    /// The sample with a piece cut out, or moved elsewhere.
    #[test]
    fn no_damage_makes_the_reader_panic(from in 0..SAMPLE.len(), length in 0usize..40, to in 0..SAMPLE.len()) {
        let end = (from + length).min(SAMPLE.len());
        let cut = format!("{}{}", &SAMPLE[..from], &SAMPLE[end..]);
        let to = to.min(cut.len());
        let moved = format!("{}{}{}", &cut[..to], &SAMPLE[from..end], &cut[to..]);
        for text in [cut, moved] {
            if let Ok(func) = read(&text) {
                prop_assert_eq!(read(&func.to_string()).expect("a func").to_string(), func.to_string());
            }
        }
    }
}
