use lacuna::prelude::*;

#[schedule(tune(Rows in [64], Kv in [64], stages in [2]))]
fn tiled(cx: &Cx, q: Queries<Dk>, k: Keys<Dk>, v: Values<Dv>, docs: Segments, #[fixed] mask: &Mask) -> OutLse<Dv> {
    let (i, h, d) = cx.grid3(docs.tiles::<Rows>(), q.heads(), docs.count());
    let rows = q.tile(docs.at(d), i, h);
    let softmax = OnlineSoftmax::new(cx, &rows);
    let mut seen = false;
    for i in cx.range(0, 4) {
        cx.when(i.lt(2), || {
            seen = true;
            return;
        });
    }
    let _ = (k, v, mask, seen, stages);
    softmax.finish()
}

fn main() {}
