//! An independent checker of roles: whether what the producer and the consumers of a func do to one another's tiles, and to the
//! registers that their products hold, is in order, whatever the pass that made it had in mind.
//!
//! In:  a func with roles that verifies.
//! Out: the same func, of which the rules below hold in every run and in every order in which its warps may go on. A func
//!      without roles is left alone.
//!
//! It shares no code with the passes that it checks, and knows of no schedule: it runs the two roles on what follows from
//! bounds and rounds alone, and holds each operation against the state that those before it have left. Arithmetic on tiles is
//! skipped, but for where it touches registers that products hold.
//!
//! # State
//!
//! Of the producer, for each slot of a ring: how often it was filled, and whether it has waited since for the slot to be empty.
//!
//! Of a warpgroup of consumers
//!  * for each slot of a ring: how often it was awaited, and which of the ring's tiles it holds. A tile is held from its await
//!    to its release.
//!  * for each slot that consumers copy to: whether the copies are on the way, have landed, are published to the asynchronous
//!    proxy, and are there for all, which is after a barrier; and whether it was read since the last barrier. What a product
//!    in flight reads is read until it lands.
//!  * the groups of products in flight, oldest first, each product with the var that it adds to, the registers of its left
//!    operand and the tiles that it reads; the group that is open; whether a fence stands behind the last group; which
//!    registers were touched since the last fence.
//!  * whether it is its turn to start products.
//!
//! # Rules
//!
//! With `j` the number of tiles that a slot had before, the fills and awaits of one slot count from 0.
//!
//! | operation | needs | then |
//! |---|---|---|
//! | `acquire` | phase `j % 2` | fill `j` may be made |
//! | `fill` | `j = 0`, or an acquire since fill `j - 1` | the slot has tile `j` |
//! | `await` | phase `j % 2`; the ring's next tile is this slot's. Again, while it is held: the same phase | the tile is held |
//! | `release` | the slot is held, no product in flight reads it | it is not held |
//! | `copy_async` | no ring; not read since the last barrier; no copies on the way | copies are on the way in the open group |
//! | `commit`, `wait n` | | but for the latest `n` groups, copies have landed |
//! | `publish` | | what has landed is published |
//! | `barrier` | | what has landed is there for all, what was read was read |
//! | `operand` | the tile is held, or there for all | |
//! | `fence` | | nothing is touched |
//! | `start` | a fence since the last group; its registers not touched since the last fence; each tile held, or there for all and published; no product in flight is the same, holds the var as an operand or, where it is set, adds to it | in flight, in the open group |
//! | `close` | a product in the open group | the group is in flight |
//! | `land n` | no open group | but for the latest `n` groups, products have landed |
//! | `turn` | more than one warpgroup; it is not the warpgroup's turn | it is |
//! | `pass` | it is the warpgroup's turn | it is not |
//! | any touch of registers | no product in flight holds them | touched |
//! | a round of a loop | no open group; the same registers in flight as where the loop begins (ptxas C7514) | a fence before it counts for nothing |
//! | the ways that meet behind a branch, or a loop that is left in several places | the same registers in flight; where it is not known which is gone, the same state | |
//! | a round that is of one of two kinds (`again`), where it is not known which | both do the same to other roles and leave the same behind, or leave the loop | |
//! | the end | nothing in flight; every tile that comes was awaited; the turn is passed | |
//! | the end of a tile of work, where CTAs persist | the same; no slot is held | vars that do not last hold what they hold first; everything is touched |
//!
//! Registers are touched by whatever reads or writes the var, by uses of a value that was read from it (reading makes no copy as a
//! rule), and by what makes a value that does nothing but become its content (it may be made in place).
//!
//! Beside these: rows are gathered where CTAs persist, into rings of their own, and what counts their fills is not written where
//! others are filled alone; registers of all threads are at most what a multiprocessor has, and each role's are what `setmaxnreg` can give;
//! what a fill brings is what it announces; no merge, which leaves what warps tell each other where the buffers are, is between
//! warps that share rows.
//!
//! # Why one order of events is enough
//!
//! An mbarrier knows only the parity of its phase. A wait for fill `j`, and one for the slot being empty before it, is for
//! the right phase whatever the order if the barrier can be at most one phase from it. By the rules a consumer awaits the fills of
//! a slot one by one, none twice, and releases each before it awaits the next; the producer waits before fill `j` until all have
//! released `j - 1`. By induction over `j`: while a consumer waits for fill `j`, its last release was of `j - 1`, so the
//! producer is at most at fill `j`; and it has awaited `j - 1`, so that phase is over. In the same way for the producer. All
//! consumer warps run the same operations, and each arrives once a release, so that the phase of an `empty` barrier is over
//! when the last of them has released, and no warp can arrive for another. So a fill comes after every read of
//! the tile before it, by rules that each role keeps by itself.
//!
//! What the producer does is done by several: a thread fetches boxes, and a warp gathers rows for each slot of their rings. Each
//! goes through the same statements, but for those that are about others' rings or slots (`apart`). Of one slot all is done by one
//! of them, in this order, and none waits for another: what is in order for a producer that does it all is so for these, which
//! wait for less.
//!
//! A turn goes around: a warpgroup passes its `n`th after taking it, which is after all others have passed their `n - 1`th, so that
//! no named barrier sees two of one warpgroup's arrivals for one turn.
//!
//! What is left is whether all come to their end. Waits that are for counts, as these have been shown to be, are never undone by
//! what another does: if a role can go on, it still can after the others went on. So all orders get equally far, and one of them is
//! tried (`hand`), with as many warpgroups as there are.
//!
//! # Why a few runs are enough
//!
//! Bounds of loops that are not constants are given numbers. With `S` the least common multiple of the slots of all buffers that
//! a loop's rounds fill, await, release or copy to, a period is `P = 2 S` rounds: slots come around, and so do parities. First
//! comes a run of `P + 6` rounds, in which the state where a loop's first or second round begins must be that of `P` rounds later,
//! but for the number of the round: the same slots held by tiles as old, the same parities, products and copies in flight, and
//! vars that are the same or `P` more. From there on scalars are followed by kind ([`number`]): what stands still, what is a
//! round, what is the end. A slot, a phase, a branch may depend only on what a shift by `P` leaves as it is: remainders by divisors
//! of `P`, and comparisons of rounds with the end at most 2 rounds ahead. Then every number of rounds from 0 to `P + L + 2` is
//! tried, where `L`, at most 4, is how many rounds of the first run stand before those that repeat, or behind their loop. So a
//! run of more rounds is one of `P` less with a period put in where its loop repeats, and by induction it is in order if that is.
//!
//! Which of two kinds a round is of, one that needs a mask or one that needs none, is not given a number: such a round is gone through
//! both ways from where it begins, and is refused where they come to different ends. What is known of vars afterwards holds of
//! both. So one run stands for every sequence of the two.
//!
//! Where a func has several such loops, each is tried with all numbers of rounds while the others have none, one and several, all
//! of them alike: what a loop leaves behind differs from how it was found in its own rings alone, so that two at a time are enough.
//!
//! # Tiles of work
//!
//! Where CTAs persist, a role does all of this for one tile of work after another, with other bounds and conditions each time.
//! What they are is worked out before the roles part, so it is the same for both: they do the same tiles in the same order,
//! and those that end early ([`Op::Exit`]) neither does. Counts of slots and phases go on.
//!
//! A tile begins in the state that the one before it left: of a ring, which slot is next and which parity each has; and vars that
//! last. A slot that no tile before has filled counts as filled twice: it has the same parity, and what is in order then is so
//! here, as a fill that needs an acquire may have one where it needs none. There are few such states. From the first of them on,
//! every run is tried from each that some run has left, until no other is: then a tile is in order whatever came before it. That
//! all come to their end is said tile by tile as well: where a tile ends, every slot has been released as often as it was filled,
//! and every warpgroup has passed as many turns as it took, so that the next begins as the first did. To do the tiles one by one is one of the orders of events, and all get equally far.
//!
//! Which tiles a CTA does is not said here: they follow from where it stands, or it draws them (`Func::draws`), and then what
//! tells the roles of them is lowering's (`lower/persist.rs`), which the rules above do not see. It must not be in their way:
//!  * All do the same tiles in the same order. One thread draws, and leaves each number in the next slot of a ring. Each other
//!    warp reads the slots one after another, each once for a tile, until a number is past the last tile, which ends all.
//!  * No number is written over before it is read, and no stale one is read. The slots have barriers as those of other rings:
//!    a reader waits for fill `j` of a slot, reads, and arrives, once, and whoever draws waits before fill `j` until all readers
//!    have arrived for fill `j - 1`. So no wait is more than a phase off, by the induction from above.
//!  * All come to their end. Where a reader takes a number, it holds no turn, no slot and no group that others wait for: it is
//!    between two tiles. Whoever draws leaves number `t` once all fills of the tiles before `t - 1` are started, and waits before
//!    it for readers of number `t - 4`, the ring having four slots. These read it as soon as they are through with the tiles
//!    before it, for which they need no fills and no numbers but earlier ones. So the tiles go on one by one, as above.

