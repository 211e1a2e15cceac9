//! Attention over listed blocks, a list for each tile of queries.

use super::walk::{self, At};
use super::{Attended, Problem, attend};
use crate::host::{Real, Row};

/// Block lists of tiles of queries.
#[derive(Clone, Copy, Debug)]
pub struct TileLists<'a> {
    /// `[documents, heads, tiles, n]`: blocks of keys, counted in the document. Heads are the query heads, or 1: one list for
    /// all of them. What is no block of the document is none; what stands twice counts twice.
    pub lists: &'a [i32],
    /// The four extents.
    pub shape: [usize; 4],
    /// `[documents, heads, tiles]`: how many entries of each list count.
    pub counts: &'a [i32],
    /// Queries of a tile.
    pub rows: usize,
    /// Keys of a block.
    pub keys: usize,
    /// Whether keys behind the query are hidden.
    pub causal: bool,
}

impl TileLists<'_> {
    /// The list of a tile.
    pub fn of(&self, document: usize, head: usize, tile: usize) -> &[i32] {
        let [_, heads, tiles, n] = self.shape;
        let at = (document * heads + head % heads) * tiles + tile;
        let count = usize::try_from(self.counts[at]).map_or(0, |count| count.min(n));
        &self.lists[at * n..at * n + count]
    }

    /// For the first head, of documents of these lengths, with as many keys as queries: the pairs of a query and a key that are
    /// seen, and the keys that tiles of queries visit.
    pub fn pairs(&self, lengths: &[usize]) -> (u64, u64) {
        let (mut pairs, mut keys) = (0, 0);
        for (document, &len) in lengths.iter().enumerate() {
            for first in (0..len).step_by(self.rows) {
                let queries = first..(first + self.rows).min(len);
                for &block in self.of(document, 0, first / self.rows) {
                    let Ok(block) = usize::try_from(block) else { continue };
                    let start = block.saturating_mul(self.keys).min(len);
                    let end = start.saturating_add(self.keys).min(len);
                    keys += (end - start) as u64;
                    let seen =
                        |query: usize| if self.causal { end.min(query + 1).saturating_sub(start) } else { end - start };
                    pairs += queries.clone().map(|query| seen(query) as u64).sum::<u64>();
                }
            }
        }
        (pairs, keys)
    }

    fn seen(&self, at: &At, seen: &mut Vec<u32>) {
        for &block in self.of(at.sequence, at.head, at.index / self.rows) {
            let Ok(block) = usize::try_from(block) else { continue };
            let keys = block.saturating_mul(self.keys)..block.saturating_add(1).saturating_mul(self.keys).min(at.keys);
            seen.extend(keys.filter(|&key| !self.causal || key as i64 <= at.position).map(|key| key as u32));
        }
    }
}

/// Attention over the listed blocks.
pub fn attention_listed<T: Real>(p: &Problem<'_, T>, lists: &TileLists<'_>) -> Attended<f64> {
    walk::whole(&walk::Source::of(p), &listed(lists), &attend)
}

/// [`attention_listed`], for these rows alone.
pub fn attention_listed_rows<T: Real>(p: &Problem<'_, T>, lists: &TileLists<'_>, rows: &[Row]) -> Attended<f64> {
    walk::some(&walk::Source::of(p), &listed(lists), &attend, rows)
}

/// Keys seen in listed blocks.
pub(crate) fn listed<'a>(lists: &'a TileLists<'a>) -> impl Fn(&At, &mut Vec<u32>) + Sync + 'a {
    move |at, seen| lists.seen(at, seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tile_sees_its_blocks_and_nothing_else() {
        let lists = [2, 0, -1, /**/ 1, 1, 0, /**/ 9, -4, 0, /**/ 0, 1, 2];
        let lists =
            TileLists { lists: &lists, shape: [1, 2, 2, 3], counts: &[2, 3, 3, -1], rows: 4, keys: 3, causal: false };
        let seen = |lists: &TileLists<'_>, position, head| {
            let mut seen = Vec::new();
            let (token, index) = (position, position);
            let at = At { position: index as i64, index, token, sequence: 0, head, kv_head: 0, first_key: 0, keys: 8 };
            lists.seen(&at, &mut seen);
            seen
        };
        assert_eq!(seen(&lists, 3, 0), [6, 7, 0, 1, 2]);
        assert_eq!(seen(&lists, 4, 0), [3, 4, 5, 3, 4, 5, 0, 1, 2], "what stands twice counts twice");
        assert_eq!(seen(&lists, 0, 1), [0, 1, 2], "there is no block 9, and none below 0");
        assert_eq!(seen(&lists, 7, 1), [], "a count below 0 is none");
        let all = |lists: &TileLists<'_>| (0..8).map(|position| seen(lists, position, 0).len() as u64).sum::<u64>();
        assert_eq!(lists.pairs(&[8]), (all(&lists), 5 + 9));
        let causal = TileLists { causal: true, ..lists };
        assert_eq!(causal.pairs(&[8]).0, all(&causal));
        assert_eq!(seen(&causal, 3, 0), [0, 1, 2]);
        assert_eq!(seen(&causal, 1, 0), [0, 1]);
        let all = [0, 1];
        let one = TileLists { lists: &all, shape: [1, 1, 2, 1], counts: &[1, 1], rows: 4, keys: 3, causal: false };
        assert_eq!((seen(&one, 0, 1), seen(&one, 4, 5)), (vec![0, 1, 2], vec![3, 4, 5]), "one list for all heads");
    }
}
