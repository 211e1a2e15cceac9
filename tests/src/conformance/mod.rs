//! The conformance set: what a GPU answers to single instructions, and the same asked of the emulator.
//!
//! A [`Case`] is a kernel around one instruction, with its drawn operands: [`cases`] makes all of them from the instruction
//! table, the same ones every time. `cargo run --release -p lacuna-tests --bin conformance` runs them on a GPU and writes a
//! [`Recording`]; `tests/conformance.rs` runs them on the emulator and compares, by the rule that [`Rule`] gives each.
//!
//! One warp a round: a CTA of 32 lanes takes the operands of 32 drawn sets, each lane its own. A lane's operands lie one
//! after the other in its row of `input`, its results in its row of `output`.

mod build;
mod copies;
mod draw;
mod recording;
mod rule;

use std::sync::Arc;

use lacuna_codegen::{
    ir::Elem,
    plan::{Access, Arg, Dim, Launch, Plan, ScalarSpec, TensorSpec},
};
use lacuna_ptx::{Form, Op, Target, Version};
use lacuna_runtime::{Bindings, Device, Tensor};

pub use recording::{Recorded, Recording};
pub use rule::{Mismatch, Rule};

/// Lanes of a warp: sets of operands in a round.
pub const LANES: usize = 32;

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
    /// Rounds: CTAs of one warp.
    pub rounds: usize,
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

/// Rows of the instruction table that no GPU has been asked about yet. A row leaves this list with its cases, and a recording
/// that has them; until then its results rest on tests of the emulator alone.
pub const NOT_RECORDED: &[Op] = &[
    Op::RedAddVector,
    Op::RedAddHalves,
    Op::BulkLoad,
    Op::BulkLoadHint,
    Op::BulkPass,
    Op::BulkStore,
    Op::BulkStoreHint,
    Op::BulkAdd,
    Op::BulkAddHint,
    Op::TensorLoad,
    Op::TensorLoadHint,
    Op::TensorCast,
    Op::TensorCastHint,
    Op::TensorStore,
    Op::TensorAdd,
    Op::MbarrierTry,
    Op::MbarrierTryFar,
    Op::MbarrierTest,
    Op::Elect,
    Op::Stmatrix,
    Op::Wgmma,
];

/// Why a form of [`NOT_RECORDED`] has no case yet.
pub fn no_case(form: Form) -> Option<&'static str> {
    match form.op() {
        Op::TensorLoad | Op::TensorLoadHint | Op::TensorStore | Op::TensorAdd => Some("a case has no tensor maps"),
        Op::TensorCast | Op::TensorCastHint => Some("a case has no clusters"),
        Op::Wgmma => Some("a case has one warp"),
        _ => None,
    }
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
        // FNV-1a.
        let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        self.ptx.bytes().chain(words).chain(shape).fold(0xcbf2_9ce4_8422_2325, step)
    }

    /// A lane's operands.
    pub fn row(&self, index: usize) -> &[u32] {
        &self.input[index * self.input_words..][..self.input_words]
    }

    /// Runs it; the results are `[round][lane][word]`.
    ///
    /// # Errors
    /// What the device says.
    pub fn run(&self, device: &Device) -> Result<Vec<u32>, lacuna_runtime::Error> {
        let rows = (self.rounds * LANES) as u64;
        let row_words = self.output_words.next_multiple_of(4);
        let tensor = |name: &str, words: usize, access| TensorSpec {
            name: name.to_owned(),
            elem: Elem::I32,
            dims: vec![Dim::Fixed(rows), Dim::Fixed(words as u64)],
            access,
            align: 16,
        };
        let pointer = |name: &str| Arg::Pointer(name.to_owned());
        let launch = Launch {
            ptx: Arc::from(self.ptx.as_str()),
            entry: "conformance".to_owned(),
            grid: [(self.rounds as u64).into(), 1.into(), 1.into()],
            threads: LANES as u32,
            shared: 0,
            registers: 0,
            resident: 1,
            cluster: [1; 3],
            args: vec![
                pointer("input"),
                pointer("output"),
                Arg::Scalar("word".to_owned()),
                Arg::Stride { tensor: "input".to_owned(), dim: 0 },
            ],
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
