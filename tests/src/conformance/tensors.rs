//! Kernels around copies of boxes of a tensor: each round is a CTA that copies one box, from coordinates of its own.
//!
//! Loads are of a map over `input`, whatever lies there, into the tile, which becomes the results. Stores and sums are of a map
//! over `output`, from drawn words in the tile; a CTA has its rows of `output` for itself. A cluster of two CTAs casts a box
//! from each to both.

use std::fmt::Write as _;

use lacuna_codegen::{
    ir::Elem,
    plan::{MapBase, MapDim, MapRow, MapStride, Promotion, Swizzle, TensorMap},
};
use lacuna_ptx::{Class, Form, Op, isa::Type};

use super::{
    Case,
    build::{Kernel, Shape, line},
    copies::hint,
    draw::{Draw, Half, Kind, seed},
    rule::Rule,
};

const LANES: usize = 32;

/// Boxes of a case.
const ROUNDS: usize = 16;

/// Words of a lane's row of `input` that a load draws besides its coordinates.
const DRAWN: u16 = 12;

/// Bytes of `output` that a CTA of a store has for itself.
const REGION: u64 = 1024;

/// The cases of a copy of boxes; `None` where it is another form.
pub(super) fn cases_of(form: Form) -> Option<Vec<Case>> {
    let rank = || form.choices()[0].parse::<usize>().expect("a number of dimensions");
    let swizzles = || {
        // A row of a box is the shortest box, and a word for each lane.
        let narrow = if rank() == 1 { &[][..] } else { &[Swizzle::B32, Swizzle::B64] };
        [&[Swizzle::None, Swizzle::B128], narrow].concat().into_iter()
    };
    let of = |cases: Vec<Boxes>| Some(cases.into_iter().map(|boxes| boxes.case(form)).collect());
    match form.op() {
        Op::TensorLoad => {
            let mut cases: Vec<Boxes> = swizzles().map(|swizzle| Boxes::read(rank(), Elem::Bf16, swizzle)).collect();
            cases.extend([Elem::F16, Elem::F32, Elem::I32].map(|elem| Boxes::read(rank(), elem, Swizzle::None)));
            if rank() == 5 {
                cases.push(Boxes::ragged("input"));
            }
            of(cases)
        }
        Op::TensorLoadHint => of(vec![Boxes::read(rank(), Elem::Bf16, Swizzle::B128)]),
        Op::TensorCast => {
            let whole = Boxes::read(rank(), Elem::Bf16, Swizzle::B128);
            let other = Boxes { to: " of the other CTA", ..whole.clone() };
            of(vec![whole, other])
        }
        Op::TensorCastHint => of(vec![Boxes::read(rank(), Elem::F16, Swizzle::B128)]),
        Op::TensorStore => {
            let written = |elem, swizzle, reach| Boxes::written(rank(), elem, swizzle, reach);
            let mut cases: Vec<Boxes> = swizzles().map(|swizzle| written(Elem::Bf16, swizzle, Reach::End)).collect();
            cases.push(written(Elem::I32, Swizzle::None, Reach::End));
            // A tensor of one dimension has its regions' neighbours behind them.
            if rank() > 1 {
                cases.push(written(Elem::Bf16, Swizzle::None, Reach::Outside));
            }
            if rank() == 5 {
                cases.push(Boxes::ragged("output"));
            }
            of(cases)
        }
        Op::TensorAdd => {
            let elems = [(Elem::F32, Swizzle::None), (Elem::Bf16, Swizzle::B128), (Elem::F16, Swizzle::B32)];
            of(elems.map(|(elem, swizzle)| Boxes::written(rank(), elem, swizzle, Reach::End)).into())
        }
        _ => None,
    }
}

/// A map, and the coordinates of its boxes, round by round.
#[derive(Clone)]
struct Boxes {
    map: TensorMap,
    coords: Vec<Vec<i32>>,
    /// What is particular about it.
    what: &'static str,
    /// To which CTA of a cluster a cast goes, where it is not both.
    to: &'static str,
}

/// A dimension: its extent, the stride in bytes, the elements of a box.
type Dims<'d> = &'d [(u64, u64, u32)];

/// Bytes of a row of a box.
fn row_bytes(swizzle: Swizzle) -> u32 {
    swizzle.span().unwrap_or(96)
}

/// Rows of a box: 8, as they may lie in `rank` dimensions.
fn tiles(rank: usize, of_rows: usize) -> Vec<u32> {
    let rows: &[u32] = [&[][..], &[8], &[4, 2], &[2, 2, 2], &[2, 2, 2, 1]][of_rows];
    let mut rows = rows.to_vec();
    rows.resize(rank - 1, 1);
    rows
}

