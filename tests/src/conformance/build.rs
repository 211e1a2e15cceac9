//! Kernels: an instruction between loads of its operands and stores of its results.
//!
//! Registers that stand in every kernel: `%r0` the lane, `%r1` the shared tile's row of this lane (16 bytes), `%r2` that of
//! another lane, `%d0` and `%d1` this lane's rows of `input` and `output`. From sm_90 on `%r3` is the mbarrier of this lane,
//! behind the tile.

use std::fmt::Write as _;

use lacuna_codegen::plan::TensorMap;
use lacuna_ptx::{
    Class, Form, Op, Target,
    isa::{Ints, Slot, Type},
};

use super::{
    Case,
    draw::{Draw, Half, Kind, seed},
    rule::Rule,
    tensors, warpgroups, without_result,
};

/// The part of a case that is particular to it.
#[derive(Clone, Copy, Default)]
struct Variant {
    what: &'static str,
    /// `mov`: which side is in parts.
    parts: Option<Side>,
    /// `cp.async`: bytes of the copy, and whether a register says how many are read.
    copy: (u32, bool),
    /// Whether it is done within a cluster of two CTAs, and to whom.
    within: Within,
}

/// To whom a CTA does it.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Within {
    /// To itself, without a cluster.
    #[default]
    Cta,
    /// To itself, by its address in the cluster.
    Own,
    /// To the other one.
    Other,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    From,
    To,
}

/// Every case of a form; none where it leaves no result.
pub(super) fn cases_of(form: Form) -> Vec<Case> {
    if without_result(form).is_some() {
        return Vec::new();
    }
    if let Some(cases) = warpgroups::cases_of(form).or_else(|| tensors::cases_of(form)) {
        return cases;
    }
    let plain = Variant::default();
    let variants = match form.op() {
        Op::MovB32 | Op::MovB64 => vec![
            plain,
            Variant { what: " of parts", parts: Some(Side::From), ..plain },
            Variant { what: " into parts", parts: Some(Side::To), ..plain },
        ],
        Op::CpAsyncCa | Op::CpAsyncCaL2 => vec![
            Variant { what: " of 4", copy: (4, false), ..plain },
            Variant { what: " of 4, the rest zero", copy: (4, true), ..plain },
            Variant { what: " of 8", copy: (8, false), ..plain },
            Variant { what: " of 8, the rest zero", copy: (8, true), ..plain },
            Variant { what: " of 16", copy: (16, false), ..plain },
            Variant { what: " of 16, the rest zero", copy: (16, true), ..plain },
        ],
        Op::CpAsyncCg | Op::CpAsyncCgL2 => vec![
            Variant { what: " of 16", copy: (16, false), ..plain },
            Variant { what: " of 16, the rest zero", copy: (16, true), ..plain },
        ],
        // Hardware does it in clusters alone.
        Op::BulkPass => vec![
            Variant { what: " in a cluster", within: Within::Own, ..plain },
            Variant { what: " of the other CTA", within: Within::Other, ..plain },
        ],
        _ => vec![plain],
    };
    variants.into_iter().map(|variant| case(form, variant)).collect()
}

fn case(form: Form, variant: Variant) -> Case {
    let mut kernel = Kernel::of(form, Shape::default());
    if variant.within != Within::Cta {
        kernel.around_far(form, variant.within);
    } else if !kernel.around_hopper(form) {
        kernel.around(form, variant);
    }
    let rounds = rounds(form).next_multiple_of(kernel.shape.cluster);
    kernel.case(form, variant.what, rounds, Rule::of(form))
}

