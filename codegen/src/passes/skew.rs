//! Stages: a round's first product is started before the arithmetic and the second product of the round before are done.
//!
//! In:  a func with roles, whose products are in serial order: every group has landed before the next statement.
//! Out: loops of the consumers in which one product (QK) makes what is computed with, and another (PV) adds what was computed
//!      to a var that the loop does nothing with but rescale, are in the order that `func.overlap` says; others are as they
//!      were. What a later stage needs of an earlier round is kept in vars. On every path into a loop the same groups are in
//!      flight, and none is where roles end, branches join, or another loop begins.
//!
//! A round is cut into
//!
//! ```text
//!   head      scalars, the wait for K; QK is started, and K is released once it has landed
//!   soft      the softmax: everything that does not touch PV's var; at last `p`, PV's left operand
//!   scale     the statements that read and write PV's var
//!   tail      the wait for V; PV is started, and V is released once it has landed
//! ```
//!
//! Fenced, from round lo + 1 on, with the round before in brackets: what runs beside PV stands between its start and its end.
//!
//! ```text
//!   head; [tail]; land 1; release K; soft; hold; land 0; [release V]; p; scale
//! ```
//!
//! PV's var is not rescaled before the first PV where it is all zeros there; where there is one round, whatever the launch, PV
//! makes it anew.
//!
//! Where warpgroups take turns, a round's products are started between `turn` and `pass`: QK and PV of one, while the others
//! compute.
//!
//! Deferred: PV of the round before the last is in flight where a round begins. `p` has two homes, in turns, so that two rounds
//! are one of the loop's.
//!
//! ```text
//!   head; land 1; [[release V]]; [scale]; [tail]; land 1; release K; soft; p
//! ```
//!
//! A branch of the softmax whose condition follows from the number of the round, such as "this block needs its mask", would keep ptxas
//! from moving arithmetic between the products past it. So it is asked a round ahead, beside a product (two rounds, where they go
//! in pairs), and rounds that do not take it follow one another in a loop without it ([`Op::Again`]); the others, and pairs of
//! which one takes it, are the rest of the loop they stand in, and have the branch. Either kind begins and ends as the other does,
//! so that they come in any order: whole and then masked under a causal mask, masked, whole, masked in a window, by turns in a list.
//! Serial rounds have nothing beside the branch, and keep it.
//!
//! What is released behind the loop, is read by QK alone and has one slot, is released as soon as QK of the last round has landed:
//! where CTAs persist, the next tile's Q is on its way beside the last softmax.

mod whole;

use std::collections::{HashMap, HashSet};

use self::whole::{Way, Whole, rounds};
use super::pipeline::Out;
use super::{fresh, operands, operands_mut, visit};
use crate::Error;
use crate::ir::{BufferId, Compare, Const, Elem, Func, Loc, Op, Overlap, Stmt, Type, ValueId, Var, VarId};

/// The pass.
pub(super) fn run(mut func: Func) -> Result<Func, Error> {
    let roles = func.partition.is_some_and(|part| part.roles.is_some());
    if !roles || func.overlap == Overlap::Serial {
        return Ok(func);
    }
    let mut body = std::mem::take(&mut func.body);
    let mut constants = HashMap::new();
    visit(&body, &mut |stmt| {
        if let (Op::Const(Const::I32(number)), Some(value)) = (&stmt.op, stmt.result) {
            constants.insert(value, *number);
        }
    });
    if let Some(Stmt { op: Op::Consume(consumers), .. }) = body.last_mut() {
        let stmts = std::mem::take(consumers);
        let mut out = Out { func: &mut func, stmts: Vec::with_capacity(stmts.len()), loc: None };
        let mut at = 0;
        while let Some(stmt) = stmts.get(at) {
            at += 1;
            match Round::of(out.func, stmt) {
                Some(round) => {
                    let behind = round.releases(out.func, &stmts, at);
                    at += behind.len();
                    let once = is_once(stmt, &constants) && is_zero(out.func, round.acc, &out.stmts);
                    skewed(&mut out, stmt, &round, behind, once);
                }
                None => out.stmts.push(stmt.clone()),
            }
        }
        *consumers = out.stmts;
    }
    func.body = body;
    Ok(func)
}