fn map(tensor: &str, elem: Elem, swizzle: Swizzle, dims: Dims<'_>) -> TensorMap {
    let bytes = u64::from(elem.bytes());
    let outer = dims[1..].iter().map(|&(extent, stride, tile)| {
        let stride = MapStride::Elements((stride / bytes).into());
        MapDim { extent: extent.into(), stride, tile }
    });
    TensorMap {
        base: MapBase::Tensor(tensor.to_owned()),
        elem,
        inner: MapRow { extent: dims[0].0.into(), tile: dims[0].2 },
        outer: outer.collect(),
        swizzle,
        promotion: Promotion::None,
    }
}

/// Where boxes lie. The first one of a row begins at a multiple of 16 bytes: hardware has no others.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// Inside, over each end, and outside.
    Anywhere,
    /// Inside, or over the end: a box that is stored cannot begin before the tensor.
    End,
    /// The same, and where nothing of the tensor is.
    Outside,
}

impl Reach {
    fn name(self) -> &'static str {
        match self {
            Reach::Anywhere | Reach::End => "",
            Reach::Outside => " outside",
        }
    }

    /// Coordinates along a dimension, round by round.
    fn along(self, (extent, _, tile): (u64, u64, u32), dim: usize, bytes: u64) -> Vec<i32> {
        let (extent, tile) = (i64::from(u32::try_from(extent).expect("it is small")), i64::from(tile));
        let step = if dim == 0 { 16 / bytes as i64 } else { 1 };
        let ends = match self {
            Reach::Anywhere => vec![0, extent - tile, -tile / 2, extent - tile / 2, -tile, extent, -1, extent - 1],
            Reach::End => [0, extent - tile, extent - tile / 2, extent - 1].map(|at| at.max(0)).into(),
            Reach::Outside => vec![extent, extent + tile],
        };
        let seed = seed("coordinates");
        let coordinate = |round: usize| {
            let inside = Kind::UpTo((extent - 1) as u32);
            let drawn = i64::from(Draw::new(seed, round, 1, dim, 2).words(inside)[0]);
            // One dimension after the other is at an end; now and then all are.
            let at = match round {
                0 => 0,
                _ if round % 5 == dim || round == ROUNDS - 1 => ends[(round / 5 + dim) % ends.len()],
                _ => drawn,
            };
            i32::try_from(at.div_euclid(step) * step).expect("it is small")
        };
        (0..ROUNDS).map(coordinate).collect()
    }
}

/// For each round the coordinates of all dimensions, from those of each.
fn transposed(dims: Vec<Vec<i32>>) -> Vec<Vec<i32>> {
    (0..ROUNDS).map(|round| dims.iter().map(|along| along[round]).collect()).collect()
}

impl Boxes {
    /// Boxes of `input`, a row of which has coordinates, filled up to four, and what is drawn. Rows of 208 bytes end within a
    /// box.
    fn read(rank: usize, elem: Elem, swizzle: Swizzle) -> Boxes {
        let bytes = elem.bytes();
        let all = (ROUNDS * LANES) as u64 * 4 * (rank.next_multiple_of(4) as u64 + u64::from(DRAWN));
        let outer: &[(u64, u64)] = match rank {
            1 => &[],
            2 => &[(150, 208)],
            3 => &[(9, 208), (15, 2080)],
            4 => &[(4, 208), (5, 832), (7, 4176)],
            _ => &[(3, 208), (4, 640), (4, 2560), (4, 10240)],
        };
        let extent = if rank == 1 { all - 20 } else { 200 } / u64::from(bytes);
        let mut dims = vec![(extent, 0, row_bytes(swizzle) / bytes)];
        dims.extend(outer.iter().zip(tiles(rank, rank - 1)).map(|(&(extent, stride), tile)| (extent, stride, tile)));
        if rank == 1 {
            // Without rows: a box is at least a word for each lane.
            dims[0].2 = if swizzle == Swizzle::None { 256 / bytes } else { dims[0].2 };
        }
        let coords = dims.iter().enumerate().map(|(dim, &along)| Reach::Anywhere.along(along, dim, bytes.into()));
        Boxes { coords: transposed(coords.collect()), map: map("input", elem, swizzle, &dims), what: "", to: "" }
    }

