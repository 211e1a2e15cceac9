//! The hand-made GQA-16 kernel (`ptx/tests/kernels`): one CTA computes one token's 16 query heads over selected KV blocks of
//! 64 keys, D 128. Its inputs, its launch, and the same in f64.

#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test file and the example use a part")]

use lacuna_emulator::{Arg, Fault, Launch, Memory, Options, Program, Stats, run};

pub const HEADS: usize = 16;
pub const DIM: usize = 128;
pub const BLOCK: usize = 64;
/// Dynamic shared memory of k4 and k4m: two stages of K and V, Q, the merge buffer.
pub const SHARED: u32 = 2 * 2 * 64 * 256 + 16 * 256 + 4 * 16 * (128 + 2) * 4;

/// xorshift, for drawn inputs.
pub struct Draw(pub u64);

impl Draw {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    /// About normal.
    pub fn normal(&mut self) -> f32 {
        let sum: f32 = (0..6).map(|_| (self.next() % (1 << 20)) as f32 / (1 << 20) as f32 - 0.5).sum();
        sum * std::f32::consts::SQRT_2
    }

    pub fn bf16s(&mut self, count: usize) -> Vec<half::bf16> {
        (0..count).map(|_| half::bf16::from_f32(self.normal())).collect()
    }
}

pub fn bytes(values: &[half::bf16]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

pub struct Case {
    pub tokens: usize,
    pub keys: usize,
    pub q: Vec<half::bf16>,
    pub k: Vec<half::bf16>,
    pub v: Vec<half::bf16>,
    /// `[token][pick]`; -1 is no block.
    pub picks: Vec<Vec<i32>>,
}

impl Case {
    /// `tokens` tokens over `blocks` blocks, `picks` of them for each; with holes some are -1.
    pub fn draw(tokens: usize, blocks: usize, picks: usize, holes: bool, seed: u64) -> Case {
        let mut draw = Draw(seed);
        let keys = blocks * BLOCK;
        let picks = (0..tokens)
            .map(|token| {
                let pick = |i| if i == 0 { (token / BLOCK) as i32 } else { (draw.next() % blocks as u64) as i32 };
                let mut list: Vec<i32> = (0..picks).map(pick).collect();
                if holes && token % 3 == 1 {
                    list[picks - 1] = -1;
                }
                list
            })
            .collect();
        let q = draw.bf16s(tokens * HEADS * DIM);
        Case { tokens, keys, q, k: draw.bf16s(keys * DIM), v: draw.bf16s(keys * DIM), picks }
    }

    fn scale() -> f64 {
        1.0 / (DIM as f64).sqrt()
    }

    /// Runs a kernel of the family on one KV head.
    pub fn run(&self, ptx: &str, shared: u32, options: &Options) -> Result<(Vec<f64>, Stats), Box<Fault>> {
        let program = Program::from_text(ptx).unwrap_or_else(|error| panic!("{error}"));
        let memory = Memory::new();
        let upload = |data: &[u8]| {
            let at = memory.alloc(data.len() as u64);
            memory.write(at, data).unwrap();
            at
        };
        let picks: Vec<u8> = self.picks.iter().flatten().flat_map(|pick| pick.to_le_bytes()).collect();
        let out = memory.alloc((self.q.len() * 2) as u64);
        let args = [
            Arg::U64(upload(&bytes(&self.q))),
            Arg::U64(upload(&bytes(&self.k))),
            Arg::U64(upload(&bytes(&self.v))),
            Arg::U64(out),
            Arg::U64(upload(&picks)),
            Arg::U32(self.picks[0].len() as u32),
            Arg::U32((DIM * 2) as u32),
            Arg::F32((Self::scale() * std::f64::consts::LOG2_E) as f32),
        ];
        let entry = program.entries().next().unwrap_or_default();
        let launch = Launch { entry, grid: [self.tokens as u32, 1, 1], block: [128, 1, 1], shared, args: &args };
        let stats = run(&program, &launch, &memory, options)?;
        let mut result = vec![0; self.q.len() * 2];
        if memory.unwritten(out, result.len() as u64).is_none() {
            memory.read(out, &mut result).unwrap();
        } else {
            result.fill(0xff);
        }
        let value = |pair: &[u8]| f64::from(half::bf16::from_le_bytes([pair[0], pair[1]]));
        Ok((result.chunks_exact(2).map(value).collect(), stats))
    }

    /// The textbook formula; `causal` also drops keys behind the token.
    pub fn expected(&self, causal: bool) -> Vec<f64> {
        let mut out = Vec::new();
        for (token, picks) in self.picks.iter().enumerate() {
            let blocks = picks.iter().filter(|block| **block >= 0).map(|block| *block as usize);
            let keys: Vec<usize> = blocks
                .flat_map(|block| block * BLOCK..(block + 1) * BLOCK)
                .filter(|key| !causal || *key <= token)
                .collect();
            for head in 0..HEADS {
                let q = &self.q[(token * HEADS + head) * DIM..][..DIM];
                let score = |key: &usize| -> f64 {
                    let k = &self.k[key * DIM..][..DIM];
                    q.iter().zip(k).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum::<f64>() * Self::scale()
                };
                let scores: Vec<f64> = keys.iter().map(score).collect();
                let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let weights: Vec<f64> = scores.iter().map(|score| (score - max).exp()).collect();
                let sum: f64 = weights.iter().sum();
                for d in 0..DIM {
                    let value: f64 =
                        keys.iter().zip(&weights).map(|(key, weight)| weight * f64::from(self.v[key * DIM + d])).sum();
                    out.push(if keys.is_empty() { 0.0 } else { value / sum });
                }
            }
        }
        out
    }
}

/// The RMS of the distance over the RMS of what is expected; infinite if anything is NaN.
pub fn error(actual: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(actual.len(), expected.len());
    let far = |(a, e): (&f64, &f64)| if a.is_nan() { f64::INFINITY } else { (a - e).powi(2) };
    let distance: f64 = actual.iter().zip(expected).map(far).sum();
    (distance / expected.iter().map(|x| x * x).sum::<f64>()).sqrt()
}