/// A round of a loop, in stages.
struct Round {
    head: Vec<Stmt>,
    /// Starts QK.
    first: Vec<Stmt>,
    /// Releases what QK read.
    after_first: Vec<Stmt>,
    soft: Vec<Stmt>,
    /// Makes `p`.
    convert: Stmt,
    /// `p`.
    weights: ValueId,
    /// Row sums that the softmax keeps: they need all of its exponentials.
    sums: Vec<ValueId>,
    scale: Vec<Stmt>,
    /// PV's var.
    acc: VarId,
    /// Waits for what PV reads, and starts it.
    tail: Vec<Stmt>,
    /// Releases what PV read.
    after_tail: Vec<Stmt>,
    /// Which of the round's statements makes a value.
    made: HashMap<ValueId, Stmt>,
}

impl Round {
    /// The stages of a loop's rounds, if they have these.
    fn of(func: &Func, stmt: &Stmt) -> Option<Round> {
        let Op::For { body, .. } = &stmt.op else { return None };
        let fences: Vec<usize> = (0..body.len()).filter(|&at| matches!(body[at].op, Op::Fence)).collect();
        let [one, two] = *fences else { return None };
        let Op::Start { fresh: true, .. } = body[one + 1].op else { return None };
        let Op::Start { acc, lhs: weights, fresh: false, .. } = body[two + 1].op else { return None };
        let lands = |at: usize| matches!((&body[at + 2].op, &body[at + 3].op), (Op::Close, Op::Land(0)));
        if !lands(one) || !lands(two) {
            return None;
        }
        let releases_from = |at: usize| -> Vec<usize> {
            let near = |stmt: &Stmt| matches!(stmt.op, Op::Release { .. } | Op::Read(_));
            (at..body.len()).take_while(|&i| near(&body[i])).filter(|&i| !matches!(body[i].op, Op::Read(_))).collect()
        };
        let (after_first, after_tail) = (releases_from(one + 4), releases_from(two + 4));
        let awaits: Vec<usize> = (one + 4..two).filter(|&i| matches!(body[i].op, Op::Await { .. })).collect();
        let taken: HashSet<usize> =
            (two..two + 4).chain(after_first.iter().chain(&after_tail).chain(&awaits).copied()).collect();
        let rest: Vec<usize> = (one + 4..body.len()).filter(|i| !taken.contains(i)).collect();

        // What is made of PV's var.
        let mut of_acc: HashSet<ValueId> = HashSet::new();
        let mut scale = Vec::new();
        for &at in &rest {
            let mut touches = false;
            visit(std::slice::from_ref(&body[at]), &mut |s| {
                touches |= matches!(s.op, Op::Read(var) | Op::Write(var, _) if var == acc)
                    || operands(&s.op).iter().any(|value| of_acc.contains(value));
            });
            if touches {
                of_acc.extend(body[at].result);
                let alone = matches!(&body[at].op, Op::Write(var, _) if *var == acc) || body[at].result.is_some();
                if !alone || body[at].op.body().is_some() {
                    return None;
                }
                scale.push(at);
            }
        }
        if at_all(&body[..one], acc) || of_acc.contains(&weights) {
            return None;
        }
        let convert = *rest.iter().find(|&&at| body[at].result == Some(weights))?;
        let Op::Convert(_) = body[convert].op else { return None };
        let soft: Vec<usize> = rest.into_iter().filter(|at| !scale.contains(at) && *at != convert).collect();
        // Nothing of the softmax needs the rounded weights.
        if soft.iter().any(|&at| operands(&body[at].op).contains(&weights)) {
            return None;
        }
        let sums = soft.iter().filter_map(|&at| match body[at].op {
            Op::Write(var, value) if func.vars[var.index()].ty.partial => Some(value),
            _ => None,
        });
        let stmts = |at: &[usize]| at.iter().map(|&at| body[at].clone()).collect::<Vec<Stmt>>();
        Some(Round {
            head: body[..one].to_vec(),
            first: body[one..one + 3].to_vec(),
            after_first: stmts(&after_first),
            sums: sums.collect(),
            soft: stmts(&soft),
            convert: body[convert].clone(),
            weights,
            scale: stmts(&scale),
            acc,
            tail: awaits.iter().copied().chain(two..two + 3).map(|at| body[at].clone()).collect(),
            after_tail: stmts(&after_tail),
            made: body.iter().filter_map(|stmt| Some((stmt.result?, stmt.clone()))).collect(),
        })
    }

