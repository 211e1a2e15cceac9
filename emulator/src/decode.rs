//! From a module's statements to what the interpreter runs: operands resolved to register slots, constants pooled,
//! branches to instruction numbers.
//!
//! A warp keeps its registers in three files: words (`%h`, `%r`, `%f` and the special registers that the kernel reads),
//! doubles (`%d`) and predicates (`%p`, then always-false and always-true). Immediates are constants in the same
//! numbering, behind the registers, so that every source is a slot.

mod tensor;

use std::collections::HashMap;

use lacuna_ptx::isa::{Slot as Place, Space as IsaSpace, Type};
use lacuna_ptx::{Base, Class, Entry, Inst as Text, Module, Op, Operand, Reg, SharedArray, Special, Stmt};

use crate::flow::{self, Step, Touched};
use crate::micro::Micro;
use crate::stores::{self, Stored};
use crate::wgmma::Wgmma;

/// A register in its file, or a constant behind it.
pub(crate) type Slot = u16;

/// No register.
pub(crate) const NONE: Slot = Slot::MAX;

/// The instruction must check that its sources were written, or note that its destinations are.
pub(crate) const TRACKED: u8 = 1;
/// Lanes that parted may meet here.
pub(crate) const MEETS: u8 = 2;
/// The guard is `@!p`.
pub(crate) const NEGATED: u8 = 4;

/// It touches registers that `wgmma`s use.
pub(crate) const TOUCHES: u8 = 16;

/// A branch back of a short loop that reads memory and writes none: it may be waiting for somebody.
pub(crate) const POLLS: u8 = 8;

/// One decoded instruction: a cache line.
#[derive(Clone, Debug)]
pub(crate) struct Inst {
    /// Immediates in the order of the text: address offsets, branch targets.
    pub(crate) imm: [i64; 3],
    /// Registers and constants in the order of the text.
    pub(crate) slots: [Slot; 16],
    /// A size, a choice, where a branch's lanes meet.
    pub(crate) aux: u32,
    pub(crate) guard: Slot,
    pub(crate) micro: Micro,
    pub(crate) flags: u8,
}

/// A register file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum File {
    Word,
    Double,
    Pred,
}

/// What a tracked instruction reads unproven, and which of its destinations must be noted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Track {
    pub(crate) reads: Vec<(File, Slot, Reg)>,
    pub(crate) writes: Vec<(File, Slot)>,
}

/// A kernel, decoded.
#[derive(Debug)]
pub(crate) struct Kernel {
    pub(crate) name: String,
    pub(crate) params: Vec<(u32, lacuna_ptx::Param)>,
    pub(crate) param_bytes: u32,
    pub(crate) limits: lacuna_ptx::Limits,
    pub(crate) code: Vec<Inst>,
    /// By instruction; empty for those that are not tracked.
    /// Where it may store.
    pub(crate) stored: Stored,
    /// It has a `membar.gl`, by which CTAs can tell each other what they did.
    pub(crate) fences: bool,
    pub(crate) tracks: Vec<Track>,
    pub(crate) wgmmas: Vec<Wgmma>,
    /// The most that a `setmaxnreg` asks for.
    pub(crate) most_registers: u32,
    /// The registers in which `wgmma`s accumulate or read A.
    pub(crate) tensor_registers: Vec<Reg>,
    /// By instruction, which of these it touches.
    pub(crate) touches: Vec<Vec<u16>>,
    pub(crate) ops: Vec<Op>,
    pub(crate) words: usize,
    pub(crate) doubles: usize,
    pub(crate) preds: usize,
    /// Special registers and the word slots that hold them.
    pub(crate) specials: Vec<(Special, Slot)>,
    pub(crate) word_constants: Vec<[u32; 32]>,
    pub(crate) double_constants: Vec<[u64; 32]>,
    /// Bytes of shared memory of fixed size.
    pub(crate) static_shared: u32,
    /// Whether there is a shared array that the launch sizes.
    pub(crate) dynamic_shared: bool,
    pub(crate) texts: Vec<String>,
    pub(crate) sources: Vec<Option<String>>,
    /// PTX line of each instruction; empty when the text is not known.
    pub(crate) lines: Vec<usize>,
}

#[derive(Default)]
struct Pool {
    base: [u32; Class::COUNT],
    words: u32,
    doubles: u32,
    preds: u32,
    specials: Vec<(Special, Slot)>,
    word_constants: HashMap<u32, u32>,
    double_constants: HashMap<u64, u32>,
}

