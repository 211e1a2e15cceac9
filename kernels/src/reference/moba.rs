//! Mixture of Block Attention (arXiv 2502.13189): pooled keys, gate, routing, and attention to what was routed.
//!
//! A document's keys are cut into blocks of `B`, the last one where they end. Queries and keys end together: token `i`
//! of a document with `S` queries and `K` keys stands at position `i + K - S`, which is below 0 where there is no key
//! for it. The block of a position is its *own*; a row without one is zeros, with an LSE of -inf.
//!
//! VMoBA (arXiv 2506.23858) is the same with another [`Rule`]: not causal, and a row takes as many blocks as its scores
//! want.

use super::walk::{self, At, Seen, Source};
use super::{Attended, Problem, attend};
use crate::host::{Float, Host, Real, Row};
pub use crate::host::{Place, Sides};
use rayon::prelude::*;

/// The lengths of MoBA, in keys and blocks, and who may be taken.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MobaConfig {
    /// `B`: keys of a block.
    pub block: usize,
    /// `T`: blocks of a row at most, its own included; at least 1.
    pub top: usize,
    /// Which other blocks a row may take, and how many.
    pub rule: Rule,
}

/// Which blocks a row takes besides its own.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rule {
    /// MoBA: the best of the complete blocks before its own. Keys behind the query are hidden.
    Past,
    /// VMoBA: of all other blocks the best, until those taken have this share of the softmax over the scores of all
    /// others. No key is hidden.
    Mass {
        /// From 0 to 1.
        share: f64,
        /// What the scores are multiplied by in that softmax.
        scale: f64,
    },
}

impl MobaConfig {
    /// MoBA with blocks of `block` keys, `top` of them to a row.
    pub fn new(block: usize, top: usize) -> Self {
        Self { block, top, rule: Rule::Past }
    }

    /// How many blocks a document with so many keys has, the last one cut.
    pub fn blocks(&self, keys: usize) -> usize {
        keys.div_ceil(self.block)
    }

    /// The block of a position; none below 0.
    pub fn own(&self, position: i64) -> Option<usize> {
        usize::try_from(position).ok().map(|position| position / self.block)
    }

    /// How many of the first blocks of a document have scores for a row at this position.
    pub fn scored(&self, position: i64, keys: usize) -> usize {
        match (self.own(position), self.rule) {
            (None, _) => 0,
            (Some(own), Rule::Past) => own,
            (Some(_), Rule::Mass { .. }) => self.blocks(keys),
        }
    }

    fn check(&self) {
        assert!(self.block > 0 && self.top > 0, "blocks of {} keys, {} to a row", self.block, self.top);
    }
}

impl Sides<'_> {
    /// The slot of a block among the pooled keys.
    pub fn slot(&self, document: usize, block: usize, config: MobaConfig) -> usize {
        self.k[document] as usize / config.block + document + block
    }

    /// How many slots there are: some stay empty.
    pub fn slots(&self, config: MobaConfig) -> usize {
        (self.k[self.documents()] as usize).div_ceil(config.block) + self.documents()
    }
}

/// Pooled keys, each `[slots, Hk, Dk]`; zeros in slots that no block has.
#[derive(Clone, Debug, PartialEq)]
pub struct Pooled<T> {
    /// The mean of each block, rounded to the type of the keys. A cut block's is the mean of the keys that it has.
    pub mean: Host<T>,
    /// The least that a mean may be rounded to after a sum in f32, in any order.
    pub low: Host<T>,
    /// The greatest.
    pub high: Host<T>,
}

