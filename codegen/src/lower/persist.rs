//! CTAs that do tile after tile: the loop over a role's tiles, and which place of the grid a tile is.
//!
//! Which tiles are a CTA's follows from where it stands, or it draws them from a counter. Then one thread draws, the one that
//! fetches boxes: the first by where the CTA stands, each further one once it has started the last copy of the tile before. It
//! waits for the counter while others multiply what it fetched; what is drawn sooner is drawn by CTAs that may have much to do
//! yet. Only where rows are gathered ahead, whose tiles are alike, it draws ahead: the first two by where the CTA stands, each
//! further one as a tile begins, for the one after the next.
//!
//! The counter begins at zero and ends at zero: every CTA draws until it has drawn one past the last tile, which makes as many draws
//! as there are tiles, since the first ones were none; and whoever draws last takes all of them back.
//!
//! What it drew it leaves in a ring of [`DRAWN`] slots, with barriers as other rings have: of each other warp one lane reads and
//! arrives, and tells the rest. The first tile past the last one ends every role.

use lacuna_ptx::{Address, Class, Operand, Param, ParamType, Reg, Special};

use super::shared::DRAWN;
use super::{Emit, Lower};
use crate::ir::{BufferId, Func, Op, Stmt};
use crate::plan::{DRAWN_PARAMS, TILE_COUNTER, TILE_PARAMS};

/// The tile under way.
pub(super) struct Tile {
    /// Its place in the grid.
    pub(super) place: [Reg; 3],
    /// Where the next one begins.
    pub(super) next: String,
}

/// What an entry is told of its tiles.
pub(super) fn params(func: &Func) -> Vec<Param> {
    let param = |name: &str, ty: ParamType| Param { name: name.to_owned(), ty };
    let numbers = |names: &[&str]| names.iter().map(|name| param(name, ParamType::U32)).collect::<Vec<_>>();
    match (func.persist, func.draws) {
        (false, _) => Vec::new(),
        (true, false) => numbers(&TILE_PARAMS),
        (true, true) => numbers(&DRAWN_PARAMS).into_iter().chain([param(TILE_COUNTER, ParamType::U64)]).collect(),
    }
}

/// A slot for a tile that was drawn: its number, the barriers that it is told and that it is read, and their phase.
struct Drawn {
    number: Operand,
    full: Operand,
    empty: Operand,
    phase: Reg,
}

