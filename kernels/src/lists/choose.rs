use lacuna_dsl::Expr;
use lacuna_dsl::grid::{SegmentIndex, Token};
use lacuna_dsl::prelude::*;

use super::Lane;

/// What is chosen, and which choices count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// Keys of a block: a multiple of 16.
    pub block: u32,
    /// How many blocks are listed for each query head, where each has its own: a [`Routed`]. `None`: [`Blocks`] for each KV head.
    pub top: Option<u32>,
    /// Which choices count.
    pub reach: Reach,
}

/// Which choices of a token count, of those that are blocks of its document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// All.
    All,
    /// Complete blocks of the past: those before the token's own.
    Past,
    /// Those, and the token's own.
    PastAndOwn,
    /// All but the token's own.
    Others,
}

impl Reach {
    /// Which choices of the tokens at `positions` count, in a document of `blocks` blocks of `block` keys.
    #[track_caller]
    pub fn counts<A: Axis>(
        self,
        choice: Vector<I32, A>,
        positions: Vector<I32, A>,
        blocks: Scalar<I32>,
        block: u32,
    ) -> Vector<Bool, A> {
        let own = || positions / block as i32;
        let exists = choice.ge(0);
        match self {
            Reach::All => exists & choice.lt(blocks),
            Reach::Past => exists & choice.lt(own()),
            // A position before the first key has no block, and its quotient may be 0.
            Reach::PastAndOwn => exists & choice.le(own()) & positions.ge(0),
            Reach::Others => exists & choice.lt(blocks) & choice.ne_(own()) & positions.ge(0),
        }
    }

    /// Whether a row's first choice, its own block, is never listed.
    pub(crate) const fn passes_over_first(self) -> bool {
        matches!(self, Reach::Past | Reach::Others)
    }

    /// The last block that counts for tokens up to `position`, in a document of `blocks` blocks of `block` keys, or one behind it.
    fn most(self, position: Scalar<I32>, blocks: Scalar<I32>, block: u32) -> Scalar<I32> {
        match self {
            Reach::All | Reach::Others => blocks,
            Reach::Past | Reach::PastAndOwn => position / block as i32,
        }
    }
}

impl Chosen {
    /// Picks of each KV head, in blocks of `block` keys, all of which count.
    pub fn picks(block: u32) -> Self {
        Chosen { block, top: None, reach: Reach::All }
    }

    /// Slots of all documents.
    pub(crate) fn slots(&self, shape: &Shape) -> Expr {
        let documents = Expr::symbol("segments_plus_one") - 1.into();
        Expr::symbol(shape.key_tokens()).ceil_div(u64::from(self.block)) + documents
    }

    /// The choices, read from whichever tensor there is.
    #[track_caller]
    pub(crate) fn choices(&self, picks: Option<Blocks>, routing: Option<Routed>, span: Option<Span>) -> Choices {
        match self.top {
            Some(top) => {
                let choices = Choices::of_heads(routing, top, span);
                // A row's own block stands first, and has no part where another launch sees it.
                if self.reach.passes_over_first() { choices.without_first() } else { choices }
            }
            None => Choices::of_groups(picks, span),
        }
    }
}

/// Choices of one KV head, a lane tile of them.
pub(super) struct Seen {
    /// `token * n + j`.
    pub(super) entry: Vector<I32, Lane>,
    /// The slot that was chosen.
    pub(super) slot: Vector<I32, Lane>,
    /// Whether there is such a choice, and it counts.
    pub(super) there: Vector<Bool, Lane>,
}

/// Goes through a chunk of choices in their order, document by document, so that a slot is one sum away from a choice. A lane
/// keeps its token and its place among that token's choices, and steps on: how many there are may be no constant, and a division
/// by it costs more than all else here. `head` counts from the span's first one. A document none of whose tokens here can choose
/// one of `slots` is passed over. The two [`Piece`]s are `chunk`, of the choices, and `slots`, of the slots that a table
/// has room for.
pub(super) fn each_choice(
    cx: &Cx,
    chosen: &Chosen,
    choices: &Choices,
    docs: Segments,
    [chunk, slots]: [Piece; 2],
    head: Scalar<I32>,
    see: impl Fn(Seen),
) {
    let (n, lanes, block) = (choices.per_token(), cx.extent::<Lane>() as i32, chosen.block as i32);
    let lane = cx.iota::<Lane>();
    let head = choices.kv_head(head);
    let (tokens_on, places_on) = (cx.scalar(lanes) / n, cx.scalar(lanes) % n);
    let [first, last] = [chunk.first, chunk.end - 1].map(|entry| docs.index_of(Token(choices.token(entry / n))).0);
    let last = match choices.span() {
        // A chunk behind the span's last one has nothing.
        Some(_) => chunk.first.lt(chunk.end).select(last, first - 1),
        None => last,
    };
    for d in cx.range(first, last + 1) {
        let document = docs.at(SegmentIndex(d));
        // The document's tokens, as the span counts them.
        let start = match choices.span() {
            Some(span) => document.start - span.token,
            None => document.start,
        };
        let last_token = start + document.len - 1;
        let (begin, end) = (chunk.first.max(start.max(0) * n), span_end(chunk, choices, last_token, n));
        let (first_slot, blocks) = (document.first_key() / block + d, (document.keys() + (block - 1)) / block);
        let last_slot = first_slot + chosen.reach.most(document.position((end - 1) / n - start), blocks, chosen.block);
        let reaches = first_slot.lt(slots.end) & last_slot.ge(slots.first);
        let token = cx.var::<Vector<I32, Lane>>("token", 0);
        let place = cx.var::<Vector<I32, Lane>>("place", 0);
        token.set((lane + begin) / n);
        place.set((lane + begin) % n);
        // One round ahead, so that what a round does hides the way from memory.
        let last_of_span = match choices.span() {
            Some(span) => last_token.min(span.tokens - 1),
            None => last_token,
        };
        let fetch = || choices.at(choices.token(token.get().min(last_of_span)), head, place.get());
        let fetched = cx.var::<Vector<I32, Lane>>("fetched", 0);
        fetched.set(fetch());
        for round in cx.range(0, reaches.select((end - begin + (lanes - 1)) / lanes, 0)) {
            let (choice, entry) = (fetched.get(), lane + (begin + round * lanes));
            let positions = document.position(token.get() - start);
            let there = entry.lt(end) & chosen.reach.counts(choice, positions, blocks, chosen.block);
            let next = place.get() + places_on;
            let over = next.ge(n);
            token.set(token.get() + over.select(tokens_on + 1, tokens_on));
            place.set(over.select(next - n, next));
            fetched.set(fetch());
            see(Seen { entry, slot: choice + first_slot, there });
        }
    }
}

/// Where a chunk ends in a document whose last token is `last`. The end of a span's last document may be far past the span.
fn span_end(chunk: Piece, choices: &Choices, last: Scalar<I32>, n: Scalar<I32>) -> Scalar<I32> {
    match choices.span() {
        Some(span) => chunk.end.min(((last + 1).min(span.tokens)) * n),
        None => chunk.end.min((last + 1) * n),
    }
}
