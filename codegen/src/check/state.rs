//! The state of a role, and what each operation asks of it and does to it.

use std::collections::VecDeque;

use super::number::{Kind, Known};
use super::skeleton::{Place, Registers};
use crate::ir::{BufferId, Func, Op, Stmt, VarId};

/// Warps of a warpgroup.
pub(super) const WARPS: u32 = 4;

/// What a rule says that is broken.
pub(super) type Rule<T = ()> = Result<T, String>;

/// Where a role waits for others, or lets them go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meeting {
    /// Waits until this slot has been released as often as it was filled.
    Acquire(usize),
    /// Fills it.
    Fill(usize),
    /// Waits until it has been filled once more.
    Await(usize),
    /// Releases it.
    Release(usize),
    /// Waits for all consumers.
    Meet,
    /// Waits until the warpgroup before it has passed the turn.
    Turn,
    /// Passes it to the next.
    Pass,
}

/// Which of the roles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Producer,
    Consumer,
}

/// A tile that a consumers' copy brings into a slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Copied {
    /// Nothing was copied to it yet.
    #[default]
    Never,
    /// On the way.
    Coming,
    /// What the thread itself has copied is there.
    Landed { published: bool },
    /// All of it is there for all of the consumers, and for products where it was published.
    There { published: bool },
}

/// A slot as one role sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Slot {
    /// How often it was filled by the producer, or awaited by a consumer.
    turns: u32,
    /// Of a consumer: which of the ring's fills it holds. Of the producer: whether it is known to be empty.
    held: Option<u32>,
    copied: Copied,
    /// Whether it was read since consumers met last.
    read: bool,
}

/// A product in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Product {
    acc: VarId,
    fragment: Option<Place>,
    /// The slots that it reads, and which fill of their rings.
    tiles: [Option<(usize, Option<u32>)>; 2],
}

impl Product {
    /// The registers that it holds.
    const fn registers(&self) -> (VarId, Option<Place>) {
        (self.acc, self.fragment)
    }
}

/// Products in flight, a group each, as registers alone see them: what must be the same on every path to a place.
pub(super) type InFlight = Vec<Vec<(VarId, Option<Place>)>>;

/// What a role's operations have led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct State {
    /// Scalars that are followed through vars.
    pub(super) vars: Vec<Known>,
    slots: Vec<Slot>,
    /// Of each buffer, fills or awaits so far.
    turns: Vec<u32>,
    open: Vec<Product>,
    groups: VecDeque<Vec<Product>>,
    /// Whether a fence stands behind the last group.
    fenced: bool,
    /// What was touched since the last fence.
    touched: Vec<Place>,
    /// Whether there was a fence: before the first, everything counts as touched.
    was_fenced: bool,
    copying: Vec<usize>,
    copies: VecDeque<Vec<usize>>,
    /// Whether it is the warpgroup's turn to start products.
    turn: bool,
}

/// What does not change while a role runs.
pub(super) struct Setting<'f> {
    pub(super) func: &'f Func,
    pub(super) role: Role,
    /// The first slot of each buffer, in the count over all of them.
    pub(super) first: &'f [usize],
    /// Which buffer a slot is of.
    pub(super) buffers: &'f [BufferId],
    /// The slots that the producer fills of each buffer, in order. Empty while it runs itself.
    pub(super) filled: &'f [Vec<usize>],
}

impl Setting<'_> {
    /// `$k[1]`.
    pub(super) fn show(&self, slot: usize) -> String {
        let buffer = self.buffers[slot];
        format!("${}[{}]", self.func.buffers[buffer.index()].name, slot - self.first[buffer.index()])
    }

    fn is_ring(&self, slot: usize) -> bool {
        self.func.buffers[self.buffers[slot].index()].ring
    }

    fn var(&self, var: VarId) -> &str {
        &self.func.vars[var.index()].name
    }

    fn place(&self, place: Place) -> String {
        match place {
            Place::Var(var) => format!("%{}", self.var(var)),
            Place::Value(value) => format!("{value}"),
        }
    }
}

fn broken<T>(what: impl Into<String>) -> Rule<T> {
    Err(what.into())
}