mod apart;
mod hand;
mod number;
mod role;
mod skeleton;
mod state;

use std::collections::HashMap;

use self::number::{AHEAD, Kind, Known, Number};
use self::role::{Broken, Lessons, Run};
use self::skeleton::{Node, Skeleton};
use self::state::{Role, Setting, State, WARPS};
use crate::Error;
use crate::ir::{BufferId, Func, Op, Param, Roles, Stmt, ValueId};
use crate::passes::visit;

/// Registers of a multiprocessor.
const REGISTERS: u32 = 1 << 16;

/// Threads of a warpgroup.
const THREADS: u32 = 128;

/// How many rounds a loop may lead in, with a first round of its own, before it repeats.
const LEADS: i64 = 4;

/// Rounds of a loop that repeats, while others' are tried.
const SEVERAL: i64 = LEADS + AHEAD + 1;

/// Conditions that are tried in every combination, at most.
const CONDITIONS: usize = 8;

/// Loops whose numbers of rounds are tried, at most.
const LOOPS: usize = 6;

/// Bytes that an mbarrier can wait for, and one more.
const PENDING: u32 = 1 << 20;

/// Holds a func's roles to the rules. What is broken is an [`Error::Internal`] that names the operation, and the author's
/// line where there is one.
pub fn check(func: &Func) -> Result<(), Error> {
    let Some(roles) = func.partition.and_then(|part| part.roles) else { return Ok(()) };
    let [prelude @ .., Stmt { op: Op::Produce(producer), .. }, Stmt { op: Op::Consume(consumers), .. }] =
        func.body.as_slice()
    else {
        return Ok(());
    };
    registers(func, roles).map_err(internal)?;
    still(func, producer, consumers)?;
    apart::wrong(func, producer).map_or(Ok(()), |what| Err(internal(what)))?;
    let checker = Checker::of(func, prelude, producer, consumers);
    if checker.conditions.len() > CONDITIONS || checker.loops.len() > LOOPS {
        return Err(Error::Unsupported(format!(
            "`{}` has more than {LOOPS} loops or {CONDITIONS} conditions between its warpgroups: too many to check; products that overlap less have fewer",
            func.name
        )));
    }
    checker.all().map_err(|(broken, rounds)| {
        let within = match rounds.as_slice() {
            [] => String::new(),
            rounds => {
                let rounds: Vec<String> = rounds.iter().map(i64::to_string).collect();
                format!(", with {} rounds", rounds.join(" and "))
            }
        };
        internal(format!("{}: {}{within}", hand::at(func, broken.stmt), broken.what))
    })
}