/// Moves need few sets, arithmetic many.
fn rounds(form: Form) -> usize {
    match form.op() {
        Op::Mov | Op::MovB32 | Op::MovB64 | Op::CvtaTo | Op::LdParam => 1,
        Op::CpAsyncCa | Op::CpAsyncCg | Op::CpAsyncCaL2 | Op::CpAsyncCgL2 => 2,
        Op::Shfl => 8,
        Op::VoteBallot | Op::Vote | Op::Match | Op::Redux => 10,
        Op::Elect | Op::MbarrierTest | Op::MbarrierTry | Op::MbarrierTryFar => 1,
        Op::Stmatrix => 2,
        Op::RedAddVector | Op::RedAddHalves | Op::BulkAdd | Op::BulkAddHint => 16,
        Op::Ldmatrix | Op::LogicPred | Op::NotPred => 2,
        _ if form.slots().iter().any(|slot| matches!(slot, Slot::Address(_))) && form.op() != Op::AtomAdd => 2,
        _ => 16,
    }
}

/// What a kernel is launched with, and the shared memory of a CTA.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    /// Threads of a CTA.
    pub(super) threads: usize,
    /// CTAs of a cluster.
    pub(super) cluster: usize,
    /// Bytes of the tile where it is no row of 16 bytes a lane; then it begins at a multiple of 1024.
    pub(super) tile: Option<u32>,
    /// The tensor map that it takes, as the parameter `map`.
    pub(super) map: Option<TensorMap>,
}

impl Default for Shape {
    fn default() -> Self {
        Shape { threads: 32, cluster: 1, tile: None, map: None }
    }
}

/// A kernel in the making.
#[derive(Default)]
pub(super) struct Kernel {
    pub(super) shape: Shape,
    /// Registers of a class so far, past the fixed ones.
    registers: [usize; 5],
    /// Where each operand lies in a lane's row, and what it is drawn from.
    operands: Vec<(usize, Kind)>,
    /// Words of a row that are said, the same in all rows of a round; round by round.
    said: Vec<(usize, Vec<u32>)>,
    /// Words of a row that all warps of a CTA have from the first.
    shared: Vec<usize>,
    used_words: usize,
    output_words: usize,
    pub(super) before: String,
    pub(super) after: String,
}

/// Adds a line to a text.
macro_rules! line {
    ($text:expr, $($arg:tt)*) => {
        writeln!($text, $($arg)*).expect("a string takes everything")
    };
}

pub(super) use line;

impl Kernel {
    /// A kernel for a form.
    pub(super) fn of(form: Form, shape: Shape) -> Kernel {
        let mut kernel = Kernel { shape, ..Kernel::default() };
        if super::target(form) >= Target::SM_90 {
            kernel.registers[2] = 1;
        }
        kernel
    }

    /// The case of it, with drawn operands.
    pub(super) fn case(self, form: Form, what: &str, rounds: usize, rule: Rule) -> Case {
        let (input_words, output_words, threads) = (self.input_words(), self.output_words, self.shape.threads);
        let name = format!("{form}{what}");
        let mut input = vec![0; rounds * threads * input_words];
        let (seed, slots) = (seed(&name), self.operands.len());
        for (row, words) in input.chunks_exact_mut(input_words).enumerate() {
            for (slot, (at, kind)) in self.operands.iter().enumerate() {
                let drawn = Draw::new(seed, row, threads, slot, slots).words(*kind);
                words[*at..at + drawn.len()].copy_from_slice(&drawn);
            }
            for (at, said) in &self.said {
                words[*at] = said[row / threads];
            }
        }
        for round in input.chunks_exact_mut(threads * input_words) {
            let (first, others) = round.split_at_mut(32 * input_words);
            for (at, word) in others.iter_mut().enumerate().filter(|(at, _)| self.shared.contains(&(at % input_words)))
            {
                *word = first[at % first.len()];
            }
        }
        let ptx = self.text(form, input_words, output_words);
        let Shape { threads, cluster, map, .. } = self.shape;
        Case { name, form, ptx, rounds, threads, cluster, map, input_words, output_words, input, rule }
    }

    fn input_words(&self) -> usize {
        self.used_words.max(1).next_multiple_of(4)
    }

    pub(super) fn register(&mut self, class: Class) -> String {
        let (index, prefix, fixed) = match class {
            Class::Pred => (0, "p", 0),
            Class::B16 => (1, "h", 0),
            Class::B32 => (2, "r", 3),
            Class::F32 => (3, "f", 0),
            Class::B64 => (4, "d", 2),
        };
        self.registers[index] += 1;
        format!("%{prefix}{}", self.registers[index] - 1 + fixed)
    }