impl Pool {
    const fn register(&self, reg: Reg) -> (File, u32) {
        let slot = self.base[reg.class.index()] + reg.index;
        match reg.class {
            Class::B16 | Class::B32 | Class::F32 => (File::Word, slot),
            Class::B64 => (File::Double, slot),
            Class::Pred => (File::Pred, slot),
        }
    }

    /// A word constant, numbered from 0 behind the registers: the file's size is not known yet.
    fn word(&mut self, value: u32) -> u32 {
        let next = self.word_constants.len() as u32;
        *self.word_constants.entry(value).or_insert(next)
    }

    fn double(&mut self, value: u64) -> u32 {
        let next = self.double_constants.len() as u32;
        *self.double_constants.entry(value).or_insert(next)
    }
}

/// Lays out shared arrays: symbol to address, the end of the fixed ones, whether one is sized at launch.
fn lay_out(arrays: &[&SharedArray]) -> Result<(HashMap<String, u32>, u32, bool), String> {
    let mut at = 0u64;
    let mut symbols = HashMap::new();
    let mut place = |array: &SharedArray, bytes: u32| {
        at = at.next_multiple_of(u64::from(array.align.max(1)));
        symbols.insert(array.name.clone(), at as u32);
        at += u64::from(bytes);
        at
    };
    let mut fixed = 0;
    for array in arrays {
        if let Some(bytes) = array.bytes {
            fixed = place(array, bytes);
        }
    }
    // Every array that is sized at launch starts at the same place, behind the others.
    let align = arrays.iter().filter(|array| array.bytes.is_none()).map(|array| array.align.max(1)).max();
    if let Some(align) = align {
        fixed = fixed.next_multiple_of(u64::from(align));
        for array in arrays.iter().filter(|array| array.bytes.is_none()) {
            symbols.insert(array.name.clone(), fixed as u32);
        }
    }
    let fixed = u32::try_from(fixed).map_err(|_| "more than 4 GiB of shared memory".to_owned())?;
    Ok((symbols, fixed, align.is_some()))
}

/// A word constant's slot while the file's size is not known.
const CONSTANT: u32 = 1 << 20;