fn internal(message: String) -> Error {
    Error::Internal { pass: "check", message }
}

/// Whether the registers of the roles are what a multiprocessor can give them.
fn registers(func: &Func, roles: Roles) -> Result<(), String> {
    let warpgroups = func.warps / WARPS;
    if warpgroups == 0 || !func.warps.is_multiple_of(WARPS) {
        return Err(format!("{} warps are no warpgroups: {WARPS} each are", func.warps));
    }
    let Roles { producer, consumer, ctas } = roles;
    if !(1..=32).contains(&ctas) {
        return Err(format!("{ctas} CTAs share a multiprocessor's registers; from 1 to 32 can"));
    }
    let each = REGISTERS / ctas;
    for count in [producer, consumer] {
        if !(24..=256).contains(&count) || !count.is_multiple_of(8) {
            return Err(format!("a thread has {count} registers; multiples of 8 from 24 to 256 are possible"));
        }
    }
    let all = THREADS * (producer + warpgroups * consumer);
    if all > each {
        let shared = if ctas == 1 { String::new() } else { format!(" for each of {ctas} CTAs") };
        return Err(format!("the roles have {all} registers, and a multiprocessor {each}{shared}"));
    }
    // What a thread begins with is shared out evenly; the producer gives of it, and consumers take.
    let begin = (each / (THREADS * (warpgroups + 1))).min(256) / 8 * 8;
    let pool = THREADS * (warpgroups + 1) * begin;
    if all > pool {
        return Err(format!("the roles have {all} registers, and their threads begin with {pool}"));
    }
    if producer > begin || consumer < begin {
        return Err(format!(
            "threads begin with {begin} registers: a producer of {producer} gives none, or consumers of {consumer} take none"
        ));
    }
    Ok(())
}

