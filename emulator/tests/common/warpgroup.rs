//! A warpgroup's kernel: tiles that the test lays out in shared memory, products of them, accumulators out.

#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test file uses a part")]

use half::{bf16, f16};
use lacuna_emulator::{Arg, Fault, Launch, Memory, Options, Program, run};

/// Small integers, so that every sum is exact in f32, in any order.
pub fn value(row: usize, column: usize) -> f32 {
    ((row * 37 + column * 11 + row * column) % 15) as f32 - 7.0
}

/// Where 16-bit elements lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Swizzle {
    None,
    B32,
    B64,
    B128,
}

impl Swizzle {
    /// Bytes of a row of a panel.
    pub fn width(self) -> usize {
        [16, 32, 64, 128][self as usize]
    }

    /// Bits 62 and 63 of a descriptor.
    pub fn bits(self) -> u64 {
        [0, 3, 2, 1][self as usize]
    }
}

/// A tile in shared memory, `rows` by `columns`, contiguous along its columns.
#[derive(Clone, Copy, Debug)]
pub struct Tile {
    pub at: usize,
    pub rows: usize,
    pub columns: usize,
    pub swizzle: Swizzle,
}

impl Tile {
    pub fn bytes(&self) -> usize {
        self.rows * self.columns * 2
    }

    /// The byte of an element: panels of the swizzle's width, rows beneath each other, granules exchanged by bits 7.. of the
    /// address (CUDA driver API, tensor map swizzles). Without a swizzle a panel is a column of core matrices.
    pub fn place(&self, row: usize, column: usize) -> usize {
        let width = self.swizzle.width();
        let byte = column * 2;
        let address = self.at + byte / width * self.rows * width + row * width + byte % width;
        let mask = width / 16 - 1;
        address ^ ((address >> 7) & mask) << 4
    }

    fn descriptor(&self, start: usize, leading: usize, stride: usize) -> u64 {
        let field = |bytes: usize| bytes as u64 / 16;
        field(start) | field(leading) << 16 | field(stride) << 32 | self.swizzle.bits() << 62
    }

    /// The descriptor of a step of 16 along the columns, where they are k.
    pub fn k_major(&self, step: usize) -> u64 {
        let (width, panel) = (self.swizzle.width(), self.rows * self.swizzle.width());
        let byte = step * 32;
        let start = self.at + byte / width * panel + byte % width;
        // Without a swizzle the two core matrices of a step lie in two panels.
        let leading = if self.swizzle == Swizzle::None { panel } else { 16 };
        self.descriptor(start, leading, 8 * width)
    }

    /// The descriptor of a step of 16 rows, where the rows are k.
    pub fn mn_major(&self, step: usize) -> u64 {
        let (width, panel) = (self.swizzle.width(), self.rows * self.swizzle.width());
        let start = self.at + step * 16 * width;
        if self.swizzle == Swizzle::None {
            // Of core matrices: the next along k is the next eight rows, the next along the columns the next panel.
            self.descriptor(start, 8 * width, panel)
        } else {
            self.descriptor(start, panel, 8 * width)
        }
    }
}

/// 16-bit elements by the name that a `wgmma` gives them.
pub fn bits(element: &str, value: f32) -> u16 {
    if element == "bf16" { bf16::from_f32(value).to_bits() } else { f16::from_f32(value).to_bits() }
}

/// Registers `%f0..` of an accumulator.
pub fn accumulator(columns: usize) -> String {
    format!("{{{}}}", (0..columns / 2).map(|i| format!("%f{i}")).collect::<Vec<_>>().join(", "))
}

/// A launch of one CTA whose first `image.len()` bytes of shared memory are filled from `image` by generic writes.
pub struct Warpgroup {
    pub threads: usize,
    pub image: Vec<u8>,
    /// Bytes of shared memory behind the image.
    pub room: usize,
    /// Accumulators to put out, for each thread.
    pub registers: usize,
    pub options: Options,
}

impl Default for Warpgroup {
    fn default() -> Self {
        let options = Options { max_instructions: Some(1_000_000), ..Options::default() };
        Warpgroup { threads: 128, image: Vec::new(), room: 0, registers: 0, options }
    }
}

/// What the tiles wait for before the first product.
pub const READY: &str = "fence.proxy.async.shared::cta;\nbar.sync 0;\n";

