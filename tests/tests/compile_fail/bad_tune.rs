use lacuna::prelude::*;

#[schedule(tune(Rows in []))]
fn empty(cx: &Cx, q: Queries<Dk>, docs: Segments) -> OutLse<Dv> {
    let (i, h, d) = cx.grid3(docs.tiles::<Rows>(), q.heads(), docs.count());
    let rows = q.tile(docs.at(d), i, h);
    OnlineSoftmax::new(cx, &rows).finish()
}

#[schedule(tune(Rows [64]))]
fn no_in(cx: &Cx, q: Queries<Dk>, docs: Segments) -> OutLse<Dv> {
    let (i, h, d) = cx.grid3(docs.tiles::<Rows>(), q.heads(), docs.count());
    let rows = q.tile(docs.at(d), i, h);
    OnlineSoftmax::new(cx, &rows).finish()
}

#[schedule(tune(Rows in 64))]
fn no_brackets(cx: &Cx, q: Queries<Dk>, docs: Segments) -> OutLse<Dv> {
    let (i, h, d) = cx.grid3(docs.tiles::<Rows>(), q.heads(), docs.count());
    let rows = q.tile(docs.at(d), i, h);
    OnlineSoftmax::new(cx, &rows).finish()
}

#[schedule(tune(Rows in [64, 64]))]
fn twice(cx: &Cx, q: Queries<Dk>, docs: Segments) -> OutLse<Dv> {
    let (i, h, d) = cx.grid3(docs.tiles::<Rows>(), q.heads(), docs.count());
    let rows = q.tile(docs.at(d), i, h);
    OnlineSoftmax::new(cx, &rows).finish()
}

#[schedule(tune(Rows in [0]))]
fn zero(cx: &Cx, q: Queries<Dk>, docs: Segments) -> OutLse<Dv> {
    let (i, h, d) = cx.grid3(docs.tiles::<Rows>(), q.heads(), docs.count());
    let rows = q.tile(docs.at(d), i, h);
    OnlineSoftmax::new(cx, &rows).finish()
}

#[schedule(tune(Rows in [64], Rows in [32]))]
fn tuned_twice(cx: &Cx, q: Queries<Dk>, docs: Segments) -> OutLse<Dv> {
    let (i, h, d) = cx.grid3(docs.tiles::<Rows>(), q.heads(), docs.count());
    let rows = q.tile(docs.at(d), i, h);
    OnlineSoftmax::new(cx, &rows).finish()
}

#[schedule(tune(Rows in ["64"]))]
fn text(cx: &Cx, q: Queries<Dk>, docs: Segments) -> OutLse<Dv> {
    let (i, h, d) = cx.grid3(docs.tiles::<Rows>(), q.heads(), docs.count());
    let rows = q.tile(docs.at(d), i, h);
    OnlineSoftmax::new(cx, &rows).finish()
}

#[schedule(tune(64 in [64]))]
fn no_name(cx: &Cx, q: Queries<Dk>, docs: Segments) -> OutLse<Dv> {
    let (i, h, d) = cx.grid3(docs.tiles::<Rows>(), q.heads(), docs.count());
    let rows = q.tile(docs.at(d), i, h);
    OnlineSoftmax::new(cx, &rows).finish()
}

#[schedule(sm_90a)]
fn word(cx: &Cx, q: Queries<Dk>, docs: Segments) -> OutLse<Dv> {
    let (i, h, d) = cx.grid3(docs.tiles::<Rows>(), q.heads(), docs.count());
    let rows = q.tile(docs.at(d), i, h);
    OnlineSoftmax::new(cx, &rows).finish()
}

#[schedule(tune(Rows in [64] Kv in [64]))]
fn no_comma(cx: &Cx, q: Queries<Dk>, docs: Segments) -> OutLse<Dv> {
    let (i, h, d) = cx.grid3(docs.tiles::<Rows>(), q.heads(), docs.count());
    let rows = q.tile(docs.at(d), i, h);
    OnlineSoftmax::new(cx, &rows).finish()
}

#[schedule(tune(q in [2], Rows in [64]))]
fn parameter(cx: &Cx, q: Queries<Dk>, docs: Segments) -> OutLse<Dv> {
    let (i, h, d) = cx.grid3(docs.tiles::<Rows>(), q.heads(), docs.count());
    let rows = q.tile(docs.at(d), i, h);
    OnlineSoftmax::new(cx, &rows).finish()
}

#[schedule(tune(Rows in [4294967296]))]
fn too_large(cx: &Cx, q: Queries<Dk>, docs: Segments) -> OutLse<Dv> {
    let (i, h, d) = cx.grid3(docs.tiles::<Rows>(), q.heads(), docs.count());
    let rows = q.tile(docs.at(d), i, h);
    OnlineSoftmax::new(cx, &rows).finish()
}

fn main() {}
