use lacuna::prelude::*;

#[schedule]
fn scaled(cx: &Cx, q: Queries<Dk>, factor: f32) -> OutLse<Dv> {
    unimplemented!("{cx:?} {q:?} {factor}")
}

#[schedule]
fn unstored(cx: &Cx, q: Queries<Dk>) -> u32 {
    unimplemented!("{cx:?} {q:?}")
}

fn main() {}
