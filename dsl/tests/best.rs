//! Schedules that find the best scores of rows: what they record, and what is told to their authors.

use lacuna_dsl::prelude::*;
use lacuna_dsl::{Error, Expr, Staged, Staging};

fn staging() -> Staging {
    let mut staging = Staging::new("test", Target::SM_80, &Shape::new(Elem::Bf16, 64, 64, 1));
    staging.axis::<Rows>(64);
    staging
}

/// A function over a tile of query rows, with a routing to write.
fn staged(body: impl FnOnce(&Cx, QueryRows<Rows, Dk>, Keys<Dk>, Routing)) -> Result<Staged, Error> {
    staging().run(|cx| {
        let q = <Queries<Dk> as Input>::declare(cx, "q");
        let k = <Keys<Dk> as Input>::declare(cx, "k");
        let docs = <Segments as Input>::declare(cx, "docs");
        let routing = <Routing as Input>::declare(cx, "routing");
        let (i, h, d) = cx.grid3(docs.tiles::<Rows>(), q.heads(), docs.count());
        body(cx, q.tile(docs.at(d), i, h), k, routing);
    })
}

/// What is told of it, without the file: when it is staged, or when it is compiled.
#[track_caller]
fn told(body: impl FnOnce(&Cx, QueryRows<Rows, Dk>, Keys<Dk>, Routing)) -> Vec<String> {
    match staged(body).and_then(Staged::compile) {
        Err(Error::Staging(mistakes)) => {
            mistakes.iter().map(|m| format!("{}: {}: {}", m.loc.line(), m.message, m.label)).collect()
        }
        other => panic!("{:?}", other.map(|plan| plan.name)),
    }
}

/// The scores of a row with itself.
#[track_caller]
fn scores(cx: &Cx, rows: &QueryRows<Rows, Dk>) -> Tile<F32, Rows, Kv> {
    let tile: Tile<F32, Rows, Kv> = cx.filled(1.0);
    tile * cx.iota::<Rows>().to_f32() + rows.document.len.to_f32()
}

#[test]
fn a_routing_says_how_many_blocks_a_row_has() {
    let staged = staged(|cx, rows, _, routing| {
        let best = cx.top_k::<Rows>("best", routing.others(4));
        best.take(scores(cx, &rows), 0);
        best.settle();
        routing.set(&rows, 1, best.column(0));
    });
    let plan = staged.and_then(Staged::compile).expect("a plan");
    let requirement = plan.requires.iter().find(|r| r.left == Expr::symbol("top")).expect("of `top`");
    assert_eq!((requirement.right.clone(), requirement.what.contains("must be 4")), (Expr::Const(4), true));
}

/// That a function is told one thing, at the line behind the one that it says.
#[track_caller]
fn tells(words: &str, body: impl FnOnce(&Cx, QueryRows<Rows, Dk>, Routing) -> u32) {
    let mut line = 0;
    let said = told(|cx, rows, _, routing| line = body(cx, rows, routing) + 1);
    assert_eq!(said, [format!("{line}: {words}")]);
}

#[test]
fn mistakes_are_told_at_their_line() {
    tells("the 0 best of each row: from 1 to 32 are kept at once; more are found in passes", |cx, _, _| {
        let line = line!();
        let _ = cx.top_k::<Rows>("best", 0);
        line
    });
    tells("a row has 65 blocks: from 1 to 64 are right, the row's own block among them", |_, _, routing| {
        let line = line!();
        let _ = routing.others(65);
        line
    });
    tells("`best` is read while it takes scores: each lane has its own: settle it first", |cx, rows, routing| {
        let best = cx.top_k::<Rows>("best", 3);
        best.take(scores(cx, &rows), 0);
        let line = line!();
        routing.set(&rows, 1, best.column(0));
        line
    });
    tells("`best` is settled, and takes no more scores: clear it first", |cx, rows, routing| {
        let best = cx.top_k::<Rows>("best", 3);
        best.settle();
        let scores = scores(cx, &rows);
        let line = line!();
        best.take(scores, 0);
        routing.set(&rows, 1, best.column(2));
        line
    });
    tells("number 3 of the 3 best of each row: they are number 0 to 2", |cx, rows, routing| {
        let best = cx.top_k::<Rows>("best", 3);
        best.settle();
        let line = line!();
        routing.set(&rows, 1, best.column(3));
        line
    });
    let words = "a loop or branch leaves `best` otherwise than it finds it: what is settled in one is cleared in it";
    tells(words, |cx, rows, routing| {
        let best = cx.top_k::<Rows>("best", 3);
        routing.set(&rows, 1, 0);
        let more = rows.document.len.gt(1);
        let line = line!();
        cx.when(more, || best.settle());
        line
    });
}

#[test]
fn the_best_do_not_leave_the_branch_that_they_were_made_in() {
    let said = told(|cx, rows, _, routing| {
        let mut inside = None;
        cx.when(rows.document.len.gt(1), || inside = Some(cx.top_k::<Rows>("best", 3)));
        inside.expect("the branch was staged").settle();
        routing.set(&rows, 1, 0);
    });
    assert!(said[0].contains("this list of the best was made inside the branch at"), "{said:?}");
}
