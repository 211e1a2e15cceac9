use lacuna::prelude::*;

#[schedule(tune(Rows in [64], Kv in [64]))]
fn wrong(cx: &Cx, q: Queries<Dk>, k: Keys<Dk>, docs: Segments) -> OutLse<Dv> {
    let (i, h, d) = cx.grid3(docs.tiles::<Rows>(), q.heads(), docs.count());
    let rows = q.tile(docs.at(d), i, h);
    let bias: Tile<F32, Kv, Rows> = cx.var("bias", 0.0).get();
    for b in cx.pipelined(causal().visits::<Kv>(&rows), 2) {
        let s = cx.dot(rows.q, k.block(b, h));
        let _ = s + bias;
    }
    OnlineSoftmax::new(cx, &rows).finish()
}

use lacuna::kernels::patterns::causal;

fn main() {}
