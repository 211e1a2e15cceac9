//! The hand-made kernels for sm_90a: their launches, their inputs, and the same in f64.

#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test file and the example use a part")]

use half::bf16;
use lacuna_emulator::{
    Arg, Fault, Launch, Memory, Options, Program, Stats, Swizzle, TensorDim, TensorElem, TensorMap, run,
};

use crate::common::{Draw, bytes};

pub const FORWARD: &str = include_str!("../../../ptx/tests/kernels/forward_d128.ptx");
pub const DEFERRED: &str = include_str!("../../../ptx/tests/kernels/forward_d128_deferred.ptx");
pub const CAUSAL: &str = include_str!("../../../ptx/tests/kernels/forward_d128_causal.ptx");
pub const NARROW: &str = include_str!("../../../ptx/tests/kernels/forward_d64.ptx");
pub const WIDE: &str = include_str!("../../../ptx/tests/kernels/forward_d256.ptx");
pub const PRODUCT: &str = include_str!("../../../ptx/tests/kernels/product_sm90a.ptx");
pub const GATHER: &str = include_str!("../../../ptx/tests/kernels/gather.ptx");
pub const BACKWARD: &str = include_str!("../../../ptx/tests/kernels/backward_d128.ptx");
pub const BACKWARD_CAUSAL: &str = include_str!("../../../ptx/tests/kernels/backward_d128_causal.ptx");
pub const BACKWARD_HANGS: &str = include_str!("../../../ptx/tests/kernels/backward_d128_hangs.ptx");

fn upload(memory: &Memory, data: &[u8]) -> u64 {
    let at = memory.alloc(data.len() as u64);
    memory.write(at, data).unwrap();
    at
}

fn floats(memory: &Memory, data: &[f32]) -> u64 {
    upload(memory, &data.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>())
}

/// The halves at an address; all NaN if some were not written.
fn halves(memory: &Memory, at: u64, count: usize) -> Vec<f64> {
    let mut data = vec![0xff; count * 2];
    if memory.unwritten(at, data.len() as u64).is_none() {
        memory.read(at, &mut data).unwrap();
    }
    data.chunks_exact(2).map(|pair| f64::from(bf16::from_le_bytes([pair[0], pair[1]]))).collect()
}

fn words(memory: &Memory, at: u64, count: usize) -> Vec<f64> {
    let mut data = vec![0xff; count * 4];
    if memory.unwritten(at, data.len() as u64).is_none() {
        memory.read(at, &mut data).unwrap();
    }
    data.chunks_exact(4).map(|word| f64::from(f32::from_le_bytes([word[0], word[1], word[2], word[3]]))).collect()
}

/// A map of `[rows, heads, width]` as (64 columns, rows) boxes: dimensions width, rows, heads, batch.
fn map(base: u64, rows: usize, heads: usize, width: usize, tile: u32) -> Arg {
    let row = (heads * width * 2) as u64;
    let dim = |extent: usize, stride: u64, tile: u32| TensorDim { extent: extent as u64, stride, tile };
    Arg::TensorMap(TensorMap {
        base,
        elem: TensorElem::Bf16,
        dims: vec![
            dim(width, 2, 64),
            dim(rows, row, tile),
            dim(heads, (width * 2) as u64, 1),
            dim(1, rows as u64 * row, 1),
        ],
        swizzle: Swizzle::B128,
    })
}

/// A map of a matrix of `rows` by `columns`, in boxes of 64 columns.
fn matrix(base: u64, rows: usize, columns: usize, tile: u32) -> Arg {
    let dim =
        |extent: usize, stride: usize, tile: u32| TensorDim { extent: extent as u64, stride: stride as u64, tile };
    Arg::TensorMap(TensorMap {
        base,
        elem: TensorElem::Bf16,
        dims: vec![dim(columns, 2, 64), dim(rows, columns * 2, tile)],
        swizzle: Swizzle::B128,
    })
}

/// What runs a text.
fn launch(
    ptx: &str,
    grid: [usize; 3],
    threads: u32,
    shared: usize,
    args: &[Arg],
    memory: &Memory,
    options: &Options,
) -> Result<Stats, Box<Fault>> {
    let program = Program::from_text(ptx).unwrap_or_else(|error| panic!("{error}"));
    let entry = program.entries().next().unwrap_or_default();
    let grid = grid.map(|extent| extent as u32);
    run(&program, &Launch { entry, grid, block: [threads, 1, 1], shared: shared as u32, args }, memory, options)
}