    /// The statements from `at` on that release tiles which QK alone reads, and which have one slot: the next would wait.
    fn releases<'s>(&self, func: &Func, stmts: &'s [Stmt], at: usize) -> &'s [Stmt] {
        let tile = |of| stmts.iter().find_map(|s| s.result.filter(|_| matches!(s.op, Op::Shared(b, _) if b == of)));
        let later: HashSet<ValueId> = [&self.soft, &self.scale, &self.tail]
            .into_iter()
            .chain([&vec![self.convert.clone()]])
            .flatten()
            .flat_map(|stmt| operands(&stmt.op))
            .collect();
        let early =
            |of: BufferId| func.buffers[of.index()].slots == 1 && tile(of).is_some_and(|tile| !later.contains(&tile));
        let place = |stmt: &Stmt| matches!(stmt.op, Op::Read(_) | Op::Const(_) | Op::Binary(..));
        let many = stmts[at..]
            .iter()
            .take_while(|s| place(s) || matches!(s.op, Op::Release { buffer, .. } if early(buffer)))
            .enumerate()
            .filter(|(_, s)| matches!(s.op, Op::Release { .. }))
            .last()
            .map_or(0, |(last, _)| last + 1);
        &stmts[at..at + many]
    }
}

/// Whether a loop has one round, whatever it is launched on.
fn is_once(stmt: &Stmt, constants: &HashMap<ValueId, i32>) -> bool {
    let Op::For { lo, hi, .. } = &stmt.op else { return false };
    matches!((constants.get(lo), constants.get(hi)), (Some(lo), Some(hi)) if lo.checked_add(1) == Some(*hi))
}

/// Whether a var is all zeros behind statements: rescaled, it stays so.
fn is_zero(func: &Func, var: VarId, behind: &[Stmt]) -> bool {
    let Var { init, lasts, .. } = &func.vars[var.index()];
    *init == Const::f32(0.0) && !lasts && !at_all(behind, var)
}

/// Whether a var is named among statements.
fn at_all(stmts: &[Stmt], var: VarId) -> bool {
    let mut named = false;
    visit(stmts, &mut |stmt| named |= matches!(stmt.op, Op::Read(v) | Op::Write(v, _) if v == var));
    named
}

/// Copies statements with fresh results, `map` renaming what they read.
fn copy(func: &mut Func, stmts: &[Stmt], map: &mut HashMap<ValueId, ValueId>) -> Vec<Stmt> {
    stmts
        .iter()
        .map(|stmt| {
            let mut stmt = stmt.clone();
            let loc = stmt.loc;
            operands_mut(&mut stmt.op, &mut |v| *v = map.get(v).copied().unwrap_or(*v));
            let mut again = |value: &mut ValueId| {
                let ty = func.values[value.index()].ty.clone();
                let renamed = fresh(func, ty, loc);
                map.insert(std::mem::replace(value, renamed), renamed);
            };
            if let Op::For { index, .. } = &mut stmt.op {
                again(index);
            }
            if let Some(result) = &mut stmt.result {
                again(result);
            }
            if let Some(body) = stmt.op.body_mut() {
                *body = copy(func, body, map);
            }
            stmt
        })
        .collect()
}