impl Warpgroup {
    /// The image with a tile of elements in it.
    pub fn tile(mut self, tile: Tile, element: &str, at: impl Fn(usize, usize) -> f32) -> Self {
        self.image.resize(self.image.len().max(tile.at + tile.bytes()).next_multiple_of(16), 0);
        for row in 0..tile.rows {
            for column in 0..tile.columns {
                let byte = tile.place(row, column);
                self.image[byte..byte + 2].copy_from_slice(&bits(element, at(row, column)).to_le_bytes());
            }
        }
        self
    }

    /// The module around a body: `%r0` is the thread, `%r1` its warp, `%r2` `smem`; the image has been stored.
    pub fn module(&self, body: &str) -> String {
        let body: String = body.lines().map(|line| format!("  {}\n", line.trim())).collect();
        let stores: String =
            (0..self.registers).map(|i| format!("  st.global.f32 [%d2+{}], %f{i};\n", i * self.threads * 4)).collect();
        let granules = self.image.len() / 16;
        format!(
            ".version 8.0\n.target sm_90a\n.address_size 64\n.extern .shared .align 1024 .b8 smem[];\n\
             .visible .entry k(.param .u64 input, .param .u64 output)\n.maxntid {},1,1\n.minnctapersm 1\n{{\n\
             .reg .b32 %r<64>; .reg .f32 %f<160>; .reg .b64 %d<32>; .reg .pred %p<16>;\n\
             ld.param.u64 %d0, [input]; ld.param.u64 %d1, [output];\n\
             mov.u32 %r0, %tid.x; shr.u32 %r1, %r0, 5; mov.u32 %r2, smem;\n\
             mul.wide.u32 %d2, %r0, 4; add.u64 %d2, %d1, %d2;\n\
             mov.u32 %r3, %r0;\nFILL: setp.ge.u32 %p0, %r3, {granules};\n@%p0 bra FILLED;\n\
             mul.wide.u32 %d3, %r3, 16; add.u64 %d3, %d0, %d3; shl.b32 %r4, %r3, 4; add.u32 %r4, %r4, %r2;\n\
             ld.global.v4.b32 {{%r5, %r6, %r7, %r8}}, [%d3]; st.shared.v4.b32 [%r4], {{%r5, %r6, %r7, %r8}};\n\
             add.u32 %r3, %r3, {};\nbra FILL;\nFILLED:\n{body}{stores}  ret;\n}}\n",
            self.threads, self.threads
        )
    }

    /// The accumulators, `[thread][register]`.
    pub fn run(&self, body: &str) -> Result<Vec<Vec<f32>>, Box<Fault>> {
        let text = self.module(body);
        let program = Program::from_text(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        let memory = Memory::new();
        let input = memory.alloc(self.image.len().max(16) as u64);
        memory.write(input, &self.image).unwrap();
        let output = memory.alloc((self.registers * self.threads * 4).max(4) as u64);
        let args = [Arg::U64(input), Arg::U64(output)];
        let launch = Launch {
            entry: "k",
            grid: [1, 1, 1],
            block: [self.threads as u32, 1, 1],
            shared: (self.image.len() + self.room).max(1024) as u32,
            args: &args,
        };
        run(&program, &launch, &memory, &self.options)?;
        let word = |thread: usize, i: usize| {
            let mut word = [0; 4];
            memory.read(output + 4 * (i * self.threads + thread) as u64, &mut word).unwrap();
            f32::from_le_bytes(word)
        };
        Ok((0..self.threads).map(|thread| (0..self.registers).map(|i| word(thread, i)).collect()).collect())
    }

    pub fn fault(&self, body: &str) -> Box<Fault> {
        match self.run(body) {
            Err(fault) => fault,
            Ok(_) => panic!("nothing is found wrong with\n{body}"),
        }
    }
}

/// Row and column of a register of an accumulator (PTX ISA, "Register fragments for wgmma.mma_async.m64nNk16").
pub fn element_of(thread: usize, register: usize) -> (usize, usize) {
    let (warp, lane) = (thread / 32, thread % 32);
    (16 * warp + lane / 4 + 8 * (register / 2 % 2), 8 * (register / 4) + 2 * (lane % 4) + register % 2)
}