    /// A place for an operand in the row: its offset in bytes.
    pub(super) fn place(&mut self, words: usize, kind: Kind) -> usize {
        let at = self.used_words.next_multiple_of(words);
        // Operands of a vector are drawn apart.
        let step = if matches!(kind, Kind::Any(ty) if ty.bits() == 64) { 2 } else { 1 };
        self.operands.extend((at..at + words).step_by(step).map(|at| (at, kind)));
        self.used_words = at + words;
        4 * at
    }

    /// A register of a word that is said, round by round. The shuffle shows ptxas that the whole warp has one: it would go through
    /// lanes whose coordinates or descriptors may differ, one after the other.
    pub(super) fn said(&mut self, rounds: Vec<u32>) -> String {
        let (at, register) = (self.used_words, self.register(Class::B32));
        self.used_words += 1;
        self.said.push((at, rounds));
        line!(self.before, "ld.global.b32 {register}, [%d0+{}];", 4 * at);
        line!(self.before, "shfl.sync.idx.b32 {register}, {register}, 0, 31, -1;");
        register
    }

    /// Registers of operands that all warps have from the first.
    pub(super) fn shared_operands(&mut self, count: u16, kind: Kind) -> String {
        self.shared.extend(self.used_words..self.used_words + usize::from(count));
        self.operands_of(Type::B32, count, kind)
    }

    /// A place for a result in the row: its offset in bytes.
    pub(super) fn result(&mut self, words: usize) -> usize {
        let at = self.output_words.next_multiple_of(words);
        self.output_words = at + words;
        4 * at
    }

    /// A register that holds an operand.
    pub(super) fn operand(&mut self, ty: Type, kind: Kind) -> String {
        let at = self.place(ty.bits().div_ceil(32) as usize, kind);
        let register = self.register(ty.class());
        match ty.class() {
            Class::Pred => {
                let word = self.register(Class::B32);
                line!(self.before, "ld.global.b32 {word}, [%d0+{at}];");
                line!(self.before, "and.b32 {word}, {word}, 1;");
                line!(self.before, "setp.ne.b32 {register}, {word}, 0;");
            }
            Class::F32 => line!(self.before, "ld.global.f32 {register}, [%d0+{at}];"),
            _ => line!(self.before, "ld.global.b{} {register}, [%d0+{at}];", ty.bits()),
        }
        register
    }

    /// A register whose value at the end is a result.
    pub(super) fn out(&mut self, ty: Type) -> String {
        let register = self.register(ty.class());
        self.keep(&register, ty);
        register
    }

    pub(super) fn keep(&mut self, register: &str, ty: Type) {
        let at = self.result(ty.bits().div_ceil(32) as usize);
        match ty.class() {
            Class::Pred => {
                let word = self.register(Class::B32);
                line!(self.after, "selp.b32 {word}, 1, 0, {register};");
                line!(self.after, "st.global.b32 [%d1+{at}], {word};");
            }
            Class::F32 => line!(self.after, "st.global.f32 [%d1+{at}], {register};"),
            _ => line!(self.after, "st.global.b{} [%d1+{at}], {register};", ty.bits()),
        }
    }

    pub(super) fn operands_of(&mut self, ty: Type, count: u16, kind: Kind) -> String {
        let registers: Vec<String> = (0..count).map(|_| self.operand(ty, kind)).collect();
        format!("{{{}}}", registers.join(", "))
    }

    fn outs(&mut self, ty: Type, count: u16) -> String {
        let registers: Vec<String> = (0..count).map(|_| self.out(ty)).collect();
        format!("{{{}}}", registers.join(", "))
    }

    /// Words of the other lane's row of the tile become results.
    pub(super) fn keep_shared(&mut self, words: u32) {
        line!(self.after, "bar.sync 0;");
        for word in 0..words {
            let register = self.register(Class::B32);
            line!(self.after, "ld.shared.b32 {register}, [%r2+{}];", 4 * word);
            self.keep(&register, Type::B32);
        }
    }

