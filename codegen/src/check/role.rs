//! One role, run: what it does in order, for given bounds and conditions, with every rule held against it.

use std::collections::HashMap;

use super::number::{self, Kind, Known, Number};
use super::skeleton::{Node, Skeleton};
use super::state::{InFlight, Meeting, Role, Rule, Setting, State};
use crate::ir::{BufferId, Op, Stmt, ValueId};

/// Rounds of a loop that is gone through one by one, at most. Loops whose ends are known have so many.
const MOST: i64 = 1 << 12;

/// A rule that is broken, and where.
pub(super) struct Broken<'f> {
    pub(super) stmt: &'f Stmt,
    pub(super) what: String,
}

/// What a loop's first run through it showed: the state where each round began.
pub(super) type Heads = Vec<State>;

/// What is known of a role's loops from other runs.
pub(super) struct Lessons {
    /// Where a loop is the same again after a period: which vars grow with its rounds.
    pub(super) growing: Vec<Option<Vec<bool>>>,
    /// How many rounds at most are no part of what repeats.
    pub(super) leads: Vec<i64>,
    /// What is in flight where a loop is left.
    left: Vec<Option<InFlight>>,
}

impl Lessons {
    pub(super) fn new(skeleton: &Skeleton<'_>) -> Self {
        Lessons {
            growing: vec![None; skeleton.loops],
            leads: vec![0; skeleton.loops],
            left: vec![None; skeleton.loops],
        }
    }
}