/// The mean of each block of keys, rounded to their type.
pub fn pool<T: Float>(k: &Host<T>, sides: Sides<'_>, config: MobaConfig) -> Pooled<T> {
    config.check();
    let [_, heads, width] = k.shape;
    let empty = Host::filled(T::default(), [sides.slots(config), heads, width]);
    let mut pooled = Pooled { mean: empty.clone(), low: empty.clone(), high: empty };
    for document in 0..sides.documents() {
        let keys = sides.keys(document);
        for (block, head) in (0..config.blocks(keys.len())).flat_map(|b| (0..heads).map(move |h| (b, h))) {
            let first = keys.start + block * config.block;
            let end = keys.end.min(first + config.block);
            let (mut sum, mut size) = (vec![0.0; width], vec![0.0; width]);
            for token in first..end {
                for (i, x) in k.row(token, head).iter().enumerate() {
                    sum[i] += x.to_f64();
                    size[i] += x.to_f64().abs();
                }
            }
            let slot = sides.slot(document, block, config);
            for i in 0..width {
                let mean = sum[i] / (end - first) as f64;
                // n - 1 additions, each off by at most 2^-24 of what it gives; the division by as much.
                let off = (size[i] + mean.abs()) * 2f64.powi(-24);
                let rounded = |x: f64| T::from_f32(x as f32);
                pooled.mean.row_mut(slot, head)[i] = rounded(mean);
                pooled.low.row_mut(slot, head)[i] = rounded(mean - off);
                pooled.high.row_mut(slot, head)[i] = rounded(mean + off);
            }
        }
    }
    pooled
}

/// The scores of a row.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Gated {
    /// `<q, pooled k>`, unscaled, of each of the first blocks of the document: those that [`MobaConfig::scored`]
    /// counts.
    pub scores: Vec<f64>,
    /// How far two scores may lie apart and yet be taken for one another in f32: means may have been rounded the other
    /// way, and sums are not exact.
    pub margin: f64,
}

/// The scores of every row: token by token, in each the query heads.
///
/// # Panics
/// If blocks or `top` are 0, or a token is in no document.
pub fn gate<T: Float>(q: &Host<T>, k: &Host<T>, sides: Sides<'_>, config: MobaConfig) -> Vec<Gated> {
    let [tokens, heads, _] = q.shape;
    let rows: Vec<Row> = (0..tokens).flat_map(|token| (0..heads).map(move |head| Row { token, head })).collect();
    gate_rows(q, k, sides, config, &rows)
}

/// [`gate`], for these rows alone.
///
/// # Panics
/// As [`gate`].
pub fn gate_rows<T: Float>(q: &Host<T>, k: &Host<T>, sides: Sides<'_>, config: MobaConfig, rows: &[Row]) -> Vec<Gated> {
    let pooled = pool(k, sides, config);
    let (hq, hk, width) = (q.shape[1], k.shape[1], q.shape[2]);
    let row = |&Row { token, head }: &Row| {
        let Place { document, position, keys } = sides.place(token).expect("a token of a document");
        let (kv_head, mut gated) = (head * hk / hq, Gated::default());
        for block in 0..config.scored(position, keys) {
            let slot = sides.slot(document, block, config);
            let [mean, low, high] = [&pooled.mean, &pooled.low, &pooled.high].map(|x| x.row(slot, kv_head));
            let (mut score, mut size, mut off) = (0.0, 0.0, 0.0);
            for (i, q) in q.row(token, head).iter().map(|q| q.to_f64()).enumerate() {
                let product = q * mean[i].to_f64();
                score += product;
                size += product.abs();
                off += q.abs() * (high[i].to_f64() - low[i].to_f64());
            }
            // Tensor cores cut off rather than round: a whole unit in the last place at each step.
            let one = off + size * width as f64 * 2f64.powi(-23);
            gated.margin = f64::max(gated.margin, 2.0 * one);
            gated.scores.push(score);
        }
        gated
    };
    rows.par_iter().map(row).collect()
}

/// What NaN is ranked as.
fn rank(score: f64) -> f64 {
    if score.is_nan() { f64::NEG_INFINITY } else { score }
}

/// Other blocks with scores, best first; the lower index on equal scores. NaN and -inf are no scores.
fn others(scores: &[f64], own: usize) -> Vec<usize> {
    let scored = |&block: &usize| block != own && rank(scores[block]) > f64::NEG_INFINITY;
    let mut others: Vec<usize> = (0..scores.len()).filter(scored).collect();
    others.sort_by(|&a, &b| rank(scores[b]).total_cmp(&rank(scores[a])).then(a.cmp(&b)));
    others
}

