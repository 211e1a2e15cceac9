//! What a launch must compute and move, and how fast an H200 could: the formulas of ARCHITECTURE.md, "Kernels and their
//! floors".

use lacuna::codegen::pattern::{Class, Given, Pattern};
use lacuna::codegen::plan::Pick;
use lacuna::kernels::inputs;
use lacuna::kernels::registry::{Attention, Extras};

/// An H200's measured ceilings: `mma.sync` from registers, the same where 16 rows a warp read each right operand from shared
/// memory, L2 and HBM.
const MMA: f64 = 635e12;
const MMA_16_ROWS: f64 = 460e12;
const L2: f64 = 8.9e12;
const HBM: f64 = 4.5e12;
/// The best of its tensor cores in a burst, and a copy: what MoBA is measured by, whichever instructions it uses.
const BURST: f64 = 790e12;
const COPY: f64 = 4.3e12;

/// The extents of a launch.
#[derive(Clone, Debug)]
pub(crate) struct Extents {
    /// Lengths of the documents.
    pub(crate) docs: Vec<u32>,
    /// Query heads, and KV heads.
    pub(crate) heads: u64,
    pub(crate) kv_heads: u64,
    /// Widths.
    pub(crate) dk: u64,
    pub(crate) dv: u64,
}

/// What it must do, and how long that takes at least.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Floor {
    pub(crate) flops: f64,
    /// K and V, once for each tile of queries that reads them.
    pub(crate) l2_bytes: f64,
    /// Each tensor once.
    pub(crate) hbm_bytes: f64,
    /// FLOPs a second that the products could reach.
    pub(crate) ceiling: f64,
    /// Bytes a second that HBM could move.
    pub(crate) hbm: f64,
}

impl Extents {
    /// The longest document.
    pub(crate) fn longest(&self) -> usize {
        self.docs.iter().max().map_or(0, |&len| len as usize)
    }

    /// Tokens, as many keys, documents and one, query heads, KV heads, and blocks listed for a token.
    pub(crate) fn symbols(&self, attention: &Attention) -> [u64; 6] {
        let tokens = self.docs.iter().map(|&len| u64::from(len)).sum();
        let blocks = attention.options.iter().find(|(name, _)| *name == "blocks").map_or(0, |(_, n)| n.into());
        [tokens, tokens, self.docs.len() as u64 + 1, self.heads, self.kv_heads, blocks]
    }
}

impl Floor {
    /// Of an attention in a pick.
    pub(crate) fn of(attention: &Attention, pick: &Pick, x: &Extents) -> Self {
        let tokens: u64 = x.docs.iter().map(|&len| u64::from(len)).sum();
        let once = tokens * ((x.heads + x.kv_heads) * (x.dk + x.dv) * 2 + x.heads * 4);
        // Pairs of a query and a key that count; keys that tiles read: for one head each.
        let (pairs, read, readers, extra, rows) = match attention.mask() {
            Some(mask) => {
                let args: Vec<i64> = mask.args().map(|(_, value)| value.into()).collect();
                let (rows, kv) = (pick["rows"], pick["kv"]);
                let lengths: Vec<usize> = x.docs.iter().map(|&len| len as usize).collect();
                let cu_seqlens = inputs::cu_seqlens(&lengths);
                let extras =
                    attention.extras(&Extras::new(), &cu_seqlens, x.heads as usize, 0).expect("drawn tables fit");
                let tables: Vec<&[i32]> = mask.tables().map(|name| extras[name].data.as_slice()).collect();
                let each = |document: &[i32]| {
                    let (start, end) = (document[0] as usize, document[1] as usize);
                    let tables: Vec<&[i32]> = tables.iter().map(|table| &table[start..end]).collect();
                    masked(mask.pattern(), Given { args: &args, tables: &tables }, (end - start) as i64, rows, kv)
                };
                let (pairs, read) = cu_seqlens.windows(2).map(each).fold((0, 0), |(a, b), (c, d)| (a + c, b + d));
                (pairs, read, x.heads, tokens * 4 * tables.len() as u64, rows / pick["warps"].max(1))
            }
            None if let Some(size) = attention.lists() => {
                let lengths: Vec<usize> = x.docs.iter().map(|&len| len as usize).collect();
                let cu_seqlens = inputs::cu_seqlens(&lengths);
                let extras = attention.extras(&Extras::new(), &cu_seqlens, 1, 0).expect("drawn lists fit");
                let (pairs, read) = attention.listed(&extras, &lengths);
                (pairs, read, x.heads, tokens / u64::from(size.rows) * 4, pick["rows"] / pick["warps"].max(1))
            }
            None if let Some(config) = attention.routed() => {
                let (block, top) = (config.block as u64, config.top as u64);
                let sum = |of: fn(u64, u64, u64) -> u64| x.docs.iter().map(|&len| of(len.into(), block, top)).sum();
                let (pairs, gated): (u64, u64) = (sum(routed), sum(gated));
                // Each block is read once for a tile of rows that chose it. The gate reads and multiplies in one pass.
                let read = pairs / u64::from(pick["rows"]);
                let mut floor = Self::new((pairs, read, x.heads), once, pick["rows"] / pick["warps"].max(1), x);
                floor.flops += 2.0 * gated as f64 * (x.heads * x.dk) as f64;
                return Floor { ceiling: BURST, hbm: COPY, ..floor };
            }
            None => {
                let (block, n) = (attention.options.get("block"), attention.options.get("blocks"));
                let pairs = x.docs.iter().map(|&len| picked(len.into(), block.into(), n.into())).sum();
                let listed = tokens * x.kv_heads * u64::from(n) * 4;
                if attention.schedule_name != "block-major" {
                    return Self::new((pairs, pairs, x.kv_heads), once + listed, 16, x);
                }
                // A block is read once for each tile of rows that picked it; parts are written and read, and each row's
                // queries are read for each part.
                let block = u64::from(block);
                let tile = u64::from(pick["rows"]) * x.kv_heads / x.heads;
                let read = (pairs / block * x.kv_heads).div_ceil(tile.max(1)) * block;
                let parts = pairs / block * x.heads;
                let moved = parts * (x.dv * 2 + 4) * 2;
                let mut floor = Self::new((pairs, read, 1), once + listed + moved, pick["rows"] / pick["warps"], x);
                floor.l2_bytes += (parts * (x.dk + 2 * x.dv) * 2) as f64;
                return floor;
            }
        };
        Self::new((pairs, read, readers), once + extra, rows, x)
    }

