use lacuna::prelude::*;

#[pattern]
fn one_position(q: Pos) -> Keep {
    q.le(4)
}

#[pattern]
fn float_argument(q: Pos, kv: Pos, slope: f32) -> Keep {
    let _ = slope;
    kv.le(q)
}

#[pattern]
fn number_of_the_head(q: Pos, kv: Pos, slopes: PerHead) -> Keep {
    let _ = slopes;
    kv.le(q)
}

#[pattern]
fn no_result(q: Pos, kv: Pos) {
    let _ = kv.le(q);
}

#[pattern(window)]
fn arguments(q: Pos, kv: Pos) -> Keep {
    kv.le(q)
}

fn main() {}
