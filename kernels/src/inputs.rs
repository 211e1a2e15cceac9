//! Drawn inputs: the same numbers on every machine for the same seed, however many threads draw them.

mod routing;

use crate::host::{Dims, Float, Host, Place, Row, Sides};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use rayon::prelude::*;
pub use routing::{Route, garbage, routing};
use std::collections::BTreeSet;

/// Q, K and V (bf16, 1341 tokens in 3 sequences, 12 heads, width 32) of a real model over a real text, as a safetensors
/// file: `q`, `k`, `v` and `cu_seqlens`. `data/README.md` says where they come from.
pub const MINILM: &[u8] = include_bytes!("../data/minilm_layer3_qkv.safetensors");

/// Elements drawn from one stream of the generator.
const CHUNK: usize = 1 << 14;

fn stream(seed: u64, stream: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(stream);
    rng
}

/// Uniform in `0..bound`, to within `2^-32`.
fn below(rng: &mut impl Rng, bound: u32) -> u32 {
    ((u64::from(rng.next_u32()) * u64::from(bound)) >> 32) as u32
}

/// `ln x` for `x` in `(0, 1]`, by arithmetic alone: the `ln` of the system may differ between systems in the last
/// place.
fn ln(x: f64) -> f64 {
    let bits = x.to_bits();
    let mut exponent = ((bits >> 52) & 0x7ff) as i64 - 1023;
    let mut mantissa = f64::from_bits((bits & ((1 << 52) - 1)) | (1023 << 52));
    if mantissa > std::f64::consts::SQRT_2 {
        mantissa *= 0.5;
        exponent += 1;
    }
    let z = (mantissa - 1.0) / (mantissa + 1.0);
    let z2 = z * z;
    let series = (0..9).rev().fold(0.0, |sum, i| sum * z2 + 1.0 / f64::from(2 * i + 1));
    exponent as f64 * std::f64::consts::LN_2 + 2.0 * z * series
}

/// Two independent normal numbers (Marsaglia's polar method).
fn normal_pair(rng: &mut impl Rng) -> (f64, f64) {
    let mut uniform = || f64::from(rng.next_u32()) * 2f64.powi(-31) - 1.0;
    loop {
        let (x, y) = (uniform(), uniform());
        let r2 = x * x + y * y;
        if r2 > 0.0 && r2 < 1.0 {
            let f = (-2.0 * ln(r2) / r2).sqrt();
            return (x * f, y * f);
        }
    }
}

/// Normal numbers with mean 0 and standard deviation `deviation`, rounded to `T`.
pub fn normal<T: Float, const R: usize>(seed: u64, shape: [usize; R], deviation: f32) -> Host<T, R> {
    let mut data = vec![T::default(); shape.iter().product()];
    data.par_chunks_mut(CHUNK).enumerate().for_each(|(i, chunk)| {
        let rng = &mut stream(seed, i as u64);
        for pair in chunk.chunks_mut(2) {
            let (a, b) = normal_pair(rng);
            for (slot, x) in pair.iter_mut().zip([a, b]) {
                *slot = T::from_f32((x * f64::from(deviation)) as f32);
            }
        }
    });
    Host::new(data, shape)
}

/// Queries `[total, Hq, Dk]`, keys `[keys, Hk, Dk]` and values `[keys, Hk, Dv]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Qkv<T> {
    /// Queries.
    pub q: Host<T>,
    /// Keys.
    pub k: Host<T>,
    /// Values.
    pub v: Host<T>,
}

/// Standard normal queries, keys and values, drawn independently. Under the usual scale `1/sqrt(Dk)` the logits are
/// then near standard normal too.
pub fn qkv<T: Float>(seed: u64, dims: Dims) -> Qkv<T> {
    let Dims { total, keys, hq, hk, dk, dv } = dims;
    let part = |i: u64, shape| normal(seed.wrapping_mul(3).wrapping_add(i), shape, 1.0);
    Qkv { q: part(0, [total, hq, dk]), k: part(1, [keys, hk, dk]), v: part(2, [keys, hk, dv]) }
}

