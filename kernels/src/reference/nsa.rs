//! Native Sparse Attention (arXiv 2502.11089): compression, selection and selected attention. Equations are the paper's.
//!
//! Indices are 0-based: the paper's block `j` of Eq. 9 is block `j - 1` here. With `l = 32`, `d = 16`, `l' = 64`, selection
//! block `j` scores `p[4j-1] + 2 p[4j] + 2 p[4j+1] + 2 p[4j+2] + p[4j+3]`, as far as compression blocks overlap it.

use super::walk::{self, Panel, Seen, Source, offsets};
use super::{Attended, Problem, attend, softmax_terms};
use crate::host::{Host, Real, Row, Sides};
use rayon::prelude::*;

/// The lengths of NSA, in tokens and blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NsaConfig {
    /// `l`: tokens in a compression block.
    pub l: usize,
    /// `d`: tokens from the start of a compression block to the start of the next; divides `l` and `l_sel`.
    pub d: usize,
    /// `l'`: tokens in a selection block.
    pub l_sel: usize,
    /// Blocks selected for each token and KV head, the forced ones included; at least 3.
    pub n: usize,
}

impl NsaConfig {
    /// The paper's: `l = 32`, `d = 16`, `l' = 64`, `n = 16`.
    pub const PAPER: Self = Self { l: 32, d: 16, l_sel: 64, n: 16 };

    /// Compression blocks of a sequence of `tokens`: `floor((S - l) / d) + 1`, none if `S < l`.
    pub fn compressed(&self, tokens: usize) -> usize {
        if tokens < self.l { 0 } else { (tokens - self.l) / self.d + 1 }
    }

    /// Selection blocks of a sequence of `tokens`, the last one cut at its end: `ceil(S / l')`.
    pub fn blocks(&self, tokens: usize) -> usize {
        tokens.div_ceil(self.l_sel)
    }

    /// The forced blocks of the token at `position`: the first, the one before its own, its own; ascending, each once.
    pub fn forced(&self, position: usize) -> Vec<usize> {
        let own = position / self.l_sel;
        let mut blocks = vec![0, own.saturating_sub(1), own];
        blocks.dedup();
        blocks
    }

    fn check(&self) {
        let Self { l, d, l_sel, n } = *self;
        assert!(
            d > 0 && l > 0 && l_sel > 0 && l % d == 0 && l_sel % d == 0,
            "d = {d} divides neither l = {l} nor l' = {l_sel}"
        );
        assert!(n >= 3, "n = {n} leaves no room for the three forced blocks");
    }
}

/// Compressed keys or values, and where each sequence's begin: `[blocks of all sequences, Hk, D]`, `[batch + 1]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Compressed {
    /// The mean of each block.
    pub data: Host<f64>,
    /// Offsets of the sequences in `data`.
    pub cu_seqlens: Vec<usize>,
}

/// Eq. 7 with φ the mean: block `i` of a sequence is the mean of its tokens `i d .. i d + l`.
pub fn compress<T: Real>(x: &Host<T>, cu_seqlens: &[i32], config: NsaConfig) -> Compressed {
    config.check();
    let [_, heads, width] = x.shape;
    let (mut data, mut cu) = (Vec::new(), vec![0]);
    for pair in offsets(cu_seqlens).windows(2) {
        let blocks = config.compressed(pair[1] - pair[0]);
        for (block, head) in (0..blocks).flat_map(|b| (0..heads).map(move |h| (b, h))) {
            let first = pair[0] + block * config.d;
            let mut mean = vec![0.0; width];
            for token in first..first + config.l {
                for (m, x) in mean.iter_mut().zip(x.row(token, head)) {
                    *m += x.to_f64();
                }
            }
            data.extend(mean.into_iter().map(|m| m / config.l as f64));
        }
        cu.push(cu[cu.len() - 1] + blocks);
    }
    let shape = [cu[cu.len() - 1], heads, width];
    Compressed { data: Host::new(data, shape), cu_seqlens: cu }
}

