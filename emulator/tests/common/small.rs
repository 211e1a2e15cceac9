//! Tiny kernels: a body in, an array of words out.

#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test file uses a part")]

use lacuna_emulator::{Arg, Fault, Launch, Memory, Options, Program, run};

/// A module around a body. Parameters `input` and `output`; `%d0` and `%d1` hold them, `%r0` is the thread, and `%d2`
/// the address of this thread's word of the output. Registers: `%r`, `%f`, `%d`, `%p`, `%h`, 32 of each.
pub fn module(body: &str) -> String {
    let body: String = body.lines().map(|line| format!("  {}\n", line.trim())).collect();
    format!(
        ".version 8.1\n.target sm_90\n.address_size 64\n.extern .shared .align 128 .b8 smem[];\n\
         .visible .entry k(.param .u64 input, .param .u64 output)\n{{\n\
         .reg .b32 %r<32>; .reg .f32 %f<32>; .reg .b64 %d<32>; .reg .pred %p<32>; .reg .b16 %h<32>;\n\
         ld.param.u64 %d0, [input]; ld.param.u64 %d1, [output];\n\
         mov.u32 %r0, %tid.x;\n\
         mul.wide.u32 %d2, %r0, 4; add.u64 %d2, %d1, %d2;\n{body}}}\n"
    )
}

pub struct Small {
    pub threads: u32,
    pub shared: u32,
    pub ctas: u32,
    /// Words that the input holds.
    pub input: Vec<u32>,
    /// Words that the output has room for.
    pub output: usize,
    pub options: Options,
}

impl Default for Small {
    fn default() -> Self {
        let options = Options { max_instructions: Some(1_000_000), ..Options::default() };
        Small { threads: 32, shared: 4096, ctas: 1, input: Vec::new(), output: 32, options }
    }
}

impl Small {
    /// Runs a body; words of the output that were not written are `None`.
    pub fn run(&self, body: &str) -> Result<Vec<Option<u32>>, Box<Fault>> {
        let program = Program::from_text(&module(body)).unwrap_or_else(|error| panic!("{error}\n{}", module(body)));
        let memory = Memory::new();
        let input = memory.alloc(self.input.len() as u64 * 4);
        let bytes: Vec<u8> = self.input.iter().flat_map(|word| word.to_le_bytes()).collect();
        memory.write(input, &bytes).unwrap();
        let output = memory.alloc(self.output as u64 * 4);
        let args = [Arg::U64(input), Arg::U64(output)];
        let launch = Launch {
            entry: "k",
            grid: [self.ctas, 1, 1],
            block: [self.threads, 1, 1],
            shared: self.shared,
            args: &args,
        };
        run(&program, &launch, &memory, &self.options)?;
        let word = |i| {
            let mut word = [0; 4];
            memory.read(output + 4 * i as u64, &mut word).ok().map(|()| u32::from_le_bytes(word))
        };
        Ok((0..self.output).map(word).collect())
    }

    /// Runs a body in which every thread leaves its result in `%r1`.
    pub fn words(&self, body: &str) -> Vec<u32> {
        let out = self.run(&format!("{body}\nst.global.u32 [%d2], %r1;\nret;"));
        out.unwrap_or_else(|fault| panic!("{fault}"))
            .into_iter()
            .map(|word| word.expect("every thread writes"))
            .collect()
    }

    pub fn fault(&self, body: &str) -> Box<Fault> {
        match self.run(body) {
            Err(fault) => fault,
            Ok(_) => panic!("nothing is found wrong with\n{body}"),
        }
    }
}

/// One warp, lane by lane.
pub fn words(body: &str) -> Vec<u32> {
    Small::default().words(body)
}

/// Every lane alike.
pub fn word(body: &str) -> u32 {
    let out = words(body);
    assert!(out.iter().all(|word| *word == out[0]), "{out:x?}");
    out[0]
}

/// An f32 result in `%f1`, every lane alike.
pub fn float(body: &str) -> f32 {
    f32::from_bits(word(&format!("{body}\nmov.b32 %r1, %f1;")))
}