impl Kernel {
    /// Decodes an entry. The module has passed `verify`.
    pub(crate) fn decode(module: &Module, entry: &Entry, lines: Vec<usize>) -> Result<Kernel, String> {
        let arrays: Vec<&SharedArray> = module.shared.iter().chain(&entry.shared).collect();
        let (symbols, static_shared, dynamic_shared) = lay_out(&arrays)?;
        let mut param_bytes = 0u32;
        let mut params = Vec::new();
        for param in &entry.params {
            let align = match param.ty {
                lacuna_ptx::ParamType::Bytes { align, .. } => align.max(1),
                ty => ty.bytes(),
            };
            let at = u64::from(param_bytes).next_multiple_of(u64::from(align));
            param_bytes =
                u32::try_from(at + u64::from(param.ty.bytes())).map_err(|_| "more than 4 GiB of parameters")?;
            params.push((at as u32, param.clone()));
        }
        let (texts, sources, labels) = statements(entry);
        let [preds, halves, words, doubles, floats] = entry.regs;
        let declared: u64 = entry.regs.iter().map(|count| u64::from(*count)).sum();
        if declared >= u64::from(NONE) {
            return Err(format!("{declared} registers are more than the emulator has slots for"));
        }
        let mut pool = Pool {
            base: [0, 0, halves, 0, halves + words],
            words: halves + words + floats,
            doubles,
            preds,
            ..Pool::default()
        };
        let mut raw = Vec::new();
        for text in &texts {
            raw.push(raw_inst(text, &mut pool, &symbols, &params, &labels)?);
        }
        let needed = pool.words as usize + pool.specials.len() + pool.word_constants.len();
        if needed.max(pool.doubles as usize + pool.double_constants.len()).max(pool.preds as usize + 2)
            >= usize::from(NONE)
        {
            return Err(format!("{needed} registers and constants are more than the emulator has slots for"));
        }
        let words_in_file = pool.words + pool.specials.len() as u32;
        let doubles_in_file = pool.doubles;
        let fix = |file: File, slot: u32| -> Slot {
            let slot = match file {
                _ if slot < CONSTANT => slot,
                File::Word => slot - CONSTANT + words_in_file,
                File::Double => slot - CONSTANT + doubles_in_file,
                File::Pred => slot - CONSTANT + preds,
            };
            slot as Slot
        };
        let mut code = Vec::new();
        for (pc, inst) in raw.into_iter().enumerate() {
            let mut slots = [NONE; 16];
            if inst.slots.len() > slots.len() {
                return Err(format!("`{}` has more operands than the emulator holds", texts[pc]));
            }
            for (slot, (file, raw)) in slots.iter_mut().zip(&inst.slots) {
                *slot = fix(*file, *raw);
            }
            let (guard, negated) = match texts[pc].guard {
                Some(guard) => (pool.register(guard.reg).1 as Slot, if guard.negated { NEGATED } else { 0 }),
                None => (NONE, 0),
            };
            code.push(Inst { imm: inst.imm, slots, aux: inst.aux, guard, micro: inst.micro, flags: negated });
        }
        let ops = texts.iter().map(|text| text.form.op()).collect();
        let stored = stores::stored(&texts, &params);
        let fences = code.iter().any(|inst| inst.micro == Micro::Fence && inst.aux != 0);
        let asked = code.iter().filter(|inst| inst.micro == Micro::SetRegisters).map(|inst| inst.imm[0] as u32);
        let most_registers = asked.max().unwrap_or_default();
        let mut numbers = tensor::Numbers::default();
        let mut wgmmas = Vec::new();
        for (inst, text) in code.iter_mut().zip(&texts).filter(|(inst, _)| inst.micro == Micro::Wgmma) {
            inst.aux = wgmmas.len() as u32;
            let wgmma = tensor::wgmma(text, &pool, &mut numbers);
            wgmmas.push(wgmma.ok_or_else(|| format!("`{text}` has an operand that its form does not take"))?);
        }
        let tracks = analyse(&mut code, &texts, &pool, &mut wgmmas);
        let touches: Vec<Vec<u16>> = texts.iter().map(|text| numbers.touched(text)).collect();
        for (inst, touches) in code.iter_mut().zip(&touches) {
            inst.flags |= if touches.is_empty() { 0 } else { TOUCHES };
        }
        let mut word_constants = vec![[0; 32]; pool.word_constants.len()];
        pool.word_constants.iter().for_each(|(value, slot)| word_constants[*slot as usize] = [*value; 32]);
        let mut double_constants = vec![[0; 32]; pool.double_constants.len()];
        pool.double_constants.iter().for_each(|(value, slot)| double_constants[*slot as usize] = [*value; 32]);
        Ok(Kernel {
            name: entry.name.clone(),
            params,
            param_bytes,
            limits: entry.limits,
            code,
            tracks,
            wgmmas,
            most_registers,
            tensor_registers: numbers.registers,
            touches,
            stored,
            fences,
            ops,
            words: words_in_file as usize,
            doubles: doubles_in_file as usize,
            preds: preds as usize,
            specials: pool.specials,
            word_constants,
            double_constants,
            static_shared,
            dynamic_shared,
            lines: if lines.len() == texts.len() || lines.len() + 1 == texts.len() { lines } else { Vec::new() },
            texts: texts.iter().map(Text::to_string).collect(),
            sources,
        })
    }
}

/// The instructions of a body with their author's lines, and where labels stand. The text may end without `ret`.
fn statements(entry: &Entry) -> (Vec<Text>, Vec<Option<String>>, HashMap<String, u32>) {
    let mut texts = Vec::new();
    let mut sources = Vec::new();
    let mut labels = HashMap::new();
    let mut source = None;
    for stmt in &entry.body {
        match stmt {
            Stmt::Label(name) => {
                labels.insert(name.clone(), texts.len() as u32);
            }
            Stmt::Inst(inst) => {
                texts.push(inst.clone());
                sources.push(source.clone());
            }
            Stmt::Comment(text) => {
                if let Some(from) = text.trim().strip_prefix("from ") {
                    source = Some(from.to_owned());
                }
            }
            Stmt::Pragma(_) => {}
        }
    }
    let ends =
        texts.last().is_some_and(|last: &Text| last.guard.is_none() && matches!(last.form.op(), Op::Ret | Op::Exit));
    if !ends || labels.values().any(|at| *at as usize == texts.len()) {
        texts.push(Text::new("ret", []));
        sources.push(source);
    }
    (texts, sources, labels)
}

struct Raw {
    micro: Micro,
    slots: Vec<(File, u32)>,
    imm: [i64; 3],
    aux: u32,
}

