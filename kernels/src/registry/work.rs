//! What a launch of a kernel must compute and move: the formulas of ARCHITECTURE.md, "Kernels and their floors", and what a
//! pick makes of them.

use std::sync::OnceLock;

use lacuna_codegen::Work;
use lacuna_codegen::pattern::{Class, Given, Pattern};
use lacuna_dsl::Pick;

use super::{Attention, Extras};
use crate::inputs;

/// The extents of a launch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extents {
    /// Lengths of the documents.
    pub docs: Vec<u32>,
    /// Query heads.
    pub heads: u64,
    /// KV heads.
    pub kv_heads: u64,
    /// The width of queries and keys.
    pub dk: u64,
    /// The width of values.
    pub dv: u64,
}

impl Extents {
    /// Tokens of all documents.
    pub fn tokens(&self) -> u64 {
        self.docs.iter().map(|&len| u64::from(len)).sum()
    }

    /// The longest document.
    pub fn longest(&self) -> usize {
        self.docs.iter().max().map_or(0, |&len| len as usize)
    }

    /// Tokens, as many keys, documents and one, query heads, KV heads, and blocks listed for a token.
    pub fn symbols(&self, attention: &Attention) -> [u64; 6] {
        let (tokens, n) = (self.tokens(), attention.options.iter().find(|(name, _)| *name == "blocks"));
        let blocks = n.map_or(0, |(_, n)| n.into());
        [tokens, tokens, self.docs.len() as u64 + 1, self.heads, self.kv_heads, blocks]
    }

    fn lengths(&self) -> Vec<usize> {
        self.docs.iter().map(|&len| len as usize).collect()
    }
}

/// A launch of one attention, counted: what is the same for every pick is counted once.
#[derive(Debug)]
pub struct Counted {
    extents: Extents,
    cu_seqlens: Vec<i32>,
    /// Tables and lists, drawn as the kernel draws them.
    drawn: OnceLock<Extras>,
    /// Pairs of a query and a key that count, for one head.
    pairs: OnceLock<u64>,
}

impl Counted {
    /// A launch of these extents. It is to be asked about one attention alone.
    pub fn new(extents: Extents) -> Self {
        let cu_seqlens = inputs::cu_seqlens(&extents.lengths());
        Counted { extents, cu_seqlens, drawn: OnceLock::new(), pairs: OnceLock::new() }
    }

    fn drawn(&self, attention: &Attention, heads: usize) -> &Extras {
        let complete = || {
            let drawn = attention.extras(&Extras::new(), &self.cu_seqlens, heads, 0);
            drawn.expect("what a kernel draws fits it")
        };
        self.drawn.get_or_init(complete)
    }
}

/// Tiles over blocks, for one head each.
struct Tiles {
    /// Pairs of a query and a key that count.
    pairs: u64,
    /// Keys that tiles read.
    read: u64,
    /// Heads that read them.
    readers: u64,
    /// Rows of a tile, padding included.
    rows: u64,
    /// Keys of a round.
    kv: u64,
    /// Rows that a warp has.
    rows_a_warp: u32,
    /// CTAs.
    ctas: f64,
}

/// Rows of a tile that one warp has: what its warps leave it, and a band of 16 where warpgroups have them, without a knob of
/// warps.
fn rows_a_warp(pick: &Pick) -> u32 {
    pick.get("warps").map_or(16, |warps| pick["rows"] / warps.max(&1))
}

