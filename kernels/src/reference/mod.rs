//! What every kernel must compute, in f64 on the CPU, written from the papers.
//!
//! Nothing here shares code with the compiler or with the DSL, so that a wrong definition cannot vouch for itself: masks
//! are functions on integers ([`masks`]), scores on numbers ([`scores`]), selections are lists ([`nsa`], [`moba`]), turned
//! around by going through them ([`lists`]).
//!
//! What holds everywhere:
//!  * Query head `h` reads KV head `h * Hk / Hq` (GQA; `Hq` is a multiple of `Hk`).
//!  * Positions restart with each sequence of `cu_seqlens`. They are those of keys, and end with them: where a sequence has
//!    more queries than keys, its first ones are below 0 ([`Sides`]).
//!  * Only the keys that a row may see enter its sums. A row that sees none has `o = 0`, `lse = -inf`.
//!  * A score changes a scaled logit before anything else does ([`scores`]). A sink is one more logit ([`Under`]).
//!  * NaN and infinities propagate as in `o = Σ exp(s - max s) v / Σ exp(s - max s)`, `lse = max s + ln Σ exp(s - max s)`. A
//!    logit of -inf is the limit, probability 0, also where all logits of the row are -inf: such a row is as one that sees
//!    no key.
//!
//! Each has a `_rows` form that computes only the rows asked for: at 64k tokens the whole is out of reach.

pub mod lists;
pub mod masks;
pub mod moba;
pub mod nsa;
pub mod scores;
pub mod tiles;
pub(crate) mod walk;

use crate::host::{Host, Real, Row, Sides};
use walk::{Panel, Query, Source};

/// The operands of an attention, all sequences packed one behind the other.
#[derive(Clone, Copy, Debug)]
pub struct Problem<'a, T> {
    /// Queries, `[total, Hq, Dk]`.
    pub q: &'a Host<T>,
    /// Keys, `[keys, Hk, Dk]`.
    pub k: &'a Host<T>,
    /// Values, `[keys, Hk, Dv]`.
    pub v: &'a Host<T>,
    /// Where the queries of each sequence begin, and where the last one's end: `[batch + 1]`.
    pub cu_seqlens: &'a [i32],
    /// The same of keys and values: the same slice, where each sequence has as many of them.
    pub cu_seqlens_k: &'a [i32],
    /// What the dot products are multiplied by, as the kernel gets it.
    pub scale: f32,
}

impl<T> Problem<'_, T> {
    /// Where queries and keys of each sequence begin and end.
    pub fn sides(&self) -> Sides<'_> {
        Sides { q: self.cu_seqlens, k: self.cu_seqlens_k }
    }

    /// Query heads to a KV head: `Hq / Hk`.
    pub fn group(&self) -> usize {
        self.q.shape[1] / self.k.shape[1]
    }

    /// Every query row, token by token.
    pub fn rows(&self) -> Vec<Row> {
        let [total, heads, _] = self.q.shape;
        (0..total).flat_map(|token| (0..heads).map(move |head| Row { token, head })).collect()
    }
}

/// What an attention gives.
#[derive(Clone, Debug, PartialEq)]
pub struct Attended<N> {
    /// Outputs: `[total, Hq, Dv]`, or `[rows, 1, Dv]` of the rows asked for.
    pub o: Host<N>,
    /// The natural logarithm of the sum of the exponentials of the scaled logits: `[total, Hq]`, or `[rows, 1]`.
    pub lse: Host<N, 2>,
}

/// Says of a query position and a key position, both in their own sequence, whether the query sees the key. A query that is
/// before every key has a position below 0.
pub type Mask<'a> = &'a (dyn Fn(i64, i64) -> bool + Sync);

/// Attention under a mask: `o = softmax(scale · q kᵀ) v` over the keys that `mask(q, kv)` keeps.
pub fn attention<T: Real>(p: &Problem<'_, T>, mask: Mask<'_>) -> Attended<f64> {
    walk::whole(&Source::of(p), &walk::masked(mask), &attend)
}

/// [`attention`], for these rows alone.
pub fn attention_rows<T: Real>(p: &Problem<'_, T>, mask: Mask<'_>, rows: &[Row]) -> Attended<f64> {
    walk::some(&Source::of(p), &walk::masked(mask), &attend, rows)
}

/// A query and a key of one sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The first key of the sequence.
    pub start: usize,
    /// The query's position in the sequence, 0 or above.
    pub q: i64,
    /// The key's.
    pub kv: i64,
    /// The query head.
    pub head: usize,
}

impl Pair {
    /// What a table, with a number for each key, holds at the query's position and for the key.
    pub fn of(&self, table: &[i32]) -> [i32; 2] {
        [self.q, self.kv].map(|position| table[self.start + position as usize])
    }
}

/// Says of a pair whether the query sees the key: for masks that depend on more than positions. A query that is before every
/// key is in no pair, and sees none.
pub type Sees<'a> = &'a (dyn Fn(&Pair) -> bool + Sync);

/// Attention over the keys that each query sees: `o = softmax(scale · q kᵀ) v`.
pub fn attention_of<T: Real>(p: &Problem<'_, T>, sees: Sees<'_>) -> Attended<f64> {
    walk::whole(&Source::of(p), &walk::paired(sees), &attend)
}

/// [`attention_of`], for these rows alone.
pub fn attention_of_rows<T: Real>(p: &Problem<'_, T>, sees: Sees<'_>, rows: &[Row]) -> Attended<f64> {
    walk::some(&Source::of(p), &walk::paired(sees), &attend, rows)
}

/// Says what becomes of a scaled logit, given the positions of query and key in their sequence and the query head.
pub type Score<'a> = &'a (dyn Fn(f64, i64, i64, usize) -> f64 + Sync);