/// What a later stage needs of a round: values kept in vars, and what is made of them anew.
#[derive(Default)]
struct Carried {
    vars: Vec<(ValueId, VarId)>,
    /// Statements that are repeated, in order.
    again: Vec<Stmt>,
}

impl Carried {
    /// What `stmts` need of a round, but for what `known` has.
    fn of(func: &mut Func, round: &Round, stmts: &[Stmt], known: &[ValueId]) -> Carried {
        let mut carried = Carried::default();
        let inside: HashSet<ValueId> = stmts.iter().filter_map(|stmt| stmt.result).collect();
        let mut seen: HashSet<ValueId> = known.iter().copied().chain(inside).collect();
        for stmt in stmts {
            for value in operands(&stmt.op) {
                carried.need(func, round, value, &mut seen);
            }
        }
        carried
    }

    fn need(&mut self, func: &mut Func, round: &Round, value: ValueId, seen: &mut HashSet<ValueId>) {
        let Some(stmt) = round.made.get(&value) else { return };
        if !seen.insert(value) {
            return;
        }
        if matches!(stmt.op, Op::Const(_) | Op::Iota(_) | Op::Broadcast(_) | Op::Shared(..)) {
            for operand in operands(&stmt.op) {
                self.need(func, round, operand, seen);
            }
            self.again.push(stmt.clone());
            return;
        }
        let ty = func.values[value.index()].ty.clone();
        let init = match ty.elem {
            Elem::I32 => Const::I32(0),
            Elem::Bool => Const::Bool(false),
            _ => Const::f32(0.0),
        };
        func.vars.push(Var { name: format!("kept{}", func.vars.len()), ty, init, lasts: false, loc: stmt.loc });
        self.vars.push((value, VarId(func.vars.len() as u32 - 1)));
    }

    /// Reads what is kept, as `map` then says.
    fn read(&self, out: &mut Out<'_>, map: &mut HashMap<ValueId, ValueId>) {
        for (value, var) in &self.vars {
            let read = out.read(*var);
            map.insert(*value, read);
        }
        let again = copy(out.func, &self.again, map);
        out.stmts.extend(again);
    }

    /// Keeps what a round made.
    fn keep(&self, out: &mut Out<'_>, map: &HashMap<ValueId, ValueId>) {
        for (value, var) in &self.vars {
            out.effect(Op::Write(*var, map.get(value).copied().unwrap_or(*value)));
        }
    }
}

/// A loop's rounds, in other orders.
struct Skew<'r> {
    round: &'r Round,
    index: ValueId,
    /// What the tail and the rescaling need of their round.
    of_tail: Carried,
    of_scale: Carried,
    /// Whether rounds begin in turns.
    turns: bool,
    hi: ValueId,
    /// Releases what QK of the last round was the last to read.
    behind: &'r [Stmt],
    /// The branch of a round that some rounds go past.
    whole: Option<Whole>,
    /// Whether PV's var is all zeros before the first round.
    zero: bool,
    /// Whether there is one round, whose PV has nothing to add to: its var needs no registers before.
    once: bool,
}

type Map = HashMap<ValueId, ValueId>;

