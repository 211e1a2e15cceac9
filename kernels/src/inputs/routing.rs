//! Routings that are drawn, for MoBA: `[tokens, Hq, top]`.

use super::{below, stream};
use crate::host::Host;
use crate::reference::moba::{MobaConfig, Place, Sides};
use rayon::prelude::*;
use std::collections::BTreeSet;

/// Which blocks a row is sent to besides its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Route {
    /// Every row draws its own from all before: they have nothing to do with each other.
    Random,
    /// The ones just before: neighbours go the same way.
    Local,
}

/// A routing of `hq` query heads to complete past blocks: each row's own block, then as many others as there are, up to
/// `top` in all, and -1 behind them. Rows without a key have -1 alone.
///
/// # Panics
/// If `block` or `top` is 0, or the two sides have different numbers of documents.
pub fn routing(seed: u64, cu_q: &[i32], cu_k: &[i32], hq: usize, block: usize, top: usize, route: Route) -> Host<i32> {
    assert!(block > 0 && top > 0, "blocks of {block} keys, {top} to a row");
    assert_eq!(cu_q.len(), cu_k.len(), "documents");
    let (sides, config) = (Sides { q: cu_q, k: cu_k }, MobaConfig::new(block, top));
    let tokens = cu_q.last().map_or(0, |&end| end as usize);
    let mut routing = Host::filled(-1, [tokens, hq, top]);
    routing.data.par_chunks_mut((hq * top).max(1)).enumerate().for_each(|(token, heads)| {
        let Some(own) = sides.place(token).and_then(|place| config.own(place.position)) else { return };
        let rng = &mut stream(seed, token as u64);
        for row in heads.chunks_mut(top) {
            row[0] = own as i32;
            let wanted = own.min(top - 1);
            match route {
                Route::Local => (0..wanted).for_each(|i| row[1 + i] = (own - 1 - i) as i32),
                Route::Random => {
                    // Floyd's draw of `wanted` distinct numbers below `own`, in the order in which they were drawn.
                    let mut chosen = BTreeSet::new();
                    for (slot, last) in row[1..].iter_mut().zip(own - wanted..own) {
                        let drawn = below(rng, last as u32 + 1) as usize;
                        let block = if chosen.contains(&drawn) { last } else { drawn };
                        chosen.insert(block);
                        *slot = block as i32;
                    }
                }
            }
        }
    });
    routing
}

/// What a kernel must survive in a routing, made of a good one: in place of each -1, and of every first entry, stands
/// what is no past block of the row (the own one, later ones, far ones, below 0), and the entries behind the first are
/// in any order. The blocks that count stay the same.
pub fn garbage(seed: u64, routing: &mut Host<i32>, cu_q: &[i32], cu_k: &[i32], block: usize) {
    let [tokens, hq, top] = routing.shape;
    let (sides, config) = (Sides { q: cu_q, k: cu_k }, MobaConfig::new(block, top));
    for (token, head) in (0..tokens).flat_map(|token| (0..hq).map(move |head| (token, head))) {
        let Some(Place { position, keys, .. }) = sides.place(token) else { continue };
        let own = config.own(position).map_or(0, |own| own as i32);
        let bad = [own, own + 1, config.blocks(keys).max(own as usize) as i32, i32::MAX, i32::MIN, -2, 1 << 26];
        let rng = &mut stream(seed, (token * hq + head) as u64);
        let row = routing.row_mut(token, head);
        row[0] = -1;
        row.iter_mut().filter(|entry| **entry == -1).for_each(|entry| *entry = bad[below(rng, 7) as usize]);
        (2..top).rev().for_each(|i| row.swap(i, 1 + below(rng, i as u32) as usize));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inputs::cu_seqlens;

    #[test]
    fn routes_are_past_distinct_and_uniform() {
        let (q, k) = (cu_seqlens(&[1000, 0, 90]), cu_seqlens(&[1040, 30, 70]));
        let drawn = routing(3, &q, &k, 3, 32, 9, Route::Random);
        let mut hits = [0u32; 32];
        for (token, head) in (0..1090).flat_map(|token| (0..3).map(move |head| (token, head))) {
            let row = drawn.row(token, head);
            let position = if token < 1000 { token as i32 + 40 } else { token as i32 - 1000 - 20 };
            if position < 0 {
                assert_eq!(row, [-1; 9]);
                continue;
            }
            let own = position / 32;
            let others: BTreeSet<i32> = row[1..].iter().copied().filter(|&b| b >= 0).collect();
            assert_eq!((row[0], others.len()), (own, 8.min(own as usize)), "token {token}: {row:?}");
            assert!(others.iter().all(|&b| b < own) && row[1 + others.len()..].iter().all(|&b| b == -1), "{row:?}");
            if own == 31 {
                others.iter().for_each(|&b| hits[b as usize] += 1);
            }
        }
        // 32 tokens, 3 heads, 8 of 31 blocks each: 24.8 times in the mean.
        assert!(hits[..31].iter().all(|&h| (8..=45).contains(&h)), "{hits:?}");
        assert_ne!(drawn.row(999, 0), drawn.row(999, 1));
        let local = routing(3, &q, &k, 3, 32, 4, Route::Local);
        assert_eq!((local.row(999, 2), local.row(40, 0)), (&[32, 31, 30, 29][..], &[2, 1, 0, -1][..]));
    }

    #[test]
    fn garbage_leaves_the_blocks_that_count() {
        let cu = cu_seqlens(&[200, 31]);
        let good = routing(5, &cu, &cu, 2, 32, 6, Route::Random);
        let mut bad = good.clone();
        garbage(1, &mut bad, &cu, &cu, 32);
        for (token, head) in (0..231).flat_map(|token| [(token, 0), (token, 1)]) {
            let own = (if token < 200 { token } else { token - 200 }) as i32 / 32;
            let past =
                |row: &[i32]| row[1..].iter().copied().filter(|b| (0..own).contains(b)).collect::<BTreeSet<i32>>();
            assert_eq!(past(bad.row(token, head)), past(good.row(token, head)));
        }
        assert!(!bad.data.contains(&-1) && bad.data.contains(&i32::MAX) && bad.data.contains(&i32::MIN));
    }
}