    /// Words of this lane's row of the tile are drawn.
    pub(super) fn fill_shared(&mut self, words: u32, kind: Kind) {
        for word in 0..words {
            let register = self.operand(Type::B32, kind);
            line!(self.before, "st.shared.b32 [%r1+{}], {register};", 4 * word);
        }
    }

    /// The instruction, with what its operands need.
    fn around(&mut self, form: Form, variant: Variant) {
        let choices = form.choices();
        let data = form.slots().iter().find_map(|slot| match *slot {
            Slot::Out(ty) | Slot::Source(ty, _) => Some((ty, 1)),
            Slot::OutVector(ty, count) | Slot::InVector(ty, count) => Some((ty, count)),
            _ => None,
        });
        match form.op() {
            Op::LdParam => {
                let (ty, _) = data.expect("a load has a result");
                let from = if ty.bits() == 64 { "wide" } else { "word" };
                let to = self.out(ty);
                line!(self.before, "{form} {to}, [{from}];");
            }
            Op::CvtaTo => {
                // The address of global memory, made generic and back, is itself.
                let (base, to) = (self.register(Class::B64), self.register(Class::B64));
                line!(self.before, "ld.param.u64 {base}, [output];");
                line!(self.before, "{form} {to}, {base};");
                line!(self.before, "sub.u64 {to}, {to}, {base};");
                self.keep(&to, Type::U64);
            }
            Op::AtomAdd | Op::AtomMinMax | Op::RedAdd => self.around_atomic(form),
            Op::RedAddShared => {
                // Each lane's own cell, and one of all lanes'.
                self.fill_shared(1, Kind::Any(Type::B32));
                let [own, all] = [(); 2].map(|()| self.operand(Type::U32, Kind::Any(Type::U32)));
                let sum = self.register(Class::B32);
                line!(self.before, "mov.u32 {sum}, tile;\nst.shared.b32 [{sum}+4], 7;\nbar.sync 0;");
                line!(self.before, "{form} [%r1], {own};\n{form} [{sum}+4], {all};\nbar.sync 0;");
                line!(self.before, "ld.shared.b32 {sum}, [{sum}+4];");
                self.keep(&sum, Type::U32);
                self.keep_shared(1);
            }
            Op::CpAsyncCa | Op::CpAsyncCg | Op::CpAsyncCaL2 | Op::CpAsyncCgL2 => {
                let (bytes, counted) = variant.copy;
                let from = self.place(bytes as usize / 4, Kind::Any(Type::B32));
                let count = match counted {
                    true => format!(", {}", self.operand(Type::U32, Kind::UpTo(bytes))),
                    false => String::new(),
                };
                line!(self.before, "{form} [%r1], [%d0+{from}], {bytes}{count};");
                if counted {
                    line!(self.before, "cp.async.commit_group;\ncp.async.wait_group 0;");
                } else {
                    line!(self.before, "cp.async.wait_all;");
                }
                self.keep_shared(bytes / 4);
            }
            Op::Ldmatrix => {
                self.fill_shared(4, Kind::Any(Type::B32));
                let row = self.operand(Type::U32, Kind::UpTo(31));
                let (first, address) = (self.register(Class::B32), self.register(Class::B32));
                line!(self.before, "mov.u32 {first}, tile;");
                line!(self.before, "mad.lo.u32 {address}, {row}, 16, {first};\nbar.sync 0;");
                let count = choices[0][1..].parse().expect("a number of matrices");
                let to = self.outs(Type::B32, count);
                line!(self.before, "{form} {to}, [{address}];");
            }
            Op::LdGlobal | Op::LdGlobalVector | Op::LdGlobalPair => {
                let (ty, count) = data.expect("a load has a result");
                let words = (ty.bits() * u32::from(count)).div_ceil(32);
                let from = self.place(words as usize, Kind::Any(Type::B32));
                let to = if count == 1 { self.out(ty) } else { self.outs(ty, count) };
                line!(self.before, "{form} {to}, [%d0+{from}];");
            }
            Op::StGlobal | Op::StGlobalVector | Op::StGlobalPair => {
                let (ty, count) = data.expect("a store has a source");
                let kind = Kind::Any(ty);
                let from = if count == 1 { self.operand(ty, kind) } else { self.operands_of(ty, count, kind) };
                let to = self.result((ty.bits() * u32::from(count)).div_ceil(32) as usize);
                line!(self.before, "{form} [%d1+{to}], {from};");
            }
            Op::LdShared | Op::LdSharedVector => {
                let (ty, count) = data.expect("a load has a result");
                self.fill_shared((ty.bits() * u32::from(count)).div_ceil(32), Kind::Any(Type::B32));
                let to = if count == 1 { self.out(ty) } else { self.outs(ty, count) };
                line!(self.before, "bar.sync 0;\n{form} {to}, [%r2];");
            }
            Op::StShared | Op::StSharedVector => {
                let (ty, count) = data.expect("a store has a source");
                let (words, kind) = ((ty.bits() * u32::from(count)).div_ceil(32), Kind::Any(ty));
                for word in 0..words {
                    line!(self.before, "st.shared.b32 [%r1+{}], -1;", 4 * word);
                }
                let from = if count == 1 { self.operand(ty, kind) } else { self.operands_of(ty, count, kind) };
                line!(self.before, "{form} [%r1], {from};");
                self.keep_shared(words);
            }
            _ => self.around_registers(form, variant),
        }
    }