impl State {
    pub(super) fn new(setting: &Setting<'_>) -> Self {
        let func = setting.func;
        let vars =
            func.vars.iter().map(|var| super::number::eval(&Op::Const(var.init), |_| Known::Nothing, 0)).collect();
        State {
            vars,
            slots: vec![Slot::default(); setting.buffers.len()],
            turns: vec![0; func.buffers.len()],
            open: Vec::new(),
            groups: VecDeque::new(),
            fenced: false,
            touched: Vec::new(),
            was_fenced: false,
            copying: Vec::new(),
            copies: VecDeque::new(),
            turn: false,
        }
    }

    /// What the next tile of work finds, where a CTA does one after another: of counts, what is left of them once slots and
    /// parities have come around; of vars, those that last.
    pub(super) fn behind(&self, setting: &Setting<'_>) -> Rule<State> {
        if let Some(slot) = self.slots.iter().position(|slot| slot.held.is_some()) {
            let what = if setting.role == Role::Producer { "acquired and not filled" } else { "held" };
            return broken(format!("a tile of work ends, and {} is {what}", setting.show(slot)));
        }
        let first = State::new(setting);
        let mut next = State { slots: self.slots.clone(), turns: self.turns.clone(), ..first };
        for slot in &mut next.slots {
            // The parity is what the rules ask for. A slot that was never filled counts as one that was filled twice, of which they
            // ask more.
            slot.turns = 2 - slot.turns % 2;
            slot.copied = Copied::Never;
        }
        for (turns, buffer) in next.turns.iter_mut().zip(&setting.func.buffers) {
            *turns %= 2 * buffer.slots.max(1);
        }
        for ((next, now), var) in next.vars.iter_mut().zip(&self.vars).zip(&setting.func.vars) {
            if var.lasts {
                *next = now.settled();
            }
        }
        Ok(next)
    }

    /// The next of each buffer's tiles.
    pub(super) fn turns(&self) -> &[u32] {
        &self.turns
    }

    /// The groups in flight, and the one that is open.
    fn flying(&self) -> impl Iterator<Item = &Vec<Product>> {
        self.groups.iter().chain((!self.open.is_empty()).then_some(&self.open))
    }

    /// The products in flight, as registers see them.
    pub(super) fn in_flight(&self) -> InFlight {
        self.flying().map(|group| group.iter().map(Product::registers).collect()).collect()
    }

    /// Whether the products in flight are these.
    pub(super) fn flies(&self, those: &InFlight) -> bool {
        self.flying().count() == those.len()
            && self
                .flying()
                .zip(those)
                .all(|(group, those)| group.iter().map(Product::registers).eq(those.iter().copied()))
    }

    /// Registers are read or written.
    pub(super) fn touch(&mut self, setting: &Setting<'_>, places: &[Place]) -> Rule {
        for &place in places {
            let held = |product: &Product| Place::Var(product.acc) == place || product.fragment == Some(place);
            if let Some(product) = self.groups.iter().flatten().chain(&self.open).find(|product| held(product)) {
                let (place, acc) = (setting.place(place), setting.var(product.acc));
                return broken(format!("{place} is touched while the product into %{acc} that holds it is in flight"));
            }
            if !self.touched.contains(&place) {
                self.touched.push(place);
            }
        }
        Ok(())
    }

    pub(super) fn acquire(&mut self, setting: &Setting<'_>, slot: usize, phase: i64) -> Rule<Option<Meeting>> {
        let of = &mut self.slots[slot];
        if phase != i64::from(of.turns % 2) {
            return broken(format!("it waits for phase {phase}, and this is fill {} of the slot", of.turns));
        }
        let turn = self.turns[setting.buffers[slot].index()];
        Ok(of.held.replace(turn).is_none().then_some(Meeting::Acquire(slot)))
    }

