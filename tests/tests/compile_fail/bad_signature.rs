use lacuna::prelude::*;

#[schedule(tune(stages in [2]))]
fn no_context(q: Queries<Dk>) -> OutLse<Dv> {
    unimplemented!("{q:?}")
}

#[schedule]
fn taken_name(cx: &Cx, lse: Queries<Dk>) -> OutLse<Dv> {
    unimplemented!("{cx:?} {lse:?}")
}

#[schedule]
fn generic<A: Axis>(cx: &Cx, q: Queries<A>) -> OutLse<Dv> {
    let _ = (cx, q);
    unimplemented!()
}

#[schedule]
struct Nothing;

fn main() {}
