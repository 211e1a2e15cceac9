//! Instructions under construction: registers, nesting levels, hoisting, constants.
//!
//! Statements are collected a level at a time: the function, then each open loop or branch. A pure instruction whose
//! operands are all known at an outer level may be placed there ([`Emit::invariant`]); asked for twice, it is emitted once.
//! That is what keeps addresses out of loops. Registers that change (vars, loop indices) belong to no level, so nothing that
//! reads them moves.

use lacuna_ptx::{Address, Class, Form, Inst, Operand, Reg, Stmt};
use rustc_hash::FxHashMap;

use crate::ir::Loc;

/// A level that is never reached: the depth of a register that changes.
const MUTABLE: usize = usize::MAX;

/// Collects the body of an entry.
pub(super) struct Emit {
    levels: Vec<Level>,
    counts: [u32; Class::COUNT],
    /// The level each register is known at, by class and index.
    depths: [Vec<usize>; Class::COUNT],
    labels: FxHashMap<&'static str, u32>,
    /// Registers are short: 64-bit values, and what is made of the thread's number, are worked out where they are used, not
    /// kept through loops.
    pub(super) tight: bool,
}

#[derive(Default)]
struct Level {
    /// Whether it runs many times.
    repeats: bool,
    stmts: Vec<Stmt>,
    /// Invariants already there.
    known: FxHashMap<(Form, Vec<Key>), Reg>,
    said: Option<String>,
}

/// An operand as a key: what invariants are made of.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Key {
    Reg(Reg),
    Int(i64),
    Float(u32),
    Other(String),
}

impl Emit {
    pub(super) fn new() -> Self {
        Self {
            levels: vec![Level::default()],
            counts: [0; Class::COUNT],
            depths: Default::default(),
            labels: FxHashMap::default(),
            tight: false,
        }
    }

    /// The finished body and register counts.
    pub(super) fn finish(mut self) -> (Vec<Stmt>, [u32; Class::COUNT]) {
        assert_eq!(self.levels.len(), 1, "a level is still open");
        (self.levels.pop().expect("one level").stmts, self.counts)
    }

    fn depth(&self) -> usize {
        self.levels.len() - 1
    }

    fn reg_at(&mut self, class: Class, depth: usize) -> Reg {
        let index = self.counts[class.index()];
        self.counts[class.index()] += 1;
        self.depths[class.index()].push(depth);
        Reg { class, index }
    }

    /// A register known at the current level.
    pub(super) fn reg(&mut self, class: Class) -> Reg {
        let depth = self.depth();
        self.reg_at(class, depth)
    }

    /// A register that will be written more than once.
    pub(super) fn mutable(&mut self, class: Class) -> Reg {
        self.reg_at(class, MUTABLE)
    }

    /// Several.
    pub(super) fn mutables(&mut self, class: Class, count: usize) -> Vec<Reg> {
        (0..count).map(|_| self.mutable(class)).collect()
    }

    fn push(&mut self, stmt: Stmt) {
        self.levels.last_mut().expect("one level at least").stmts.push(stmt);
    }

    /// Names the author's line, and what is done, for what follows.
    pub(super) fn from(&mut self, loc: Loc, what: &str) {
        let Some(loc) = loc else { return };
        let text = format!("from {}:{}:{} {what}", loc.file(), loc.line(), loc.column());
        let level = self.levels.last_mut().expect("one level at least");
        if level.said.as_ref() != Some(&text) {
            level.stmts.push(Stmt::Comment(text.clone()));
            level.said = Some(text);
        }
    }

    /// An instruction in its place.
    pub(super) fn inst(&mut self, form: &'static str, operands: impl IntoIterator<Item = Operand>) {
        self.push(Stmt::Inst(Inst::new(form, operands)));
    }