/// What holds of an operation whatever the run.
fn still(func: &Func, producer: &[Stmt], consumers: &[Stmt]) -> Result<(), Error> {
    let mut wrong = None;
    let mut see = |stmt: &Stmt| {
        let what = match &stmt.op {
            Op::Fill { from, buffer, .. } => {
                let ty = &func.buffers[buffer.index()].ty;
                let bytes: u32 =
                    ty.axes.iter().map(|axis| func.axes[axis.index()].extent).product::<u32>() * ty.elem.bytes();
                match &func.params[from.tensor.index()] {
                    Param::Tensor(tensor) if tensor.elem == ty.elem && bytes < PENDING => None,
                    Param::Tensor(tensor) if tensor.elem == ty.elem => {
                        Some(format!("{bytes} bytes come, and a barrier waits for less than {PENDING}"))
                    }
                    _ => Some("what comes is not what the slot holds".to_owned()),
                }
            }
            Op::Merge { .. } if func.partition.is_some_and(|part| part.cols != 1) => {
                Some("warps that share rows leave what they merge where the producer's tiles are".to_owned())
            }
            _ => None,
        };
        if let (Some(what), None) = (what, &wrong) {
            wrong = Some(internal(format!("{}: {what}", hand::at(func, stmt))));
        }
    };
    visit(producer, &mut see);
    visit(consumers, &mut see);
    wrong.map_or(Ok(()), Err)
}

/// A loop whose bounds are given numbers.
struct Bounds {
    lo: ValueId,
    hi: ValueId,
    /// Which of them.
    free: [bool; 2],
}

struct Checker<'f> {
    func: &'f Func,
    prelude: &'f [Stmt],
    producer: Skeleton<'f>,
    consumer: Skeleton<'f>,
    /// The first slot of each buffer, and the buffer of each slot.
    first: Vec<usize>,
    buffers: Vec<BufferId>,
    loops: Vec<Bounds>,
    /// Conditions that are known before the roles part, and nothing follows from.
    conditions: Vec<ValueId>,
    /// Which values are bounds of those loops, or those conditions.
    is_given: Vec<bool>,
    period: i64,
}

/// What is given to a run.
struct Case {
    /// Of each loop.
    rounds: Vec<i64>,
    conditions: Vec<bool>,
    /// Whether it says what changes with the rounds.
    first: bool,
    given: HashMap<ValueId, Known>,
    /// What is known where the roles part.
    values: Vec<Known>,
}

/// The state of the producer and that of consumers.
type Both = [State; 2];

/// What is broken, and how many rounds the loops had.
type Found<'f> = (Broken<'f>, Vec<i64>);

impl<'f> Checker<'f> {
    fn of(func: &'f Func, prelude: &'f [Stmt], producer: &'f [Stmt], consumers: &'f [Stmt]) -> Self {
        let mut first = Vec::new();
        let mut buffers = Vec::new();
        for (at, buffer) in func.buffers.iter().enumerate() {
            first.push(buffers.len());
            buffers.extend((0..buffer.slots).map(|_| BufferId(at as u32)));
        }
        let roles = [Skeleton::of(func, producer), Skeleton::of(func, consumers)];
        let period = 2 * around(func, &roles);
        let [of_producer, of_consumers] = roles;
        let mut checker = Checker {
            func,
            prelude,
            producer: of_producer,
            consumer: of_consumers,
            first,
            buffers,
            loops: Vec::new(),
            conditions: Vec::new(),
            is_given: vec![false; func.values.len()],
            period,
        };
        checker.free(producer, consumers);
        let bounds = checker.loops.iter().flat_map(|bounds| [bounds.lo, bounds.hi]);
        for value in bounds.chain(checker.conditions.iter().copied()) {
            checker.is_given[value.index()] = true;
        }
        checker
    }

