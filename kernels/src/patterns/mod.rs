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