impl Attention {
    /// What a launch of it does in a pick.
    ///
    /// # Panics
    /// If the pick has no value for a knob of the kernel's tiles.
    pub fn work(&self, launch: &Counted, pick: &Pick) -> Work {
        let (x, tokens) = (&launch.extents, launch.extents.tokens());
        let once = tokens * ((x.heads + x.kv_heads) * (x.dk + x.dv) * 2 + x.heads * 4);
        if let Some(mask) = self.mask() {
            let args: Vec<i64> = mask.args().map(|(_, value)| value.into()).collect();
            let (rows, kv) = (pick["rows"], pick["kv"]);
            let extras = launch.drawn(self, x.heads as usize);
            let tables: Vec<&[i32]> = mask.tables().map(|name| extras[name].data.as_slice()).collect();
            let of = |count: &dyn Fn(Given<'_>, i64) -> u64| -> u64 {
                let each = |document: &[i32]| {
                    let (start, end) = (document[0] as usize, document[1] as usize);
                    let tables: Vec<&[i32]> = tables.iter().map(|table| &table[start..end]).collect();
                    count(Given { args: &args, tables: &tables }, (end - start) as i64)
                };
                launch.cu_seqlens.windows(2).map(each).sum()
            };
            let all = |given: Given<'_>, len: i64| kept(mask.pattern(), given, (0, len), (0, len));
            let pairs = *launch.pairs.get_or_init(|| of(&all));
            let read = of(&|given, len| visited(mask.pattern(), given, len, rows, kv));
            let tiles = Tiles {
                rows_a_warp: rows_a_warp(pick),
                ctas: (tokens.div_ceil(rows.into()) * x.heads) as f64,
                ..Tiles::of(pairs, read, x.heads, rows, kv)
            };
            return tiles.work(x, once + tokens * 4 * tables.len() as u64);
        }
        if let Some(size) = self.lists() {
            let (pairs, read) = self.listed(launch.drawn(self, 1), &x.lengths());
            let rows = u64::from(pick["rows"]);
            // Several tiles of rows go through one list.
            let readers = x.heads * u64::from(size.rows).div_ceil(rows);
            let tiles = Tiles {
                rows_a_warp: rows_a_warp(pick),
                ctas: (tokens.div_ceil(rows) * x.heads) as f64,
                ..Tiles::of(pairs, read, readers, pick["rows"], pick["kv"])
            };
            return tiles.work(x, once + tokens / u64::from(size.rows) * 4);
        }
        if let Some(config) = self.routed() {
            let (block, top) = (config.block as u64, config.top as u64);
            let sum = |of: fn(u64, u64, u64) -> u64| x.docs.iter().map(|&len| of(len.into(), block, top)).sum();
            let (pairs, gated): (u64, u64) = (sum(routed), sum(gated));
            let (rows, kv) = (pick["rows"], pick.get("kv").copied().unwrap_or(64));
            // Each block is read once for a tile of rows that chose it. The gate reads and multiplies in one pass.
            let tiles = Tiles {
                rows_a_warp: rows_a_warp(pick),
                ctas: (tokens * x.heads * top) as f64 / f64::from(rows),
                ..Tiles::of(pairs, pairs / u64::from(rows), x.heads, rows, kv)
            };
            let mut work = tiles.work(x, once);
            let gate = 2.0 * gated as f64 * (x.heads * x.dk) as f64;
            (work.flops, work.done) = (work.flops + gate, work.done + gate);
            return work;
        }
        let (block, n) = (self.options.get("block"), self.options.get("blocks"));
        let pairs = x.docs.iter().map(|&len| picked(len.into(), block.into(), n.into())).sum::<u64>();
        let listed = tokens * x.kv_heads * u64::from(n) * 4;
        if self.schedule_name != "block-major" {
            // A token's group is padded to 16, 32 or 64 rows.
            let rows = (x.heads / x.kv_heads).max(16).next_power_of_two() as u32;
            let tiles = Tiles {
                rows_a_warp: 16,
                ctas: (tokens * x.kv_heads) as f64,
                ..Tiles::of(pairs, pairs, x.kv_heads, rows, block)
            };
            return tiles.work(x, once + listed);
        }
        // A block is read once for each tile of rows that picked it; parts are written and read, and each row's queries are
        // read for each part.
        let (rows, block) = (pick["rows"], u64::from(block));
        let tile = u64::from(rows) * x.kv_heads / x.heads;
        let read = (pairs / block * x.kv_heads).div_ceil(tile.max(1)) * block;
        let parts = pairs / block * x.heads;
        let moved = parts * (x.dv * 2 + 4) * 2;
        let tiles = Tiles {
            rows_a_warp: rows_a_warp(pick),
            ctas: (read / block) as f64,
            ..Tiles::of(pairs, read, 1, rows, block as u32)
        };
        let mut work = tiles.work(x, once + listed + moved);
        work.l2_bytes += (parts * (x.dk + 2 * x.dv) * 2) as f64;
        // The merge reads the parts, after they were written; turning lists around moves each pick some times, at a fifth of
        // what HBM could.
        work.besides_bytes = (moved / 2 + 5 * 3 * listed) as f64;
        work
    }
}

impl Tiles {
    fn of(pairs: u64, read: u64, readers: u64, rows: u32, kv: u32) -> Self {
        let (rows, kv) = (u64::from(rows), u64::from(kv.max(1)));
        Tiles { pairs, read, readers, rows, kv, rows_a_warp: 0, ctas: 1.0 }
    }