/// One instruction with its constants still numbered apart from the registers.
fn raw_inst(
    text: &Text,
    pool: &mut Pool,
    symbols: &HashMap<String, u32>,
    params: &[(u32, lacuna_ptx::Param)],
    labels: &HashMap<String, u32>,
) -> Result<Raw, String> {
    let (micro, aux) = Micro::of(text);
    let unfit = || format!("`{text}` has an operand that its form does not take");
    let mut slots = Vec::new();
    let mut imm = Vec::new();
    for (at, (operand, place)) in text.operands.iter().zip(text.form.slots()).enumerate() {
        // Of a `wgmma` only whether D is added to: see `tensor`.
        if micro == Micro::Wgmma && at != 3 {
            continue;
        }
        match operand {
            Operand::Reg(reg) => slots.push(pool.register(*reg)),
            Operand::Vector(regs) => slots.extend(regs.iter().map(|reg| pool.register(*reg))),
            Operand::Int(value) => match place {
                Place::Imm(_) => imm.push(*value),
                Place::Source(ty, _) | Place::Value(ty) | Place::ValueOrParts(ty, _) => match ty.class() {
                    Class::Pred => slots.push((File::Pred, CONSTANT + u32::from(*value != 0))),
                    Class::B64 => slots.push((File::Double, CONSTANT + pool.double(*value as u64))),
                    Class::B16 => slots.push((File::Word, CONSTANT + pool.word(*value as u32 & 0xffff))),
                    Class::B32 | Class::F32 => slots.push((File::Word, CONSTANT + pool.word(*value as u32))),
                },
                _ => return Err(unfit()),
            },
            Operand::Float(bits) => slots.push((File::Word, CONSTANT + pool.word(*bits))),
            Operand::Special(special) => {
                let known = pool.specials.iter().find(|(known, _)| known == special).map(|(_, slot)| *slot);
                let slot = known.unwrap_or_else(|| {
                    let slot = (pool.words + pool.specials.len() as u32) as Slot;
                    pool.specials.push((*special, slot));
                    slot
                });
                slots.push((File::Word, u32::from(slot)));
            }
            Operand::WithPred(value, pred) => {
                slots.push(value.map_or((File::Word, NONE.into()), |reg| pool.register(reg)));
                slots.push(pool.register(*pred));
            }
            Operand::Sink => {}
            Operand::Symbol(name) => {
                let param = || params.iter().find(|(_, param)| param.name == *name).map(|(at, _)| *at);
                let address = symbols.get(name).copied().or_else(param).ok_or_else(unfit)?;
                match place {
                    Place::Value(ty) | Place::ValueOrParts(ty, _) if ty.bits() == 64 => {
                        slots.push((File::Double, CONSTANT + pool.double(address.into())));
                    }
                    _ => slots.push((File::Word, CONSTANT + pool.word(address))),
                }
            }
            Operand::Tensor { map, coords } => {
                let Base::Reg(base) = map.base else { return Err(unfit()) };
                slots.push(pool.register(base));
                slots.extend(coords.iter().map(|reg| pool.register(*reg)));
                imm.push(map.offset);
            }
            Operand::Label(name) => imm.push(i64::from(*labels.get(name).ok_or_else(unfit)?)),
            Operand::Address(address) => {
                let mut offset = address.offset;
                match (&address.base, place) {
                    (Base::Reg(reg), _) => slots.push(pool.register(*reg)),
                    (Base::Symbol(name), Place::Address(IsaSpace::Param)) => {
                        let (at, param) = params.iter().find(|(_, param)| param.name == *name).ok_or_else(unfit)?;
                        let bytes = i64::from(text.form.choices().first().map_or(4, |ty| width(ty)));
                        if offset < 0 || offset % bytes != 0 || offset + bytes > i64::from(param.ty.bytes()) {
                            return Err(format!("`{text}` reads outside the parameter `{name}`, or off its alignment"));
                        }
                        offset += i64::from(*at);
                    }
                    (Base::Symbol(name), _) => {
                        let at = *symbols.get(name).ok_or_else(unfit)?;
                        slots.push((File::Word, CONSTANT + pool.word(at)));
                    }
                }
                imm.push(offset);
            }
        }
    }
    // An optional operand that is left out is its default.
    if matches!(micro, Micro::CpAsync) {
        let size = imm.pop().ok_or_else(unfit)?;
        if slots.len() == 2 {
            slots.push((File::Word, CONSTANT + pool.word(size as u32)));
        }
        return finish(micro, slots, imm, size as u32, text);
    }
    finish(micro, slots, imm, aux, text)
}

fn finish(micro: Micro, slots: Vec<(File, u32)>, imm: Vec<i64>, aux: u32, text: &Text) -> Result<Raw, String> {
    let mut fixed = [0; 3];
    if imm.len() > fixed.len() {
        return Err(format!("`{text}` has more immediates than the emulator holds"));
    }
    fixed[..imm.len()].copy_from_slice(&imm);
    Ok(Raw { micro, slots, imm: fixed, aux })
}

