//! The conformance set: what a GPU answers to single instructions, and the same asked of the emulator.
//!
//! A [`Case`] is a kernel around one instruction, with its drawn operands: [`cases`] makes all of them from the instruction
//! table, the same ones every time. `cargo run --release -p lacuna-tests --bin conformance` runs them on a GPU and writes a
//! [`Recording`]; `tests/conformance.rs` runs them on the emulator and compares, by the rule that [`Rule`] gives each.
//!
//! One CTA a round, of one warp, or of a warpgroup where it takes one: each lane takes its own drawn set of operands. They lie
//! one after the other in its row of `input`, its results in its row of `output`.

mod build;
mod copies;
mod draw;
mod recording;
mod rule;
mod tensors;
mod warpgroups;

use std::sync::Arc;

use lacuna_codegen::{
    ir::Elem,
    plan::{Access, Arg, Dim, Launch, Plan, ScalarSpec, TensorMap, TensorSpec},
};
use lacuna_ptx::{Form, Op, Target, Version};
use lacuna_runtime::{Bindings, Device, Tensor};

pub use recording::{Recorded, Recording};
pub use rule::{Mismatch, Rule};

/// What the scalar parameter of every kernel is, for `ld.param`.
const WORD: i32 = 0x7fa1_2345;

/// One instruction in a kernel, with its operands.
#[derive(Clone, Debug)]
pub struct Case {
    /// The form, and what is particular about this case of it.
    pub name: String,
    /// The form.
    pub form: Form,
    /// The kernel.
    pub ptx: String,
    /// Rounds: CTAs.
    pub rounds: usize,
    /// Threads of a CTA.
    pub threads: usize,
    /// CTAs of a cluster.
    pub cluster: usize,
    /// The tensor map that it takes.
    pub map: Option<TensorMap>,
    /// Words of a lane's row of operands.
    pub input_words: usize,
    /// Words of a lane's row of results; after them the row is filled up to four.
    pub output_words: usize,
    /// The operands, `[round][lane][word]`.
    pub input: Vec<u32>,
    /// How results are compared.
    pub rule: Rule,
}

/// Every case, in the order of the instruction table.
pub fn cases() -> Vec<Case> {
    Form::all().flat_map(build::cases_of).collect()
}

/// What a case of a form is for: sm_80 where it will do, with PTX 7.4.
pub(crate) fn target(form: Form) -> Target {
    if form.since() <= Version::new(7, 4) { form.lowest() } else { form.lowest().max(Target::SM_90) }
}

/// Why a form has no case of its own: it leaves no result, or none that a kernel could see.
pub fn without_result(form: Form) -> Option<&'static str> {
    match form.op() {
        Op::Bra | Op::Ret | Op::Exit | Op::Trap => Some("control"),
        Op::BarSync | Op::BarArrive | Op::BarWarp | Op::Membar | Op::FenceAcqRel => Some("order"),
        Op::FenceProxyAsync | Op::MbarrierFence | Op::ClusterArrive | Op::ClusterRelaxed | Op::ClusterWait => {
            Some("order")
        }
        Op::BulkCommit | Op::BulkWait => Some("order"),
        Op::WgmmaFence | Op::WgmmaCommit | Op::WgmmaWait => Some("order, in every case of `wgmma.mma_async`"),
        Op::CpAsyncArrive | Op::MbarrierInit | Op::MbarrierInval => Some("the state of an mbarrier, which waits show"),
        Op::MbarrierArrive | Op::MbarrierExpect | Op::MbarrierRemote | Op::MbarrierTx => {
            Some("the state of an mbarrier, which waits show")
        }
        Op::GridControl => Some("order between launches"),
        Op::SetMaxNReg => Some("which registers there are"),
        Op::CreatePolicy => Some("what a cache policy is made of is not said"),
        Op::PrefetchMap | Op::TensorPrefetch => Some("a hint"),
        Op::CvtaParam => Some("where parameters lie in the generic address space is not said"),
        Op::Mapa => Some("where shared memory of a cluster lies is not said"),
        Op::CpAsyncCommit | Op::CpAsyncWait | Op::CpAsyncWaitAll => Some("order, in every case of `cp.async`"),
        Op::Prefetch => Some("a hint"),
        Op::CvtaTo if form.choices() == ["shared"] => {
            Some("nothing in the table makes a generic address of shared memory")
        }
        _ => None,
    }
}

