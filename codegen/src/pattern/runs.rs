//! Bounds in closed form: which key blocks a query tile must visit.
//!
//! The predicate in disjunctive normal form is a union of clauses. In a clause, each comparison that is linear in the key's
//! position (or in a quotient of it) bounds that position from below or above by an expression in the query's position and
//! the arguments; taken at the end of the query tile that makes it weakest, it is a scalar. A comparison without the key's
//! position says whether the clause matters to the tile at all. Every other comparison bounds nothing.
//!
//! A clause so becomes a run of blocks. Runs that start at the same place, or whose order is not known when the pattern is
//! compiled, are merged into their hull; the others stand in order, each starting no earlier than the previous one ends.

use std::collections::BTreeMap;
use std::panic::Location;

use super::Pattern;
use super::emit::{Emit, Num, Shape};
use super::full::{Ends, positions};
use super::machine::Machine;
use super::tree::{KV, Linear, POSITION, Term, TermId, Tree, Truth, TruthId, linear_range};
use crate::ir::{Builder, ValueId};

/// Clauses beyond this are not told apart: what they are the parts of bounds nothing.
const MAX_CLAUSES: usize = 32;

/// A loop is emitted for every run: beyond this, neighbours are merged.
const MAX_RUNS: usize = 4;

impl Pattern {
    /// The runs `first..end` of key blocks that a query tile must visit, as pairs of i32 scalars: `q` is the tile's first and
    /// last position, `len` how many keys there are, `block` the keys of a block, `args` the arguments. Every block that
    /// holds a pair that counts is in exactly one run; runs ascend, lie within `0..ceil(len / block)`, and may be empty
    /// (`end == first`). For causal, windows, sinks, prefixes and blocks no other block is visited; where a run's bounds
    /// leave nothing between them at run time, one may be.
    #[track_caller]
    pub fn emit_runs(
        &self,
        b: &mut Builder,
        q: (ValueId, ValueId),
        len: ValueId,
        block: u32,
        args: &[ValueId],
    ) -> Vec<(ValueId, ValueId)> {
        b.at(Location::caller(), |b| {
            self.report(b, args.len());
            if block == 0 || block > 1 << 30 {
                b.fail("a block has from 1 to 2^30 keys", format!("this one has {block}"));
                return Vec::new();
            }
            let mut m = Emit::scalars(b);
            let q = positions(&mut m, q);
            let len = m.given(len, Shape::Scalar, (0, (1 << 31) - i64::from(block)));
            let args: Vec<Num> = self.given_args(&mut m, args);
            let made = runs(&mut m, &self.tree, self.root, q, len, block, &args);
            made.into_iter().map(|(first, end)| (m.value(first), m.value(end))).collect()
        })
    }
}

impl Pattern {
    /// Whether its bounds say which blocks a query tile visits. They do not where it reads a table, where nothing bounds the
    /// key, and where a comparison that bounds nothing is made of whole blocks, as a remainder of a quotient is: it may empty
    /// most of them. A remainder of positions themselves hides some keys of every block, and is left to the mask.
    pub fn is_bounded(&self) -> bool {
        let mut tree = self.tree.clone();
        let clauses = clauses(&tree, self.root);
        let known = |clause: Clause| {
            let bounds = solve(&mut tree, clause);
            let blind = bounds.lower.is_empty() && bounds.upper.is_empty();
            bounds.loose.is_empty() || !blind && !bounds.loose.iter().any(|form| has_quotient(&tree, form))
        };
        self.reads().is_empty() && clauses.into_iter().map(known).fold(true, |all, one| all & one)
    }
}

/// Whether a quotient of the key's position stands in a form.
fn has_quotient(tree: &Tree, form: &Linear) -> bool {
    form.terms.iter().any(|&(term, _)| match &tree.terms[term as usize] {
        Term::Q | Term::Kv | Term::Arg(_) | Term::At { .. } => false,
        Term::Div(inner, _) => tree.depends(inner).kv || has_quotient(tree, inner),
        Term::Mul(a, b) | Term::Rem(a, b) | Term::Min(a, b) | Term::Max(a, b) => {
            has_quotient(tree, a) || has_quotient(tree, b)
        }
    })
}

/// A conjunction: forms that are at most zero.
type Clause = Vec<Linear>;

/// What a clause says about the key's position.
struct Bounds {
    /// It is at least each of these.
    lower: Vec<Linear>,
    /// It is below each of these.
    upper: Vec<Linear>,
    /// Nothing holds unless each of these is at most zero.
    guards: Vec<Linear>,
    /// These hold the key's position, and bound nothing.
    loose: Vec<Linear>,
}

