//! Drawn operands. The first 256 sets are every pair of 16 values at the ends, for the first two operands (for an only
//! operand 16 sets); the others are drawn, of every size.

use half::{bf16, f16};
use lacuna_ptx::isa::Type;

/// What an operand is drawn from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Whatever its type holds.
    Any(Type),
    /// A shift, small or at the widths, or far beyond.
    Shift,
    /// A place or a length in a word, 0 to 255.
    Field,
    /// The `c` of a `shfl`.
    Clamp,
    /// A predicate for a vote: none, all, all but one, one, drawn.
    Vote,
    /// One of few values in a round: all the same, all their own, drawn from more and more.
    Repeated,
    /// At most this.
    UpTo(u32),
    /// A float whose sums are exact.
    Whole,
    /// Two elements of a fragment.
    Halves(Half),
    /// An element of an accumulator.
    Sum(Half),
    /// Two small integers, whose products and their sums are exact.
    Small(Half),
}

/// The element of a fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Half {
    Bf16,
    F16,
}

/// An operand: whose it is, and which.
pub(super) struct Draw {
    state: u64,
    row: usize,
    round: usize,
    lane: usize,
    slot: usize,
    /// Sets that are pairs of ends.
    pairs: usize,
}

const INTS: [u32; 16] = [
    0,
    1,
    u32::MAX,
    0x7fff_ffff,
    0x8000_0000,
    2,
    0xffff_fffe,
    0x8000_0001,
    31,
    32,
    0x5555_5555,
    0xaaaa_aaaa,
    0xffff,
    0x1_0000,
    7,
    0xffff_fff9,
];

const LONGS: [u64; 16] = [
    0,
    1,
    u64::MAX,
    i64::MAX as u64,
    1 << 63,
    2,
    u64::MAX - 1,
    1 << 63 | 1,
    0xffff_ffff,
    1 << 32,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff_8000_0000,
    0x1234_5678_9abc_def0,
    7,
    0xffff_ffff_0000_0000,
];

const SHIFTS: [u32; 16] = [0, 1, 2, 7, 8, 15, 16, 24, 31, 32, 33, 63, 64, 65, 255, u32::MAX];

/// Zeros, ones, the ends, infinities, NaNs (quiet, and signalling with a sign), subnormals, the least normal, and others.
const FLOATS: [u32; 16] = [
    0,
    0x8000_0000,
    0x3f80_0000,
    0xbf80_0000,
    0x7f7f_ffff,
    0xff7f_ffff,
    0x7f80_0000,
    0xff80_0000,
    0x7fc0_0000,
    0xffa0_0001,
    1,
    0x807f_ffff,
    0x0080_0000,
    0x3f80_0001,
    0xcf00_0000,
    0x7e80_0001,
];

/// Where the draws of a case begin.
pub(super) fn seed(name: &str) -> u64 {
    name.bytes().fold(17, |hash: u64, byte| mixed(hash ^ u64::from(byte)))
}

impl Draw {
    /// The operand `slot` of a row; a round has `threads` of them.
    pub(super) fn new(seed: u64, row: usize, threads: usize, slot: usize, slots: usize) -> Draw {
        let state = mixed(seed ^ ((row as u64) << 8 | slot as u64));
        let pairs = if slots == 1 { 16 } else { 256 };
        Draw { state, row, round: row / threads, lane: row % threads, slot, pairs }
    }