    /// Finds bounds and conditions that nothing is known of.
    fn free(&mut self, producer: &[Stmt], consumers: &[Stmt]) {
        let known = self.before(&HashMap::new());
        // What roles work out themselves follows from what is given.
        let mut follows = vec![false; self.func.values.len()];
        let mut see = |stmt: &Stmt| {
            let opaque = matches!(stmt.op, Op::Param(_) | Op::ProgramId(_) | Op::Element { .. } | Op::Segment { .. });
            if let (Some(result), false) = (stmt.result, opaque) {
                follows[result.index()] = true;
            }
        };
        visit(producer, &mut see);
        visit(consumers, &mut see);
        let free = |value: ValueId| known[value.index()] == Known::Nothing && !follows[value.index()];
        let (mut loops, mut conditions) = (Vec::<Bounds>::new(), Vec::new());
        let mut see = |node: &Node<'_>| match node.stmt.op {
            Op::For { lo, hi, .. } if node.counted => {
                let seen = |bounds: &Bounds| (bounds.lo, bounds.hi) == (lo, hi);
                if (free(lo) || free(hi)) && !loops.iter().any(seen) {
                    loops.push(Bounds { lo, hi, free: [free(lo), free(hi)] });
                }
            }
            Op::If { cond, .. } if node.counted && free(cond) && !conditions.contains(&cond) => conditions.push(cond),
            _ => {}
        };
        for_each(&self.producer.nodes, &mut see);
        for_each(&self.consumer.nodes, &mut see);
        self.loops = loops;
        // What follows from the bounds is not given.
        let given = self.given(&vec![1; self.loops.len()], &[], true);
        let known = self.before(&given);
        conditions.retain(|cond| known[cond.index()] == Known::Nothing);
        self.conditions = conditions;
    }

    /// Values before the roles part.
    fn before(&self, given: &HashMap<ValueId, Known>) -> Vec<Known> {
        let mut values = vec![Known::Nothing; self.func.values.len()];
        for (value, known) in given {
            values[value.index()] = *known;
        }
        for stmt in self.prelude {
            if let Some(result) = stmt.result
                && !given.contains_key(&result)
            {
                values[result.index()] = number::eval(&stmt.op, |value| values[value.index()], self.period);
            }
        }
        values
    }

    /// Bounds for so many rounds of each loop; `plain` numbers, or such that say how they change.
    fn given(&self, rounds: &[i64], conditions: &[bool], plain: bool) -> HashMap<ValueId, Known> {
        let mut given: HashMap<ValueId, Known> = HashMap::new();
        for (at, (bounds, &rounds)) in self.loops.iter().zip(rounds).enumerate() {
            let known = self.before(&given);
            let number = |value: ValueId| match known[value.index()] {
                Known::Int(number) => Some(number),
                _ => None,
            };
            let end = |lo: Number| Number {
                at: lo.at + rounds,
                off: 0,
                from: lo.from,
                kind: if plain { Kind::Still } else { Kind::End(lo.at as i32) },
            };
            match (number(bounds.lo), number(bounds.hi)) {
                (Some(lo), None) if bounds.free[1] => drop(given.insert(bounds.hi, Known::Int(end(lo)))),
                (None, Some(hi)) if bounds.free[0] => {
                    let lo = Number { at: hi.at - rounds, off: 0, kind: Kind::Still, ..hi };
                    given.insert(bounds.lo, Known::Int(lo));
                }
                (None, None) => {
                    let lo = Number { from: Some(at as u16), ..Number::still(0) };
                    if bounds.free[0] {
                        given.insert(bounds.lo, Known::Int(lo));
                    }
                    if bounds.free[1] {
                        given.insert(bounds.hi, Known::Int(end(lo)));
                    }
                }
                _ => {}
            }
        }
        given.extend(self.conditions.iter().zip(conditions).map(|(&value, &holds)| (value, Known::Bool(holds))));
        given
    }

    /// Every run that differs in kind, from every state that a tile of work may begin in.
    fn all(&self) -> Result<(), Found<'f>> {
        let cases = self.cases();
        let nothing = vec![Vec::new(); self.func.buffers.len()];
        let first = [Role::Producer, Role::Consumer].map(|role| State::new(&self.setting(role, &nothing)));
        let mut begins = vec![first];
        let mut lessons = [Lessons::new(&self.producer), Lessons::new(&self.consumer)];
        let mut at = 0;
        while let Some(begin) = begins.get(at).cloned() {
            for end in self.from(&begin, &cases, &mut lessons)? {
                if self.func.persist && !begins.contains(&end) {
                    begins.push(end);
                }
            }
            at += 1;
        }
        Ok(())
    }

    /// What is given to runs: for each combination of conditions the longest first, from which the others learn.
    fn cases(&self) -> Vec<Case> {
        let longest = longest(self.period);
        let of = |conditions: u32| {
            let conditions: Vec<bool> = (0..self.conditions.len()).map(|at| conditions >> at & 1 == 1).collect();
            let most = self.case(vec![longest; self.loops.len()], &conditions, true);
            let rest: Vec<Case> =
                self.counts(longest).into_iter().map(|rounds| self.case(rounds, &conditions, false)).collect();
            std::iter::once(most).chain(rest)
        };
        (0..1u32 << self.conditions.len()).flat_map(of).collect()
    }

    fn case(&self, rounds: Vec<i64>, conditions: &[bool], first: bool) -> Case {
        let given = self.given(&rounds, conditions, first);
        let values = self.before(&given);
        Case { rounds, conditions: conditions.to_vec(), first, given, values }
    }

    /// Every run that differs in kind, from one state, and what each leaves behind.
    fn from(&self, begin: &Both, cases: &[Case], lessons: &mut [Lessons; 2]) -> Result<Vec<Both>, Found<'f>> {
        let mut ends = Vec::new();
        let mut needed = longest(self.period);
        for case in cases {
            // A longer one is a shorter one with a period put in.
            if !case.first && case.rounds.iter().any(|&rounds| rounds > needed) {
                continue;
            }
            match self.once(begin, case, lessons) {
                Ok(end) if !case.first => ends.push(end),
                Ok(_) => {
                    let leads = lessons.iter().flat_map(|lessons| &lessons.leads).max();
                    needed = longest(self.period).min(self.period + AHEAD + leads.unwrap_or(&LEADS));
                }
                Err(broken) => {
                    let sooner = case.first.then(|| self.sooner(begin, case)).flatten();
                    return Err(sooner.unwrap_or_else(|| (broken, case.rounds.clone())));
                }
            }
        }
        Ok(ends)
    }

    /// The shortest run that is broken: the one to be told of.
    fn sooner(&self, begin: &Both, case: &Case) -> Option<Found<'f>> {
        (0..longest(self.period)).find_map(|rounds| {
            let case = self.case(vec![rounds; self.loops.len()], &case.conditions, true);
            let mut lessons = [Lessons::new(&self.producer), Lessons::new(&self.consumer)];
            self.once(begin, &case, &mut lessons).err().map(|broken| (broken, case.rounds))
        })
    }

    fn setting<'s>(&'s self, role: Role, filled: &'s [Vec<usize>]) -> Setting<'s> {
        Setting { func: self.func, role, first: &self.first, buffers: &self.buffers, filled }
    }

    /// Numbers of rounds: of one loop any, of the others none, one or several.
    fn counts(&self, longest: i64) -> Vec<Vec<i64>> {
        let loops = self.loops.len();
        let mut all = Vec::new();
        for at in 0..loops {
            let others: &[i64] = if loops == 1 { &[0] } else { &[0, 1, SEVERAL] };
            for &others in others {
                for rounds in 0..=longest {
                    let mut counts = vec![others; loops];
                    counts[at] = rounds;
                    // What is alike comes from several of the loops.
                    if !all.contains(&counts) {
                        all.push(counts);
                    }
                }
            }
        }
        all
    }

    /// One run: the producer, the consumers, and both together. The first of them says what changes with the rounds. What they
    /// leave for the next tile of work comes back.
    fn once(
        &self,
        begin: &Both,
        Case { first, given, values, .. }: &Case,
        [of_producer, of_consumer]: &mut [Lessons; 2],
    ) -> Result<Both, Broken<'f>> {
        let first = *first;
        let nothing = vec![Vec::new(); self.func.buffers.len()];
        let run = |role: Role, filled, skeleton, lessons| {
            let state = begin[usize::from(role == Role::Consumer)].clone();
            Run {
                setting: self.setting(role, filled),
                skeleton,
                given,
                is_given: &self.is_given,
                values: values.clone(),
                state,
                meetings: Vec::new(),
                period: self.period,
                lessons,
                heads: None,
            }
        };
        let mut producer = run(Role::Producer, &nothing, &self.producer, of_producer);
        finish(&mut producer, first)?;
        let (meetings, left) = (producer.meetings, producer.state);
        // Tiles of before are no consumer's any more.
        let mut filled: Vec<Vec<usize>> =
            begin[0].turns().iter().map(|&turns| vec![usize::MAX; turns as usize]).collect();
        for (meeting, _) in &meetings {
            if let state::Meeting::Fill(slot) = meeting {
                filled[self.buffers[*slot].index()].push(*slot);
            }
        }
        let mut consumer = run(Role::Consumer, &filled, &self.consumer, of_consumer);
        finish(&mut consumer, first)?;
        let warpgroups = (self.func.warps / WARPS) as usize;
        hand::all_end(&self.setting(Role::Consumer, &filled), &meetings, &consumer.meetings, warpgroups)?;
        Ok([left, consumer.state])
    }
}