    /// Each lane's own cell, from a drawn value; and a cell of the warp's, lane 0's, where the order of lanes does not show.
    fn around_atomic(&mut self, form: Form) {
        let ty = match form.slots().last() {
            Some(Slot::Source(ty, _)) => *ty,
            _ => panic!("`{form}` ends with what is added"),
        };
        let (first, value) = (self.operand(ty, Kind::Any(ty)), self.operand(ty, Kind::Any(ty)));
        let exact = if ty == Type::F32 { Kind::Whole } else { Kind::Any(ty) };
        let shared = self.operand(ty, exact);
        let (own, warp) = (self.result(1), self.result(1));
        let row = self.register(Class::B64);
        let suffix = if ty == Type::F32 { "f32" } else { "b32" };
        line!(self.before, "st.global.{suffix} [%d1+{own}], {first};");
        line!(self.before, "mul.wide.u32 {row}, %r0, 16;\nsub.u64 {row}, %d1, {row};");
        if form.op() == Op::RedAdd {
            line!(self.before, "{form} [%d1+{own}], {value};\n{form} [{row}+{warp}], {shared};");
        } else {
            let (old, any) = (self.out(ty), self.register(ty.class()));
            line!(self.before, "{form} {old}, [%d1+{own}], {value};\n{form} {any}, [{row}+{warp}], {shared};");
        }
    }

    /// Everything from registers to registers.
    fn around_registers(&mut self, form: Form, variant: Variant) {
        let mut operands = Vec::new();
        for (place, slot) in form.slots().iter().enumerate() {
            let kind = |ty| kind(form, place, ty);
            operands.push(match *slot {
                Slot::Out(ty) => self.out(ty),
                Slot::OutVector(ty, count) => self.outs(ty, count),
                Slot::OutOrParts(ty, part) => match variant.parts {
                    Some(Side::To) => self.outs(part, (ty.bits() / part.bits()) as u16),
                    _ => self.out(ty),
                },
                Slot::Source(_, Ints::Range { first: 1, last, .. }) if last == i64::from(u32::MAX) => "-1".to_owned(),
                Slot::In(ty) | Slot::Source(ty, _) | Slot::Value(ty) => self.operand(ty, kind(ty)),
                Slot::InVector(ty, count) => self.operands_of(ty, count, kind(ty)),
                Slot::ValueOrParts(ty, part) => match variant.parts {
                    Some(Side::From) => self.operands_of(part, (ty.bits() / part.bits()) as u16, Kind::Any(part)),
                    _ => self.operand(ty, kind(ty)),
                },
                Slot::Imm(_)
                | Slot::Label
                | Slot::Address(_)
                | Slot::Tensor(_)
                | Slot::Accumulator(..)
                | Slot::InOrVector(..)
                | Slot::OutWithPred(_)
                | Slot::Sink => {
                    panic!("`{form}` is not from registers to registers")
                }
            });
        }
        line!(self.before, "{form} {};", operands.join(", "));
    }