    /// Boxes of a CTA's region of `output`: the outermost dimension counts the regions, in a tensor of one dimension
    /// coordinates do. Rows of 128 bytes belong to the tensor up to 112.
    fn written(rank: usize, elem: Elem, swizzle: Swizzle, reach: Reach) -> Boxes {
        let bytes = u64::from(elem.bytes());
        let inner: &[(u64, u64)] = match rank {
            1 => &[(ROUNDS as u64 * REGION - 16, 0)],
            2 => &[(REGION - 240, 0)],
            3 => &[(112, 0), (7, 128)],
            4 => &[(112, 0), (3, 128), (2, 512)],
            _ => &[(112, 0), (2, 128), (2, 256), (2, 512)],
        };
        let mut dims: Vec<(u64, u64, u32)> = inner.iter().map(|&(extent, stride)| (extent, stride, 0)).collect();
        dims[0].0 /= bytes;
        dims[0].2 = row_bytes(swizzle) / bytes as u32;
        let rows = tiles(rank, rank.saturating_sub(2));
        dims[1..].iter_mut().zip(rows).for_each(|(dim, tile)| dim.2 = tile);
        if rank > 1 {
            dims.push((ROUNDS as u64, REGION, 1));
        }
        Boxes {
            coords: Boxes::regions(&dims, bytes, reach),
            map: map("output", elem, swizzle, &dims),
            what: reach.name(),
            to: "",
        }
    }

    /// Coordinates whose last one is the round's own region.
    fn regions(dims: Dims<'_>, bytes: u64, reach: Reach) -> Vec<Vec<i32>> {
        let last = dims.len() - 1;
        let mut coords: Vec<Vec<i32>> =
            dims.iter().enumerate().map(|(dim, &along)| reach.along(along, dim, bytes)).collect();
        if last == 0 {
            // Inside of a region, but for the last box of the last one.
            let region = (REGION / bytes) as i32;
            let tile = dims[0].2 as i32;
            for (round, at) in coords[0].iter_mut().enumerate() {
                let within = at.rem_euclid(region - tile);
                *at = round as i32 * region + if round == ROUNDS - 1 { region - tile / 2 } else { within };
            }
        } else {
            coords[last] = (0..ROUNDS as i32).collect();
        }
        transposed(coords)
    }

    /// Documents of a packed tensor, with bounds of their own by addresses that go around (see [`TensorMap::ragged`]): rows of 64
    /// bytes, of two heads.
    fn ragged(tensor: &str) -> Boxes {
        let (heads, row) = (2u64, 64u64);
        let (pitch, around) = (heads * row, 1u64 << 35);
        let origin = 1i32 << 30;
        let dims = [
            (row / 2, 0, 32),
            (1 << 30, pitch, 8),
            (0x7fff_0000, pitch, 1),
            (0x7fff_0000, around - pitch, 1),
            (heads, row, 1),
        ];
        // A round's document is its region's first rows, and its box ends past them.
        let rows = (REGION / pitch) as i32;
        let coords = (0..ROUNDS as i32).map(|round| {
            let (first, len) = (round * rows, 1 + round * 5 % rows);
            let at = (len - 1) / 4 * 4;
            vec![0, origin - len + at, first + len, origin, round % 2]
        });
        let map = map(tensor, Elem::Bf16, Swizzle::B64, &dims);
        Boxes { coords: coords.collect(), map, what: " of documents", to: "" }
    }

    fn case(self, form: Form) -> Case {
        let bytes = self.map.box_bytes() as u32;
        let casts = matches!(form.op(), Op::TensorCast | Op::TensorCastHint);
        let tile = Some((bytes * if casts { 2 } else { 1 }).next_multiple_of(1024));
        let cluster = if casts { 2 } else { 1 };
        let mut kernel = Kernel::of(form, Shape { cluster, tile, map: Some(self.map.clone()), ..Shape::default() });
        let rank = self.map.outer.len() + 1;
        let coords: Vec<String> =
            (0..rank).map(|dim| kernel.said(self.coords.iter().map(|at| at[dim].cast_unsigned()).collect())).collect();
        let from = kernel.boxed(&coords);
        match form.op() {
            Op::TensorLoad | Op::TensorLoadHint => kernel.load(form, &from, bytes),
            Op::TensorCast | Op::TensorCastHint => kernel.cast(form, &from, bytes, self.to.is_empty()),
            _ => kernel.store(form, &from, bytes, self.map.elem),
        }
        let (elem, swizzle) = (
            self.map.elem.name(),
            match self.map.swizzle {
                Swizzle::None => "",
                Swizzle::B32 => " under 32 bytes",
                Swizzle::B64 => " under 64 bytes",
                Swizzle::B128 => " under 128 bytes",
            },
        );
        kernel.case(form, &format!(" of {elem}{swizzle}{}{}", self.what, self.to), ROUNDS, Rule::Bits)
    }
}

impl Kernel {
    /// The operand of a box.
    fn boxed(&mut self, coords: &[String]) -> String {
        let map = self.register(Class::B64);
        line!(self.before, "mov.b64 {map}, map;\ncvta.param.u64 {map}, {map};");
        format!("[{map}, {{{}}}]", coords.join(", "))
    }