    /// An instruction under a guard.
    pub(super) fn guarded(
        &mut self,
        guard: (Reg, bool),
        form: &'static str,
        operands: impl IntoIterator<Item = Operand>,
    ) {
        self.push(Stmt::Inst(Inst::new(form, operands).guarded(guard.0, guard.1)));
    }

    /// An instruction in its place that writes a new register.
    pub(super) fn op(&mut self, class: Class, form: &'static str, sources: impl IntoIterator<Item = Operand>) -> Reg {
        let dst = self.reg(class);
        self.inst(form, [Operand::Reg(dst)].into_iter().chain(sources));
        dst
    }

    /// A pure instruction, placed outside every loop that does not change its operands, and shared with whoever asks for
    /// the same. It leaves a branch only together with a loop.
    pub(super) fn invariant(
        &mut self,
        class: Class,
        form: &'static str,
        sources: impl IntoIterator<Item = Operand>,
    ) -> Reg {
        let sources: Vec<Operand> = sources.into_iter().collect();
        let mut depth = 0;
        for source in &sources {
            if let Operand::Reg(reg) = source {
                depth = depth.max(self.depths[reg.class.index()][reg.index as usize]);
            }
        }
        if depth == MUTABLE || depth > self.depth() {
            return self.op(class, form, sources);
        }
        // Masks and shifts are what is made of the thread's number.
        if self.tight && (class == Class::B64 || matches!(form, "and.b32" | "shr.u32")) {
            return self.local(class, form, sources);
        }
        let key = (Form::named(form), sources.iter().map(key).collect::<Vec<_>>());
        if let Some(&reg) = self.levels[depth..].iter().find_map(|level| level.known.get(&key)) {
            return reg;
        }
        let left = (depth + 1..self.levels.len()).find(|&inner| self.levels[inner].repeats);
        let depth = left.map_or(self.depth(), |inner| inner - 1);
        let dst = self.reg_at(class, depth);
        let inst = Inst::new(form, [Operand::Reg(dst)].into_iter().chain(sources));
        let level = &mut self.levels[depth];
        level.stmts.push(Stmt::Inst(inst));
        level.known.insert(key, dst);
        dst
    }

    /// A pure instruction that is cheap to repeat: an invariant, or local where registers are short.
    pub(super) fn cheap(
        &mut self,
        class: Class,
        form: &'static str,
        sources: impl IntoIterator<Item = Operand>,
    ) -> Reg {
        if self.tight { self.local(class, form, sources) } else { self.invariant(class, form, sources) }
    }

    /// A pure instruction in its place, shared with whoever asks for the same at this level.
    pub(super) fn local(
        &mut self,
        class: Class,
        form: &'static str,
        sources: impl IntoIterator<Item = Operand>,
    ) -> Reg {
        let sources: Vec<Operand> = sources.into_iter().collect();
        let steady = sources.iter().all(|source| self.known_at(source) <= self.levels.len());
        if !steady {
            return self.op(class, form, sources);
        }
        let key = (Form::named(form), sources.iter().map(key).collect::<Vec<_>>());
        let level = self.levels.last().expect("one level at least");
        if let Some(&reg) = level.known.get(&key) {
            return reg;
        }
        let dst = self.op(class, form, sources);
        self.levels.last_mut().expect("one level at least").known.insert(key, dst);
        dst
    }

    /// How far in a scalar is first known: 0 is the function, more is deeper, constants first of all.
    pub(super) fn known_at(&self, operand: &Operand) -> usize {
        match operand {
            Operand::Reg(reg) => self.depths[reg.class.index()][reg.index as usize].saturating_add(1),
            _ => 0,
        }
    }

    /// A label that stands nowhere yet.
    pub(super) fn label(&mut self, name: &'static str) -> String {
        let n = self.labels.entry(name).or_insert(0);
        *n += 1;
        format!("{name}_{n}")
    }

    /// Opens a loop (`repeats`) or a branch.
    pub(super) fn open(&mut self, repeats: bool) {
        self.levels.push(Level { repeats, ..Level::default() });
    }