    /// The whole module.
    fn text(&self, form: Form, input_words: usize, output_words: usize) -> String {
        let [preds, halves, words, floats, doubles] = self.registers;
        let Shape { threads, cluster, tile, map } = &self.shape;
        let target = super::target(form);
        let hopper = target >= Target::SM_90;
        let version = if hopper { "8.1" } else { "7.4" };
        let mut text = format!(".version {version}\n.target {target}\n.address_size 64\n\n");
        let map = if map.is_some() { ", .param .align 64 .b8 map[128]" } else { "" };
        line!(
            text,
            ".visible .entry conformance(.param .u64 input, .param .u64 output, .param .u32 word, .param .u64 wide{map})"
        );
        if *threads != 32 {
            line!(text, ".maxntid {threads}, 1, 1\n.minnctapersm 1");
        }
        if *cluster > 1 {
            line!(text, ".explicitcluster\n.reqnctapercluster {cluster}, 1, 1");
        }
        text += "{\n";
        match tile {
            Some(bytes) => line!(text, ".shared .align 1024 .b8 tile[{bytes}];\n.shared .align 8 .b8 bars[256];"),
            None if hopper => text += ".shared .align 128 .b8 tile[1024];\n.shared .align 8 .b8 bars[256];\n",
            None => text += ".shared .align 16 .b8 tile[512];\n",
        }
        for (count, class, prefix) in [
            (preds, "pred", "p"),
            (halves, "b16", "h"),
            (words + 3, "b32", "r"),
            (floats, "f32", "f"),
            (doubles + 2, "b64", "d"),
        ] {
            if count > 0 {
                line!(text, ".reg .{class} %{prefix}<{count}>;");
            }
        }
        line!(text, "mov.u32 %r0, %tid.x;\nmov.u32 %r1, %ctaid.x;\nmad.lo.u32 %r1, %r1, {threads}, %r0;");
        text += "ld.param.u64 %d0, [input];\nld.param.u64 %d1, [output];\n";
        line!(text, "mad.wide.u32 %d0, %r1, {}, %d0;", 4 * input_words);
        line!(text, "mad.wide.u32 %d1, %r1, {}, %d1;", 4 * output_words.next_multiple_of(4));
        text +=
            "mov.u32 %r2, tile;\nmad.lo.u32 %r1, %r0, 16, %r2;\nxor.b32 %r0, %r0, 5;\nmad.lo.u32 %r2, %r0, 16, %r2;\n";
        text += "xor.b32 %r0, %r0, 5;\n";
        if hopper {
            text += "mov.u32 %r3, bars;\nmad.lo.u32 %r3, %r0, 8, %r3;\n";
        }
        text + &self.before + &self.after + "ret;\n}\n"
    }
}

/// What an operand is drawn from.
fn kind(form: Form, place: usize, ty: Type) -> Kind {
    let half = || match form.name().contains("bf16") {
        true => Half::Bf16,
        false => Half::F16,
    };
    match (form.op(), place) {
        (Op::Shl | Op::Shr, 2) | (Op::Shfl, 2) => Kind::Shift,
        (Op::Bfe, 2 | 3) | (Op::Bfi, 3 | 4) => Kind::Field,
        (Op::Shfl, 3) => Kind::Clamp,
        (Op::VoteBallot | Op::Vote, _) => Kind::Vote,
        (Op::Match, 1) => Kind::Repeated,
        (Op::MmaK16 | Op::MmaK8, 3) => Kind::Sum(half()),
        (Op::MmaK16 | Op::MmaK8, _) => Kind::Halves(half()),
        _ => Kind::Any(ty),
    }
}