    /// Predicates: that it is the first thread, and the wait's. The mbarrier of the first thread is made, for all CTAs.
    fn one_barrier(&mut self, meet: &str) -> [String; 2] {
        let (first, passes) = (self.register(Class::Pred), self.register(Class::Pred));
        line!(self.before, "setp.eq.u32 {first}, %r0, 0;\n@{first} mbarrier.init.shared::cta.b64 [bars], 1;");
        line!(self.before, "@{first} fence.mbarrier_init.release.cluster;\n{meet}");
        [first, passes]
    }

    /// Waits for the first phase of the first thread's mbarrier.
    fn await_box(&mut self, passes: &str) {
        line!(
            self.before,
            "wait:\nmbarrier.try_wait.parity.shared::cta.b64 {passes}, [bars], 0;\n@!{passes} bra wait;"
        );
    }

    /// The tile's first bytes become results, a word of 128 bytes a lane.
    fn keep_tile(&mut self, bytes: u32) {
        let at = self.register(Class::B32);
        line!(self.after, "mov.u32 {at}, tile;\nmad.lo.u32 {at}, %r0, 4, {at};");
        for word in 0..bytes / 128 {
            let register = self.register(Class::B32);
            line!(self.after, "ld.shared.b32 {register}, [{at}+{}];", 128 * word);
            self.keep(&register, Type::B32);
        }
    }

    /// What a load may find in `input`.
    fn something_to_load(&mut self) {
        for _ in 0..DRAWN / 4 {
            let _ = self.place(4, Kind::Any(Type::B32));
        }
    }

    fn load(&mut self, form: Form, from: &str, bytes: u32) {
        self.something_to_load();
        let [first, passes] = self.one_barrier("bar.sync 0;");
        line!(self.before, "@{first} mbarrier.arrive.expect_tx.shared::cta.b64 _, [bars], {bytes};");
        line!(self.before, "@{first} {form} [tile], {from}, [bars]{};", hint(form));
        self.await_box(&passes);
        self.keep_tile(bytes);
    }

    /// Each CTA's box, one behind the other, to both or to the other.
    fn cast(&mut self, form: Form, from: &str, bytes: u32, both: bool) {
        self.something_to_load();
        let meet = "barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;";
        let [first, passes] = self.one_barrier(meet);
        let (rank, at, mask) = (self.register(Class::B32), self.register(Class::B32), self.register(Class::B32));
        let (low, high) = (self.register(Class::B16), self.register(Class::B16));
        line!(self.before, "mov.u32 {rank}, %cluster_ctarank;\nmov.u32 {at}, tile;");
        let expects = if both {
            line!(self.before, "mad.lo.u32 {at}, {rank}, {bytes}, {at};\nmov.u32 {mask}, 3;");
            2 * bytes
        } else {
            line!(self.before, "sub.u32 {mask}, 2, {rank};");
            bytes
        };
        line!(self.before, "mov.b32 {{{low}, {high}}}, {mask};");
        line!(self.before, "@{first} mbarrier.arrive.expect_tx.shared::cta.b64 _, [bars], {expects};");
        line!(self.before, "@{first} {form} [{at}], {from}, [bars], {low}{};", hint(form));
        self.await_box(&passes);
        self.keep_tile(expects);
        line!(self.after, "{meet}");
    }

    /// Drawn words in the tile, to `output` or, where it adds, onto drawn words there.
    fn store(&mut self, form: Form, to: &str, bytes: u32, elem: Elem) {
        let adds = form.op() == Op::TensorAdd;
        let kind = match elem {
            Elem::Bf16 if adds => Kind::Halves(Half::Bf16),
            Elem::F16 if adds => Kind::Halves(Half::F16),
            Elem::F32 if adds => Kind::Any(Type::F32),
            _ => Kind::Any(Type::B32),
        };
        let at = self.register(Class::B32);
        line!(self.before, "mov.u32 {at}, tile;\nmad.lo.u32 {at}, %r0, 4, {at};");
        for word in 0..bytes.div_ceil(128) {
            let register = self.operand(Type::B32, kind);
            let past = self.register(Class::Pred);
            line!(self.before, "setp.lt.u32 {past}, %r0, {};", (bytes / 4 - 32 * word).min(32));
            line!(self.before, "@{past} st.shared.b32 [{at}+{}], {register};", 128 * word);
        }
        let words = REGION as u32 / 4 / LANES as u32;
        for _ in 0..words / 4 {
            let own = self.result(4);
            if adds {
                let first = self.operands_of(Type::B32, 4, kind);
                line!(self.before, "st.global.v4.b32 [%d1+{own}], {first};");
            }
        }
        let first = self.register(Class::Pred);
        line!(
            self.before,
            "fence.proxy.async;\nbar.sync 0;\nsetp.eq.u32 {first}, %r0, 0;\n@{first} {form} {to}, [tile];"
        );
        line!(self.before, "@{first} cp.async.bulk.commit_group;\n@{first} cp.async.bulk.wait_group 0;");
    }
}
