use lacuna::dsl::choices::ListHeads;
use lacuna::prelude::*;

#[schedule(tune(Rows in [64], Kv in [64], warps in [4]))]
fn wider_rows(cx: &Cx, q: Queries<Dk>, k: Keys<Dk>, v: Values<Dv>, lists: Lists, docs: Segments) -> PartLse<Dv> {
    let choices = Choices::of_groups(None, None);
    let (i, h) = cx.grid2(lists.work::<Group>(&choices), cx.each::<ListHeads>());
    let listed = lists.tile::<Rows>(i, h, &choices, &docs);
    let rows = q.gather(&listed);
    let softmax = OnlineSoftmax::new(cx, &rows);
    let (block, h) = (listed.block::<Kv>(), listed.kv_head);
    softmax.step(cx.dot(rows.q, k.block(block, h)), v.block(block, h));
    softmax.finish().parts(&listed)
}

#[schedule(tune(Rows in [64], Kv in [64], warps in [4]))]
fn whole_for_parts(cx: &Cx, q: Queries<Dk>, k: Keys<Dk>, v: Values<Dv>, lists: Lists, docs: Segments) -> PartLse<Dv> {
    let choices = Choices::of_groups(None, None);
    let (i, h) = cx.grid2(lists.work::<Rows>(&choices), cx.each::<ListHeads>());
    let listed = lists.tile(i, h, &choices, &docs);
    let rows = q.gather(&listed);
    let softmax = OnlineSoftmax::new(cx, &rows);
    let (block, h) = (listed.block::<Kv>(), listed.kv_head);
    softmax.step(cx.dot(rows.q, k.block(block, h)), v.block(block, h));
    softmax.finish()
}

fn main() {}
