use lacuna::prelude::*;

#[schedule(tune(Rows in [64], Kv in [64], warps in [4]))]
fn wider_rows(cx: &Cx, q: Queries<Dk>, k: Keys<Dk>, v: Values<Dv>, lists: Lists, docs: Segments) -> PartLse<Dv> {
    let (i, h) = cx.grid2(lists.tiles::<Group>(), k.heads());
    let listed = lists.tile::<Rows, Kv>(i, h, &docs);
    let rows = q.gather(&listed);
    let softmax = OnlineSoftmax::new(cx, &rows);
    softmax.step(cx.dot(rows.q, k.block(listed.block, h)), v.block(listed.block, h));
    softmax.finish().parts(&listed)
}

#[schedule(tune(Rows in [64], Kv in [64], warps in [4]))]
fn whole_for_parts(cx: &Cx, q: Queries<Dk>, k: Keys<Dk>, v: Values<Dv>, lists: Lists, docs: Segments) -> PartLse<Dv> {
    let (i, h) = cx.grid2(lists.tiles::<Rows>(), k.heads());
    let listed = lists.tile::<Rows, Kv>(i, h, &docs);
    let rows = q.gather(&listed);
    let softmax = OnlineSoftmax::new(cx, &rows);
    softmax.step(cx.dot(rows.q, k.block(listed.block, h)), v.block(listed.block, h));
    softmax.finish()
}

fn main() {}