    pub(super) fn fill(&mut self, setting: &Setting<'_>, slot: usize) -> Rule<Option<Meeting>> {
        if !setting.is_ring(slot) {
            return broken("only slots of rings are filled");
        }
        let of = &mut self.slots[slot];
        if of.turns > 0 && of.held.is_none() {
            return broken("the slot is filled again, and nothing has waited until its readers have released it");
        }
        of.held = None;
        of.turns += 1;
        self.turns[setting.buffers[slot].index()] += 1;
        Ok(Some(Meeting::Fill(slot)))
    }

    pub(super) fn await_full(&mut self, setting: &Setting<'_>, slot: usize, phase: i64) -> Rule<Option<Meeting>> {
        let of = &mut self.slots[slot];
        let buffer = setting.buffers[slot].index();
        let (again, turn) = (of.held.is_some(), self.turns[buffer]);
        if let Some(&next) = setting.filled[buffer].get(turn as usize)
            && next != slot
            && !again
        {
            return broken(format!("the producer brings the ring's tile {turn} to {}", setting.show(next)));
        }
        let fill = if again { of.turns - 1 } else { of.turns };
        if phase != i64::from(fill % 2) {
            let what = if again { "which is not released yet, has" } else { "next has" };
            return broken(format!("it waits for phase {phase}, and the slot {what} fill {fill}"));
        }
        if again {
            return Ok(None);
        }
        of.held = Some(turn);
        of.turns += 1;
        self.turns[buffer] += 1;
        Ok(Some(Meeting::Await(slot)))
    }

    pub(super) fn release(&mut self, setting: &Setting<'_>, slot: usize) -> Rule<Option<Meeting>> {
        let reads = |product: &Product| product.tiles.iter().flatten().any(|&(of, _)| of == slot);
        if let Some(product) = self.groups.iter().flatten().chain(&self.open).find(|product| reads(product)) {
            let acc = setting.var(product.acc);
            return broken(format!("the product into %{acc} that reads the slot is in flight"));
        }
        match self.slots[slot].held.take() {
            Some(_) => Ok(Some(Meeting::Release(slot))),
            None => broken("it releases a slot that it does not hold: not awaited, or released already"),
        }
    }

    pub(super) fn fence(&mut self) -> Rule {
        self.fenced = true;
        self.was_fenced = true;
        self.touched.clear();
        Ok(())
    }

    /// A shared tile is read, by a product or by the threads themselves.
    pub(super) fn read(&mut self, setting: &Setting<'_>, slot: usize, by_product: bool) -> Rule<Option<u32>> {
        let of = &mut self.slots[slot];
        if setting.is_ring(slot) {
            return match of.held {
                Some(fill) => Ok(Some(fill)),
                None => broken(format!("it reads {}, which is not awaited, or released already", setting.show(slot))),
            };
        }
        of.read = true;
        let shown = || setting.show(slot);
        match of.copied {
            Copied::There { published: true } => Ok(None),
            Copied::There { published: false } if !by_product => Ok(None),
            Copied::There { .. } => {
                broken(format!("it reads {}, whose copies are not published before the barrier", shown()))
            }
            Copied::Landed { .. } => broken(format!("it reads {}, and no barrier says that all have copied", shown())),
            Copied::Coming => broken(format!("it reads {}, whose copies are on the way", shown())),
            Copied::Never => broken(format!("it reads {}, to which nothing was copied", shown())),
        }
    }

    pub(super) fn start(
        &mut self,
        setting: &Setting<'_>,
        registers: &Registers,
        stmt: &Stmt,
        tiles: [Option<usize>; 2],
    ) -> Rule {
        let Op::Start { acc, lhs, fresh, .. } = stmt.op else { unreachable!("called for starts") };
        let fragment = registers.fragment(lhs);
        if self.open.is_empty() && !self.fenced {
            return broken("no fence stands before the first product of its group");
        }
        for place in [Some(Place::Var(acc)), fragment].into_iter().flatten() {
            if !self.was_fenced || self.touched.contains(&place) {
                return broken(format!("{} is touched between the last fence and the product", setting.place(place)));
            }
        }
        let mut reads = [None; 2];
        for (read, slot) in reads.iter_mut().zip(tiles) {
            if let Some(slot) = slot {
                *read = Some((slot, self.read(setting, slot, true)?));
            }
        }
        let product = Product { acc, fragment, tiles: reads };
        for other in self.groups.iter().flatten().chain(&self.open) {
            let name = setting.var(acc);
            if *other == product {
                return broken("the same product is in flight already");
            }
            if fresh && other.acc == acc {
                return broken(format!("it sets %{name}, and another product into it is in flight"));
            }
            if other.fragment == Some(Place::Var(acc)) || fragment == Some(Place::Var(other.acc)) {
                return broken(format!("%{name} is held by another product in flight"));
            }
        }
        self.open.push(product);
        Ok(())
    }