/// How many numbers [`repeated_qkv`] draws of each tensor: a prime, so that what repeats falls on other heads and
/// elements.
const REPEATED: usize = 16_777_213;

/// [`qkv`] for timing: past some 16 million numbers a tensor repeats, shifted against its rows, so that no two rows are
/// alike.
pub fn repeated_qkv<T: Float>(seed: u64, dims: Dims) -> Qkv<T> {
    let Dims { total, keys, hq, hk, dk, dv } = dims;
    let part = |i: u64, shape: [usize; 3]| {
        let count: usize = shape.iter().product();
        let drawn = normal::<T, 1>(seed.wrapping_mul(3).wrapping_add(i), [count.min(REPEATED)], 1.0).data;
        let mut data = Vec::with_capacity(count);
        while data.len() < count {
            data.extend_from_slice(&drawn[..drawn.len().min(count - data.len())]);
        }
        Host::new(data, shape)
    };
    Qkv { q: part(0, [total, hq, dk]), k: part(1, [keys, hk, dk]), v: part(2, [keys, hk, dv]) }
}

/// [`qkv`] with queries and keys so large that the logits under `1/sqrt(Dk)` have standard deviation `logits`.
pub fn large_logits<T: Float>(seed: u64, dims: Dims, logits: f32) -> Qkv<T> {
    let Qkv { q, k, v } = qkv::<T>(seed, dims);
    let larger = |x: T| T::from_f32(x.to_f32() * logits.sqrt());
    Qkv { q: q.map(larger), k: k.map(larger), v }
}

/// [`qkv`] in which each query of `rows` has the logit -inf with every key, so that the row is as one
/// that sees nothing: the query is `[-inf, 0, ..]` and the first element of every key is made positive.
pub fn infinite_rows<T: Float>(seed: u64, dims: Dims, rows: &[Row]) -> Qkv<T> {
    let Qkv { mut q, mut k, v } = qkv::<T>(seed, dims);
    for key in k.data.chunks_mut(dims.dk) {
        key[0] = T::from_f32(key[0].to_f32().abs().max(0.5));
    }
    for &Row { token, head } in rows {
        let row = q.row_mut(token, head);
        row.fill(T::from_f32(0.0));
        row[0] = T::from_f32(f32::NEG_INFINITY);
    }
    Qkv { q, k, v }
}

/// cu_seqlens of sequences this long, one behind the other.
///
/// # Panics
/// If they hold 2^31 tokens or more.
pub fn cu_seqlens(lengths: &[usize]) -> Vec<i32> {
    let ends = lengths.iter().scan(0usize, |end, length| {
        *end += length;
        Some(i32::try_from(*end).expect("fewer than 2^31 tokens"))
    });
    std::iter::once(0).chain(ends).collect()
}

/// cu_seqlens of `batch` sequences of 0 to `longest` tokens; of several, one is empty and one has `longest`.
pub fn ragged(seed: u64, batch: usize, longest: usize) -> Vec<i32> {
    let rng = &mut stream(seed, 0);
    let mut lengths: Vec<usize> = (0..batch).map(|_| below(rng, longest as u32 + 1) as usize).collect();
    if batch > 1 {
        let at = below(rng, batch as u32) as usize;
        let other = (at + 1 + below(rng, batch as u32 - 1) as usize) % batch;
        (lengths[at], lengths[other]) = (0, longest);
    }
    cu_seqlens(&lengths)
}

/// A table with the document of each token, where each sequence is cut in `packed` documents of equal length, as near
/// as can be. They are numbered through all sequences.
pub fn document_table(cu_seqlens: &[i32], packed: usize) -> Vec<i32> {
    let sequence = |(number, pair): (usize, &[i32])| {
        let len = (pair[1] - pair[0]) as usize;
        (0..len).map(move |at| (number * packed + at * packed.min(len) / len) as i32)
    };
    cu_seqlens.windows(2).enumerate().flat_map(sequence).collect()
}

