use lacuna::prelude::*;

#[pattern]
fn branched(q: Pos, kv: Pos, window: u32) -> Keep {
    if window > 4 { kv.le(q) } else { Keep::always() }
}

fn main() {}