/// The share that each of these blocks has of the softmax over them.
fn shares(scores: &[f64], blocks: &[usize], scale: f64) -> Vec<f64> {
    let logit = |&block: &usize| scale * rank(scores[block]);
    let max = blocks.iter().map(logit).fold(f64::NEG_INFINITY, f64::max);
    let terms: Vec<f64> = blocks.iter().map(|block| (logit(block) - max).exp()).collect();
    let sum: f64 = terms.iter().sum();
    terms.iter().map(|term| term / sum).collect()
}

/// How many of these must be added up to reach a sum; all, where they do not.
fn reaching(terms: &[f64], wanted: f64) -> usize {
    let mut sum = 0.0;
    let taken = |term: &&f64| {
        let more = sum < wanted;
        sum += **term;
        more
    };
    terms.iter().take_while(taken).count()
}

/// The routing of one row: its own block, then the best others in descending score, then -1 up to `top`. Equal scores
/// go to the lower index; a block whose score is NaN or -inf is not listed.
pub fn route_row(scores: &[f64], position: i64, config: MobaConfig) -> Vec<i32> {
    config.check();
    let mut row = vec![-1; config.top];
    let Some(own) = config.own(position) else { return row };
    row[0] = own as i32;
    let others = others(scores, own);
    let wanted = match config.rule {
        Rule::Past => others.len(),
        Rule::Mass { share, scale } => reaching(&shares(scores, &others, scale), share),
    };
    for (slot, &block) in row[1..].iter_mut().zip(&others[..wanted]) {
        *slot = block as i32;
    }
    row
}

/// The routing of every row, `[tokens, Hq, top]`.
///
/// # Panics
/// As [`gate`].
pub fn route<T: Float>(q: &Host<T>, k: &Host<T>, sides: Sides<'_>, config: MobaConfig) -> Host<i32> {
    let [tokens, heads, _] = q.shape;
    let mut routing = Host::filled(-1, [tokens, heads, config.top]);
    for (at, (row, gated)) in routing.data.chunks_mut(config.top).zip(gate(q, k, sides, config)).enumerate() {
        let place = sides.place(at / heads).expect("a token of a document");
        row.copy_from_slice(&route_row(&gated.scores, place.position, config));
    }
    routing
}

/// Why a row of a routing is not made of these scores.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum BadRoute {
    /// Another first entry than the own block.
    #[error("a row at position {position} begins with {first}; its own block is {own}")]
    NotOwn {
        /// What it begins with.
        first: i32,
        /// The row's position.
        position: i64,
        /// What it must begin with: -1 where the row has no block.
        own: i32,
    },
    /// An entry that may not be there, or twice the same.
    #[error("a row at position {position} lists {block}: {routing:?}")]
    NotAllowed {
        /// The entry.
        block: i32,
        /// The row's position.
        position: i64,
        /// The row.
        routing: Vec<i32>,
    },
    /// More or fewer blocks than there must be.
    #[error("a row at position {position} lists {listed} blocks; {least} to {most} is right")]
    Count {
        /// How many it lists.
        listed: usize,
        /// The row's position.
        position: i64,
        /// How many it must list.
        least: usize,
        /// How many it may.
        most: usize,
    },
    /// A block with a lower score before one with a higher, by more than the margin.
    #[error("block {before} (score {low}) stands before block {behind} (score {high}) at position {position}")]
    Order {
        /// The one before.
        before: usize,
        /// Its score.
        low: f64,
        /// The one behind it, or passed over.
        behind: usize,
        /// Its score.
        high: f64,
        /// The row's position.
        position: i64,
    },
}