    pub(super) fn close(&mut self) -> Rule {
        if self.open.is_empty() {
            return broken("it ends a group in which no product was started");
        }
        self.groups.push_back(std::mem::take(&mut self.open));
        self.fenced = false;
        Ok(())
    }

    pub(super) fn land(&mut self, groups: u32) -> Rule {
        if !self.open.is_empty() {
            return broken("products are started whose group is not closed, so that nothing waits for them");
        }
        let landed = self.groups.len().saturating_sub(groups as usize);
        self.groups.drain(..landed);
        Ok(())
    }

    pub(super) fn copy(&mut self, setting: &Setting<'_>, slot: usize) -> Rule {
        let shown = || setting.show(slot);
        if setting.is_ring(slot) {
            return broken(format!("{} is a ring's, which the producer fills", shown()));
        }
        let of = &mut self.slots[slot];
        if of.read {
            return broken(format!("{} is overwritten, and no barrier stands behind its last readers", shown()));
        }
        if of.copied == Copied::Coming {
            return broken(format!("{} is overwritten while other copies to it are on the way", shown()));
        }
        of.copied = Copied::Coming;
        self.copying.push(slot);
        Ok(())
    }

    pub(super) fn commit(&mut self) -> Rule {
        self.copies.push_back(std::mem::take(&mut self.copying));
        Ok(())
    }

    pub(super) fn wait(&mut self, groups: u32) -> Rule {
        let landed = self.copies.len().saturating_sub(groups as usize);
        for slot in self.copies.drain(..landed).flatten() {
            self.slots[slot].copied = Copied::Landed { published: false };
        }
        Ok(())
    }

    pub(super) fn publish(&mut self) -> Rule {
        for slot in &mut self.slots {
            if let Copied::Landed { published } = &mut slot.copied {
                *published = true;
            }
        }
        Ok(())
    }

    pub(super) fn meet(&mut self) -> Meeting {
        let reading: Vec<usize> =
            self.groups.iter().flatten().chain(&self.open).flat_map(|p| p.tiles).flatten().map(|tile| tile.0).collect();
        for (at, slot) in self.slots.iter_mut().enumerate() {
            // What products in flight read is read until they have landed.
            slot.read &= reading.contains(&at);
            if let Copied::Landed { published } = slot.copied {
                slot.copied = Copied::There { published };
            }
        }
        Meeting::Meet
    }

    pub(super) fn turn(&mut self, setting: &Setting<'_>) -> Rule<Option<Meeting>> {
        if setting.func.warps / WARPS < 2 {
            return broken("a warpgroup alone takes no turns");
        }
        if std::mem::replace(&mut self.turn, true) {
            return broken("it waits for a turn that it has, so that nobody passes it");
        }
        Ok(Some(Meeting::Turn))
    }

    pub(super) fn pass(&mut self) -> Rule<Option<Meeting>> {
        if !std::mem::replace(&mut self.turn, false) {
            return broken("it passes a turn that it does not have");
        }
        Ok(Some(Meeting::Pass))
    }

    /// Nothing is left in flight where a role ends.
    pub(super) fn end(&self, setting: &Setting<'_>) -> Rule {
        if let Some(product) = self.groups.iter().flatten().chain(&self.open).next() {
            return broken(format!("it ends while the product into %{} is in flight", setting.var(product.acc)));
        }
        if self.slots.iter().any(|slot| slot.copied == Copied::Coming) {
            return broken("it ends while copies are on the way");
        }
        if self.turn {
            return broken("it ends with the turn, for which another waits");
        }
        for (buffer, filled) in setting.filled.iter().enumerate() {
            let (turns, name) = (self.turns[buffer] as usize, &setting.func.buffers[buffer].name);
            if setting.role == Role::Consumer && filled.len() > turns {
                return broken(format!("of the {} tiles that come to ${name}, {turns} are awaited", filled.len()));
            }
        }
        Ok(())
    }