/// Rounds of the longest run.
const fn longest(period: i64) -> i64 {
    period + AHEAD + LEADS
}

/// Runs a role; the first time, learns from it where its loops repeat.
fn finish<'f>(run: &mut Run<'_, 'f>, first: bool) -> Result<(), Broken<'f>> {
    if !first {
        return run.run();
    }
    run.heads = Some(vec![Vec::new(); run.skeleton.loops]);
    run.run()?;
    let heads = run.heads.take().unwrap_or_default();
    let period = run.period;
    let Lessons { growing, leads, .. } = &mut *run.lessons;
    for ((growing, leads), heads) in growing.iter_mut().zip(leads).zip(&heads) {
        // A round may leave what the first one does not find: a tile that was read, say.
        let mut pairs =
            (0..heads.len().min(2)).flat_map(|begin| (begin + 1..heads.len()).map(move |again| (begin, again)));
        let found = pairs.find(|&(begin, again)| heads[again].repeats(&run.setting, &heads[begin], period));
        *growing = found.map(|(begin, again)| heads[again].growing(&heads[begin]));
        // The loop may go on by several rounds at once.
        let repeating = |(begin, again): (usize, usize)| (heads.len() - begin) as i64 * period / (again - begin) as i64;
        *leads = (longest(period) - found.map_or(longest(period), repeating)).max(0);
    }
    Ok(())
}