/// A CTA's tile of a row of a section: how many sections are before that, the tile's number in it, how many tiles and pairs it has.
struct OfRow {
    before: Reg,
    tile: Reg,
    count: Reg,
    pairs: [Reg; 2],
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
            match lower.func.draws {
                false => lower.tiles(common, &boxes),
                true => lower.draw_tiles(common, &boxes, !gathered.is_empty()),
            }
        };
        self.part(&gathered, fetch, |lower| {
            let rows = only(producer, &|ring| gathered.contains(&ring));
            lower.set_vars(&rows, true);
            lower.tiles_as_told(common, &rows);
        });
        self.begin_consumers(consumers);
        match gathered.is_empty() || self.func.draws {
            true => self.tiles_as_told(common, consumers),
            false => self.tiles_ahead(common, consumers),
        }
    }

    /// The tiles of a role that does not draw.
    fn tiles_as_told(&mut self, common: &[Stmt], role: &[Stmt]) {
        match self.func.draws {
            false => self.tiles(common, role),
            true => self.drawn_tiles(common, role),
        }
    }

    /// A tile of a role: `common`, then `role`.
    fn tile(&mut self, place: [Reg; 3], next: &str, common: &[Stmt], role: &[Stmt]) {
        self.tile = Some(Tile { place, next: next.to_owned() });
        self.body(common);
        self.set_vars(role, false);
        self.body(role);
        self.tile = None;
    }

    /// A loop over tiles, `round` for each: it leaves by the label that it is given second, and may go to the first by itself.
    fn over_tiles(&mut self, round: impl FnOnce(&mut Self, &str, &str)) {
        self.e.forget();
        self.e.open(false);
        let (head, done) = (self.e.label("tile"), self.e.label("over"));
        self.e.place(&head);
        self.e.pragma("nounroll");
        round(self, &head, &done);
        self.e.inst("bra", [Operand::Label(head)]);
        self.e.place(&done);
        self.e.close();
    }

    /// Goes on at a label where a number is past the last of so many.
    fn leave_past(&mut self, number: Reg, many: Reg, to: &str) {
        let past = self.e.op(Class::Pred, "setp.ge.s32", [number.into(), many.into()]);
        self.e.guarded((past, false), "bra", [Operand::Label(to.to_owned())]);
    }

    /// Draws tiles, tells others, and does its own part of each.
    fn draw_tiles(&mut self, common: &[Stmt], role: &[Stmt], ahead: bool) {
        let counter = self.load_param(Class::B64, "ld.param.u64", TILE_COUNTER);
        let told = DRAWN_PARAMS.map(|name| self.load_param(Class::B32, "ld.param.b32", name));
        let [own, other, ctas] = self.stand();
        let [tile, next, count]: [Reg; 3] = std::array::from_fn(|_| self.e.mutable(Class::B32));
        self.e.mov(tile, own.into());
        self.e.mov(count, 0i64.into());
        if ahead {
            self.e.inst("add.s32", [next.into(), ctas.into(), other.into()]);
            self.tell(tile, count);
        }
        let all = told[0];
        let last = self.e.op(Class::B32, "add.s32", [all.into(), (-1i64).into()]);
        let back = self.e.op(Class::B32, "sub.s32", [0i64.into(), all.into()]);
        let draw =
            |lower: &mut Self| lower.e.op(Class::B32, "atom.global.add.u32", [Emit::at(counter, 0), 1i64.into()]);
        self.over_tiles(|lower, _, done| {
            let behind = lower.e.label("next");
            if !ahead {
                lower.tell(tile, count);
            }
            lower.leave_past(tile, all, done);
            let drawn = ahead.then(|| {
                lower.tell(next, count);
                draw(lower)
            });
            let place = lower.place_of_drawn(tile, told);
            lower.tile(place, &behind, common, role);
            lower.e.place(&behind);
            if ahead {
                lower.e.mov(tile, next.into());
            }
            let drawn = drawn.unwrap_or_else(|| draw(lower));
            // Anew for each tile: the fetching thread has few registers.
            let ctas = lower.e.op(Class::B32, "mov.u32", [Special::Nctaid(0).into()]);
            let (to, by_standing) = match ahead {
                true => (next, lower.e.op(Class::B32, "shl.b32", [ctas.into(), 1i64.into()])),
                false => (tile, ctas),
            };
            lower.e.inst("add.s32", [to.into(), by_standing.into(), drawn.into()]);
            let was_last = lower.e.op(Class::Pred, "setp.eq.s32", [drawn.into(), last.into()]);
            let old = lower.e.reg(Class::B32).into();
            lower.e.guarded((was_last, false), "atom.global.add.u32", [old, Emit::at(counter, 0), back.into()]);
        });
    }

    /// The tiles of a role that is told of them.
    fn drawn_tiles(&mut self, common: &[Stmt], role: &[Stmt]) {
        let count = self.e.mutable(Class::B32);
        self.e.mov(count, 0i64.into());
        self.over_tiles(|lower, head, done| {
            let tile = lower.hear(count);
            // Anew for each tile: nothing of them is held while it is done.
            let told = DRAWN_PARAMS.map(|name| {
                let place = Operand::Address(Address::symbol(name.to_owned(), 0));
                lower.e.op(Class::B32, "ld.param.b32", [place])
            });
            lower.leave_past(tile, told[0], done);
            let place = lower.place_of_drawn(tile, told);
            lower.tile(place, head, common, role);
        });
    }

    /// The slot of the next of the tiles that were drawn, after so many.
    fn slot_of_drawn(&mut self, count: Reg) -> Drawn {
        let memory = self.memory();
        let slot = self.e.op(Class::B32, "and.b32", [count.into(), i64::from(DRAWN - 1).into()]);
        let lap = self.e.op(Class::B32, "shr.u32", [count.into(), i64::from(DRAWN.trailing_zeros()).into()]);
        let phase = self.e.op(Class::B32, "and.b32", [lap.into(), 1i64.into()]);
        let number = self.e.op(Class::B32, "mad.lo.s32", [slot.into(), 4i64.into(), memory.into()]);
        let barriers = self.e.op(Class::B32, "mad.lo.s32", [slot.into(), 8i64.into(), memory.into()]);
        let [full, empty] = self.shared.drawn_barriers().map(|at| Emit::at(barriers, at));
        Drawn { number: Emit::at(number, self.shared.drawn), full, empty, phase }
    }

    /// Tells others of a tile, once they have read what was in its slot.
    fn tell(&mut self, tile: Reg, count: Reg) {
        let Drawn { number, full, empty, phase } = self.slot_of_drawn(count);
        let parity = self.e.op(Class::B32, "xor.b32", [phase.into(), 1i64.into()]);
        self.wait_for(empty, parity.into());
        self.e.inst("st.shared.b32", [number, tile.into()]);
        self.e.inst("mbarrier.arrive.shared::cta.b64", [Operand::Sink, full]);
        self.e.inst("add.s32", [count.into(), count.into(), 1i64.into()]);
    }

    /// The tile that a warp is told of next: one lane reads it, says so, and hands it to the others.
    fn hear(&mut self, count: Reg) -> Reg {
        let Drawn { number, full, empty, phase } = self.slot_of_drawn(count);
        let lane = self.lane();
        let one = self.e.op(Class::Pred, "setp.eq.s32", [lane.into(), 0i64.into()]);
        self.wait_for(full, phase.into());
        let tile = self.e.mutable(Class::B32);
        self.e.mov(tile, 0i64.into());
        self.e.guarded((one, false), "ld.shared.b32", [tile.into(), number]);
        // The same in every lane, also to ptxas.
        let all = [tile.into(), 0i64.into(), 31i64.into(), 0xffff_ffffi64.into()];
        let tile = self.e.op(Class::B32, "shfl.sync.idx.b32", all);
        self.e.guarded((one, false), "mbarrier.arrive.shared::cta.b64", [Operand::Sink, empty]);
        self.e.inst("add.s32", [count.into(), count.into(), 1i64.into()]);
        tile
    }

    /// The place in the grid of a tile by its number.
    fn place_of_drawn(&mut self, tile: Reg, told: [Reg; DRAWN_PARAMS.len()]) -> [Reg; 3] {
        let [_, before_last, count, by_count, whole @ .., across, by_across] = told;
        let [before, within] = self.split(tile, count, by_count);
        let last = self.e.op(Class::Pred, "setp.ge.s32", [tile.into(), before_last.into()]);
        let [pairs, by_pairs]: [Reg; 2] = std::array::from_fn(|at| {
            self.e.op(Class::B32, "selp.b32", [whole[at + 2].into(), whole[at].into(), last.into()])
        });
        self.place_of(within, [before, whole[0]], [pairs, by_pairs], [across, by_across])
    }

    /// The place in the grid of a tile of a section: so many sections of so many pairs are before it, and its own has so many.
    fn place_of(&mut self, tile: Reg, before: [Reg; 2], [pairs, by_pairs]: [Reg; 2], across: [Reg; 2]) -> [Reg; 3] {
        let [x, pair] = self.split(tile, pairs, by_pairs);
        let first = self.e.op(Class::B32, "mul.lo.s32", before.map(Into::into));
        let pair = self.e.op(Class::B32, "add.s32", [first.into(), pair.into()]);
        let [z, y] = self.split(pair, across[0], across[1]);
        [x, y, z]
    }

    /// The tiles of a role, one after another, by where the CTA stands.
    fn tiles(&mut self, common: &[Stmt], role: &[Stmt]) {
        let told = TILE_PARAMS.map(|name| self.load_param(Class::B32, "ld.param.b32", name));
        let row = self.e.mutable(Class::B32);
        self.e.mov(row, 0i64.into());
        self.over_tiles(|lower, _, done| {
            let next = lower.e.label("next");
            lower.leave_past(row, told[0], done);
            let of_row = lower.of_row(row, told);
            // A section's last row may not be full.
            lower.leave_past(of_row.tile, of_row.count, &next);
            let place = lower.place_in_row(&of_row, told);
            lower.tile(place, &next, common, role);
            lower.e.place(&next);
            lower.e.inst("add.s32", [row.into(), row.into(), 1i64.into()]);
        });
    }

    /// The same, for a role that multiplies tiles which take little time: where the next one is is worked out while the first
    /// product of this one is under way.
    fn tiles_ahead(&mut self, common: &[Stmt], role: &[Stmt]) {
        let told = TILE_PARAMS.map(|name| self.load_param(Class::B32, "ld.param.b32", name));
        let [row, place @ ..]: [Reg; 4] = std::array::from_fn(|_| self.e.mutable(Class::B32));
        let full = self.e.mutable(Class::Pred);
        let find = |lower: &mut Self| {
            let of_row = lower.of_row(row, told);
            lower.e.inst("setp.lt.s32", [full.into(), of_row.tile.into(), of_row.count.into()]);
            let found = lower.place_in_row(&of_row, told);
            place.into_iter().zip(found).for_each(|(place, found)| lower.e.mov(place, found.into()));
        };
        let next_row = |lower: &mut Self| {
            lower.e.inst("add.s32", [row.into(), row.into(), 1i64.into()]);
            find(lower);
        };
        self.e.mov(row, 0i64.into());
        find(self);
        self.over_tiles(|lower, head, done| {
            let none = lower.e.label("next");
            lower.leave_past(row, told[0], done);
            // A section's last row may not be full.
            lower.e.guarded((full, true), "bra", [Operand::Label(none.clone())]);
            let now = place.map(|_| lower.e.reg(Class::B32));
            lower.e.copy(&now, &place);
            let lands = role.iter().position(|stmt| matches!(stmt.op, Op::Land(_))).unwrap_or(role.len());
            lower.tile = Some(Tile { place: now, next: none.clone() });
            lower.body(common);
            lower.set_vars(role, false);
            lower.body(&role[..lands]);
            next_row(lower);
            lower.body(&role[lands..]);
            lower.tile = None;
            lower.e.inst("bra", [Operand::Label(head.to_owned())]);
            lower.e.place(&none);
            next_row(lower);
        });
    }

    /// The CTA's tile of a row.
    fn of_row(&mut self, row: Reg, told: [Reg; TILE_PARAMS.len()]) -> OfRow {
        let [_, before_last, section, by_section, whole @ .., _, _] = told;
        let [before, within] = self.split(row, section, by_section);
        let tile = self.nth(before, within);
        let last = self.e.op(Class::Pred, "setp.ge.s32", [row.into(), before_last.into()]);
        let [count, pairs, by_pairs]: [Reg; 3] = std::array::from_fn(|at| {
            self.e.op(Class::B32, "selp.b32", [whole[at + 3].into(), whole[at].into(), last.into()])
        });
        OfRow { before, tile, count, pairs: [pairs, by_pairs] }
    }

    /// Its place in the grid.
    fn place_in_row(&mut self, of: &OfRow, told: [Reg; TILE_PARAMS.len()]) -> [Reg; 3] {
        let [.., across, by_across] = told;
        self.place_of(of.tile, [of.before, told[5]], of.pairs, [across, by_across])
    }

    /// The CTA's tile of a row of a section: where it stands itself, in every other row from the other end; in every other
    /// section the other way around.
    fn nth(&mut self, section: Reg, row: Reg) -> Reg {
        let [own, other, ctas] = self.stand();
        let turns = self.e.op(Class::B32, "add.s32", [section.into(), row.into()]);
        let odd = self.e.op(Class::B32, "and.b32", [turns.into(), 1i64.into()]);
        let back = self.e.op(Class::Pred, "setp.ne.s32", [odd.into(), 0i64.into()]);
        let at = self.e.op(Class::B32, "selp.b32", [other.into(), own.into(), back.into()]);
        self.e.op(Class::B32, "mad.lo.s32", [row.into(), ctas.into(), at.into()])
    }

    /// Where the CTA stands, counted from either end, and how many there are.
    fn stand(&mut self) -> [Reg; 3] {
        let own = self.e.op(Class::B32, "mov.u32", [Special::Ctaid(0).into()]);
        let ctas = self.e.op(Class::B32, "mov.u32", [Special::Nctaid(0).into()]);
        let last = self.e.op(Class::B32, "add.s32", [ctas.into(), (-1i64).into()]);
        [own, self.e.op(Class::B32, "sub.s32", [last.into(), own.into()]), ctas]
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