/// A tree of tokens in each sequence: the first half is one behind the other, as a prompt is, and each token behind it
/// follows one of the 16 before it. Two tables: when a walk through the tree enters each token, and when it has left
/// all below it.
pub fn token_tree(seed: u64, cu_seqlens: &[i32]) -> [Vec<i32>; 2] {
    let (mut enter, mut leave) = (Vec::new(), Vec::new());
    for (number, pair) in cu_seqlens.windows(2).enumerate() {
        let rng = &mut stream(seed, number as u64);
        let len = (pair[1] - pair[0]) as usize;
        let parent = |token: usize, rng: &mut ChaCha8Rng| match token {
            _ if token <= len / 2 => token - 1,
            _ => token - 1 - below(rng, token.min(16) as u32) as usize,
        };
        let parents: Vec<usize> = (1..len).map(|token| parent(token, rng)).collect();
        // How many there are below each, itself included; a child comes behind its parent.
        let mut below = vec![1; len];
        for token in (1..len).rev() {
            below[parents[token - 1]] += below[token];
        }
        // Children are entered in order, each behind all below those before it.
        let (mut entered, mut next) = (vec![0; len], vec![1; len]);
        for token in 1..len {
            let parent = parents[token - 1];
            entered[token] = next[parent];
            next[parent] += below[token];
            next[token] = entered[token] + 1;
        }
        leave.extend(entered.iter().zip(&below).map(|(at, below)| at + below));
        enter.extend(entered);
    }
    [enter, leave]
}

/// A number of keys for each token, from none to a few more than there are, in steps of a few tokens: what a table of
/// ranges may hold.
pub fn ranges(seed: u64, cu_seqlens: &[i32]) -> Vec<i32> {
    let mut ends = Vec::new();
    for (number, pair) in cu_seqlens.windows(2).enumerate() {
        let rng = &mut stream(seed, number as u64);
        let len = pair[1] - pair[0];
        let mut end = 0;
        for at in 0..len {
            if at % 24 == 0 {
                end = below(rng, len as u32 + 40) as i32 - 20;
            }
            ends.push(end);
        }
    }
    ends
}

/// Block lists `[documents, heads, tiles, n]` for tiles of `rows` queries and blocks of `keys` keys: each block is
/// listed with a probability of `percent` in a hundred, and the block of the tile's first query always; under `causal`
/// none that is all behind the tile. Ascending, -1 behind them; `n` is as many as the longest list has, and at least 1.
pub fn tile_lists<'a>(
    seed: u64,
    cu_seqlens: impl Into<Sides<'a>>,
    heads: usize,
    (rows, keys): (usize, usize),
    percent: u32,
    causal: bool,
) -> (Vec<i32>, [usize; 4]) {
    let sides: Sides<'_> = cu_seqlens.into();
    let tiles = sides.each().map(|(queries, _)| queries.len()).max().map_or(0, |longest| longest.div_ceil(rows));
    let list = |at: usize| {
        let (document, first) = (at / tiles / heads, at % tiles * rows);
        let (len, all) = (sides.queries(document).len(), sides.keys(document).len());
        // Positions below 0 count as 0: such a tile has a list too, of which its rows see nothing or all.
        let position = |nth: usize| (nth as i64 + sides.shift(document)).max(0) as usize;
        let end = if causal { all.min(position(first + rows)) } else { all };
        let rng = &mut stream(seed, at as u64);
        let own = position(first) / keys;
        let listed = |block: &usize| below(rng, 100) < percent || *block == own;
        let blocks = if first < len { end.div_ceil(keys) } else { 0 };
        (0..blocks).filter(listed).map(|block| block as i32).collect()
    };
    let lists: Vec<Vec<i32>> = (0..sides.documents() * heads * tiles).map(list).collect();
    let n = lists.iter().map(Vec::len).max().unwrap_or(0).max(1);
    let padded = lists.iter().flat_map(|list| (0..n).map(|i| list.get(i).copied().unwrap_or(-1)));
    (padded.collect(), [sides.documents(), heads, tiles, n])
}

/// Whether neighbouring tokens share their selection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Locality {
    /// Every token draws its own blocks.
    PerToken,
    /// The tokens of a block draw theirs together.
    PerBlock,
}