impl Case {
    /// A number that changes with the kernel or its operands.
    pub fn digest(&self) -> u64 {
        let words = self.input.iter().flat_map(|word| word.to_le_bytes());
        let shape = [self.rounds as u8, self.input_words as u8, self.output_words as u8];
        let map = self.map.iter().flat_map(|map| format!("{map:?}").into_bytes());
        // FNV-1a.
        let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        self.ptx.bytes().chain(words).chain(shape).chain(map).fold(0xcbf2_9ce4_8422_2325, step)
    }

    /// Rows of operands and of results.
    pub fn rows(&self) -> usize {
        self.rounds * self.threads
    }

    /// A lane's operands.
    pub fn row(&self, index: usize) -> &[u32] {
        &self.input[index * self.input_words..][..self.input_words]
    }

    /// What differs, in words.
    pub fn report(&self, wrong: &[Mismatch]) -> String {
        let mut text =
            format!("{}: {} of {} results differ\n", self.name, wrong.len(), self.rows() * self.output_words);
        for Mismatch { row, word, recorded, found, errors: [theirs, ours] } in wrong.iter().take(8) {
            let (round, lane) = (row / self.threads, row % self.threads);
            let operands = &self.row(*row)[..self.input_words.min(12)];
            text += &format!(
                "  round {round} lane {lane} {operands:08x?} word {word}: recorded {recorded:08x}, found {found:08x}"
            );
            text += &format!(", errors {theirs:.3} and {ours:.3}\n");
        }
        text
    }

    /// Runs it; the results are `[round][lane][word]`.
    ///
    /// # Errors
    /// What the device says.
    pub fn run(&self, device: &Device) -> Result<Vec<u32>, lacuna_runtime::Error> {
        let rows = self.rows() as u64;
        let row_words = self.output_words.next_multiple_of(4);
        let tensor = |name: &str, words: usize, access| TensorSpec {
            name: name.to_owned(),
            elem: Elem::I32,
            dims: vec![Dim::Fixed(rows), Dim::Fixed(words as u64)],
            access,
            align: 16,
        };
        let pointer = |name: &str| Arg::Pointer(name.to_owned());
        let mut args = vec![
            pointer("input"),
            pointer("output"),
            Arg::Scalar("word".to_owned()),
            Arg::Stride { tensor: "input".to_owned(), dim: 0 },
        ];
        args.extend(self.map.clone().map(Arg::TensorMap));
        let launch = Launch {
            ptx: Arc::from(self.ptx.as_str()),
            entry: "conformance".to_owned(),
            grid: [(self.rounds as u64).into(), 1.into(), 1.into()],
            threads: self.threads as u32,
            shared: 0,
            registers: 0,
            resident: 1,
            cluster: [self.cluster as u32, 1, 1],
            args,
        };
        let plan = Plan {
            name: self.name.clone(),
            target: target(self.form),
            tensors: vec![tensor("input", self.input_words, Access::Read), tensor("output", row_words, Access::Write)],
            scalars: vec![ScalarSpec { name: "word".to_owned(), elem: Elem::I32 }],
            requires: Vec::new(),
            workspace: 0.into(),
            launches: vec![launch],
        };
        let drawn: Vec<i32> = self.input.iter().map(|word| word.cast_signed()).collect();
        let input = Tensor::from_slice(device, &[rows, self.input_words as u64], &drawn)?;
        let output = Tensor::zeros(device, Elem::I32, &[rows, row_words as u64])?;
        let bindings = Bindings::new().tensor("input", &input).tensor("output", &output).int("word", WORD);
        device.run(&plan, &bindings)?;
        let words = output.to_vec::<i32>()?;
        let results = words.chunks_exact(row_words).flat_map(|row| &row[..self.output_words]);
        Ok(results.map(|word| word.cast_unsigned()).collect())
    }
}
