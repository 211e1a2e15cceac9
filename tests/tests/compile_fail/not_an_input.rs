use lacuna::prelude::*;

#[schedule]
fn scaled(cx: &Cx, q: Queries<Dk>, factor: f32) -> OutLse<Dv> {
    unimplemented!("{cx:?} {q:?} {factor}")
}

#[schedule]
fn scaled_or_not(cx: &Cx, q: Queries<Dk>, #[optional] factor: Option<f32>) -> OutLse<Dv> {
    unimplemented!("{cx:?} {q:?} {factor:?}")
}

#[schedule]
fn unmarked(cx: &Cx, q: Queries<Dk>, sinks: Option<Sinks>) -> OutLse<Dv> {
    unimplemented!("{cx:?} {q:?} {sinks:?}")
}

#[schedule]
fn unstored(cx: &Cx, q: Queries<Dk>) -> u32 {
    unimplemented!("{cx:?} {q:?}")
}

fn main() {}
