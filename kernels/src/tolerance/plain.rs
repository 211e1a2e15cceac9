//! The plain computation: what a careful program without any trick would make of the same inputs.
//!
//! The textbook formula, row by row, in f32 sums: `S = scale · q kᵀ` rounded to the input type, `P = softmax(S)` rounded to
//! the input type, `o = P v`, `lse = max S + ln Σ exp(S - max S)`. Its distance from f64 is the measure of what a kernel may
//! lose. Outputs are left in f32: the check rounds them to the type that the kernel stores.

use crate::host::{Float, Host, Row};
use crate::reference::moba::Routed;
use crate::reference::tiles::{self, TileLists};
use crate::reference::walk::{self, Panel, Query, Source};
use crate::reference::{Attended, Keys, Mask, Problem, Sees, Under, nsa};

/// The plain computation of [`attention`](crate::reference::attention).
pub fn plain_attention<T: Float>(p: &Problem<'_, T>, mask: Mask<'_>) -> Attended<f32> {
    walk::whole(&Source::of(p), &walk::masked(mask), &attend::<T>)
}

/// [`plain_attention`], for these rows alone.
pub fn plain_attention_rows<T: Float>(p: &Problem<'_, T>, mask: Mask<'_>, rows: &[Row]) -> Attended<f32> {
    walk::some(&Source::of(p), &walk::masked(mask), &attend::<T>, rows)
}

/// The plain computation of [`attention_of`](crate::reference::attention_of).
pub fn plain_of<T: Float>(p: &Problem<'_, T>, sees: Sees<'_>) -> Attended<f32> {
    walk::whole(&Source::of(p), &walk::paired(sees), &attend::<T>)
}

/// [`plain_of`], for these rows alone.
pub fn plain_of_rows<T: Float>(p: &Problem<'_, T>, sees: Sees<'_>, rows: &[Row]) -> Attended<f32> {
    walk::some(&Source::of(p), &walk::paired(sees), &attend::<T>, rows)
}

/// The plain computation of [`attention_listed`](crate::reference::tiles::attention_listed).
pub fn plain_listed<T: Float>(p: &Problem<'_, T>, lists: &TileLists<'_>) -> Attended<f32> {
    walk::whole(&Source::of(p), &tiles::listed(lists), &attend::<T>)
}

/// [`plain_listed`], for these rows alone.
pub fn plain_listed_rows<T: Float>(p: &Problem<'_, T>, lists: &TileLists<'_>, rows: &[Row]) -> Attended<f32> {
    walk::some(&Source::of(p), &tiles::listed(lists), &attend::<T>, rows)
}

/// The plain computation of [`attention_under`](crate::reference::attention_under): the logit is rounded once, after the score;
/// a sink, which is given, is not.
pub fn plain_under<T: Float>(
    p: &Problem<'_, T>,
    keys: Keys<'_>,
    under: Under<'_>,
    rows: Option<&[Row]>,
) -> Attended<f32> {
    let (seen, attend) = (keys.seen(), attend_under::<T>(under));
    match rows {
        None => walk::whole(&Source::of(p), &*seen, &*attend),
        Some(rows) => walk::some(&Source::of(p), &*seen, &*attend, rows),
    }
}

/// The plain computation of [`selected_attention`](crate::reference::nsa::selected_attention).
pub fn plain_selected<T: Float>(p: &Problem<'_, T>, picks: &Host<i32>, l_sel: usize) -> Attended<f32> {
    walk::whole(&Source::of(p), &nsa::picked(picks, l_sel), &attend::<T>)
}

/// [`plain_selected`], for these rows alone.
pub fn plain_selected_rows<T: Float>(
    p: &Problem<'_, T>,
    picks: &Host<i32>,
    l_sel: usize,
    rows: &[Row],
) -> Attended<f32> {
    walk::some(&Source::of(p), &nsa::picked(picks, l_sel), &attend::<T>, rows)
}

/// The plain computation of [`moba::attention`](crate::reference::moba::attention).
pub fn plain_routed<T: Float>(p: &Problem<'_, T>, routed: &Routed<'_>, rows: Option<&[Row]>) -> Attended<f32> {
    let (source, seen) = (Source::of(p), routed.seen());
    match rows {
        None => walk::whole(&source, &*seen, &attend::<T>),
        Some(rows) => walk::some(&source, &*seen, &attend::<T>, rows),
    }
}

fn attend<T: Float>(
    _: &Query,
    q: &[f32],
    kv: &Panel<f32>,
    seen: &[u32],
    scale: f32,
    p: &mut Vec<f32>,
    o: &mut [f32],
) -> f32 {
    p.clear();
    p.extend(seen.iter().map(|&j| T::PRECISION.round(dot(q, kv.key(j)) * scale)));
    weigh::<T>(kv, seen, p, None, o)
}

/// [`attend`] under a score and a sink.
fn attend_under<'a, T: Float>(under: Under<'a>) -> Box<walk::Attend<'a, f32>> {
    Box::new(move |at, q, kv, seen, scale, p, o| {
        p.clear();
        p.extend(seen.iter().map(|&j| {
            let logit = dot(q, kv.key(j)) * scale;
            T::PRECISION.round(match under.score {
                Some(score) => score(logit.into(), at.position, i64::from(j), at.head) as f32,
                None => logit,
            })
        }));
        weigh::<T>(kv, seen, p, under.sinks.map(|sinks| sinks[at.head]), o)
    })
}

/// The values at `seen`, weighed by the softmax of their logits `p` and of a sink.
fn weigh<T: Float>(kv: &Panel<f32>, seen: &[u32], p: &mut [f32], sink: Option<f32>, o: &mut [f32]) -> f32 {
    let round = |x: f32| T::PRECISION.round(x);
    if p.iter().chain(&sink).all(|&s| s == f32::NEG_INFINITY) {
        return f32::NEG_INFINITY;
    }
    let max = p.iter().chain(&sink).fold(f32::NEG_INFINITY, |m, &s| m.max(s));
    let mut sum = sink.map_or(0.0, |sink| (sink - max).exp());
    for p in p.iter_mut() {
        *p = (*p - max).exp();
        sum += *p;
    }
    for (&j, &p) in seen.iter().zip(p.iter()) {
        let p = round(p / sum);
        for (o, &v) in o.iter_mut().zip(kv.value(j)) {
            *o += p * v;
        }
    }
    max + sum.ln()
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0; 8];
    let (a8, b8) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f32 = a8.remainder().iter().zip(b8.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a8.zip(b8) {
        for i in 0..8 {
            sums[i] += a[i] * b[i];
        }
    }
    sums.iter().sum::<f32>() + rest
}