impl Skew<'_> {
    fn copied(&self, out: &mut Out<'_>, stmts: &[Stmt], map: &mut Map) {
        let stmts = copy(out.func, stmts, map);
        out.stmts.extend(stmts);
    }

    /// The head of round `index`, and QK under way.
    fn begin(&self, out: &mut Out<'_>, index: ValueId) -> Map {
        let mut map = Map::from([(self.index, index)]);
        self.copied(out, &self.round.head, &mut map);
        if self.turns {
            out.effect(Op::Turn);
        }
        self.copied(out, &self.round.first, &mut map);
        map
    }

    /// The softmax of a round.
    fn soft(&self, out: &mut Out<'_>, map: &mut Map, way: Way) {
        match &self.whole {
            Some(whole) => self.copied(out, &whole.soft(&self.round.soft, way), map),
            None => self.copied(out, &self.round.soft, map),
        }
    }

    /// Works out whether the rounds so far ahead of `at` go past their branch.
    fn ask(&self, out: &mut Out<'_>, at: ValueId, ahead: &[i32]) {
        if let Some(whole) = &self.whole {
            whole.ask(out, self.index, self.hi, at, ahead);
        }
    }

    /// QK of round `index` has landed, and what it was the last to read is released.
    fn landed(&self, out: &mut Out<'_>, index: ValueId, map: &mut Map) {
        self.copied(out, &self.round.after_first, map);
        if !self.behind.is_empty() {
            let next = out.add(index, 1);
            let last = out.value(Op::Compare(Compare::Ge, next, self.hi), Type::scalar(Elem::Bool));
            out.when(last, |out| self.copied(out, self.behind, &mut Map::new()));
        }
    }

    /// The last product of a round has been started.
    fn pass(&self, out: &mut Out<'_>) {
        if self.turns {
            out.effect(Op::Pass);
        }
    }

    /// PV of the round that is kept, with `weights`, under way.
    fn tail(&self, out: &mut Out<'_>, weights: VarId) -> Map {
        let mut map = Map::new();
        self.of_tail.read(out, &mut map);
        let read = out.read(weights);
        map.insert(self.round.weights, read);
        let before = out.stmts.len();
        self.copied(out, &self.round.tail, &mut map);
        for stmt in &mut out.stmts[before..] {
            if let Op::Start { fresh, .. } = &mut stmt.op {
                *fresh |= self.once;
            }
        }
        map
    }

    /// What PV read is released. `map` is its tail's.
    fn released(&self, out: &mut Out<'_>, map: &mut Map) {
        self.copied(out, &self.round.after_tail, map);
    }

    fn scale(&self, out: &mut Out<'_>) {
        let mut map = Map::new();
        self.of_scale.read(out, &mut map);
        self.copied(out, &self.round.scale, &mut map);
    }

    /// The weights of a round, into their home.
    fn weights(&self, out: &mut Out<'_>, map: &mut Map, home: VarId) {
        self.copied(out, std::slice::from_ref(&self.round.convert), map);
        let made = map[&self.round.weights];
        out.effect(Op::Write(home, made));
    }

    fn keep(&self, out: &mut Out<'_>, map: &Map) {
        self.of_tail.keep(out, map);
        self.of_scale.keep(out, map);
    }

    /// A round that nothing runs beside, but for PV.
    fn opening(&self, out: &mut Out<'_>, lo: ValueId, home: VarId) {
        let mut map = self.begin(out, lo);
        self.pass(out);
        out.effect(Op::Land(0));
        self.landed(out, lo, &mut map);
        self.soft(out, &mut map, Way::Asked);
        self.weights(out, &mut map, home);
        self.keep(out, &map);
    }

    /// PV of the last round.
    fn closing(&self, out: &mut Out<'_>, home: VarId) {
        let mut tail = self.tail(out, home);
        out.effect(Op::Land(0));
        self.released(out, &mut tail);
    }
}

/// A var for the weights.
fn home(func: &mut Func, round: &Round, loc: Loc) -> VarId {
    let ty = func.values[round.weights.index()].ty.clone();
    let name = format!("weights{}", func.vars.len());
    func.vars.push(Var { name, ty, init: Const::f32(0.0), lasts: false, loc });
    VarId(func.vars.len() as u32 - 1)
}