    /// What they do, where all tensors have so many bytes.
    fn work(&self, x: &Extents, hbm: u64) -> Work {
        let visited = self.read as f64 * self.readers as f64;
        let logits = visited * self.rows as f64;
        Work {
            flops: 2.0 * self.pairs as f64 * (x.heads * (x.dk + x.dv)) as f64,
            done: 2.0 * logits * (x.dk + x.dv) as f64,
            exps: logits,
            rounds: visited / self.kv as f64,
            l2_bytes: visited * ((x.dk + x.dv) * 2) as f64,
            hbm_bytes: hbm as f64,
            besides_bytes: 0.0,
            rows_a_warp: self.rows_a_warp,
            ctas: self.ctas,
        }
    }
}

/// Keys that a mask's tiles of queries visit in a document.
fn visited(pattern: &Pattern, given: Given<'_>, len: i64, rows: u32, kv: u32) -> u64 {
    let mut read = 0;
    for first in (0..len).step_by(rows as usize) {
        let last = (first + i64::from(rows)).min(len) - 1;
        if !pattern.is_bounded() {
            let width = i64::from(kv);
            let blocks = (0..len).step_by(kv as usize).map(|block| (block, (block + width).min(len)));
            let class =
                |&(block, end): &(i64, i64)| pattern.class(first..=last, block..=end - 1, given) != Class::Empty;
            read += blocks.filter(class).map(|(block, end)| (end - block) as u64).sum::<u64>();
            continue;
        }
        let runs = pattern.runs(first..=last, len, kv, given.args);
        read += runs
            .iter()
            .map(|run| ((run.end * i64::from(kv)).min(len) - run.start * i64::from(kv)).max(0) as u64)
            .sum::<u64>();
    }
    read
}

/// Pairs that a mask keeps: whole and empty rectangles at once, others in quarters.
fn kept(pattern: &Pattern, given: Given<'_>, (q0, q1): (i64, i64), (k0, k1): (i64, i64)) -> u64 {
    if q0 >= q1 || k0 >= k1 {
        return 0;
    }
    if (q1 - q0, k1 - k0) == (1, 1) {
        return pattern.keeps(q0, k0, given).into();
    }
    match pattern.class(q0..=q1 - 1, k0..=k1 - 1, given) {
        Class::Empty => 0,
        Class::Full => ((q1 - q0) * (k1 - k0)) as u64,
        Class::Partial => {
            let (q, k) = ((q0 + q1) / 2, (k0 + k1) / 2);
            let halves = |a, b, c| [(a, b), (b, c)];
            let of = |rows| halves(k0, k, k1).map(|keys| kept(pattern, given, rows, keys)).iter().sum::<u64>();
            halves(q0, q, q1).map(of).iter().sum()
        }
    }
}

/// Pairs of a token and a key in its blocks, which count whole: the token at `p` has `p / block + 1` to pick from.
fn picked(len: u64, block: u64, n: u64) -> u64 {
    (0..len).map(|position| (position / block + 1).min(n) * block).sum()
}

/// Pairs of a token and a key of its own block up to itself, or of the complete ones before it that it sees: as many as there
/// are, up to `top - 1`.
fn routed(len: u64, block: u64, top: u64) -> u64 {
    (0..len).map(|position| position % block + 1 + (position / block).min(top - 1) * block).sum()
}