fn sees_compressed(config: NsaConfig) -> impl Fn(&walk::At, &mut Vec<u32>) + Sync {
    move |at, seen| {
        let visible = (0..at.keys).filter(|i| (i * config.d + config.l) as i64 <= at.position + 1);
        seen.extend(visible.map(|i| i as u32));
    }
}

/// Eq. 8: attention to the compressed keys and values; token `t` sees block `i` iff `i d + l - 1 <= t`.
///
/// # Panics
/// If `d` does not divide `l` and `l'`, or `n < 3`.
pub fn compressed_attention<T: Real>(p: &Problem<'_, T>, config: NsaConfig) -> Attended<f64> {
    let k = compress(p.k, p.cu_seqlens_k, config);
    let v = compress(p.v, p.cu_seqlens_k, config);
    let cu_q = offsets(p.cu_seqlens);
    let shift = walk::shifts(&cu_q, &offsets(p.cu_seqlens_k));
    let src = Source { q: p.q, k: &k.data, v: &v.data, cu_q, cu_kv: k.cu_seqlens, shift, scale: p.scale };
    walk::whole(&src, &sees_compressed(config), &attend)
}

/// Eq. 9: scores of `blocks` selection blocks from the probabilities of the compression blocks of one query head,
/// `Σ_{m < l'/d} Σ_{n < l/d} p[(l'/d)(j + 1) - 1 - m - n]`; terms outside `p` are 0.
pub fn overlap_scores(p: &[f64], config: NsaConfig, blocks: usize) -> Vec<f64> {
    let (across, deep) = (config.l_sel / config.d, config.l / config.d);
    let score = |j: usize| {
        let last = across * (j + 1) - 1;
        let terms = (0..across).flat_map(|m| (0..deep).map(move |n| m + n));
        terms.filter_map(|back| last.checked_sub(back)).filter_map(|i| p.get(i)).sum()
    };
    (0..blocks).map(score).collect()
}

/// Eq. 8 to 10: for every token and KV head, the scores of the selection blocks of its sequence, summed over the query
/// heads of the group. Rows in the order token, KV head; each as long as its sequence has blocks. The scale is
/// `1/sqrt(Dk)`. Compressed keys enter as f64 means, not rounded.
///
/// # Panics
/// If `d` does not divide `l` and `l'`, or `n < 3`.
pub fn selection_scores<'a, T: Real>(
    q: &Host<T>,
    k: &Host<T>,
    cu_seqlens: impl Into<Sides<'a>>,
    config: NsaConfig,
) -> Vec<Vec<f64>> {
    let cu_seqlens = cu_seqlens.into();
    let cu = offsets(cu_seqlens.q);
    let tokens = cu[0]..cu[cu.len() - 1];
    let rows: Vec<Row> = tokens.flat_map(|token| (0..k.shape[1]).map(move |head| Row { token, head })).collect();
    selection_scores_rows(q, k, cu_seqlens, config, &rows)
}