/// An attention over one document, all of whose queries see all of the keys, or those that are not behind them.
pub struct Attention {
    pub queries: usize,
    pub keys: usize,
    pub heads: usize,
    pub group: usize,
    pub width: usize,
    pub causal: bool,
    pub q: Vec<bf16>,
    pub k: Vec<bf16>,
    pub v: Vec<bf16>,
}

/// How a kernel is tiled: rows and keys of a tile.
#[derive(Clone, Copy)]
pub struct Tiles {
    pub rows: usize,
    pub keys: usize,
}

/// The kernels at a width of 128.
pub const D128: Tiles = Tiles { rows: 128, keys: 128 };
pub const D64: Tiles = Tiles { rows: 192, keys: 128 };
pub const D256: Tiles = Tiles { rows: 128, keys: 80 };

impl Attention {
    pub fn draw(queries: usize, keys: usize, heads: usize, group: usize, width: usize, causal: bool) -> Attention {
        let mut draw = Draw(queries as u64 * 31 + width as u64);
        let kv = keys * heads / group * width;
        Attention {
            queries,
            keys,
            heads,
            group,
            width,
            causal,
            q: draw.bf16s(queries * heads * width),
            k: draw.bf16s(kv),
            v: draw.bf16s(kv),
        }
    }

    fn scale(&self) -> f64 {
        1.0 / (self.width as f64).sqrt()
    }

    /// The output `[query][head][d]` and the LSE `[head][query]`.
    pub fn run(&self, ptx: &str, tiles: Tiles, options: &Options) -> Result<(Vec<f64>, Vec<f64>, Stats), Box<Fault>> {
        let memory = Memory::new();
        let Attention { queries, keys, heads, group, width, .. } = *self;
        let kv_heads = heads / group;
        let o = memory.alloc((queries * heads * width * 2) as u64);
        let lse = memory.alloc((queries * heads * 4) as u64);
        let args = [
            map(upload(&memory, &bytes(&self.q)), queries, heads, width, tiles.rows as u32),
            map(upload(&memory, &bytes(&self.k)), keys, kv_heads, width, tiles.keys as u32),
            map(upload(&memory, &bytes(&self.v)), keys, kv_heads, width, tiles.keys as u32),
            map(o, queries, heads, width, 64),
            Arg::U64(lse),
            Arg::U32(queries as u32),
            Arg::U32(keys as u32),
            Arg::U32(group as u32),
            Arg::F32((self.scale() * std::f64::consts::LOG2_E) as f32),
        ];
        let shared = (tiles.rows + 4 * tiles.keys) * width * 2 + 72;
        let threads = 128 + 2 * tiles.rows as u32;
        let stats = launch(ptx, [queries / tiles.rows, heads, 1], threads, shared, &args, &memory, options)?;
        Ok((halves(&memory, o, queries * heads * width), words(&memory, lse, queries * heads), stats))
    }

    /// The same in f64.
    pub fn expected(&self) -> (Vec<f64>, Vec<f64>) {
        let Attention { queries, keys, heads, group, width, causal, .. } = *self;
        let (mut o, mut lse) = (vec![0.0; queries * heads * width], vec![0.0; queries * heads]);
        let kv = |key: usize, head: usize| (key * (heads / group) + head / group) * width;
        for query in 0..queries {
            for head in 0..heads {
                let seen = if causal { query + 1 } else { keys };
                let q = &self.q[(query * heads + head) * width..][..width];
                let scores: Vec<f64> = (0..seen).map(|key| dot(q, &self.k[kv(key, head)..]) * self.scale()).collect();
                let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = scores.iter().map(|score| (score - max).exp()).sum();
                lse[head * queries + query] = max + sum.ln();
                let out = &mut o[(query * heads + head) * width..][..width];
                for (key, score) in scores.iter().enumerate() {
                    let weight = (score - max).exp() / sum;
                    let v = &self.v[kv(key, head)..][..width];
                    out.iter_mut().zip(v).for_each(|(out, v)| *out += weight * f64::from(*v));
                }
            }
        }
        (o, lse)
    }
}