/// Pairs of a token and a block before its own, where there is a choice: none, where all may be seen.
fn gated(len: u64, block: u64, top: u64) -> u64 {
    if len.div_ceil(block) <= top { 0 } else { (0..len).map(|position| position / block).sum() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::{self, Setting};
    use lacuna_dsl::{Elem, Shape};

    fn work(kernel: &str, pick: &[(&str, u32)], x: &Extents) -> Work {
        let kernel = registry::find(kernel).unwrap();
        let group = (x.heads / x.kv_heads) as u32;
        let shape = Shape::new(Elem::Bf16, x.dk as u32, x.dv as u32, group);
        let attention = kernel.build(shape, &kernel.options([]).unwrap()).unwrap();
        attention.work(&Counted::new(x.clone()), &pick.iter().map(|&(name, value)| (name.to_owned(), value)).collect())
    }

    /// A small value of an option, where it may have one.
    fn small(setting: &Setting) -> (&'static str, u32) {
        let value = setting.default.clamp(3, 16);
        (setting.name, if setting.allowed.has(value) { value } else { setting.default })
    }

    #[test]
    fn pairs_are_counted_one_by_one_or_at_once() {
        for kernel in registry::KERNELS {
            let options = kernel.options(kernel.settings.iter().map(small)).unwrap();
            let attention = kernel.build(Shape::new(Elem::Bf16, 32, 32, 1), &options).unwrap();
            let Some(mask) = attention.mask() else { continue };
            let args: Vec<i64> = mask.args().map(|(_, value)| value.into()).collect();
            let extras = attention.extras(&Extras::new(), &[0, 77], 1, 0).unwrap();
            let tables: Vec<&[i32]> = mask.tables().map(|name| extras[name].data.as_slice()).collect();
            let given = Given { args: &args, tables: &tables };
            let all = (0..77).flat_map(|q| (0..77).map(move |k| (q, k)));
            let want = all.filter(|&(q, k)| mask.pattern().keeps(q, k, given)).count() as u64;
            assert_eq!(kept(mask.pattern(), given, (0, 77), (0, 77)), want, "{}", kernel.name);
        }
        assert_eq!(picked(100, 64, 16), 64 * 64 + 36 * 128);
    }

    /// 5 blocks of 4 tokens and one more: the own block is a triangle, 2 others are whole.
    #[test]
    fn moba_counts_exact_pairs_and_its_gate() {
        let pairs = 5 * (1 + 2 + 3 + 4) + 1 + 4 * (4 * (1 + 2 + 2 + 2) + 2);
        assert_eq!(routed(21, 4, 3), pairs);
        assert_eq!((gated(21, 4, 3), gated(21, 4, 6)), (4 * (1 + 2 + 3 + 4) + 5, 0));
        assert_eq!(routed(21, 4, 6), 21 * 22 / 2, "every block is causal attention");
    }

    /// Two documents of 256, causal, tiles of 64 x 32: rounds of a tile are the blocks up to its end.
    #[test]
    fn what_is_done_is_what_tiles_visit() {
        let x = Extents { docs: vec![256, 256], heads: 4, kv_heads: 2, dk: 64, dv: 32 };
        let found = work("causal", &[("rows", 64), ("kv", 32), ("warps", 4)], &x);
        let rounds = 2 * 4 * (2 + 4 + 6 + 8);
        assert_eq!((found.rounds, found.exps), (f64::from(rounds), f64::from(rounds * 64 * 32)));
        assert_eq!(found.done, f64::from(rounds * 64 * 32) * 2.0 * 96.0);
        assert_eq!(found.flops, f64::from(2 * 4 * 256 * 257 / 2) * 2.0 * 96.0);
        assert_eq!((found.ctas, found.rows_a_warp), (32.0, 16));
        assert_eq!(found.l2_bytes, f64::from(rounds * 32 * 96 * 2));
        assert_eq!(found.hbm_bytes, f64::from(512 * (6 * 96 * 2 + 16)));
    }

    /// Tiles of half the rows of a list go through it twice: as many products, and each block read twice.
    #[test]
    fn smaller_tiles_share_a_list() {
        let x = Extents { docs: vec![1024], heads: 4, kv_heads: 4, dk: 64, dv: 64 };
        let [small, large] = [64, 128].map(|rows| work("bsr", &[("rows", rows), ("kv", 64)], &x));
        assert!(large.done > 0.0);
        assert_eq!((small.done, small.exps, small.ctas), (large.done, large.exps, 2.0 * large.ctas));
        assert_eq!((small.l2_bytes, small.rounds), (2.0 * large.l2_bytes, 2.0 * large.rounds));
    }

    /// A group of 5 is padded to 16 rows, one of 48 to 64.
    #[test]
    fn a_padded_group_does_more_than_counts() {
        for (group, rows) in [(5, 16), (16, 16), (48, 64)] {
            let x = Extents { docs: vec![4096], heads: 2 * group, kv_heads: 2, dk: 64, dv: 64 };
            let kernel = registry::find("nsa-selected").unwrap();
            let options = kernel.options([("by-block", 0)]).unwrap();
            let attention = kernel.build(Shape::new(Elem::Bf16, 64, 64, group as u32), &options).unwrap();
            let pick = [("stages".to_owned(), 2), ("warps".to_owned(), 4)].into();
            let found = attention.work(&Counted::new(x), &pick);
            assert!((found.done / found.flops - rows as f64 / group as f64).abs() < 1e-9, "{group}");
        }
    }
}
