//! Patterns: which keys a query sees. Positions are counted in the document, so every one of them is also the pattern of a
//! batch of documents.

use lacuna_dsl::prelude::*;

/// Every key.
#[pattern]
pub fn full(_q: Pos, _kv: Pos) -> Keep {
    Keep::always()
}

/// The token itself and what is before it.
#[pattern]
pub fn causal(q: Pos, kv: Pos) -> Keep {
    kv.le(q)
}

/// The last `window` tokens, the token itself included.
#[pattern]
pub fn window(q: Pos, kv: Pos, window: u32) -> Keep {
    kv.le(q) & (q - kv).lt(window)
}

/// The last `window` tokens, the token itself included, and the first `sink` ones of the document.
#[pattern]
pub fn window_sink(q: Pos, kv: Pos, window: u32, sink: u32) -> Keep {
    kv.le(q) & ((q - kv).lt(window) | kv.lt(sink))
}

/// The first `prefix` tokens of the document, which see one another; behind them, the token itself and what is before it.
#[pattern]
pub fn prefix_lm(q: Pos, kv: Pos, prefix: u32) -> Keep {
    kv.le(q) | kv.lt(prefix)
}

/// The token itself and every `step`-th one before it.
#[pattern]
pub fn dilated(q: Pos, kv: Pos, step: u32) -> Keep {
    kv.le(q) & ((q - kv) % step).eq_(0)
}

/// The tokens of the same chunk: the document is cut every `chunk` tokens. Two bounds that the query alone decides, where
/// `(q / chunk).eq_(kv / chunk)` would divide for every key.
#[pattern]
pub fn block_diagonal(q: Pos, kv: Pos, chunk: u32) -> Keep {
    kv.ge(q / chunk * chunk) & kv.lt((q / chunk + 1) * chunk)
}

/// The token itself and what is before it in its own document; `docs` has the document of each token. Documents may be
/// anything that numbers tell apart, and need not lie together.
#[pattern]
pub fn document_table(q: Pos, kv: Pos, docs: Table) -> Keep {
    docs.at(q).eq_(docs.at(kv)) & kv.le(q)
}

/// The token itself and those that it descends from in a tree, as when several continuations are tried at once: `enter` and
/// `leave` are when a walk through the tree comes to a token, and when it has left all that is below it.
#[pattern]
pub fn token_tree(q: Pos, kv: Pos, enter: Table, leave: Table) -> Keep {
    enter.at(kv).le(enter.at(q)) & enter.at(q).lt(leave.at(kv))
}

/// The keys before `ends`, which each token has its own of: a prefix of any length, causal or not.
#[pattern]
pub fn ranges(q: Pos, kv: Pos, ends: Table) -> Keep {
    kv.lt(ends.at(q))
}

/// Tokens at most `reach` away on either side, and the first `global` ones, which every token sees and which see every token:
/// Longformer, arXiv 2004.05150.
#[pattern]
pub fn longformer(q: Pos, kv: Pos, reach: u32, global: u32) -> Keep {
    (q - kv).abs().le(reach) | kv.lt(global) | q.lt(global)
}