/// A role under way.
pub(super) struct Run<'r, 'f> {
    pub(super) setting: Setting<'r>,
    pub(super) skeleton: &'r Skeleton<'f>,
    /// Values that are given, whatever makes them.
    pub(super) given: &'r HashMap<ValueId, Known>,
    /// Which values may be.
    pub(super) is_given: &'r [bool],
    pub(super) values: Vec<Known>,
    pub(super) state: State,
    /// What it does that other roles wait for, or waits for itself.
    pub(super) meetings: Vec<(Meeting, &'f Stmt)>,
    pub(super) period: i64,
    pub(super) lessons: &'r mut Lessons,
    /// In the run from which the lessons are learned: where the rounds of each loop began.
    pub(super) heads: Option<Vec<Heads>>,
}

#[derive(PartialEq, Eq)]
enum Flow {
    On,
    Left,
}

impl<'f> Run<'_, 'f> {
    /// Runs the role to its end.
    pub(super) fn run(&mut self) -> Result<(), Broken<'f>> {
        let skeleton = self.skeleton;
        self.walk(&skeleton.nodes, None)?;
        let end = self.state.end(&self.setting).and_then(|()| {
            if self.setting.func.persist {
                self.state = self.state.behind(&self.setting)?;
            }
            Ok(())
        });
        match (end, skeleton.nodes.last()) {
            (Err(what), Some(last)) => Err(Broken { stmt: last.stmt, what }),
            _ => Ok(()),
        }
    }

    fn walk(&mut self, nodes: &[Node<'f>], within: Option<usize>) -> Result<Flow, Broken<'f>> {
        for (at, node) in nodes.iter().enumerate() {
            let broken = |what: String| Broken { stmt: node.stmt, what };
            self.state.touch(&self.setting, &node.touches).map_err(broken)?;
            match &node.stmt.op {
                Op::For { .. } if node.counted => self.counted(node)?,
                Op::For { .. } => self.any_number(node)?,
                Op::Loop(_) => self.endless(node)?,
                Op::If { cond, .. } => self.branch(node, *cond, within)?,
                Op::Leave { cond, .. } => match self.values[cond.index()] {
                    Known::Bool(false) => {}
                    Known::Bool(true) => {
                        self.walk(&node.body, within)?;
                        let loop_id = within.expect("verified: a loop is left");
                        let left = self.lessons.left[loop_id].get_or_insert_with(|| self.state.in_flight());
                        if !self.state.flies(left) {
                            return Err(broken(
                                "it leaves other products in flight than the loop's other ends".to_owned(),
                            ));
                        }
                        return Ok(Flow::Left);
                    }
                    _ => return Err(broken(CANNOT_FOLLOW.to_owned())),
                },
                Op::Again { cond, .. } => match self.values[cond.index()] {
                    Known::Bool(false) => {}
                    Known::Bool(true) => return self.walk(&node.body, within),
                    _ => return self.either(node, &nodes[at + 1..], within),
                },
                _ => self.step(node.stmt).map_err(broken)?,
            }
        }
        Ok(Flow::On)
    }

    /// A round that may be of either kind: both do the same to others, and leave the same behind.
    fn either(&mut self, node: &Node<'f>, rest: &[Node<'f>], within: Option<usize>) -> Result<Flow, Broken<'f>> {
        let broken = |what: &str| Broken { stmt: node.stmt, what: what.to_owned() };
        let (before, met) = (self.state.clone(), self.meetings.len());
        let flow = self.walk(&node.body, within)?;
        let one = std::mem::replace(&mut self.state, before);
        let of_one = self.meetings.split_off(met);
        if flow != self.walk(rest, within)? {
            return Err(broken(
                "it leaves the loop where the rest of the round does not, or stays where that leaves it",
            ));
        }
        let meeting = |meeting: &(Meeting, &Stmt)| meeting.0;
        if !self.meetings[met..].iter().map(meeting).eq(of_one.iter().map(meeting)) {
            return Err(broken("it does other things to the other roles than the rest of the round in its place"));
        }
        self.state
            .join(&one)
            .map_err(|_| broken("it leaves other things in flight or held than the rest of the round"))?;
        Ok(flow)
    }

    /// A round of a loop begins.
    fn head(&mut self, node: &Node<'f>, first: bool, periodic: bool) -> Result<(), Broken<'f>> {
        let broken = |what: String| Broken { stmt: node.stmt, what };
        self.state.round().map_err(broken)?;
        if let Some(heads) = &mut self.heads {
            if first {
                heads[node.id].clear();
            }
            heads[node.id].push(self.state.clone());
        } else if periodic {
            let Some(growing) = &self.lessons.growing[node.id] else {
                return Err(broken(format!("its state is not the same again after {} rounds", self.period)));
            };
            self.state.rounds(growing, first).map_err(|var| {
                let name = &self.setting.func.vars[var.index()].name;
                broken(format!("%{name} neither stands still nor grows with the rounds"))
            })?;
        }
        Ok(())
    }

    /// A round ends: on the way back, the same products are in flight as on the way in. ptxas waits after every product
    /// otherwise (C7514).
    fn tail(&self, node: &Node<'f>, entry: &InFlight) -> Result<(), Broken<'f>> {
        if self.state.flies(entry) {
            return Ok(());
        }
        let what = "the products in flight where a round ends are not those where the loop begins".to_owned();
        Err(Broken { stmt: node.stmt, what })
    }

    fn counted(&mut self, node: &Node<'f>) -> Result<(), Broken<'f>> {
        let Op::For { index, lo, hi, .. } = node.stmt.op else { unreachable!("called for loops") };
        let bounds = (self.values[lo.index()], self.values[hi.index()]);
        let (Known::Int(lo), Known::Int(hi)) = bounds else { return Err(self.lost(node)) };
        if lo.from != hi.from || hi.at - lo.at > MOST {
            return Err(self.lost(node));
        }
        let periodic = matches!(hi.kind, Kind::End(_));
        let entry = self.state.in_flight();
        for at in lo.at..hi.at {
            self.head(node, at == lo.at, periodic)?;
            let kind = if periodic { Kind::Round } else { Kind::Still };
            self.values[index.index()] = Known::Int(Number { at, off: 0, from: lo.from, kind });
            self.walk(&node.body, Some(node.id))?;
            self.tail(node, &entry)?;
        }
        Ok(())
    }

    /// A loop whose rounds are alike: none, or one and another behind it.
    fn any_number(&mut self, node: &Node<'f>) -> Result<(), Broken<'f>> {
        let Op::For { index, .. } = node.stmt.op else { unreachable!("called for loops") };
        let before = self.state.clone();
        let entry = self.state.in_flight();
        self.values[index.index()] = Known::Nothing;
        for _ in 0..2 {
            self.state.round().map_err(|what| Broken { stmt: node.stmt, what })?;
            self.walk(&node.body, Some(node.id))?;
            self.tail(node, &entry)?;
        }
        self.state.join(&before).map_err(|what| Broken { stmt: node.stmt, what })
    }

    fn endless(&mut self, node: &Node<'f>) -> Result<(), Broken<'f>> {
        let entry = self.state.in_flight();
        // Where every bound is a constant there is no longer run to speak of.
        let periodic = self.given.values().any(|given| matches!(given, Known::Int(Number { kind: Kind::End(_), .. })));
        for round in 0..MOST {
            self.head(node, round == 0, periodic)?;
            if let Flow::Left = self.walk(&node.body, Some(node.id))? {
                return Ok(());
            }
            self.tail(node, &entry)?;
        }
        Err(Broken { stmt: node.stmt, what: "nothing leaves this loop".to_owned() })
    }

    fn branch(&mut self, node: &Node<'f>, cond: ValueId, within: Option<usize>) -> Result<(), Broken<'f>> {
        let broken = |what: String| Broken { stmt: node.stmt, what };
        let known = match self.values[cond.index()] {
            Known::Bool(false) => return Ok(()),
            known => known == Known::Bool(true),
        };
        if !known && node.counted {
            return Err(self.lost(node));
        }
        let before = self.state.clone();
        self.walk(&node.body, within)?;
        if !self.state.flies(&before.in_flight()) {
            return Err(broken("other products are in flight behind the branch than beside it".to_owned()));
        }
        if known { Ok(()) } else { self.state.join(&before).map_err(broken) }
    }

    fn lost(&self, node: &Node<'f>) -> Broken<'f> {
        Broken { stmt: node.stmt, what: CANNOT_FOLLOW.to_owned() }
    }

    fn step(&mut self, stmt: &'f Stmt) -> Rule {
        let others = match self.setting.role {
            Role::Producer => is_consumers(&stmt.op).then_some("only consumers do this"),
            Role::Consumer => is_producers(&stmt.op).then_some("only the producer does this"),
        };
        if let Some(what) = others {
            return Err(what.to_owned());
        }
        let alone = |()| None;
        let meeting = match &stmt.op {
            Op::Acquire { buffer, slot, phase } => {
                let (slot, phase) = (self.slot(*buffer, *slot)?, self.phase(*phase)?);
                self.state.acquire(&self.setting, slot, phase)?
            }
            Op::Fill { buffer, slot, .. } => self.state.fill(&self.setting, self.slot(*buffer, *slot)?)?,
            Op::Await { buffer, slot, phase } => {
                let (slot, phase) = (self.slot(*buffer, *slot)?, self.phase(*phase)?);
                self.state.await_full(&self.setting, slot, phase)?
            }
            Op::Release { buffer, slot } => self.state.release(&self.setting, self.slot(*buffer, *slot)?)?,
            Op::Shared(buffer, slot) => {
                let slot = self.slot(*buffer, *slot)?;
                self.set(stmt, Known::Tile(slot));
                None
            }
            Op::Operand(tile) => match self.values[tile.index()] {
                Known::Tile(slot) => self.state.read(&self.setting, slot, false).map(|_| None)?,
                _ => None,
            },
            Op::CopyAsync { buffer, slot, .. } => {
                self.state.copy(&self.setting, self.slot(*buffer, *slot)?).map(alone)?
            }
            Op::Commit => self.state.commit().map(alone)?,
            Op::Wait(groups) => self.state.wait(*groups).map(alone)?,
            Op::Publish => self.state.publish().map(alone)?,
            Op::Barrier => Some(self.state.meet()),
            Op::Fence => self.state.fence().map(alone)?,
            Op::Start { lhs, rhs, .. } => {
                let tiles = [lhs, rhs].map(|value| match self.values[value.index()] {
                    Known::Tile(slot) => Some(slot),
                    _ => None,
                });
                self.state.start(&self.setting, &self.skeleton.registers, stmt, tiles).map(alone)?
            }
            Op::Close => self.state.close().map(alone)?,
            Op::Land(groups) => self.state.land(*groups).map(alone)?,
            Op::Turn => self.state.turn(&self.setting)?,
            Op::Pass => self.state.pass()?,
            Op::Dot(..) | Op::Accumulate(..) => return Err("a warpgroup's product is started in a group".to_owned()),
            Op::Read(var) => {
                self.set(stmt, self.state.vars[var.index()]);
                None
            }
            Op::Write(var, value) => {
                self.state.vars[var.index()] = self.values[value.index()];
                None
            }
            op => {
                let known = number::eval(op, |value| self.values[value.index()], self.period);
                self.set(stmt, known);
                None
            }
        };
        self.meetings.extend(meeting.map(|meeting| (meeting, stmt)));
        Ok(())
    }

    fn set(&mut self, stmt: &Stmt, known: Known) {
        if let Some(result) = stmt.result {
            let given = self.is_given[result.index()].then(|| self.given.get(&result).copied()).flatten();
            self.values[result.index()] = given.unwrap_or(known);
        }
    }

    /// A slot, in the count over all buffers.
    fn slot(&self, buffer: BufferId, slot: ValueId) -> Rule<usize> {
        let slots = self.setting.func.buffers[buffer.index()].slots;
        match self.values[slot.index()] {
            Known::Int(Number { at, from: None, kind: Kind::Still, .. }) if (0..i64::from(slots)).contains(&at) => {
                Ok(self.setting.first[buffer.index()] + at as usize)
            }
            Known::Int(Number { at, from: None, kind: Kind::Still, .. }) => {
                Err(format!("it names slot {at}, and the buffer has {slots}"))
            }
            _ => Err("which slot this is does not follow from the round".to_owned()),
        }
    }

    fn phase(&self, phase: ValueId) -> Rule<i64> {
        match self.values[phase.index()] {
            Known::Int(Number { at, from: None, kind: Kind::Still, .. }) => Ok(at),
            _ => Err("which phase this is does not follow from the round".to_owned()),
        }
    }
}

/// Said where a loop or a branch goes another way than rounds and bounds say.
const CANNOT_FOLLOW: &str = "how often it is gone through does not follow from what is known before the roles part";

fn is_producers(op: &Op) -> bool {
    matches!(op, Op::Acquire { .. } | Op::Fill { .. })
}

fn is_consumers(op: &Op) -> bool {
    matches!(
        op,
        Op::Await { .. }
            | Op::Release { .. }
            | Op::Operand(_)
            | Op::CopyAsync { .. }
            | Op::Commit
            | Op::Wait(_)
            | Op::Publish
            | Op::Barrier
            | Op::Fence
            | Op::Start { .. }
            | Op::Close
            | Op::Land(_)
            | Op::Turn
            | Op::Pass
            | Op::Dot(..)
            | Op::Accumulate(..)
            | Op::Merge { .. }
    )
}
