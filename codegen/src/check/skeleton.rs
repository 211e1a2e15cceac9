//! What of a role the rules are about: its operations of order, the scalars that these and its branches depend on, and where
//! registers that products may hold are touched. Arithmetic on tiles, nearly all of a func, is left out.

use std::collections::{HashMap, HashSet};

use crate::ir::{Elem, Func, Op, Stmt, ValueId, VarId};
use crate::passes::{operands, visit};

/// Registers that products read or add to: of a var, or of a value that is in no var.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Place {
    Var(VarId),
    Value(ValueId),
}

/// A statement that matters.
pub(super) struct Node<'f> {
    pub(super) stmt: &'f Stmt,
    /// Registers of products that it reads or writes, other than by a product.
    pub(super) touches: Vec<Place>,
    /// What it encloses.
    pub(super) body: Vec<Node<'f>>,
    /// Whether the slots of its rounds differ, so that they are gone through one by one.
    pub(super) counted: bool,
    /// Its number among the loops of its role.
    pub(super) id: usize,
}

/// What the registers of a role are.
pub(super) struct Registers {
    /// Where left operands in registers are, by value.
    fragments: Vec<Option<Place>>,
    /// Values that are a var's registers.
    read: HashMap<ValueId, VarId>,
    /// Values that are made in the registers of a var.
    made_in: HashMap<ValueId, VarId>,
    /// All that products name.
    named: HashSet<Place>,
}

impl Registers {
    /// Of a role's statements.
    ///
    /// Reading a var makes no copy as a rule, so that the value's uses touch the var; and a value that does nothing but become
    /// a var's content may be made in the var's registers already.
    fn of(func: &Func, body: &[Stmt]) -> Self {
        let mut read = HashMap::new();
        let mut tiles = HashSet::new();
        let mut uses: HashMap<ValueId, usize> = HashMap::new();
        let (mut writes, mut starts) = (Vec::new(), Vec::new());
        visit(body, &mut |stmt| {
            operands(&stmt.op).into_iter().for_each(|value| *uses.entry(value).or_default() += 1);
            match (&stmt.op, stmt.result) {
                (Op::Read(var), Some(result)) => drop(read.insert(result, *var)),
                (Op::Shared(..), Some(result)) => drop(tiles.insert(result)),
                (Op::Write(var, value), _) => writes.push((*var, *value)),
                (Op::Start { acc, lhs, .. }, _) => starts.push((*acc, *lhs)),
                _ => {}
            }
        });
        let place = |value: ValueId| read.get(&value).map_or(Place::Value(value), |&var| Place::Var(var));
        let mut fragments = vec![None; func.values.len()];
        for &(_, lhs) in starts.iter().filter(|(_, lhs)| !tiles.contains(lhs)) {
            fragments[lhs.index()] = Some(place(lhs));
        }
        let named: HashSet<Place> =
            starts.iter().map(|&(acc, _)| Place::Var(acc)).chain(fragments.iter().flatten().copied()).collect();
        let made_in = writes
            .into_iter()
            .filter(|(var, value)| named.contains(&Place::Var(*var)) && uses[value] == 1)
            .map(|(var, value)| (value, var))
            .collect();
        Registers { fragments, read, made_in, named }
    }

    /// Where a left operand is, if it is in registers.
    pub(super) fn fragment(&self, lhs: ValueId) -> Option<Place> {
        self.fragments[lhs.index()]
    }

    /// What a statement itself reads and writes of what products name.
    fn touched(&self, stmt: &Stmt) -> Vec<Place> {
        let mut touched = Vec::new();
        let mut see = |place: Place| {
            if self.named.contains(&place) && !touched.contains(&place) {
                touched.push(place);
            }
        };
        match &stmt.op {
            Op::Start { .. } => return touched,
            Op::Read(var) | Op::Write(var, _) | Op::Accumulate(var, ..) => see(Place::Var(*var)),
            Op::Merge { max, sum, acc, .. } => {
                [Some(*max), Some(*sum), *acc].into_iter().flatten().for_each(|var| see(Place::Var(var)));
            }
            _ => {}
        }
        for value in operands(&stmt.op) {
            see(self.read.get(&value).map_or(Place::Value(value), |&var| Place::Var(var)));
        }
        if let Some(result) = stmt.result {
            see(self.made_in.get(&result).map_or(Place::Value(result), |&var| Place::Var(var)));
        }
        touched
    }
}