    /// Of so many pairs of a query and a key, keys that are read for so many heads, bytes that move, and rows a warp.
    fn new((pairs, read, readers): (u64, u64, u64), hbm: u64, rows: u32, x: &Extents) -> Self {
        Floor {
            flops: 2.0 * pairs as f64 * (x.heads * (x.dk + x.dv)) as f64,
            l2_bytes: read as f64 * (readers * (x.dk + x.dv) * 2) as f64,
            hbm_bytes: hbm as f64,
            ceiling: if rows <= 16 { MMA_16_ROWS } else { MMA },
            hbm: HBM,
        }
    }

    /// Each bound with its milliseconds.
    pub(crate) fn bounds(&self) -> [(&'static str, f64); 3] {
        let ms = |amount: f64, rate: f64| amount / rate * 1e3;
        [
            ("products", ms(self.flops, self.ceiling)),
            ("L2", ms(self.l2_bytes, L2)),
            ("HBM", ms(self.hbm_bytes, self.hbm)),
        ]
    }

    /// The bound that takes longest.
    pub(crate) fn bound(&self) -> (&'static str, f64) {
        self.bounds().into_iter().fold(("products", 0.0), |most, bound| if bound.1 > most.1 { bound } else { most })
    }
}

/// Pairs that a mask keeps in a document, and keys that its tiles of queries visit.
fn masked(pattern: &Pattern, given: Given<'_>, len: i64, rows: u32, kv: u32) -> (u64, u64) {
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
    (kept(pattern, given, (0, len), (0, len)), read)
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
    use lacuna::dsl::{Elem, Shape};
    use lacuna::kernels::registry;

    fn floor(kernel: &str, pick: &[(&str, u32)], x: &Extents) -> Floor {
        let kernel = registry::find(kernel).unwrap();
        let group = (x.heads / x.kv_heads) as u32;
        let shape = Shape::new(Elem::Bf16, x.dk as u32, x.dv as u32, group);
        let attention = kernel.build(shape, &kernel.options([]).unwrap()).unwrap();
        Floor::of(&attention, &pick.iter().map(|&(name, value)| (name.to_owned(), value)).collect(), x)
    }

    /// ARCHITECTURE.md, "Kernels and their floors".
    #[test]
    fn they_are_those_of_the_architecture() {
        let near = |x: f64, want: f64| assert!((x / want - 1.0).abs() < 0.03, "{x} is not {want}");
        let dense = Extents { docs: vec![8192; 4], heads: 16, kv_heads: 16, dk: 128, dv: 128 };
        let causal = floor("causal", &[("rows", 128), ("kv", 64), ("warps", 4)], &dense);
        near(causal.flops, 1.10e12);
        near(causal.l2_bytes, 8.6e9 * 65.0 / 64.0);
        near(causal.hbm_bytes, 0.54e9);
        assert_eq!(causal.bound().0, "products");
        near(causal.bound().1, 1.73);
        let sparse = Extents { docs: vec![65536], heads: 64, kv_heads: 4, dk: 128, dv: 128 };
        let selected = floor("nsa-selected", &[], &sparse);
        near(selected.flops, 2.20e12);
        near(selected.l2_bytes, 137e9);
        near(selected.hbm_bytes, 2.3e9);
        assert_eq!(selected.bound().0, "L2");
        near(selected.bound().1, 15.4);
        let sparse = Extents { heads: 16, kv_heads: 16, ..sparse };
        let by_block = floor("nsa-selected", &[("rows", 64), ("warps", 4)], &sparse);
        near(by_block.flops, 0.55e12);
        near(by_block.l2_bytes, 21.4e9);
        near(by_block.hbm_bytes, 9.9e9);
        assert_eq!(by_block.bound().0, "L2");
        near(by_block.bound().1, 2.4);
    }

    /// A small value of an option, where it may have one.
    fn small(setting: &registry::Setting) -> (&'static str, u32) {
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
            assert_eq!(masked(mask.pattern(), given, 77, 64, 32).0, want, "{}", kernel.name);
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
        let x = Extents { docs: vec![131_072; 2], heads: 16, kv_heads: 16, dk: 128, dv: 128 };
        let moba = floor("moba", &[("rows", 128), ("warps", 8)], &x);
        let (own, others) = (131_072.0 * 129.0 / 2.0, 7.0 * 128.0 * 131_072.0);
        let gate = 131_072.0 * 1023.0 / 2.0;
        let want = 2.0 * 16.0 * (4.0 * 128.0 * (own + others) + 2.0 * 128.0 * gate);
        assert!((moba.flops / want - 1.0).abs() < 0.01, "{} is not {want}", moba.flops);
        assert_eq!((moba.ceiling, moba.hbm), (BURST, COPY));
    }
}
