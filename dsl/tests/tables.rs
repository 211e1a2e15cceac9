//! Schedules over whole vectors and tables: what they record, and what is told to their authors.

use lacuna_dsl::prelude::*;
use lacuna_dsl::{Error, Staged, Staging};

axes! {
    /// Elements at a time.
    Lane;
    /// Keys that are counted.
    Key;
}

extents! {
    /// Numbers in a row.
    Numbers = "numbers";
    /// Rows of numbers.
    Lists = "lists";
}

/// Packs what is above zero in each row, and says how many there are.
#[schedule(tune(Lane in [64, 32], warps in [2, 1]))]
fn pack(
    cx: &Cx,
    x: TableIn<I32, (Lists, Numbers)>,
    packed: TableOut<I32, (Lists, Numbers)>,
    kept: TableOut<I32, Lists>,
) {
    let row = cx.grid1(cx.each::<Lists>());
    let (count, lanes) = (cx.size::<Numbers>(), cx.extent::<Lane>() as i32);
    let base = cx.var::<Scalar<I32>>("base", 0);
    for i in cx.range(0, (count + (lanes - 1)) / lanes) {
        let place = cx.iota::<Lane>() + i * lanes;
        let number = x.at((row, place.min(count - 1)));
        let keep = number.gt(0) & place.lt(count);
        let at = keep.prefix_sum();
        packed.set_where((row, at.before + base.get()), number, keep);
        base.set(base.get() + at.total);
    }
    kept.set(row, base.get());
}

/// How often each key stands in a row, and how often at most.
#[schedule(tune(Lane in [64], Key in [16], warps in [1]))]
fn count(
    cx: &Cx,
    x: TableIn<I32, (Lists, Numbers)>,
    counts: TableOut<I32, (Lists, Numbers)>,
    most: TableOut<F32, Lists>,
) {
    let row = cx.grid1(cx.each::<Lists>());
    let table = cx.shared_table::<Key>("counts");
    let key = cx.iota::<Key>();
    table.set(key, 0, true);
    let place = cx.iota::<Lane>();
    let seen = table.count_up(x.at((row, place)), place.lt(cx.size::<Numbers>()));
    counts.set((row, key), table.get(key));
    cx.when(seen.ge(0).any(), || {
        most.set(row, seen.greatest().to_f32() + seen.to_f32().total() - seen.least().to_f32())
    });
}

fn shape() -> Shape {
    Shape::new(Elem::Bf16, 64, 64, 1)
}

fn staged<S: Schedule>(schedule: S) -> Staged {
    schedule.stage(Target::SM_80, &shape(), &S::Pick::default()).expect("a schedule")
}

#[test]
fn a_schedule_of_vectors_records_what_it_does() {
    insta::assert_snapshot!(staged(Pack).func.to_string());
    insta::assert_snapshot!(staged(Count).func.to_string());
}

#[test]
fn tables_are_tensors_of_the_plan() {
    let plan = staged(Pack).compile().expect("a plan");
    let tensors: Vec<String> = plan.tensors.iter().map(|t| format!("{} {:?} {:?}", t.name, t.dims, t.access)).collect();
    assert_eq!(
        tensors,
        [
            r#"x [Symbol("lists"), Symbol("numbers")] Read"#,
            r#"packed [Symbol("lists"), Symbol("numbers")] Write"#,
            r#"kept [Symbol("lists")] Write"#,
        ]
    );
    assert_eq!(format!("{:?}", plan.launches[0].grid[0]), r#"Symbol("lists")"#);
    assert_eq!(plan.launches[0].threads, 64);
}

#[test]
fn an_extent_in_pieces_is_a_grid() {
    let mut staging = Staging::new("test", Target::SM_80, &shape());
    staging.axis::<Lane>(48);
    let staged = staging.run(|cx| {
        let out = <TableOut<I32, Numbers> as Input>::declare(cx, "out");
        let piece = cx.grid1(cx.pieces::<Numbers, Lane>());
        out.set_where(cx.iota::<Lane>() + piece.first, piece.number, (cx.iota::<Lane>() + piece.first).lt(piece.end));
    });
    let grid = staged.expect("a schedule").grid;
    assert_eq!(format!("{:?}", grid[0]), r#"CeilDiv(Symbol("numbers"), Const(48))"#);
}

/// What is told of a function over a table, without the file: when it is staged, or when it is compiled.
#[track_caller]
fn told(body: impl FnOnce(&Cx, TableIn<I32, (Lists, Numbers)>, TableOut<I32, Numbers>)) -> Vec<String> {
    let mut staging = Staging::new("test", Target::SM_80, &shape());
    staging.axis::<Lane>(64);
    staging.axis::<Key>(16);
    let staged = staging.run(|cx| {
        let x = <TableIn<I32, (Lists, Numbers)> as Input>::declare(cx, "x");
        let out = <TableOut<I32, Numbers> as Input>::declare(cx, "out");
        cx.grid1(cx.each::<Lists>());
        body(cx, x, out);
    });
    match staged.and_then(Staged::compile) {
        Err(Error::Staging(mistakes)) => {
            mistakes.iter().map(|m| format!("{}: {}: {}", m.loc.line(), m.message, m.label)).collect()
        }
        other => panic!("{:?}", other.map(|plan| plan.name)),
    }
}

#[test]
fn mistakes_are_told_at_their_line() {
    let line = line!();
    let short = told(|cx, x, _| {
        let _ = x.at(cx.iota::<Lane>());
    });
    assert_eq!(short, [format!("{}: `x` has 2 dimensions: 1 indices are given", line + 2)]);
    let long = told(|cx, _, out| out.set((cx.scalar(0), cx.iota::<Lane>()), 1));
    assert_eq!(long, [format!("{}: `out` has 1 dimensions: 2 indices are given", line + 5)]);
    let unordered = told(|cx, _, _| {
        let _ = cx.shared_table::<Key>("t").count_up(cx.iota::<Lane>(), true);
    });
    assert_eq!(unordered, [format!("{}: one warp counts in order: this CTA has 4", line + 8)]);
    let columns = told(|cx, _, out| {
        let lanes = cx.iota::<Lane>();
        let _ = cx.iota::<Key>().under::<Lane>() + 1;
        out.set(lanes.total(), 1);
    });
    let words = "a reduction to one scalar takes a tile of one axis, which no tile of two axes has: this is i32<Lane>";
    assert_eq!(columns, [format!("{}: {words}", line + 14)]);
}

#[test]
fn a_schedule_that_stores_nothing_is_told() {
    #[schedule]
    fn silent(cx: &Cx, x: TableIn<I32, Numbers>) {
        let at = cx.grid1(cx.each::<Numbers>());
        let _ = x.at(at);
    }
    let error = Silent.stage(Target::SM_80, &shape(), &SilentPick::default()).expect_err("nothing is stored");
    let text = error.to_string();
    assert!(text.contains("the schedule stores nothing") && text.contains("`TableOut`"), "{text}");
}