    /// The words of an operand, lowest first.
    pub(super) fn words(&mut self, kind: Kind) -> Vec<u32> {
        match kind {
            Kind::Any(Type::F32) => vec![self.float()],
            Kind::Any(ty) if ty.bits() == 64 => {
                let value = self.long();
                vec![value as u32, (value >> 32) as u32]
            }
            Kind::Any(_) => vec![self.int()],
            Kind::Shift => vec![self.edge(&SHIFTS).unwrap_or_else(|| self.below(80) as u32)],
            Kind::Field => {
                let edge = self.edge(&SHIFTS).map(|value| value & 255);
                vec![edge.unwrap_or_else(|| self.below(40) as u32)]
            }
            Kind::Clamp => {
                let common = [0x1f, 0, 0x1c1f, 0x1800, 0x101f, 0x0f0f];
                let drawn = self.next() as u32 & 0x1f1f;
                vec![if self.round.is_multiple_of(2) { common[self.below(6)] } else { drawn }]
            }
            Kind::Vote => {
                let mine = self.round * 5 % 32 == self.lane;
                vec![u32::from([false, true, mine, !mine, self.next() & 1 == 1][self.round % 5])]
            }
            Kind::Repeated => vec![match self.round {
                0 => INTS[2],
                1 => self.lane as u32,
                round => INTS[self.below(INTS.len().min(2 * round))],
            }],
            Kind::UpTo(last) => vec![self.below(last as usize + 1) as u32],
            Kind::Whole => vec![(self.below(512) as f32 - 200.0).to_bits()],
            Kind::Halves(half) => vec![self.half(half) | self.half(half) << 16],
            Kind::Sum(half) => vec![self.sum(half).to_bits()],
            Kind::Small(half) => {
                let drawn = self.next();
                let integer = |bits: u64| bits_of(half, (bits % 15) as f32 - 7.0);
                vec![integer(drawn >> 32) | integer(drawn & 0xffff_ffff) << 16]
            }
        }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed(self.state)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() >> 16) as usize % end
    }

    /// Among the first sets, the pair of ends that is due; later one in eight.
    fn edge<T: Copy>(&mut self, ends: &[T; 16]) -> Option<T> {
        match (self.row < self.pairs, self.slot) {
            (true, 0) => Some(ends[self.row % 16]),
            (true, 1) => Some(ends[self.row / 16]),
            (true, _) => Some(ends[self.below(16)]),
            (false, _) => (self.below(8) == 0).then(|| ends[self.below(16)]),
        }
    }

    fn int(&mut self) -> u32 {
        self.edge(&INTS).unwrap_or_else(|| {
            let value = self.next() as u32 >> self.below(32);
            if self.below(3) == 0 { value.wrapping_neg() } else { value }
        })
    }

    fn long(&mut self) -> u64 {
        self.edge(&LONGS).unwrap_or_else(|| {
            let value = self.next() >> self.below(64);
            if self.below(3) == 0 { value.wrapping_neg() } else { value }
        })
    }

    /// Bits of a float with an exponent from `2^first` to `2^last`.
    fn scaled(&mut self, first: i32, last: i32) -> u32 {
        let exponent = (127 + first) as u32 + self.below((last - first + 1) as usize) as u32;
        let bits = self.next() as u32;
        bits & 0x807f_ffff | exponent << 23
    }

    fn float(&mut self) -> u32 {
        if let Some(edge) = self.edge(&FLOATS) {
            return edge;
        }
        match self.below(8) {
            0..=2 => self.scaled(-7, 7),
            3 => self.next() as u32,
            // About the ends of integers.
            4 => self.scaled(20, 33),
            // Half way between two bf16, or two f16.
            5 => self.scaled(-20, 20) & 0xffff_0000 | 0x8000,
            6 => self.scaled(-26, 17) & 0xffff_e000 | 0x1000,
            // Subnormals and what is near them.
            _ => self.next() as u32 & 0x81ff_ffff,
        }
    }

    /// About normal.
    fn normal(&mut self) -> f32 {
        let sum: f32 = (0..6).map(|_| self.below(1 << 16) as f32 / 65536.0 - 0.5).sum();
        sum * std::f32::consts::SQRT_2
    }

    fn half(&mut self, half: Half) -> u32 {
        let bits = |value| bits_of(half, value);
        match self.round % 8 {
            0 => bits(self.below(33) as f32 - 16.0),
            // Sixteen sizes.
            2 => {
                let scale = (self.below(16) as f32 - 8.0).exp2();
                bits(self.normal() * scale)
            }
            // Terms that take each other away.
            3 => bits(if self.below(2) == 0 { 1.0 } else { -1.0 } * (1.0 + self.below(4) as f32 / 64.0)),
            // Now and then something that is no number, or infinite.
            4 if self.below(64) == 0 => bits([f32::INFINITY, f32::NEG_INFINITY, f32::NAN, -0.0][self.below(4)]),
            // Subnormals and the least normal numbers of the type.
            5 => match half {
                Half::Bf16 => self.next() as u32 & 0x80ff,
                Half::F16 => self.next() as u32 & 0x87ff,
            },
            _ => bits(self.normal()),
        }
    }

    fn sum(&mut self, half: Half) -> f32 {
        match self.round % 8 {
            0 => self.below(2000) as f32 - 1000.0,
            3 => self.normal() * 1e-4,
            // Products of bf16 subnormals vanish beside anything.
            5 if half == Half::Bf16 => f32::from_bits(self.next() as u32 & 0x81ff_ffff),
            5 => self.normal() * 1e-9,
            // Larger than all products.
            6 => self.normal() * 1e4,
            7 => 0.0,
            _ => self.normal() * 4.0,
        }
    }
}

/// A number as an element.
fn bits_of(half: Half, value: f32) -> u32 {
    match half {
        Half::Bf16 => bf16::from_f32(value).to_bits().into(),
        Half::F16 => f16::from_f32(value).to_bits().into(),
    }
}

/// The finaliser of splitmix64.
fn mixed(mut z: u64) -> u64 {
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}