    /// Closes the innermost level: its statements go where the level was opened.
    pub(super) fn close(&mut self) {
        let level = self.levels.pop().expect("a level to close");
        let outer = self.levels.last_mut().expect("the function's level stays");
        outer.stmts.extend(level.stmts);
        outer.said = None;
        if level.repeats {
            // What was worked out before a loop is worked out again after it, rather than kept through it.
            outer.known.clear();
        }
    }

    /// What was worked out so far is worked out again where it is asked for, rather than kept.
    pub(super) fn forget(&mut self) {
        self.levels.iter_mut().for_each(|level| level.known.clear());
    }

    /// Puts a label in its place.
    pub(super) fn place(&mut self, label: &str) {
        self.push(Stmt::Label(label.to_owned()));
    }

    /// A directive to ptxas.
    pub(super) fn pragma(&mut self, text: &str) {
        self.push(Stmt::Pragma(text.to_owned()));
    }

    /// `{regs}` moved into `to`, element by element; what is already there costs nothing.
    pub(super) fn copy(&mut self, to: &[Reg], from: &[Reg]) {
        for (&dst, &src) in to.iter().zip(from) {
            if dst != src {
                self.mov(dst, src.into());
            }
        }
    }

    /// `to = from`.
    pub(super) fn mov(&mut self, to: Reg, from: Operand) {
        let form = match to.class {
            Class::Pred => "mov.pred",
            Class::B16 => unreachable!("no 16-bit registers are made"),
            Class::B32 => "mov.b32",
            Class::B64 => "mov.b64",
            Class::F32 => "mov.f32",
        };
        self.inst(form, [to.into(), from]);
    }

    /// `a + b` on 32 bits, invariant, folded where it is known.
    pub(super) fn add(&mut self, a: Operand, b: Operand) -> Operand {
        match (&a, &b) {
            (Operand::Int(x), Operand::Int(y)) => Operand::Int(i64::from((*x as i32).wrapping_add(*y as i32))),
            (_, Operand::Int(0)) => a,
            (Operand::Int(0), _) => b,
            (Operand::Int(_), _) => self.invariant(Class::B32, "add.s32", [b, a]).into(),
            _ => self.invariant(Class::B32, "add.s32", [a, b]).into(),
        }
    }

    /// `a * b` on 32 bits, invariant, folded where it is known.
    pub(super) fn mul(&mut self, a: Operand, b: i64) -> Operand {
        match a {
            Operand::Int(x) => Operand::Int(i64::from((x as i32).wrapping_mul(b as i32))),
            _ if b == 1 => a,
            _ if b > 0 && b & (b - 1) == 0 => {
                self.invariant(Class::B32, "shl.b32", [a, i64::from(b.trailing_zeros()).into()]).into()
            }
            _ => self.invariant(Class::B32, "mul.lo.s32", [a, b.into()]).into(),
        }
    }

    /// The register of an operand; an immediate gets one.
    pub(super) fn in_reg(&mut self, class: Class, operand: Operand) -> Reg {
        match operand {
            Operand::Reg(reg) => reg,
            other => {
                let form = match class {
                    Class::B32 => "mov.b32",
                    Class::B64 => "mov.b64",
                    Class::F32 => "mov.f32",
                    Class::Pred | Class::B16 => unreachable!("no immediates of this class"),
                };
                self.invariant(class, form, [other])
            }
        }
    }

    /// `[reg + offset]`.
    pub(super) fn at(reg: Reg, offset: u32) -> Operand {
        Operand::Address(Address::at(reg, i64::from(offset)))
    }
}

fn key(operand: &Operand) -> Key {
    match operand {
        Operand::Reg(reg) => Key::Reg(*reg),
        Operand::Int(value) => Key::Int(*value),
        Operand::Float(bits) => Key::Float(*bits),
        other => Key::Other(format!("{other:?}")),
    }
}
