use lacuna::prelude::*;

#[score]
fn one_position(logit: Logit, q: Pos) -> Logit {
    let _ = q;
    logit
}

#[score]
fn another_order(q: Pos, logit: Logit, kv: Pos) -> Logit {
    let _ = (q, kv);
    logit
}

#[score]
fn a_truth(logit: Logit, q: Pos, kv: Pos, on: bool) -> Logit {
    let _ = (q, kv, on);
    logit
}

#[score]
fn no_result(logit: Logit, q: Pos, kv: Pos) {
    let _ = (logit, q, kv);
}

#[score(50)]
fn arguments(logit: Logit, q: Pos, kv: Pos) -> Logit {
    let _ = (q, kv);
    logit
}

fn main() {}
