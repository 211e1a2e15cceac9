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

/// A bias from a table by the distance from query to key: T5, arXiv 1910.10683, section 2.1. The first entry is for keys that
/// are `ahead` tokens ahead of the query or more, the last one for those that are farthest behind; [`t5_bias()`] makes the table
/// from the buckets of T5.
#[score]
pub fn relative_bias(logit: Logit, q: Pos, kv: Pos, ahead: u32, bias: PerHeadTable) -> Logit {
    logit + bias.at(q - kv + ahead)
}

/// The table of [`relative_bias()`] for a decoder, where no key is ahead: `[heads, distances]` from T5's `[heads, buckets]`.
/// Distances below half of the buckets have one each, those above share the others evenly on a logarithmic scale up to
/// `distances`, which T5 calls `max_distance`: 32 buckets and 128 as a rule. Beyond it the last bucket holds.
///
/// # Panics
/// If there are fewer than 2 buckets, as many distances as half of them or fewer, or no whole number of heads.
pub fn t5_bias(buckets: &[f32], of_head: usize, distances: usize) -> Vec<f32> {
    let exact = of_head / 2;
    assert!(of_head >= 2 && distances > exact, "{of_head} buckets for {distances} distances");
    assert!(buckets.len().is_multiple_of(of_head), "{} numbers are no heads of {of_head} buckets", buckets.len());
    let bucket = |distance: usize| {
        if distance < exact {
            return distance;
        }
        let part = (distance as f64 / exact as f64).ln() / (distances as f64 / exact as f64).ln();
        (exact + (part * (of_head - exact) as f64) as usize).min(of_head - 1)
    };
    buckets.chunks(of_head).flat_map(|head| (0..=distances).map(move |distance| head[bucket(distance)])).collect()
}

/// The paper's slopes for so many query heads: `2^(-8 (h + 1) / heads)`.
pub fn slopes(heads: usize) -> Vec<f32> {
    (1..=heads).map(|h| (-8.0 * h as f32 / heads as f32).exp2()).collect()
}