    /// A round begins. A fence before it counts for nothing, so that only what stands in the round matters.
    pub(super) fn round(&mut self) -> Rule {
        self.fenced = false;
        if self.open.is_empty() { Ok(()) } else { broken("a group of products is not closed where a round begins") }
    }

    /// What a branch left out leaves alike, but for registers that it touches: those count as touched.
    pub(super) fn join(&mut self, other: &State) -> Rule {
        for (var, other) in self.vars.iter_mut().zip(&other.vars) {
            if var != other {
                *var = Known::Nothing;
            }
        }
        self.fenced &= other.fenced;
        self.was_fenced &= other.was_fenced;
        for place in &other.touched {
            if !self.touched.contains(place) {
                self.touched.push(*place);
            }
        }
        let same = self.slots == other.slots
            && self.turns == other.turns
            && self.open == other.open
            && self.groups == other.groups
            && self.copying == other.copying
            && self.copies == other.copies
            && self.turn == other.turn;
        if same { Ok(()) } else { broken("what it leaves in flight or held depends on whether it is gone through") }
    }

    /// Whether this is the state of a period of rounds before, but for the number of the round: slots hold tiles of the same
    /// age and wait for the same phase, the same products and copies are in flight, and vars hold the same, or rounds.
    pub(super) fn repeats(&self, setting: &Setting<'_>, before: &State, period: i64) -> bool {
        let slot = |state: &State, at: usize| {
            let (slot, turns) = (state.slots[at], state.turns[setting.buffers[at].index()]);
            (slot.turns % 2, slot.held.map(|turn| turns - turn), slot.copied, slot.read)
        };
        let product = |state: &State, product: &Product| {
            product.tiles.map(|tile| {
                tile.map(|(slot, turn)| (slot, turn.map(|turn| state.turns[setting.buffers[slot].index()] - turn)))
            })
        };
        let products = |state: &State| -> Vec<_> { state.groups.iter().flatten().map(|p| product(state, p)).collect() };
        let vars = self.vars.iter().zip(&before.vars).all(|(now, then)| match (now, then) {
            (Known::Int(now), Known::Int(then)) => now.at == then.at || now.at == then.at + period,
            _ => now == then,
        });
        // Rings come around, and every slot has the parity that it had.
        let around = setting.func.buffers.iter().zip(self.turns.iter().zip(&before.turns));
        let mut around = around.map(|(buffer, (now, then))| (now - then).is_multiple_of(2 * buffer.slots.max(1)));
        (0..self.slots.len()).all(|at| slot(self, at) == slot(before, at))
            && around.all(|around| around)
            && vars
            && self.in_flight() == before.in_flight()
            && products(self) == products(before)
            && (&self.copying, &self.copies, self.turn) == (&before.copying, &before.copies, before.turn)
    }

    /// Vars whose number grows with the round, between two states that are so many rounds apart.
    pub(super) fn growing(&self, before: &State) -> Vec<bool> {
        let grows = |(now, then): (&Known, &Known)| match (now, then) {
            (Known::Int(now), Known::Int(then)) => now.at != then.at,
            _ => false,
        };
        self.vars.iter().zip(&before.vars).map(grows).collect()
    }

    /// A round begins: vars that grow with it are rounds, others stand still. `Err` names one that does otherwise.
    pub(super) fn rounds(&mut self, growing: &[bool], first: bool) -> Result<(), VarId> {
        for (at, (var, &grows)) in self.vars.iter_mut().zip(growing).enumerate() {
            let Known::Int(number) = var else { continue };
            let kind = if grows { Kind::Round } else { Kind::Still };
            if !first && number.kind != kind {
                return Err(VarId(at as u32));
            }
            number.kind = kind;
            if grows {
                number.off = 0;
            }
        }
        Ok(())
    }
}