/// Selections shaped like NSA's, for `hk` KV heads: block 0, the token's own block and the one before it, and random
/// distinct earlier ones up to `n` in all, as far as there are that many. Ascending, -1 behind them: `[total, Hk, n]`. A token
/// that is before every key has none.
///
/// # Panics
/// If `n < 3`.
pub fn picks<'a>(
    seed: u64,
    cu_seqlens: impl Into<Sides<'a>>,
    hk: usize,
    l_sel: usize,
    n: usize,
    locality: Locality,
) -> Host<i32> {
    assert!(n >= 3, "n = {n} leaves no room for the three forced blocks");
    let sides: Sides<'_> = cu_seqlens.into();
    let total = sides.q.last().map_or(0, |&end| end as usize);
    let mut picks = Host::filled(-1, [total, hk, n]);
    picks.data.par_chunks_mut((hk * n).max(1)).enumerate().for_each(|(token, heads)| {
        let Some(Place { document, position, .. }) = sides.place(token) else { return };
        let Ok(position) = usize::try_from(position) else { return };
        let own = position / l_sel;
        let drawn = match locality {
            Locality::PerToken => token,
            Locality::PerBlock => sides.keys(document).start + own * l_sel,
        };
        let rng = &mut stream(seed, drawn as u64);
        for row in heads.chunks_mut(n) {
            draw_row(rng, own as u32, row);
        }
    });
    picks
}

/// Fills a row of picks that is all -1.
fn draw_row(rng: &mut impl Rng, own: u32, row: &mut [i32]) {
    let mut chosen = BTreeSet::from([0, own.saturating_sub(1), own]);
    let others = own.saturating_sub(2);
    let wanted = (row.len() - chosen.len()).min(others as usize) as u32;
    // Floyd's draw of `wanted` distinct numbers of 1..=others: all of them are equally likely.
    for last in others - wanted + 1..=others {
        let drawn = 1 + below(rng, last);
        chosen.insert(if chosen.contains(&drawn) { last } else { drawn });
    }
    for (slot, block) in row.iter_mut().zip(chosen) {
        *slot = block as i32;
    }
}

/// What a kernel must survive in a selection, made of a good one. The set of blocks that count stays the same, but for
/// [`Spoil::Repeat`] and [`Spoil::Empty`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Spoil {
    /// The indices of each row in any order, -1 among them.
    Shuffle,
    /// Indices that are no block of the sequence in place of -1: far below 0, just behind the end, `i32::MAX`.
    OutOfRange,
    /// Each third row has nothing but -1.
    Empty,
    /// Each third row lists its first block everywhere.
    Repeat,
}