/// [`selection_scores`], for these tokens and **KV** heads alone.
///
/// # Panics
/// As [`selection_scores`], or if a token lies in no sequence.
pub fn selection_scores_rows<'a, T: Real>(
    q: &Host<T>,
    k: &Host<T>,
    cu_seqlens: impl Into<Sides<'a>>,
    config: NsaConfig,
    rows: &[Row],
) -> Vec<Vec<f64>> {
    let cu_seqlens = cu_seqlens.into();
    let k_cmp = compress(k, cu_seqlens.k, config);
    let (heads, group, scale) = (k.shape[1], q.shape[1] / k.shape[1], 1.0 / (q.shape[2] as f32).sqrt());
    let (cu, cu_k) = (offsets(cu_seqlens.q), offsets(cu_seqlens.k));
    let batch = cu.len() - 1;
    let shift = walk::shifts(&cu, &cu_k);
    let cu_kv = k_cmp.cu_seqlens.clone();
    let src = Source { q, k: &k_cmp.data, v: &k_cmp.data, cu_q: cu.clone(), cu_kv, shift, scale };
    let panels: Vec<Panel<f64>> = (0..batch * heads).map(|i| Panel::of(&src, i / heads, i % heads)).collect();
    let see = sees_compressed(config);
    let score = |&Row { token, head: kv_head }: &Row| {
        let s = cu.partition_point(|&start| start <= token) - 1;
        let blocks = config.blocks(cu_k[s + 1] - cu_k[s]);
        let (mut seen, mut p, mut sum) = (Vec::new(), Vec::new(), vec![0.0; blocks]);
        let (first_key, index) = (src.cu_kv[s], token - cu[s]);
        let (position, keys) = (index as i64 + src.shift[s], src.cu_kv[s + 1] - first_key);
        see(&walk::At { position, index, token, sequence: s, head: kv_head, kv_head, first_key, keys }, &mut seen);
        for head in kv_head * group..(kv_head + 1) * group {
            let q: Vec<f64> = q.row(token, head).iter().map(|x| x.to_f64()).collect();
            if let Some((_, total)) = softmax_terms(&q, &panels[s * heads + kv_head], &seen, scale, &mut p) {
                p.iter_mut().for_each(|p| *p /= total);
                let scores = overlap_scores(&p, config, blocks);
                sum.iter_mut().zip(scores).for_each(|(sum, s)| *sum += s);
            }
        }
        sum
    };
    rows.par_iter().map(score).collect()
}

/// Eq. 11 and 12 for one row: the forced blocks, then the best others up to the token's own block; the lower block on
/// equal scores; NaN scores last. Ascending, then -1 up to `n`.
pub fn top_n(scores: &[f64], position: usize, config: NsaConfig) -> Vec<i32> {
    config.check();
    let mut chosen = config.forced(position);
    let own = position / config.l_sel;
    let mut others: Vec<usize> = (0..=own).filter(|j| !chosen.contains(j)).collect();
    let key = |j: usize| if scores[j].is_nan() { f64::NEG_INFINITY } else { scores[j] };
    others.sort_by(|&a, &b| key(b).total_cmp(&key(a)).then(a.cmp(&b)));
    others.truncate(config.n - chosen.len());
    chosen.extend(others);
    chosen.sort_unstable();
    let mut picks: Vec<i32> = chosen.into_iter().map(|j| j as i32).collect();
    picks.resize(config.n, -1);
    picks
}

/// Eq. 8 to 12: the blocks that each token and KV head selects, `[total, Hk, n]`, ascending, -1 behind them. A token that is
/// before every key selects none.
///
/// # Panics
/// If `d` does not divide `l` and `l'`, or `n < 3`.
pub fn select<'a, T: Real>(q: &Host<T>, k: &Host<T>, cu_seqlens: impl Into<Sides<'a>>, config: NsaConfig) -> Host<i32> {
    let cu_seqlens = cu_seqlens.into();
    let (total, heads) = (q.shape[0], k.shape[1]);
    let scores = selection_scores(q, k, cu_seqlens, config);
    let mut picks = Host::filled(-1, [total, heads, config.n]);
    let mut scores = scores.iter();
    for (token, head) in
        cu_seqlens.each().flat_map(|(queries, _)| queries).flat_map(|t| (0..heads).map(move |h| (t, h)))
    {
        let scores = scores.next().expect("a row of scores for every token and KV head");
        let place = cu_seqlens.place(token).expect("a token of a sequence");
        if let Ok(position) = usize::try_from(place.position) {
            picks.row_mut(token, head).copy_from_slice(&top_n(scores, position, config));
        }
    }
    picks
}

