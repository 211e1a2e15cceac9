use lacuna_dsl::grid::{KvHead, SegmentIndex, Token};
use lacuna_dsl::prelude::*;

use super::Lane;

/// Picks of one KV head, a lane tile of them.
pub(super) struct Picked {
    /// `token * n + j`.
    pub(super) entry: Vector<I32, Lane>,
    /// The slot that was picked.
    pub(super) slot: Vector<I32, Lane>,
    /// Whether there is such a pick, and it is a block of its document.
    pub(super) there: Vector<Bool, Lane>,
}

/// Goes through a chunk of picks in their order, document by document, so that a slot is one sum away from a pick. A lane keeps
/// its token and its place in that token's list, and steps on: the length of a list is no constant, and a division by it costs
/// more than all else here.
pub(super) fn each_pick(cx: &Cx, picks: Blocks, docs: Segments, chunk: Piece, head: KvHead, see: impl Fn(Picked)) {
    let (n, lanes, block) = (picks.per_token(), cx.extent::<Lane>() as i32, cx.extent::<Kv>() as i32);
    let lane = cx.iota::<Lane>();
    let (tokens_on, places_on) = (cx.scalar(lanes) / n, cx.scalar(lanes) % n);
    let [first, last] = [chunk.first, chunk.end - 1].map(|pick| docs.index_of(Token(pick / n)).0);
    for d in cx.range(first, last + 1) {
        let document = docs.at(SegmentIndex(d));
        let last_token = document.start + document.len - 1;
        let (begin, end) = (chunk.first.max(document.start * n), chunk.end.min((last_token + 1) * n));
        let (first_slot, blocks) = (document.first_key() / block + d, (document.keys() + (block - 1)) / block);
        let token = cx.var::<Vector<I32, Lane>>("token", 0);
        let place = cx.var::<Vector<I32, Lane>>("place", 0);
        token.set((lane + begin) / n);
        place.set((lane + begin) % n);
        // One round ahead, so that what a round does hides the way from memory.
        let fetch = || picks.at((token.get().min(last_token), head.0, place.get()));
        let fetched = cx.var::<Vector<I32, Lane>>("fetched", 0);
        fetched.set(fetch());
        for round in cx.range(0, (end - begin + (lanes - 1)) / lanes) {
            let (picked, entry) = (fetched.get(), lane + (begin + round * lanes));
            let next = place.get() + places_on;
            let over = next.ge(n);
            token.set(token.get() + over.select(tokens_on + 1, tokens_on));
            place.set(over.select(next - n, next));
            fetched.set(fetch());
            let there = entry.lt(end) & picked.ge(0) & picked.lt(blocks);
            see(Picked { entry, slot: picked + first_slot, there });
        }
    }
}
