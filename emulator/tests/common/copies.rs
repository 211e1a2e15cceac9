//! Kernels around bulk copies: a tensor map, an input, an output, and a box's worth of shared memory.

#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test file uses a part")]

use lacuna_emulator::{Arg, Fault, Launch, Memory, Options, Program, Swizzle, TensorDim, TensorElem, TensorMap, run};

/// Where the mbarriers lie: behind the tiles.
pub const BARRIERS: u32 = 32768;

/// A module around a body. `%d0` is the generic address of the map, `%d1` and `%d2` input and output, `%r0` the thread; `%r9` is
/// 0, `%r10` the start of shared memory, `%r11` the first mbarrier, made for one arrival; `%p0` is thread 0, `%p1` all others.
pub fn module(body: &str) -> String {
    let body: String = body.lines().map(|line| format!("  {}\n", line.trim())).collect();
    format!(
        ".version 8.1\n.target sm_90\n.address_size 64\n.extern .shared .align 1024 .b8 smem[];\n\
         .visible .entry k(.param .align 64 .b8 map[128], .param .u64 input, .param .u64 output)\n{{\n\
         .reg .b32 %r<64>; .reg .f32 %f<32>; .reg .b64 %d<32>; .reg .pred %p<32>; .reg .b16 %h<32>;\n\
         mov.b64 %d0, map; cvta.param.u64 %d0, %d0; ld.param.u64 %d1, [input]; ld.param.u64 %d2, [output];\n\
         mov.u32 %r0, %tid.x; mov.u32 %r9, 0; mov.u32 %r10, smem; add.u32 %r11, %r10, {BARRIERS};\n\
         setp.eq.u32 %p0, %r0, 0; not.pred %p1, %p0;\n\
         @%p0 mbarrier.init.shared::cta.b64 [%r11], 1;\n@%p0 fence.mbarrier_init.release.cluster;\nbar.sync 0;\n{body}}}\n"
    )
}

/// Waits for a phase of the first mbarrier.
pub fn wait(name: &str, parity: u32) -> String {
    format!("{name}:\nmbarrier.try_wait.parity.shared::cta.b64 %p2, [%r11], {parity};\n@!%p2 bra {name};\n")
}

/// Copies words of shared memory to the output, by all threads.
pub fn out(threads: u32, bytes: u32) -> String {
    let mut text =
        "shl.b32 %r20, %r0, 2;\nadd.u32 %r21, %r10, %r20;\ncvt.u64.u32 %d20, %r20;\nadd.u64 %d20, %d20, %d2;\n"
            .to_owned();
    for at in (0..bytes).step_by(4 * threads as usize) {
        text += &format!("ld.shared.u32 %r22, [%r21+{at}];\nst.global.u32 [%d20+{at}], %r22;\n");
    }
    text
}

pub fn map(base: u64, elem: TensorElem, dims: &[(u64, u64, u32)], swizzle: Swizzle) -> TensorMap {
    let dims = dims.iter().map(|&(extent, stride, tile)| TensorDim { extent, stride, tile }).collect();
    TensorMap { base, elem, dims, swizzle }
}

/// A kernel with its memories.
pub struct Copies {
    pub memory: Memory,
    pub input: u64,
    pub output: u64,
    pub threads: u32,
    /// What the kernel says of its launches, a line each.
    pub limits: &'static str,
    pub options: Options,
}

impl Copies {
    /// With these bytes in the input, and room in the output.
    pub fn new(input: &[u8], output: usize) -> Copies {
        let memory = Memory::new();
        let (at, out) = (memory.alloc(input.len() as u64), memory.alloc(output as u64));
        memory.write(at, input).unwrap();
        let options = Options { max_instructions: Some(1_000_000), ..Options::default() };
        Copies { memory, input: at, output: out, threads: 32, limits: "", options }
    }

    pub fn run(&self, body: &str, map: &TensorMap) -> Result<(), Box<Fault>> {
        let text = module(body).replacen("{\n", &format!("{}{{\n", self.limits), 1);
        let program = Program::from_text(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        let args = [Arg::TensorMap(map.clone()), Arg::U64(self.input), Arg::U64(self.output)];
        let launch =
            Launch { entry: "k", grid: [1, 1, 1], block: [self.threads, 1, 1], shared: BARRIERS + 256, args: &args };
        run(&program, &launch, &self.memory, &self.options).map(drop)
    }

    pub fn fault(&self, body: &str, map: &TensorMap) -> Box<Fault> {
        match self.run(body, map) {
            Err(fault) => fault,
            Ok(()) => panic!("nothing is found wrong with\n{body}"),
        }
    }

    /// Bytes of the output.
    pub fn read(&self, bytes: usize) -> Vec<u8> {
        let mut out = vec![0; bytes];
        self.memory.read(self.output, &mut out).unwrap();
        out
    }
}