fn skewed(out: &mut Out<'_>, stmt: &Stmt, round: &Round, behind: &[Stmt], once: bool) {
    let Op::For { index, lo, hi, .. } = &stmt.op else { unreachable!("rounds are a loop's") };
    let (lo, hi) = (*lo, *hi);
    out.loc = stmt.loc;
    let tail: Vec<Stmt> = round.tail.iter().chain(&round.after_tail).cloned().collect();
    let of_tail = Carried::of(out.func, round, &tail, &[round.weights]);
    let of_scale = match out.func.overlap {
        Overlap::Deferred => Carried::of(out.func, round, &round.scale, &[]),
        // The round's own.
        Overlap::Fenced | Overlap::Serial => Carried::default(),
    };
    let alone = out.func.warps / super::WARPGROUP < 2;
    let whole = Whole::of(out.func, round);
    let (turns, zero) = (out.func.turns && !alone, is_zero(out.func, round.acc, &out.stmts));
    let skew = Skew { round, index: *index, of_tail, of_scale, turns, hi, behind, whole, zero, once };
    let exists = out.less(lo, hi);
    match out.func.overlap {
        Overlap::Deferred => {
            let homes = [home(out.func, round, stmt.loc), home(out.func, round, stmt.loc)];
            out.when(exists, |out| deferred(out, &skew, lo, hi, homes));
        }
        Overlap::Fenced | Overlap::Serial => {
            let home = home(out.func, round, stmt.loc);
            out.when(exists, |out| fenced(out, &skew, lo, hi, home));
        }
    }
    if !behind.is_empty() {
        let nothing = out.value(Op::Compare(Compare::Ge, lo, hi), Type::scalar(Elem::Bool));
        out.when(nothing, |out| skew.copied(out, behind, &mut Map::new()));
    }
}

fn fenced(out: &mut Out<'_>, skew: &Skew<'_>, lo: ValueId, hi: ValueId, home: VarId) {
    let round = skew.round;
    let mut map = skew.begin(out, lo);
    skew.pass(out);
    skew.ask(out, lo, &[1]);
    out.effect(Op::Land(0));
    skew.landed(out, lo, &mut map);
    skew.soft(out, &mut map, Way::Asked);
    skew.weights(out, &mut map, home);
    if !skew.zero {
        skew.copied(out, &round.scale, &mut map);
    }
    skew.keep(out, &map);
    if skew.once {
        return skew.closing(out, home);
    }

    let step = |out: &mut Out<'_>, index: ValueId, way: Way| {
        let mut map = skew.begin(out, index);
        let mut before = skew.tail(out, home);
        skew.pass(out);
        skew.ask(out, index, &[1]);
        out.effect(Op::Land(1));
        skew.landed(out, index, &mut map);
        skew.soft(out, &mut map, way);
        let sums: Vec<ValueId> = round.sums.iter().map(|sum| map[sum]).collect();
        if !sums.is_empty() {
            out.effect(Op::Hold(sums));
        }
        out.effect(Op::Land(0));
        skew.released(out, &mut before);
        skew.weights(out, &mut map, home);
        skew.copied(out, &round.scale, &mut map);
        skew.keep(out, &map);
    };
    let second = out.add(lo, 1);
    match &skew.whole {
        Some(whole) => rounds(out, whole, second, hi, step),
        None => looped(out, second, hi, |out, index| step(out, index, Way::Asked)),
    }
    skew.closing(out, home);
}

/// A deferred round: which it is, and the homes of the weights of the round before and of its own.
struct Step<'a> {
    index: ValueId,
    homes: [VarId; 2],
    /// Whether no PV is in flight where it begins.
    first: bool,
    way: Way,
    /// The rounds, as far ahead of it, of which it asks whether they go past their branch.
    asks: &'a [i32],
}

/// Deferred rounds.
struct Deferred<'s, 'r> {
    skew: &'s Skew<'r>,
    /// Where what PV of the round before last read stands.
    before: Carried,
    even: VarId,
    odd: VarId,
}

