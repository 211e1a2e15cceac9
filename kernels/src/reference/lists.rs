//! Block lists turned around: who picked each block, by going through everybody's picks.

use crate::host::{Host, Sides};

/// For each KV head and slot, who picked that block. A slot is a block of a document, `first / block + d + b`, where `first`
/// is the document's first key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InverseLists {
    /// For each KV head: for each slot, `token * n + j` for each pick, ascending.
    pub lists: Vec<Vec<Vec<i32>>>,
    /// For each slot: the first key of its block, counted through all, and its document.
    pub slots: Vec<[i32; 2]>,
}

/// Turns picks `[total, Hk, n]` around, in blocks of `block` keys.
pub fn inverse_lists<'a>(picks: &Host<i32>, cu_seqlens: impl Into<Sides<'a>>, block: usize) -> InverseLists {
    let cu_seqlens = cu_seqlens.into();
    let [_, heads, n] = picks.shape;
    let (documents, all) = (cu_seqlens.k.len() - 1, cu_seqlens.k[cu_seqlens.k.len() - 1]);
    let mut lists = vec![vec![Vec::new(); (all as usize).div_ceil(block) + documents]; heads];
    let mut slots = vec![[0; 2]; (all as usize).div_ceil(block) + documents];
    for (d, (queries, keys)) in cu_seqlens.each().enumerate() {
        let blocks = keys.len().div_ceil(block);
        for b in 0..blocks {
            slots[keys.start / block + d + b] = [(keys.start + b * block) as i32, d as i32];
        }
        for token in queries {
            for (head, lists) in lists.iter_mut().enumerate() {
                for (j, &pick) in picks.row(token, head).iter().enumerate() {
                    if (0..blocks as i32).contains(&pick) {
                        lists[keys.start / block + d + pick as usize].push((token * n + j) as i32);
                    }
                }
            }
        }
    }
    InverseLists { lists, slots }
}

impl InverseLists {
    /// Slots of each head.
    pub fn slots(&self) -> usize {
        self.lists.first().map_or(0, Vec::len)
    }

    /// Where the lists of a head begin, one behind the other, and where the last one ends.
    pub fn starts(&self, head: usize) -> Vec<i32> {
        let mut sum = 0;
        let mut sums = vec![0];
        for list in &self.lists[head] {
            sum += list.len() as i32;
            sums.push(sum);
        }
        sums
    }

    /// The pieces of work of a head, in tiles of `tile` entries: where each begins among the entries, how many it has, the first
    /// key of its block, and its document. Whole tiles come first.
    pub fn work(&self, head: usize, tile: usize) -> Vec<[i32; 4]> {
        let (mut whole, mut rest) = (Vec::new(), Vec::new());
        for ((list, start), [key, document]) in self.lists[head].iter().zip(self.starts(head)).zip(&self.slots) {
            for (number, piece) in list.chunks(tile).enumerate() {
                let pieces = if piece.len() == tile { &mut whole } else { &mut rest };
                pieces.push([start + (number * tile) as i32, piece.len() as i32, *key, *document]);
            }
        }
        [whole, rest].concat()
    }

    /// The lists of a head, one behind the other.
    pub fn entries(&self, head: usize) -> Vec<i32> {
        self.lists[head].concat()
    }
}
