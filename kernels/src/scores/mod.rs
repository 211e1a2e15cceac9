//! Scores: what happens to a logit before the softmax.

use lacuna_dsl::prelude::*;

/// ALiBi, arXiv 2108.12409: a bias against the distance to the keys before, by a slope for each head; [`slopes()`] has the
/// paper's.
#[score]
pub fn alibi(logit: Logit, q: Pos, kv: Pos, slopes: PerHead) -> Logit {
    logit - slopes * (q - kv)
}

/// Logits bent so that none is beyond `cap`, as in Gemma 2, arXiv 2408.00118, section 2.
#[score]
pub fn softcap(logit: Logit, _q: Pos, _kv: Pos, cap: f32) -> Logit {
    cap * (logit / cap).tanh()
}

/// The paper's slopes for so many query heads: `2^(-8 (h + 1) / heads)`.
pub fn slopes(heads: usize) -> Vec<f32> {
    (1..=heads).map(|h| (-8.0 * h as f32 / heads as f32).exp2()).collect()
}