/// Whether a row of a routing is made of these scores, up to their margin.
pub fn check_route(row: &[i32], gated: &Gated, position: i64, config: MobaConfig) -> Result<(), BadRoute> {
    let own = config.own(position);
    let first = own.map_or(-1, |own| own as i32);
    if row[0] != first {
        return Err(BadRoute::NotOwn { first: row[0], position, own: first });
    }
    let scores = &gated.scores;
    let end = row[1..].iter().position(|&block| block == -1).map_or(row.len(), |at| at + 1);
    let mut left: Vec<usize> = own.map_or(Vec::new(), |own| others(scores, own));
    let (mut listed, possible) = (Vec::new(), left.len());
    for &block in row[1..end].iter().chain(row[end..].iter().filter(|&&block| block != -1)) {
        let Some(at) = left.iter().position(|&other| other as i32 == block) else {
            return Err(BadRoute::NotAllowed { block, position, routing: row.to_vec() });
        };
        listed.push(left.remove(at));
    }
    let (most, least) = match config.rule {
        Rule::Past => (possible, possible),
        Rule::Mass { share, scale } => {
            // A score that is off by the margin has a share that is off by this factor, and so has the sum.
            let off = (2.0 * scale.abs() * gated.margin).exp() * (1.0 + 1e-4);
            let mass = shares(scores, &others(scores, own.unwrap_or(0)), scale);
            (reaching(&mass, share * off), reaching(&mass, share / off))
        }
    };
    let room = config.top - 1;
    if !(least.min(room)..=most.min(room)).contains(&listed.len()) {
        let (least, most) = (least.min(room), most.min(room));
        return Err(BadRoute::Count { listed: listed.len(), position, least, most });
    }
    let worse = |before: usize, behind: usize| rank(scores[before]) < rank(scores[behind]) - gated.margin;
    let next = listed.windows(2).map(|two| (two[0], two[1]));
    let over = listed.last().and_then(|&last| left.first().map(|&best| (last, best)));
    match next.chain(over).find(|&(before, behind)| worse(before, behind)) {
        None => Ok(()),
        Some((before, behind)) => {
            let (low, high) = (scores[before], scores[behind]);
            Err(BadRoute::Order { before, low, behind, high, position })
        }
    }
}

/// Who attends to what.
#[derive(Clone, Copy, Debug)]
pub struct Routed<'a> {
    /// `[tokens, Hq, top]`. The first entry of a row is its own block, and is not looked at: a row always has that. Of
    /// the others each counts as often as it is listed, if it is a block that the row may take ([`Rule`]); in any
    /// order.
    pub routing: &'a Host<i32>,
    /// `B`, and who may be taken.
    pub config: MobaConfig,
    /// For each query head, where it is given: whether it sees all keys up to its own, whatever the routing says.
    pub full_heads: Option<&'a [i32]>,
}

impl Routed<'_> {
    /// Lists the keys of a row.
    pub(crate) fn seen(&self) -> Box<Seen<'_>> {
        let block = self.config.block;
        Box::new(move |at: &At, seen| {
            let Some(own) = self.config.own(at.position) else { return };
            let (end, blocks) = match self.config.rule {
                Rule::Past => (at.position as usize + 1, own),
                Rule::Mass { .. } => (at.keys, self.config.blocks(at.keys)),
            };
            if self.full_heads.is_some_and(|full| full[at.head] != 0) {
                seen.extend(0..end as u32);
                return;
            }
            let listed =
                self.routing.row(at.token, at.head)[1..].iter().filter_map(|&block| usize::try_from(block).ok());
            for other in listed.filter(|&other| other < blocks && other != own).chain([own]) {
                seen.extend((other * block) as u32..end.min((other + 1) * block) as u32);
            }
        })
    }
}

/// Attention to the routed blocks, of every row or of these: one softmax over the keys of all its blocks.
pub fn attention<T: Real>(p: &Problem<'_, T>, routed: &Routed<'_>, rows: Option<&[Row]>) -> Attended<f64> {
    let (source, seen) = (Source::of(p), routed.seen());
    match rows {
        None => walk::whole(&source, &*seen, &attend),
        Some(rows) => walk::some(&source, &*seen, &attend, rows),
    }
}

#[cfg(test)]
mod tests;
