use lacuna::prelude::*;

#[schedule(tune(Rowz in [64], Kv in [64], stages in [2]))]
fn tiled(cx: &Cx, q: Queries<Dk>, k: Keys<Dk>, v: Values<Dv>, docs: Segments, #[fixed] mask: &Mask) -> OutLse<Dv> {
    let (i, h, d) = cx.grid3(docs.tiles::<Rows>(), q.heads(), docs.count());
    let rows = q.tile(docs.at(d), i, h);
    let softmax = OnlineSoftmax::new(cx, &rows);
    for b in cx.pipelined(mask.visits::<Kv>(&rows), stages) {
        let s = cx.dot(rows.q, k.block(b, h));
        softmax.step(mask.keep(s, &rows, b), v.block(b, h));
    }
    softmax.finish()
}

fn main() {}