/// Why a row of picks is not a selection by these scores.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum BadPick {
    /// An index outside the blocks that the token may choose, or twice the same.
    #[error("block {block} is listed at position {position}, where blocks 0 to {own} may be, each once")]
    NotAllowed {
        /// The block.
        block: i32,
        /// The token's position in its sequence.
        position: usize,
        /// The last block that may be chosen.
        own: usize,
    },
    /// A forced block is missing.
    #[error("block {block} is forced at position {position} and is not listed")]
    NotForced {
        /// The block.
        block: usize,
        /// The token's position in its sequence.
        position: usize,
    },
    /// More or fewer blocks than there is room for or than there are.
    #[error("{listed} blocks are listed at position {position}, where {wanted} must be")]
    Count {
        /// How many are.
        listed: usize,
        /// The token's position in its sequence.
        position: usize,
        /// How many must be.
        wanted: usize,
    },
    /// A block was passed over for one whose score is lower by more than the margin.
    #[error(
        "block {taken} (score {taken_score}) was chosen over block {left} (score {left_score}) at position {position}"
    )]
    Worse {
        /// The chosen block.
        taken: usize,
        /// Its score.
        taken_score: f64,
        /// The block passed over.
        left: usize,
        /// Its score.
        left_score: f64,
        /// The token's position in its sequence.
        position: usize,
    },
}

/// Whether a row of picks is a selection by these scores, up to `margin`: a computation in lower precision may decide a
/// near tie the other way. Any order, -1 anywhere.
pub fn check_picks(
    picks: &[i32],
    scores: &[f64],
    position: usize,
    config: NsaConfig,
    margin: f64,
) -> Result<(), BadPick> {
    let own = position / config.l_sel;
    let mut listed = vec![false; own + 1];
    for &block in picks.iter().filter(|&&b| b != -1) {
        match usize::try_from(block).ok().and_then(|b| listed.get_mut(b)) {
            Some(slot) if !*slot => *slot = true,
            _ => return Err(BadPick::NotAllowed { block, position, own }),
        }
    }
    let forced = config.forced(position);
    if let Some(&block) = forced.iter().find(|&&b| !listed[b]) {
        return Err(BadPick::NotForced { block, position });
    }
    let (count, wanted) = (listed.iter().filter(|&&x| x).count(), config.n.min(own + 1));
    if count != wanted {
        return Err(BadPick::Count { listed: count, position, wanted });
    }
    let by_score = |a: &usize, b: &usize| scores[*a].total_cmp(&scores[*b]);
    let worst = (0..=own).filter(|j| listed[*j] && !forced.contains(j)).min_by(by_score);
    let best = (0..=own).filter(|j| !listed[*j]).max_by(by_score);
    match (worst, best) {
        (Some(taken), Some(left)) if scores[taken] < scores[left] - margin => {
            Err(BadPick::Worse { taken, taken_score: scores[taken], left, left_score: scores[left], position })
        }
        _ => Ok(()),
    }
}

/// Lists the tokens of the picked blocks: each block as often as it is listed, tokens up to the query, blocks outside the
/// sequence skipped.
pub(crate) fn picked<'a>(picks: &'a Host<i32>, l_sel: usize) -> Box<Seen<'a>> {
    Box::new(move |at, seen| {
        for &block in picks.row(at.token, at.kv_head) {
            let Ok(block) = usize::try_from(block) else { continue };
            let first = block.saturating_mul(l_sel);
            let end = first.saturating_add(l_sel).min(at.keys).min(usize::try_from(at.position + 1).unwrap_or(0));
            seen.extend((first..end).map(|j| j as u32));
        }
    })
}

/// Attention to the tokens of the selected blocks (Eq. 11 and 12 into Eq. 5's middle branch).
///
/// `picks` is `[total, Hk, n]`, blocks of `l_sel` tokens counted from the start of the sequence. Every listed block counts
/// once for each time that it is listed; order is free; indices below 0 or behind the end of the sequence are skipped; a
/// token sees no later one; the last block is cut where the sequence ends. A row without any block has `o = 0`,
/// `lse = -inf`.
pub fn selected_attention<T: Real>(p: &Problem<'_, T>, picks: &Host<i32>, l_sel: usize) -> Attended<f64> {
    walk::whole(&Source::of(p), &picked(picks, l_sel), &attend)
}

/// [`selected_attention`], for these rows alone.
pub fn selected_attention_rows<T: Real>(
    p: &Problem<'_, T>,
    picks: &Host<i32>,
    l_sel: usize,
    rows: &[Row],
) -> Attended<f64> {
    walk::some(&Source::of(p), &picked(picks, l_sel), &attend, rows)
}

#[cfg(test)]
mod tests;