/// The keys of each row.
#[derive(Clone, Copy)]
pub enum Keys<'a> {
    /// Those that a mask on positions keeps.
    Mask(Mask<'a>),
    /// Those that a mask on pairs keeps.
    Pairs(Sees<'a>),
    /// Those of picked blocks that are not in the future: see [`nsa::selected_attention`].
    Picks {
        /// `[total, Hk, n]`.
        picks: &'a Host<i32>,
        /// Tokens of a block.
        block: usize,
    },
}

impl<'a> Keys<'a> {
    pub(crate) fn seen(self) -> Box<walk::Seen<'a>> {
        match self {
            Keys::Mask(mask) => Box::new(walk::masked(mask)),
            Keys::Pairs(sees) => Box::new(walk::paired(sees)),
            Keys::Picks { picks, block } => nsa::picked(picks, block),
        }
    }
}

/// What the softmax is under besides the scale.
#[derive(Clone, Copy, Default)]
pub struct Under<'a> {
    /// What becomes of each scaled logit.
    pub score: Option<Score<'a>>,
    /// For each query head one more logit in every row, without a value: neither scaled, scored nor masked.
    pub sinks: Option<&'a [f32]>,
}

/// Attention of every row, or of these: `o = softmax(score(scale · q kᵀ)) v` over the keys of each, and the sink in the sum of
/// the softmax and in the LSE. A row that sees no key has `o = 0` and the sink as its LSE.
pub fn attention_under<T: Real>(
    p: &Problem<'_, T>,
    keys: Keys<'_>,
    under: Under<'_>,
    rows: Option<&[Row]>,
) -> Attended<f64> {
    let (seen, attend) = (keys.seen(), attend_under(under));
    match rows {
        None => walk::whole(&Source::of(p), &*seen, &*attend),
        Some(rows) => walk::some(&Source::of(p), &*seen, &*attend, rows),
    }
}

/// [`attend`] under a score and a sink.
fn attend_under<'a>(under: Under<'a>) -> Box<walk::Attend<'a, f64>> {
    Box::new(move |at, q, kv, seen, scale, p, o| {
        logits(q, kv, seen, scale, p);
        if let Some(score) = under.score {
            for (&j, s) in seen.iter().zip(p.iter_mut()) {
                *s = score(*s, at.position, i64::from(j), at.head);
            }
        }
        let Some(sink) = under.sinks.map(|sinks| f64::from(sinks[at.head])) else { return weigh(kv, seen, p, o) };
        let max = p.iter().fold(sink, |m, &s| m.max(s));
        if max == f64::NEG_INFINITY && !sink.is_nan() && p.iter().all(|s| !s.is_nan()) {
            return f64::NEG_INFINITY;
        }
        let mut sum = (sink - max).exp();
        for (&j, &s) in seen.iter().zip(p.iter()) {
            let weight = (s - max).exp();
            sum += weight;
            for (o, &v) in o.iter_mut().zip(kv.value(j)) {
                *o += weight * v;
            }
        }
        for o in o.iter_mut() {
            *o /= sum;
        }
        max + sum.ln()
    })
}

/// One row in f64: the keys and values at `seen`, each as often as it is listed. Writes `o`, returns the LSE.
pub(crate) fn attend(
    _: &Query,
    q: &[f64],
    kv: &Panel<f64>,
    seen: &[u32],
    scale: f32,
    p: &mut Vec<f64>,
    o: &mut [f64],
) -> f64 {
    logits(q, kv, seen, scale, p);
    weigh(kv, seen, p, o)
}

/// The values at `seen`, weighed by the softmax of their logits `p`. Writes `o`, returns the LSE.
fn weigh(kv: &Panel<f64>, seen: &[u32], p: &mut [f64], o: &mut [f64]) -> f64 {
    let Some((max, sum)) = exponentials(p) else {
        return f64::NEG_INFINITY;
    };
    for (&j, &p) in seen.iter().zip(p.iter()) {
        for (o, &v) in o.iter_mut().zip(kv.value(j)) {
            *o += p * v;
        }
    }
    for o in o.iter_mut() {
        *o /= sum;
    }
    max + sum.ln()
}

/// `p[i] = exp(s[i] - max s)` with `s = scale · q k`; returns the maximum and `Σ p`, or nothing if no probability is left.
pub(crate) fn softmax_terms(
    q: &[f64],
    kv: &Panel<f64>,
    seen: &[u32],
    scale: f32,
    p: &mut Vec<f64>,
) -> Option<(f64, f64)> {
    logits(q, kv, seen, scale, p);
    exponentials(p)
}

/// `s = scale · q k`.
fn logits(q: &[f64], kv: &Panel<f64>, seen: &[u32], scale: f32, s: &mut Vec<f64>) {
    s.clear();
    s.extend(seen.iter().map(|&j| dot(q, kv.key(j)) * f64::from(scale)));
}

/// `exp(s[i] - max s)` in place of each; returns the maximum and their sum, or nothing if every one is -inf.
fn exponentials(p: &mut [f64]) -> Option<(f64, f64)> {
    let max = p.iter().fold(f64::NEG_INFINITY, |m, &s| m.max(s));
    if p.iter().all(|&s| s == f64::NEG_INFINITY) {
        return None;
    }
    let mut sum = 0.0;
    for p in p.iter_mut() {
        *p = (*p - max).exp();
        sum += *p;
    }
    Some((max, sum))
}

/// `Σ a b`, in eight partial sums so that the compiler may use vectors.
pub(crate) fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0; 8];
    let (a8, b8) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f64 = a8.remainder().iter().zip(b8.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a8.zip(b8) {
        for i in 0..8 {
            sums[i] += a[i] * b[i];
        }
    }
    sums.iter().sum::<f64>() + rest
}

#[cfg(test)]
mod tests;
