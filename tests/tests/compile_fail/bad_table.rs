use lacuna::prelude::*;

#[score]
fn table_for_a_number(logit: Logit, q: Pos, kv: Pos, bias: Table) -> Logit {
    let _ = (q, kv);
    logit + bias
}

#[score]
fn entry_of_a_number(logit: Logit, q: Pos, kv: Pos, slopes: PerHead) -> Logit {
    logit + slopes.at(q - kv)
}

#[score]
fn two_indices(logit: Logit, q: Pos, kv: Pos, bias: PerHeadTable) -> Logit {
    logit + bias.at(q, kv)
}

#[pattern]
fn table_for_a_position(q: Pos, kv: Pos, docs: Table) -> Keep {
    kv.le(q) & kv.lt(docs)
}

#[pattern]
fn both_positions(q: Pos, kv: Pos, docs: Table) -> Keep {
    docs.at(q, kv).eq_(1)
}

fn main() {}