/// Calls `see` for every node, enclosed ones after the one that encloses them.
fn for_each(nodes: &[Node<'_>], see: &mut impl FnMut(&Node<'_>)) {
    for node in nodes {
        see(node);
        for_each(&node.body, see);
    }
}

/// After how many rounds the slots of all buffers come around that rounds go on in. What a loop leaves where it is, such as
/// queries that all of its rounds read, does not count.
fn around(func: &Func, roles: &[Skeleton<'_>]) -> i64 {
    let mut around = 1;
    let mut see = |node: &Node<'_>| match node.stmt.op {
        Op::Acquire { buffer, .. }
        | Op::Fill { buffer, .. }
        | Op::Await { buffer, .. }
        | Op::Release { buffer, .. }
        | Op::CopyAsync { buffer, .. } => around = lcm(around, i64::from(func.buffers[buffer.index()].slots.max(1))),
        _ => {}
    };
    for role in roles {
        for_each(&role.nodes, &mut |node| {
            if matches!(node.stmt.op, Op::For { .. } | Op::Loop(_)) {
                for_each(&node.body, &mut see);
            }
        });
    }
    around
}

fn lcm(a: i64, b: i64) -> i64 {
    let (mut x, mut y) = (a, b);
    while y != 0 {
        (x, y) = (y, x % y);
    }
    a / x * b
}