/// A run of positions that is being put together.
struct Run<N> {
    /// Alternatives, of each of which the largest counts; the run starts at the smallest.
    starts: Vec<Vec<Sided>>,
    /// `None` for the start of the sequence.
    first: Option<N>,
    end: N,
}

/// A form of which each term stands at its upper (`true`) or lower end.
#[derive(Clone)]
struct Sided {
    terms: BTreeMap<(TermId, bool), i64>,
    constant: i64,
}

/// The runs of blocks as numbers of the machine.
pub(super) fn runs<M: Machine>(
    m: &mut M,
    tree: &Tree,
    root: TruthId,
    q: (M::Num, M::Num),
    len: M::Num,
    block: u32,
    args: &[M::Num],
) -> Vec<(M::Num, M::Num)> {
    let mut tree = tree.clone();
    let clauses = clauses(&tree, root);
    let bounds: Vec<Bounds> = clauses.into_iter().map(|clause| solve(&mut tree, clause)).collect();
    let mut ends = Ends::new(&tree, q, None, args);
    let mut found: Vec<Run<M::Num>> = Vec::new();
    for bounds in bounds {
        if let Some(run) = place(m, &mut ends, bounds, len) {
            found.push(run);
        }
    }
    let ordered = put_in_order(m, &ends, found);
    in_blocks(m, ordered, block)
}

/// The disjunctive normal form, with clauses that say more than another one left out. Where it would be too long, parts of
/// conjunctions are dropped, which only lets more through.
fn clauses(tree: &Tree, root: TruthId) -> Vec<Clause> {
    let mut known: Vec<Vec<Clause>> = Vec::with_capacity(root as usize + 1);
    for truth in &tree.truths[..=root as usize] {
        let made = match truth {
            Truth::Const(true) => vec![Vec::new()],
            Truth::Const(false) => Vec::new(),
            Truth::Le(form) => at_most_zero(tree, form),
            Truth::Eq(form) => match form.scaled(-1, 0) {
                Some(below) => both(&at_most_zero(tree, form), &at_most_zero(tree, &below)),
                None => vec![Vec::new()],
            },
            Truth::Ne(form) => match (form.scaled(1, 1), form.scaled(-1, 1)) {
                (Some(below), Some(above)) => either(at_most_zero(tree, &below), &at_most_zero(tree, &above)),
                _ => vec![Vec::new()],
            },
            Truth::And(members) => members.iter().fold(vec![Vec::new()], |all, &one| both(&all, &known[one as usize])),
            Truth::Or(members) => members.iter().fold(Vec::new(), |all, &one| either(all, &known[one as usize])),
        };
        known.push(made);
    }
    known.pop().expect("the root")
}

/// `form <= 0`, with minima and maxima in it taken apart.
fn at_most_zero(tree: &Tree, form: &Linear) -> Vec<Clause> {
    match tree.split(form) {
        Ok(Some((true, a, b))) => both(&at_most_zero(tree, &a), &at_most_zero(tree, &b)),
        Ok(Some((false, a, b))) => either(at_most_zero(tree, &a), &at_most_zero(tree, &b)),
        _ => vec![vec![form.clone()]],
    }
}

fn both(a: &[Clause], b: &[Clause]) -> Vec<Clause> {
    if a.len() * b.len() > MAX_CLAUSES {
        return if a.len() <= b.len() { a.to_vec() } else { b.to_vec() };
    }
    let pairs = a.iter().flat_map(|a| b.iter().map(move |b| [a.as_slice(), b].concat()));
    pairs.fold(Vec::new(), add_clause)
}

fn either(a: Vec<Clause>, b: &[Clause]) -> Vec<Clause> {
    if a.len() + b.len() > MAX_CLAUSES {
        return vec![Vec::new()];
    }
    b.iter().cloned().fold(a, add_clause)
}

/// Adds a clause unless one that lets more through is there; drops those that let less through.
fn add_clause(mut all: Vec<Clause>, mut clause: Clause) -> Vec<Clause> {
    clause.sort();
    clause.dedup();
    let within = |less: &Clause, more: &Clause| more.iter().all(|form| less.contains(form));
    if !all.iter().any(|known| within(&clause, known)) {
        all.retain(|known| !within(known, &clause));
        all.push(clause);
    }
    all
}

