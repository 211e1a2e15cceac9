use lacuna_dsl::choices::Top;
use lacuna_dsl::grid::{QueryHeads, Tokens};
use lacuna_dsl::prelude::*;

use super::Blocking;
use crate::lists::{Lane, Reach};

/// Neighbouring blocks that one row chose, as one choice: `joined[token, head, place]` is the first choice's block in blocks
/// `blocks.joined` times as long, or -1 where an earlier choice has it already, and `members[token, head, place]` has a bit for
/// each of the row's blocks in it.
///
/// A row that chose several neighbours is fetched once for all of them, and has one part, not several: the fewer, the nearer by
/// its choices are. A row that chose one alone pays for the others' keys.
#[schedule(tune(Lane in [128, 256], warps in [4]))]
pub fn join_choices(
    cx: &Cx,
    docs: Segments,
    routing: Routed,
    joined: TableOut<I32, (Tokens, QueryHeads, Top)>,
    members: TableOut<I32, (Tokens, QueryHeads, Top)>,
    #[fixed] blocks: Blocking,
) {
    let (i, head, d) = cx.grid3(docs.tiles::<Lane>(), cx.each::<QueryHeads>(), docs.count());
    let (document, lanes) = (docs.at(d), cx.extent::<Lane>() as i32);
    cx.exit_when((i.tile * lanes).ge(document.len));
    let nth = cx.iota::<Lane>() + i.tile * lanes;
    let (there, token) = (nth.lt(document.len), nth.min(document.len - 1) + document.start);
    let (block, wide) = (blocks.block as i32, blocks.joined as i32);
    let count = (document.keys() + (block - 1)) / block;
    let chosen: Vec<_> = (0..blocks.top as i32)
        .map(|place| {
            let choice = routing.at((token, head, cx.scalar(place)));
            let counts = Reach::Past.counts(choice, document.position(nth), count, blocks.block);
            (counts.select(choice / wide, -1), choice % wide)
        })
        .collect();
    for (place, &(own, _)) in chosen.iter().enumerate() {
        let mut first = own.ge(0);
        for &(earlier, _) in &chosen[..place] {
            first = first & earlier.ne_(own);
        }
        let bits = chosen.iter().map(|&(other, member)| {
            let bit = (1..wide).fold(member.eq_(0).select(1, 0), |bit, n| member.eq_(n).select(1 << n, bit));
            other.eq_(own).select(bit, 0)
        });
        let bits = bits.reduce(|sum, bit| sum + bit).expect("a choice");
        let at = (token, head, cx.scalar(place as i32));
        joined.set_where(at, first.select(own, -1), there);
        members.set_where(at, bits, there);
    }
}