/// Whether the loop that a branch at `pc` closes may be a wait: see [`POLLS`].
fn polls(code: &[Inst], pc: usize) -> bool {
    use Micro::*;
    const SHORT: usize = 24;
    let first = code[pc].imm[0] as usize;
    let Some(body) = code.get(first..pc).filter(|body| body.len() <= SHORT) else { return false };
    let reads = |inst: &Inst| {
        matches!(
            inst.micro,
            LdGlobal1 | LdGlobalDouble | LdShared1 | AtomAdd | AtomMin | AtomMax | MbarrierTry | MbarrierTest
        )
    };
    let works = |inst: &Inst| {
        matches!(
            inst.micro,
            StGlobal1
                | StGlobal2
                | StGlobal4
                | StShared1
                | StShared2
                | StShared4
                | RedAddShared
                | CpAsync
                | BarSync
                | Fma
                | MmaK16Bf16
        )
    };
    body.iter().any(reads) && !body.iter().any(works)
}

/// Puts meeting points into branches, and marks what must be tracked.
fn analyse(code: &mut [Inst], texts: &[Text], pool: &Pool, wgmmas: &mut [Wgmma]) -> Vec<Track> {
    let steps: Vec<Step> = code
        .iter()
        .map(|inst| match inst.micro {
            Micro::Bra if inst.guard == NONE => Step::Jump(inst.imm[0] as u32),
            Micro::Bra => Step::Branch(inst.imm[0] as u32),
            Micro::Ret if inst.guard == NONE => Step::End,
            _ => Step::Next,
        })
        .collect();
    for (pc, meets) in flow::meeting_points(&steps).into_iter().enumerate() {
        if let Step::Branch(_) = steps[pc] {
            code[pc].aux = meets;
            if let Some(inst) = code.get_mut(meets as usize) {
                inst.flags |= MEETS;
            }
        }
    }
    for pc in 0..code.len() {
        if code[pc].micro == Micro::Bra && polls(code, pc) {
            code[pc].flags |= POLLS;
        }
    }
    let number = |reg: Reg| match pool.register(reg) {
        (File::Word, slot) => slot,
        (File::Double, slot) => pool.words + slot,
        (File::Pred, slot) => pool.words + pool.doubles + slot,
    };
    let registers = (pool.words + pool.doubles + pool.preds) as usize;
    let touched: Vec<Touched> = texts
        .iter()
        .map(|text| Touched {
            reads: text.reads().map(number).collect(),
            writes: if text.guard.is_none() { text.writes().map(number).collect() } else { Vec::new() },
        })
        .collect();
    let unproven = flow::unproven_reads(&steps, &touched, registers);
    let mut tracked = flow::Set::empty(registers);
    unproven.iter().flatten().for_each(|register| tracked.insert(*register));
    let mut tracks = Vec::new();
    for (pc, text) in texts.iter().enumerate() {
        let place = |reg: Reg| {
            let (file, slot) = pool.register(reg);
            (file, slot as Slot)
        };
        let maybe = tensor::maybe_added(text);
        if !maybe.is_empty() {
            let wgmma = &mut wgmmas[code[pc].aux as usize];
            let unproven = maybe.iter().filter(|reg| unproven[pc].contains(&number(**reg)));
            wgmma.unproven = unproven.map(|reg| (place(*reg).1, *reg)).collect();
            wgmma.tracked =
                maybe.iter().filter(|reg| tracked.contains(number(**reg))).map(|reg| place(*reg).1).collect();
        }
        let track = Track {
            reads: text
                .reads()
                .filter(|reg| unproven[pc].contains(&number(*reg)) && !maybe.contains(reg))
                .map(|reg| (place(reg).0, place(reg).1, reg))
                .collect(),
            writes: text
                .writes()
                .filter(|reg| tracked.contains(number(*reg)) && !maybe.contains(reg))
                .map(place)
                .collect(),
        };
        if !track.reads.is_empty() || !track.writes.is_empty() {
            code[pc].flags |= TRACKED;
        }
        tracks.push(track);
    }
    tracks
}

/// The width in bytes of a type that a form's text names.
pub(crate) fn width(name: &str) -> u32 {
    let types = [Type::B16, Type::U16, Type::B32, Type::U32, Type::S32, Type::F32, Type::B64, Type::U64, Type::S64];
    types.into_iter().find(|ty| ty.name() == name).map_or(4, |ty| ty.bits() / 8)
}