impl Deferred<'_, '_> {
    fn step(&self, out: &mut Out<'_>, step: Step<'_>) {
        let (skew, index, [from, to]) = (self.skew, step.index, step.homes);
        let mut map = skew.begin(out, index);
        if !step.asks.is_empty() {
            skew.ask(out, index, step.asks);
        }
        if !step.first {
            out.effect(Op::Land(1));
            self.landed(out);
            skew.scale(out);
        }
        let tail = skew.tail(out, from);
        skew.pass(out);
        self.before.keep(out, &tail);
        out.effect(Op::Land(1));
        skew.landed(out, index, &mut map);
        skew.soft(out, &mut map, step.way);
        skew.weights(out, &mut map, to);
        skew.keep(out, &map);
    }

    /// PV of the round before last has landed: what it read is released.
    fn landed(&self, out: &mut Out<'_>) {
        let mut last = Map::new();
        self.before.read(out, &mut last);
        self.skew.released(out, &mut last);
    }

    /// Where the round does not exist, everything lands, and what is left is PV.
    fn leave(&self, out: &mut Out<'_>, index: ValueId, weights: VarId) {
        let over = out.value(Op::Compare(Compare::Ge, index, self.skew.hi), Type::scalar(Elem::Bool));
        let before = std::mem::take(&mut out.stmts);
        out.effect(Op::Land(0));
        self.landed(out);
        if weights != self.odd {
            let read = out.read(weights);
            out.effect(Op::Write(self.odd, read));
        }
        self.skew.scale(out);
        let body = std::mem::replace(&mut out.stmts, before);
        out.effect(Op::Leave { cond: over, body });
    }

    /// Two rounds, so that weights are again where they were. The second may not exist.
    fn pair(&self, out: &mut Out<'_>, counter: VarId, index: ValueId, way: Way) {
        let (even, odd) = (self.even, self.odd);
        self.step(out, Step { index, homes: [even, odd], first: false, way, asks: &[] });
        let next = out.add(index, 1);
        self.leave(out, next, odd);
        self.step(out, Step { index: next, homes: [odd, even], first: false, way, asks: &[1, 2] });
        let next = out.add(index, 2);
        out.effect(Op::Write(counter, next));
    }
}

fn deferred(out: &mut Out<'_>, skew: &Skew<'_>, lo: ValueId, hi: ValueId, [even, odd]: [VarId; 2]) {
    let before = Carried::of(out.func, skew.round, &skew.round.after_tail, &[]);
    let rounds = Deferred { skew, before, even, odd };
    skew.opening(out, lo, odd);
    if skew.once {
        return skew.closing(out, odd);
    }
    if !skew.zero {
        skew.scale(out);
    }
    let second = out.add(lo, 1);
    let more = out.less(second, hi);
    let counter = out.var(format!("round{}", out.func.vars.len()));
    out.when(more, |out| {
        rounds.step(out, Step { index: second, homes: [odd, even], first: true, way: Way::Asked, asks: &[1, 2] });
        let third = out.add(lo, 2);
        out.effect(Op::Write(counter, third));
        // A loop that counts pairs, with what is left over behind it, would do the same; ptxas (13.0) then finds the sum read
        // while it is in flight (C7514), and waits after every product.
        let before = std::mem::take(&mut out.stmts);
        let index = out.read(counter);
        rounds.leave(out, index, even);
        if let Some(whole) = &skew.whole {
            let past = whole.said(out);
            Whole::again(out, past, |out| {
                let index = out.read(counter);
                rounds.pair(out, counter, index, Way::Past);
            });
        }
        rounds.pair(out, counter, index, Way::Asked);
        let body = std::mem::replace(&mut out.stmts, before);
        out.effect(Op::Loop(body));
    });
    skew.closing(out, odd);
}

/// A loop.
fn looped(out: &mut Out<'_>, lo: ValueId, hi: ValueId, body: impl FnOnce(&mut Out<'_>, ValueId)) {
    let index = fresh(out.func, Type::scalar(Elem::I32), out.loc);
    let before = std::mem::take(&mut out.stmts);
    body(out, index);
    let body = std::mem::replace(&mut out.stmts, before);
    out.effect(Op::For { index, lo, hi, pipelined: None, body });
}
