//! CTAs that do tile after tile: the loop over a role's tiles, and which place of the grid a tile is.

use lacuna_ptx::{Class, Operand, Param, ParamType, Reg, Special};

use super::Lower;
use crate::ir::{BufferId, Op, Stmt};
use crate::plan::TILE_PARAMS;

/// The tile under way.
pub(super) struct Tile {
    /// Its place in the grid.
    pub(super) place: [Reg; 3],
    /// Where the next one begins.
    pub(super) next: String,
}

/// What an entry is told of its tiles.
pub(super) fn params() -> impl Iterator<Item = Param> {
    TILE_PARAMS.iter().map(|name| Param { name: (*name).to_owned(), ty: ParamType::U32 })
}

/// What a producer does for some of its rings: every fill of others is left out, and what does nothing but fill these.
fn only(body: &[Stmt], of: &dyn Fn(BufferId) -> bool) -> Vec<Stmt> {
    let ring = |stmt: &Stmt| match stmt.op {
        Op::Acquire { buffer, .. } | Op::Fill { buffer, .. } => Some(buffer),
        _ => None,
    };
    let mut kept = Vec::with_capacity(body.len());
    for stmt in body {
        let (mut fills, mut wanted) = (false, false);
        crate::passes::visit(std::slice::from_ref(stmt), &mut |inner| {
            fills |= ring(inner).is_some();
            wanted |= ring(inner).is_some_and(of);
        });
        if fills && !wanted {
            continue;
        }
        let mut stmt = stmt.clone();
        if let Some(inner) = stmt.op.body_mut() {
            *inner = only(inner, of);
        }
        kept.push(stmt);
    }
    kept
}

impl Lower<'_> {
    /// A func of roles that do tile after tile.
    pub(super) fn tile_after_tile(&mut self, body: &[Stmt]) {
        let [common @ .., Stmt { op: Op::Produce(producer), .. }, Stmt { op: Op::Consume(consumers), .. }] = body
        else {
            unreachable!("`produce` keeps `persist` where there are roles");
        };
        let gathered = self.gathered_rings(producer);
        let boxes = only(producer, &|ring| !gathered.contains(&ring));
        let fetch = |lower: &mut Self| {
            lower.set_vars(&boxes, true);
            lower.tiles(common, &boxes);
        };
        self.part(&gathered, fetch, |lower| {
            let rows = only(producer, &|ring| gathered.contains(&ring));
            lower.set_vars(&rows, true);
            lower.tiles(common, &rows);
        });
        self.begin_consumers(consumers);
        self.tiles(common, consumers);
    }

    /// The tiles of a role, one after another: `common`, then `role`.
    fn tiles(&mut self, common: &[Stmt], role: &[Stmt]) {
        let told = TILE_PARAMS.map(|name| self.load_param(Class::B32, "ld.param.b32", name));
        let [all, before_last, section, by_section, whole @ .., across, by_across] = told;
        let row = self.e.mutable(Class::B32);
        self.e.mov(row, 0i64.into());
        self.e.forget();
        self.e.open(false);
        let (head, next, done) = (self.e.label("tile"), self.e.label("next"), self.e.label("over"));
        self.e.place(&head);
        self.e.pragma("nounroll");
        let over = self.e.op(Class::Pred, "setp.ge.s32", [row.into(), all.into()]);
        self.e.guarded((over, false), "bra", [Operand::Label(done.clone())]);
        let [before, within] = self.split(row, section, by_section);
        let tile = self.nth(before, within);
        let last = self.e.op(Class::Pred, "setp.ge.s32", [row.into(), before_last.into()]);
        let [count, pairs, by_pairs]: [Reg; 3] = std::array::from_fn(|at| {
            self.e.op(Class::B32, "selp.b32", [whole[at + 3].into(), whole[at].into(), last.into()])
        });
        // A section's last row may not be full.
        let none = self.e.op(Class::Pred, "setp.ge.s32", [tile.into(), count.into()]);
        self.e.guarded((none, false), "bra", [Operand::Label(next.clone())]);
        let [x, pair] = self.split(tile, pairs, by_pairs);
        let first = self.e.op(Class::B32, "mul.lo.s32", [before.into(), whole[1].into()]);
        let pair = self.e.op(Class::B32, "add.s32", [first.into(), pair.into()]);
        let [z, y] = self.split(pair, across, by_across);
        self.tile = Some(Tile { place: [x, y, z], next: next.clone() });
        self.body(common);
        self.set_vars(role, false);
        self.body(role);
        self.tile = None;
        self.e.place(&next);
        self.e.inst("add.s32", [row.into(), row.into(), 1i64.into()]);
        self.e.inst("bra", [Operand::Label(head)]);
        self.e.place(&done);
        self.e.close();
    }

    /// The CTA's tile of a row of a section: where it stands itself, in every other row from the other end; in every other
    /// section the other way around.
    fn nth(&mut self, section: Reg, row: Reg) -> Reg {
        let own = self.e.op(Class::B32, "mov.u32", [Special::Ctaid(0).into()]);
        let ctas = self.e.op(Class::B32, "mov.u32", [Special::Nctaid(0).into()]);
        let last = self.e.op(Class::B32, "add.s32", [ctas.into(), (-1i64).into()]);
        let other = self.e.op(Class::B32, "sub.s32", [last.into(), own.into()]);
        let turns = self.e.op(Class::B32, "add.s32", [section.into(), row.into()]);
        let odd = self.e.op(Class::B32, "and.b32", [turns.into(), 1i64.into()]);
        let back = self.e.op(Class::Pred, "setp.ne.s32", [odd.into(), 0i64.into()]);
        let at = self.e.op(Class::B32, "selp.b32", [other.into(), own.into(), back.into()]);
        self.e.op(Class::B32, "mad.lo.s32", [row.into(), ctas.into(), at.into()])
    }

    /// A quotient and its remainder, by the divisor's reciprocal: an estimate, which may be one too small.
    fn split(&mut self, of: Reg, by: Reg, reciprocal: Reg) -> [Reg; 2] {
        let twice = self.e.op(Class::B32, "shl.b32", [of.into(), 1i64.into()]);
        let estimate = self.e.op(Class::B32, "mul.hi.u32", [twice.into(), reciprocal.into()]);
        let whole = self.e.op(Class::B32, "mul.lo.s32", [estimate.into(), by.into()]);
        let rest = self.e.op(Class::B32, "sub.s32", [of.into(), whole.into()]);
        let small = self.e.op(Class::Pred, "setp.ge.s32", [rest.into(), by.into()]);
        let more = self.e.op(Class::B32, "selp.b32", [1i64.into(), 0i64.into(), small.into()]);
        let less = self.e.op(Class::B32, "selp.b32", [by.into(), 0i64.into(), small.into()]);
        let quotient = self.e.op(Class::B32, "add.s32", [estimate.into(), more.into()]);
        [quotient, self.e.op(Class::B32, "sub.s32", [rest.into(), less.into()])]
    }
}