/// Reads bounds on the key's position off a clause.
fn solve(tree: &mut Tree, clause: Clause) -> Bounds {
    let mut bounds = Bounds { lower: Vec::new(), upper: Vec::new(), guards: Vec::new(), loose: Vec::new() };
    for form in clause {
        if !tree.depends(&form).kv {
            bounds.guards.push(form);
            continue;
        }
        let known = bounds.lower.len() + bounds.upper.len();
        let keys: Vec<TermId> = form.terms.iter().map(|t| t.0).filter(|&t| tree.term_depends(t).kv).collect();
        if let [key] = keys[..] {
            let (rest, factor) = form.without(key);
            // `factor * key + rest <= 0`.
            match factor {
                1 => rest.scaled(-1, 0).into_iter().for_each(|most| at_most(tree, &mut bounds, key, most)),
                -1 => at_least(tree, &mut bounds, key, rest),
                _ => {}
            }
        }
        if bounds.lower.len() + bounds.upper.len() == known {
            bounds.loose.push(form);
        }
    }
    // A lower and an upper bound that leave nothing between them for any query make the clause void.
    for lower in &bounds.lower {
        for upper in &bounds.upper {
            let gap = lower.plus(-1, upper).and_then(|gap| gap.scaled(1, 1));
            bounds.guards.extend(gap.filter(|gap| tree.is_fixed(gap)));
        }
    }
    bounds.guards.sort();
    bounds.guards.dedup();
    bounds
}

/// `key <= most`, for a term that holds the key's position.
fn at_most(tree: &mut Tree, bounds: &mut Bounds, key: TermId, most: Linear) {
    if key == KV {
        bounds.upper.extend(most.scaled(1, 1));
        return;
    }
    // `inner / d <= most` is `inner < most * d + d` where `inner` is not negative.
    if let Some((factor, rest, divisor)) = quotient(tree, key) {
        let end = product(tree, most, &divisor).and_then(|start| start.plus(1, &divisor));
        // `kv + rest < end`, or `-kv + rest < end`.
        let Some(end) = end else { return };
        match factor {
            1 => bounds.upper.extend(end.plus(-1, &rest)),
            _ => bounds.lower.extend(rest.plus(-1, &end).and_then(|least| least.scaled(1, 1))),
        }
    }
}

/// `key >= least`, for a term that holds the key's position.
fn at_least(tree: &mut Tree, bounds: &mut Bounds, key: TermId, least: Linear) {
    if key == KV {
        bounds.lower.push(least);
        return;
    }
    // `inner / d >= least` is `inner >= least * d` where `inner` is not negative.
    if let Some((factor, rest, divisor)) = quotient(tree, key) {
        let Some(start) = product(tree, least, &divisor) else { return };
        match factor {
            1 => bounds.lower.extend(start.plus(-1, &rest)),
            _ => bounds.upper.extend(rest.plus(-1, &start).and_then(|most| most.scaled(1, 1))),
        }
    }
}

/// A term `(±kv + rest) / divisor` whose dividend is never negative: the sign, `rest` and the divisor, at least 1.
fn quotient(tree: &mut Tree, term: TermId) -> Option<(i64, Linear, Linear)> {
    let Term::Div(inner, divisor) = tree.terms[term as usize].clone() else { return None };
    let (rest, factor) = inner.without(KV);
    let ranges = tree.term_ranges([POSITION; 2]);
    let positive = linear_range(&inner, &ranges).0 >= 0;
    let divisor = match linear_range(&divisor, &ranges).0 {
        1.. => divisor,
        _ => Linear::term(tree.term(Term::Max(divisor, Linear::constant(1)))),
    };
    (positive && factor.abs() == 1 && !tree.depends(&rest).kv).then_some((factor, rest, divisor))
}

/// `form * divisor` as a form.
fn product(tree: &mut Tree, form: Linear, divisor: &Linear) -> Option<Linear> {
    match (form.as_constant(), divisor.as_constant()) {
        (_, Some(divisor)) => form.scaled(divisor, 0),
        (Some(form), None) => divisor.scaled(form, 0),
        (None, None) => Some(Linear::term(tree.term(Term::Mul(form, divisor.clone())))),
    }
}