/// A role: what matters of it, in order.
pub(super) struct Skeleton<'f> {
    pub(super) nodes: Vec<Node<'f>>,
    pub(super) registers: Registers,
    pub(super) loops: usize,
}

impl<'f> Skeleton<'f> {
    /// Of a role's statements.
    pub(super) fn of(func: &Func, body: &'f [Stmt]) -> Self {
        let registers = Registers::of(func, body);
        let followed = followed(func, body);
        let mut loops = 0;
        let nodes = nodes(body, &registers, &followed, &mut loops);
        Skeleton { nodes, registers, loops }
    }
}

/// Whether an operation is about order.
fn is_step(op: &Op) -> bool {
    matches!(
        op,
        Op::Acquire { .. }
            | Op::Fill { .. }
            | Op::Await { .. }
            | Op::Release { .. }
            | Op::CopyAsync { .. }
            | Op::Commit
            | Op::Wait(_)
            | Op::Barrier
            | Op::Publish
            | Op::Shared(..)
            | Op::Operand(_)
            | Op::Dot(..)
            | Op::Accumulate(..)
            | Op::Fence
            | Op::Start { .. }
            | Op::Close
            | Op::Land(_)
            | Op::Turn
            | Op::Pass
            | Op::Merge { .. }
    )
}

/// Scalars that slots, phases, bounds and branches are worked out from, and the vars that keep them. Of which kind a round is need
/// not be known: both are gone through.
fn followed(func: &Func, body: &[Stmt]) -> (HashSet<ValueId>, HashSet<VarId>) {
    let (mut values, mut vars) = (HashSet::new(), HashSet::new());
    let is_scalar = |value: &ValueId| {
        let ty = &func.values[value.index()].ty;
        ty.rank() == 0 && matches!(ty.elem, Elem::I32 | Elem::Bool)
    };
    loop {
        let before = (values.len(), vars.len());
        visit(body, &mut |stmt| match &stmt.op {
            Op::Acquire { slot, phase, .. } | Op::Await { slot, phase, .. } => values.extend([*slot, *phase]),
            Op::Fill { slot, .. } | Op::Release { slot, .. } => drop(values.insert(*slot)),
            Op::CopyAsync { slot, .. } | Op::Shared(_, slot) => drop(values.insert(*slot)),
            Op::For { lo, hi, .. } => values.extend([*lo, *hi]),
            Op::If { cond, .. } | Op::Leave { cond, .. } => drop(values.insert(*cond)),
            Op::Write(var, value) if vars.contains(var) => drop(values.insert(*value)),
            op if stmt.result.is_some_and(|result| values.contains(&result)) => {
                values.extend(operands(op).into_iter().filter(is_scalar));
                if let Op::Read(var) = op {
                    vars.insert(*var);
                }
            }
            _ => {}
        });
        if before == (values.len(), vars.len()) {
            return (values, vars);
        }
    }
}

fn nodes<'f>(
    body: &'f [Stmt],
    registers: &Registers,
    followed: &(HashSet<ValueId>, HashSet<VarId>),
    loops: &mut usize,
) -> Vec<Node<'f>> {
    let mut out = Vec::new();
    for stmt in body {
        let touches = registers.touched(stmt);
        if let Some(inner) = stmt.op.body() {
            let id = *loops;
            *loops += 1;
            let inner = nodes(inner, registers, followed, loops);
            // A loop is left where it is, and where nothing is left of a branch nothing happens on either way.
            if !inner.is_empty() || matches!(stmt.op, Op::Leave { .. } | Op::Again { .. }) {
                let counted = inner.iter().any(|node| node.counted || is_counted(&node.stmt.op));
                out.push(Node { stmt, touches, body: inner, counted, id });
            }
            continue;
        }
        let known = match &stmt.op {
            Op::Write(var, _) => followed.1.contains(var),
            _ => stmt.result.is_some_and(|result| followed.0.contains(&result)),
        };
        if known || is_step(&stmt.op) || !touches.is_empty() {
            out.push(Node { stmt, touches, body: Vec::new(), counted: false, id: 0 });
        }
    }
    out
}

/// Whether an operation goes from slot to slot, or ends a loop.
fn is_counted(op: &Op) -> bool {
    matches!(
        op,
        Op::Acquire { .. }
            | Op::Fill { .. }
            | Op::Await { .. }
            | Op::Release { .. }
            | Op::CopyAsync { .. }
            | Op::Commit
            | Op::Turn
            | Op::Pass
            | Op::Leave { .. }
            | Op::Again { .. }
    )
}