fn dot(a: &[bf16], b: &[bf16]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

/// Rows of queries over rows of keys and values that an index list picks, 64 at a time; -1 is no row.
pub struct Gathered {
    pub tiles: usize,
    pub blocks: usize,
    pub rows: usize,
    pub q: Vec<bf16>,
    pub k: Vec<bf16>,
    pub v: Vec<bf16>,
    pub index: Vec<i32>,
}

const D: usize = 128;

impl Gathered {
    pub fn draw(tiles: usize, blocks: usize, rows: usize) -> Gathered {
        let mut draw = Draw(77);
        let index = (0..tiles * blocks * 64).map(|i| if i % 11 == 3 { -1 } else { (draw.next() % rows as u64) as i32 });
        let index: Vec<i32> = index.collect();
        let mut rows_of = |count: usize| draw.bf16s(count * D);
        Gathered { tiles, blocks, rows, q: rows_of(tiles * 64), k: rows_of(rows), v: rows_of(rows), index }
    }

    pub fn run(&self, ptx: &str, options: &Options) -> Result<(Vec<f64>, Vec<f64>), Box<Fault>> {
        let memory = Memory::new();
        let rows = self.tiles * 64;
        let (o, lse) = (memory.alloc((rows * D * 2) as u64), memory.alloc((rows * 4) as u64));
        let index: Vec<u8> = self.index.iter().flat_map(|row| row.to_le_bytes()).collect();
        let args = [
            matrix(upload(&memory, &bytes(&self.q)), rows, D, 64),
            Arg::U64(upload(&memory, &bytes(&self.k))),
            Arg::U64(upload(&memory, &bytes(&self.v))),
            Arg::U64(o),
            Arg::U64(upload(&memory, &index)),
            Arg::U64(lse),
            Arg::U32(self.blocks as u32),
            Arg::U32((D * 2) as u32),
            Arg::F32((std::f64::consts::LOG2_E / (D as f64).sqrt()) as f32),
        ];
        launch(ptx, [self.tiles, 1, 1], 256, 82_472, &args, &memory, options)?;
        Ok((halves(&memory, o, rows * D), words(&memory, lse, rows)))
    }

    pub fn expected(&self) -> (Vec<f64>, Vec<f64>) {
        let (mut o, mut lse) = (Vec::new(), Vec::new());
        for row in 0..self.tiles * 64 {
            let list = &self.index[row / 64 * self.blocks * 64..][..self.blocks * 64];
            let picked: Vec<usize> = list.iter().filter(|row| **row >= 0).map(|row| *row as usize).collect();
            let scale = 1.0 / (D as f64).sqrt();
            let q = &self.q[row * D..][..D];
            let scores: Vec<f64> = picked.iter().map(|key| dot(q, &self.k[key * D..]) * scale).collect();
            let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = scores.iter().map(|score| (score - max).exp()).sum();
            lse.push(max + sum.ln());
            for d in 0..D {
                let weighted =
                    picked.iter().zip(&scores).map(|(key, score)| (score - max).exp() * f64::from(self.v[key * D + d]));
                o.push(weighted.sum::<f64>() / sum);
            }
        }
        (o, lse)
    }
}

/// The gradients of an attention of one head and width 128, and what they are computed from.
pub struct Backward {
    pub forward: Attention,
    pub grad: Vec<bf16>,
    /// Of each row, the LSE, and the sum of the output times its gradient.
    lse: Vec<f64>,
    sums: Vec<f64>,
}

/// Gradients of Q, K and V, `[row][d]`.
pub type Gradients = [Vec<f64>; 3];

impl Backward {
    pub fn draw(tokens: usize, causal: bool) -> Backward {
        let forward = Attention::draw(tokens, tokens, 1, 1, D, causal);
        let grad = Draw(5).bf16s(tokens * D);
        let (o, lse) = forward.expected();
        let sum = |row: usize| (0..D).map(|d| o[row * D + d] * f64::from(grad[row * D + d])).sum();
        let sums = (0..tokens).map(sum).collect();
        Backward { forward, grad, lse, sums }
    }

    /// The softmax's weights, and the gradient's products with V.
    fn parts(&self) -> (Vec<f64>, Vec<f64>) {
        let n = self.forward.queries;
        let Attention { q, k, v, causal, .. } = &self.forward;
        let (mut p, mut dp) = (vec![0.0; n * n], vec![0.0; n * n]);
        for i in 0..n {
            for j in (0..n).filter(|j| !causal || *j <= i) {
                p[i * n + j] = (dot(&q[i * D..][..D], &k[j * D..]) * self.forward.scale() - self.lse[i]).exp();
                dp[i * n + j] = dot(&self.grad[i * D..][..D], &v[j * D..]);
            }
        }
        (p, dp)
    }

    pub fn run(&self, ptx: &str, options: &Options) -> Result<Gradients, Box<Fault>> {
        let memory = Memory::new();
        let n = self.forward.queries;
        let lse: Vec<f32> = self.lse.iter().map(|lse| (lse * std::f64::consts::LOG2_E) as f32).collect();
        let sums: Vec<f32> = self.sums.iter().map(|sum| *sum as f32).collect();
        let (dk, dv) = (memory.alloc((n * D * 2) as u64), memory.alloc((n * D * 2) as u64));
        let dq = floats(&memory, &vec![0.0; n * D]);
        let Attention { q, k, v, .. } = &self.forward;
        let rows = |data: &[bf16], tile| map(upload(&memory, &bytes(data)), n, 1, D, tile);
        let args = [
            rows(q, 64),
            rows(k, 128),
            rows(v, 128),
            rows(&self.grad, 64),
            map(dk, n, 1, D, 64),
            map(dv, n, 1, D, 64),
            Arg::U64(floats(&memory, &lse)),
            Arg::U64(floats(&memory, &sums)),
            Arg::U64(dq),
            Arg::U32(n as u32),
            Arg::F32((self.forward.scale() * std::f64::consts::LOG2_E) as f32),
            Arg::F32(self.forward.scale() as f32),
        ];
        launch(ptx, [n / 128, 1, 1], 384, 197_704, &args, &memory, options)?;
        // Each block of 64 queries lies as the registers of two warpgroups, 64 columns each: [warpgroup][i][thread][4].
        let packed = words(&memory, dq, n * D);
        let mut grad_q = vec![0.0; n * D];
        for (at, value) in packed.iter().enumerate() {
            let (block, half, i, thread, j) = (at / 8192, at / 4096 % 2, at / 512 % 8, at / 4 % 128, at % 4);
            let row = block * 64 + thread / 32 * 16 + thread % 32 / 4 + 8 * (j / 2);
            let column = half * 64 + 8 * i + 2 * (thread % 4) + j % 2;
            grad_q[row * D + column] = value * self.forward.scale();
        }
        Ok([grad_q, halves(&memory, dk, n * D), halves(&memory, dv, n * D)])
    }

    pub fn expected(&self) -> Gradients {
        let n = self.forward.queries;
        let (p, dp) = self.parts();
        let Attention { q, k, .. } = &self.forward;
        let [mut dq, mut dk, mut dv] = [vec![0.0; n * D], vec![0.0; n * D], vec![0.0; n * D]];
        for i in 0..n {
            for j in 0..n {
                let ds = p[i * n + j] * (dp[i * n + j] - self.sums[i]) * self.forward.scale();
                for d in 0..D {
                    dq[i * D + d] += ds * f64::from(k[j * D + d]);
                    dk[j * D + d] += ds * f64::from(q[i * D + d]);
                    dv[j * D + d] += p[i * n + j] * f64::from(self.grad[i * D + d]);
                }
            }
        }
        [dq, dk, dv]
    }
}

/// `C = A B^T`, A and B of so many rows of 64.
pub fn product(ptx: &str, rows: usize, columns: usize, options: &Options) -> Result<(Vec<f64>, Vec<f64>), Box<Fault>> {
    let mut draw = Draw(9);
    let (a, b) = (draw.bf16s(rows * 64), draw.bf16s(columns * 64));
    let memory = Memory::new();
    let c = memory.alloc((rows * columns * 2) as u64);
    let args = [
        matrix(upload(&memory, &bytes(&a)), rows, 64, 64),
        matrix(upload(&memory, &bytes(&b)), columns, 64, 64),
        matrix(c, rows, columns, 64),
    ];
    launch(ptx, [columns.div_ceil(64), rows.div_ceil(64), 1], 128, 0, &args, &memory, options)?;
    let exact = (0..rows * columns).map(|at| dot(&a[at / columns * 64..][..64], &b[at % columns * 64..]));
    Ok((halves(&memory, c, rows * columns), exact.collect()))
}