/// Spoils picks `[total, Hk, n]` of sequences with blocks of `l_sel` tokens.
pub fn spoil<'a>(seed: u64, picks: &mut Host<i32>, cu_seqlens: impl Into<Sides<'a>>, l_sel: usize, how: Spoil) {
    let [_, hk, n] = picks.shape;
    let rng = &mut stream(seed, 0);
    for (queries, keys) in cu_seqlens.into().each() {
        let bad = [keys.len().div_ceil(l_sel) as i32, i32::MAX, i32::MIN, -2, 1 << 26];
        for (token, head) in queries.flat_map(|t| (0..hk).map(move |h| (t, h))) {
            let row = picks.row_mut(token, head);
            let third = (token + head) % 3 == 1;
            match how {
                Spoil::Shuffle => (1..n).rev().for_each(|i| row.swap(i, below(rng, i as u32 + 1) as usize)),
                Spoil::OutOfRange => {
                    row.iter_mut().filter(|p| **p == -1).for_each(|p| *p = bad[below(rng, 5) as usize]);
                }
                Spoil::Empty if third => row.fill(-1),
                Spoil::Repeat if third => row.fill(row[0]),
                Spoil::Empty | Spoil::Repeat => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::{bf16, f16};

    #[test]
    fn the_logarithm_is_one() {
        for x in [1.0, 0.5, 0.7, 0.71, 1e-9, 2f64.powi(-62), 0.999_999, 1e-3] {
            assert!((ln(x) - x.ln()).abs() <= 1e-13 * x.ln().abs(), "{x}: {} and {}", ln(x), x.ln());
        }
    }

    #[test]
    fn normal_has_its_moments() {
        let x = normal::<f32, 1>(7, [400_001], 2.0).data;
        let moment = |n: i32| x.iter().map(|&x| (f64::from(x) / 2.0).powi(n)).sum::<f64>() / x.len() as f64;
        let close =
            |n, want: f64| assert!((moment(n) - want).abs() < 0.01 * 4f64.powi(n / 2), "moment {n}: {}", moment(n));
        for (n, want) in [(1, 0.0), (2, 1.0), (3, 0.0), (4, 3.0)] {
            close(n, want);
        }
        let beyond_3 = x.iter().filter(|x| x.abs() > 6.0).count() as f64 / x.len() as f64;
        assert!((beyond_3 - 0.0027).abs() < 0.0004, "{beyond_3}");
    }

    /// The numbers that a seed means are part of what a committed result means.
    #[test]
    fn a_seed_always_means_the_same() {
        let x = normal::<f32, 1>(1, [6], 1.0).data;
        assert_eq!(x, DRAWN_WITH_SEED_1);
        let long = normal::<bf16, 1>(1, [CHUNK + 3], 1.0).data;
        assert_eq!(long[..6], DRAWN_WITH_SEED_1.map(bf16::from_f32));
        assert_ne!(long[CHUNK..], long[..3]);
        assert_ne!(normal::<f16, 1>(2, [6], 1.0).data, normal::<f16, 1>(1, [6], 1.0).data);
    }

    #[test]
    fn what_repeats_is_what_is_drawn_and_no_two_rows_are_alike() {
        let dims = Dims { total: 500, keys: 500, hq: 4, hk: 2, dk: 64, dv: 32 };
        assert_eq!(repeated_qkv::<bf16>(3, dims), qkv(3, dims), "so few do not repeat");
        let long =
            repeated_qkv::<bf16>(3, Dims { total: 1, keys: 1, hq: 2 * REPEATED / 64, hk: 1, dk: 64, dv: 32 }).q.data;
        assert_eq!(long[..1000], long[REPEATED..REPEATED + 1000]);
        let first: Vec<u16> = long[..64].iter().map(|x| x.to_bits()).collect();
        let again = |row: &[bf16]| row.iter().zip(&first).all(|(x, bits)| x.to_bits() == *bits);
        assert_eq!(long.chunks(64).filter(|row| again(row)).count(), 1);
    }

    const DRAWN_WITH_SEED_1: [f32; 6] = [1.1140943, -2.200162, -1.3351257, 0.4461589, -0.5299139, -1.314386];

    #[test]
    fn ragged_has_an_empty_and_a_longest_sequence() {
        for seed in 0..20 {
            let cu = ragged(seed, 4, 50);
            let lengths: Vec<i32> = cu.windows(2).map(|w| w[1] - w[0]).collect();
            assert_eq!((cu[0], lengths.len()), (0, 4));
            assert!(lengths.contains(&0) && lengths.contains(&50) && lengths.iter().all(|l| (0..=50).contains(l)));
        }
        assert_eq!(cu_seqlens(&[3, 0, 5]), [0, 3, 3, 8]);
    }

    #[test]
    fn picks_are_forced_distinct_ascending_and_uniform() {
        let cu = cu_seqlens(&[2600, 0, 70]);
        let p = picks(3, &cu, 2, 64, 16, Locality::PerToken);
        let mut hits = [0u32; 41];
        for (token, head) in (0..2670).flat_map(|t| [(t, 0), (t, 1)]) {
            let row = p.row(token, head);
            let own = (if token < 2600 { token } else { token - 2600 }) as i32 / 64;
            let blocks: Vec<i32> = row.iter().copied().filter(|&b| b >= 0).collect();
            assert_eq!(blocks.len(), 16.min(own as usize + 1), "token {token}: {row:?}");
            assert!(blocks.windows(2).all(|w| w[0] < w[1]) && row[blocks.len()..].iter().all(|&b| b == -1), "{row:?}");
            assert!([0, own, (own - 1).max(0)].iter().all(|f| blocks.contains(f)) && blocks[blocks.len() - 1] == own);
            if (2560..2600).contains(&token) {
                blocks.iter().for_each(|&b| hits[b as usize] += 1);
            }
        }
        // Own block 40: blocks 1 to 38 are drawn 13 at a time, 80 rows, so each is expected 27.4 times.
        assert!(hits[1..39].iter().all(|&h| (8..=50).contains(&h)), "{hits:?}");
        let shared = picks(3, &cu, 2, 64, 16, Locality::PerBlock);
        assert_eq!(shared.row(2560, 1), shared.row(2599, 1));
        assert_ne!(p.row(2560, 1), p.row(2599, 1));
    }

    #[test]
    fn lists_of_tiles_are_as_dense_as_they_say() {
        let cu = cu_seqlens(&[3000, 0, 70]);
        for (percent, causal) in [(0, true), (30, true), (30, false), (100, false)] {
            let (lists, shape) = tile_lists(5, &cu, 3, (128, 32), percent, causal);
            let [documents, heads, tiles, n] = shape;
            assert_eq!((documents, heads, tiles, lists.len()), (3, 3, 24, 3 * 3 * 24 * n));
            let (mut listed, mut possible) = (0, 0);
            for (at, list) in lists.chunks(n).enumerate() {
                let (len, first) = ([3000, 0, 70][at / tiles / heads], at % tiles * 128);
                let blocks: Vec<i32> = list.iter().copied().filter(|&block| block >= 0).collect();
                let end: usize = if causal { len.min(first + 128) } else { len };
                let last = if first < len { end.div_ceil(32) as i32 } else { 0 };
                assert!(blocks.windows(2).all(|two| two[0] < two[1]) && blocks.iter().all(|&block| block < last));
                assert!(list[blocks.len()..].iter().all(|&none| none == -1), "{list:?}");
                assert_eq!(blocks.contains(&(first as i32 / 32)), first < len);
                listed += blocks.len();
                possible += last as usize;
            }
            let share = listed as f64 / possible as f64;
            let least = f64::from(percent) / 100.0;
            assert!((least - 0.02..least + 0.06).contains(&share), "{share} of {percent}%");
        }
        assert_eq!(tile_lists(5, &cu_seqlens(&[0]), 2, (128, 32), 50, true).1, [1, 2, 0, 1]);
    }

    #[test]
    fn spoiled_picks_are_spoiled() {
        let cu = cu_seqlens(&[400, 30]);
        let good = picks(5, &cu, 1, 64, 8, Locality::PerToken);
        let spoiled = |how| {
            let mut p = good.clone();
            spoil(9, &mut p, &cu, 64, how);
            p
        };
        let sorted = |p: &Host<i32>, t| {
            let mut row = p.row(t, 0).to_vec();
            row.sort_unstable();
            row
        };
        let shuffled = spoiled(Spoil::Shuffle);
        assert!((0..430).all(|t| sorted(&shuffled, t) == sorted(&good, t)) && shuffled != good);
        let out = spoiled(Spoil::OutOfRange);
        assert!(
            !out.data.contains(&-1)
                && out.data.contains(&7)
                && out.row(429, 0).iter().all(|&b| b == 0 || !(0..1).contains(&b))
        );
        assert_eq!(spoiled(Spoil::Empty).row(1, 0), [-1; 8]);
        assert_eq!(spoiled(Spoil::Repeat).row(400, 0), [0; 8]);
        assert_eq!(spoiled(Spoil::Repeat).row(399, 0), good.row(399, 0));
    }

    #[test]
    fn the_real_inputs_are_there() {
        let header = u64::from_le_bytes(MINILM[..8].try_into().unwrap()) as usize;
        let text = std::str::from_utf8(&MINILM[8..8 + header]).unwrap();
        assert!(text.contains(r#""q":{"dtype":"BF16","shape":[1341,12,32]"#), "{text}");
        assert_eq!(MINILM.len(), 8 + header + 16 + 3 * 1341 * 12 * 32 * 2);
    }
}