/// Computes a clause's run of positions; `None` where it is void for every query and argument.
fn place<M: Machine>(m: &mut M, ends: &mut Ends<'_, M>, bounds: Bounds, len: M::Num) -> Option<Run<M::Num>> {
    let zero = m.int(0);
    let mut end = len;
    for upper in &bounds.upper {
        if let Some(upper) = ends.form(m, upper, true) {
            end = m.min(upper, end);
        }
    }
    end = m.max(end, zero);
    for guard in &bounds.guards {
        if ends.range(guard).0 > 0 {
            return None;
        }
        let possible = ends.at_most_zero(m, guard, false);
        end = m.choose(possible, end, zero);
    }
    let mut run = Run { starts: vec![Vec::new()], first: None, end };
    for lower in &bounds.lower {
        if ends.range(lower).1 <= 0 {
            continue;
        }
        if let Some(value) = ends.form(m, lower, false) {
            let first = run.first.unwrap_or(zero);
            run.first = Some(m.max(value, first));
            run.starts[0].push(Sided::lowest(lower));
        }
    }
    Some(run)
}

impl Sided {
    /// A form with every term at the end that makes it small.
    fn lowest(form: &Linear) -> Self {
        let terms = form.terms.iter().map(|&(term, factor)| ((term, factor < 0), factor)).collect();
        Sided { terms, constant: form.constant }
    }

    /// Whether it is known not to exceed `other`.
    fn at_most<M: Machine>(&self, other: &Sided, ends: &Ends<'_, M>) -> bool {
        let mut apart = self.terms.clone();
        for (&term, factor) in &other.terms {
            *apart.entry(term).or_insert(0) -= factor;
        }
        let mut form = Linear::constant(self.constant - other.constant);
        // Both ends of a term may stand in it; each lies in the term's range.
        let highest = apart.into_iter().fold(form.constant, |sum, ((term, _), factor)| {
            form = Linear { terms: vec![(term, factor)], constant: 0 };
            sum.saturating_add(if factor == 0 { 0 } else { ends.range(&form).1 })
        });
        highest <= 0
    }
}

impl<N: Copy> Run<N> {
    /// Whether it is known to start no later than `other`.
    fn before<M: Machine>(&self, other: &Run<N>, ends: &Ends<'_, M>) -> bool {
        // The smallest of some is at most the smallest of others if for each of those one of these is at most it; the
        // largest of some is at most the largest of others if each of them is at most one of those. A start is at least 0.
        let zero = Sided { terms: BTreeMap::new(), constant: 0 };
        let within =
            |a: &Vec<Sided>, b: &Vec<Sided>| a.iter().all(|a| b.iter().chain([&zero]).any(|b| a.at_most(b, ends)));
        other.starts.iter().all(|b| self.starts.iter().any(|a| within(a, b)))
    }

    fn hull<M: Machine<Num = N>>(mut self, m: &mut M, other: Run<N>) -> Run<N> {
        self.first = self.first.zip(other.first).map(|(a, b)| m.min(a, b));
        self.end = m.max(self.end, other.end);
        self.starts.extend(other.starts);
        self
    }
}

/// Orders runs by their starts. Those that cannot be told apart are merged.
fn put_in_order<M: Machine>(m: &mut M, ends: &Ends<'_, M>, mut left: Vec<Run<M::Num>>) -> Vec<Run<M::Num>> {
    let mut ordered: Vec<Run<M::Num>> = Vec::new();
    while !left.is_empty() {
        let earliest =
            (0..left.len()).find(|&n| (0..left.len()).all(|other| other == n || left[n].before(&left[other], ends)));
        let Some(earliest) = earliest else {
            let (a, b) = (left.remove(0), left.remove(0));
            left.insert(0, a.hull(m, b));
            continue;
        };
        let run = left.remove(earliest);
        let same = ordered.last().is_some_and(|last| run.before(last, ends));
        if same || ordered.len() == MAX_RUNS {
            let last = ordered.pop().expect("a run to merge with");
            ordered.push(last.hull(m, run));
        } else {
            ordered.push(run);
        }
    }
    ordered
}

/// From positions to blocks, disjoint.
fn in_blocks<M: Machine>(m: &mut M, runs: Vec<Run<M::Num>>, block: u32) -> Vec<(M::Num, M::Num)> {
    let size = m.int(block.into());
    let mut made: Vec<(M::Num, M::Num)> = Vec::with_capacity(runs.len());
    for run in runs {
        // ceil(end / block); `end` is not negative and at most the length.
        let up = m.sum(&[(run.end, 1)], i64::from(block) - 1);
        let mut end = m.div(up, size);
        let mut first = match run.first {
            Some(first) => m.div(first, size),
            None => m.int(0),
        };
        if let Some(&(_, previous)) = made.last() {
            first = m.max(first, previous);
            end = m.max(end, previous);
        }
        first = m.min(first, end);
        made.push((first, end));
    }
    made
}
