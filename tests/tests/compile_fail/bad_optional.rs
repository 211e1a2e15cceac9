use lacuna::prelude::*;

#[schedule]
fn always_there(cx: &Cx, q: Queries<Dk>, #[optional] sinks: Sinks) -> OutLse<Dv> {
    unimplemented!("{cx:?} {q:?} {sinks:?}")
}

#[schedule]
fn no_choice(cx: &Cx, q: Queries<Dk>, #[optional] score: &Score) -> OutLse<Dv> {
    unimplemented!("{cx:?} {q:?} {score:?}")
}

#[schedule]
fn both(cx: &Cx, q: Queries<Dk>, #[fixed] #[optional] score: Option<&Score>) -> OutLse<Dv> {
    unimplemented!("{cx:?} {q:?} {score:?}")
}

#[schedule]
fn taken_name(cx: &Cx, q: Queries<Dk>, #[optional] lse: Option<Sinks>) -> OutLse<Dv> {
    unimplemented!("{cx:?} {q:?} {lse:?}")
}

fn main() {}
