//! Kernels of a warpgroup around `wgmma`.
//!
//! Every form multiplies whole numbers, whose products and sums are exact in any order: each lane folds its accumulators into
//! one word. Shared memory is filled with them and descriptors say where operands lie in it, round by round another swizzle
//! and another place; so a round asks what the fields of a descriptor mean, on addresses of hardware. Forms of 8 columns
//! multiply operands of every size besides, as `mma.sync` does: rows, fragments and columns of a warp are those of
//! `mma.m16n8k16`, and so is the rule.

use std::fmt::Write as _;

use lacuna_ptx::{Class, Form, Op, isa::Type};

use super::{
    Case,
    build::{Kernel, Shape, line},
    draw::{Half, Kind},
    rule::Rule,
};

/// Threads of a warpgroup.
const THREADS: usize = 128;

/// Where B begins: A is 64 rows of up to 128 bytes.
const B_AT: u32 = 8192;

/// Numbers of columns that are asked about with every way in which operands may lie.
const EVERY_WAY: [u32; 8] = [8, 16, 64, 80, 128, 176, 192, 256];

/// Which `wgmma` it is besides its form.
#[derive(Clone, Copy)]
enum Way {
    /// A and B from shared memory, each with k along its rows, or transposed.
    Shared([bool; 2]),
    /// A from registers, B with k along its rows, or transposed.
    Registers(bool),
    /// Three products onto what was there: with A negated, with B negated where a predicate holds, and with both.
    Signs,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Way::Shared([false, false]) => "",
            Way::Shared([true, false]) => " with A transposed",
            Way::Shared([false, true]) => " with B transposed",
            Way::Shared([true, true]) => " with A and B transposed",
            Way::Registers(false) => " with A in registers",
            Way::Registers(true) => " with A in registers and B transposed",
            Way::Signs => " with signs",
        }
    }
}

/// The cases of `wgmma`; `None` where it is another form.
pub(super) fn cases_of(form: Form) -> Option<Vec<Case>> {
    if form.op() != Op::Wgmma {
        return None;
    }
    let columns: u32 = form.choices()[0].parse().expect("a number of columns");
    let mut ways = vec![Way::Shared([false, false])];
    if EVERY_WAY.contains(&columns) {
        ways.extend([[true, false], [false, true], [true, true]].map(Way::Shared));
        ways.extend([Way::Registers(false), Way::Registers(true), Way::Signs]);
    }
    let mut cases: Vec<Case> = ways.into_iter().map(|way| whole(form, columns, way)).collect();
    if columns == 8 {
        cases.extend([false, true].map(|registers| of_every_size(form, registers)));
    }
    Some(cases)
}

fn half(form: Form) -> Half {
    if form.name().contains("bf16") { Half::Bf16 } else { Half::F16 }
}

/// A swizzle of a descriptor: bits 62 and 63, and bytes of a row.
const SWIZZLES: [(u32, u32); 4] = [(0, 16), (3, 32), (2, 64), (1, 128)];

/// An operand of a round.
struct Operand {
    descriptor: [u32; 2],
    /// Where it ends.
    end: u32,
}

/// An operand of `extent` rows (of B: columns) by 16, at `at`, as a step of a larger tile: with k along rows of the swizzle's
/// width, or across them, in panels as wide.
fn operand(at: u32, extent: u32, transposed: bool, swizzle: usize, step: u32) -> Operand {
    let (bits, width) = SWIZZLES[swizzle];
    let rows = if transposed { 32 } else { extent };
    let panel = rows * width;
    let panels = if transposed { (2 * extent).div_ceil(width) } else { 32u32.div_ceil(width) };
    let (start, leading, stride) = match (transposed, swizzle) {
        (false, 0) => (0, panel, 128),
        (false, _) => (32 * (step % (width / 32)), 16, 8 * width),
        (true, 0) => (16 * width * (step % 2), 128, panel),
        (true, _) => (16 * width * (step % 2), panel, 8 * width),
    };
    let descriptor = [((at + start) / 16) | ((leading / 16) << 16), (stride / 16) | (bits << 30)];
    Operand { descriptor, end: at + panels * panel }
}

/// Rounds of whole numbers: every swizzle, of A and B alike, then unlike.
const ROUNDS: usize = 8;

/// Whole numbers in all of shared memory.
fn whole(form: Form, columns: u32, way: Way) -> Case {
    let kind = Kind::Small(half(form));
    let transposed = match way {
        Way::Shared(transposed) => transposed,
        Way::Registers(b) => [false, b],
        Way::Signs => [false, false],
    };
    let of = |round: usize, b: bool| {
        let swizzle = if b { round + round / 4 } else { round } % 4;
        let (at, extent) = if b { (B_AT, columns) } else { (0, 64) };
        operand(at, extent, transposed[usize::from(b)], swizzle, round as u32 / 2 + u32::from(b))
    };
    let end = (0..ROUNDS).map(|round| of(round, true).end).max().expect("there are rounds");
    let tile = end.next_multiple_of(16 * THREADS as u32);
    let mut kernel = Kernel::of(form, Shape { threads: THREADS, tile: Some(tile), ..Shape::default() });
    let words = |b: bool, word: usize| (0..ROUNDS).map(|round| of(round, b).descriptor[word]).collect::<Vec<_>>();
    let a = kernel.descriptor([words(false, 0), words(false, 1)]);
    let b = kernel.descriptor([words(true, 0), words(true, 1)]);
    let holds = kernel.said((0..ROUNDS as u32).map(|round| round / 2 % 2).collect());
    for at in (0..tile).step_by(16 * THREADS) {
        let from = kernel.place(4, kind);
        let words: Vec<String> = (0..4).map(|_| kernel.register(Class::B32)).collect();
        let words = words.join(", ");
        line!(kernel.before, "ld.global.v4.b32 {{{words}}}, [%d0+{from}];\nst.shared.v4.b32 [%r1+{at}], {{{words}}};");
    }
    let sums: Vec<String> = (0..columns / 2).map(|_| kernel.register(Class::F32)).collect();
    let d = format!("{{{}}}", sums.join(", "));
    let product = |a: &str, rest: &str| format!("{form} {d}, {a}, {b}, {rest};\n");
    let [ta, tb] = transposed.map(u8::from);
    let products = match way {
        Way::Shared(_) => product(&a, &format!("0, 1, 1, {ta}, {tb}")),
        Way::Registers(_) => {
            let fragment = kernel.operands_of(Type::B32, 4, kind);
            product(&fragment, &format!("0, 1, 1, {tb}"))
        }
        Way::Signs => {
            kernel.start(&sums);
            let pred = kernel.register(Class::Pred);
            line!(kernel.before, "setp.ne.u32 {pred}, {holds}, 0;");
            let signs = ["1, -1, 1, 0, 0".to_owned(), format!("{pred}, 1, -1, 0, 0"), "1, -1, -1, 0, 0".to_owned()];
            signs.map(|rest| product(&a, &rest)).concat()
        }
    };
    kernel.multiply(&products);
    kernel.fold(&sums);
    kernel.case(form, way.name(), ROUNDS, Rule::Bits)
}

/// Operands of every size. Lanes hold fragments of `mma.m16n8k16`; B's is every warp's.
fn of_every_size(form: Form, registers: bool) -> Case {
    let kind = half(form);
    let mut kernel = Kernel::of(form, Shape { threads: THREADS, tile: Some(4096), ..Shape::default() });
    let a = kernel.operands_of(Type::B32, 4, Kind::Halves(kind));
    let b = kernel.shared_operands(2, Kind::Halves(kind));
    let sums: Vec<String> = (0..4).map(|_| kernel.operand(Type::F32, Kind::Sum(kind))).collect();
    let (lane, at) = (kernel.register(Class::B32), kernel.register(Class::B32));
    line!(kernel.before, "mov.u32 {at}, tile;\nand.b32 {lane}, %r0, 31;\nmad.lo.u32 {at}, {lane}, 4, {at};");
    // A fragment's register is a row of a core matrix, 8 rows of 16 bytes: B's are 128 bytes apart along k.
    let one = kernel.register(Class::Pred);
    line!(kernel.before, "setp.lt.u32 {one}, %r0, 32;");
    for (word, from) in names(&b).enumerate() {
        line!(kernel.before, "@{one} st.shared.b32 [{at}+{}], {from};", B_AT / 4 + 128 * word as u32);
    }
    line!(kernel.before, "shr.u32 {lane}, %r0, 5;\nmad.lo.u32 {at}, {lane}, 512, {at};");
    for (word, from) in names(&a).enumerate() {
        line!(kernel.before, "st.shared.b32 [{at}+{}], {from};", 256 * (word % 2) + 128 * (word / 2));
    }
    let plain = |kernel: &mut Kernel, at: u32| {
        kernel.descriptor_of(&format!("{}", (at / 16) | (8 << 16)), &format!("{}", 256 / 16))
    };
    let (from_shared, b) = (plain(&mut kernel, 0), plain(&mut kernel, B_AT / 4));
    let d = format!("{{{}}}", sums.join(", "));
    let (what, product) = match registers {
        true => (" of every size with A in registers", format!("{form} {d}, {a}, {b}, 1, 1, 1, 0;\n")),
        false => (" of every size", format!("{form} {d}, {from_shared}, {b}, 1, 1, 1, 0, 0;\n")),
    };
    kernel.multiply(&product);
    for sum in &sums {
        kernel.keep(sum, Type::F32);
    }
    kernel.case(form, what, 2 * ROUNDS, Rule::Products)
}

/// The registers of a vector.
fn names(vector: &str) -> impl Iterator<Item = &str> {
    vector.trim_matches(['{', '}']).split(", ")
}

impl Kernel {
    /// A descriptor whose words are said, of an operand that begins so far from the tile.
    fn descriptor(&mut self, [low, high]: [Vec<u32>; 2]) -> String {
        let (low, high) = (self.said(low), self.said(high));
        self.descriptor_of(&low, &high)
    }

    fn descriptor_of(&mut self, low: &str, high: &str) -> String {
        let (first, second, whole) = (self.register(Class::B32), self.register(Class::B32), self.register(Class::B64));
        line!(self.before, "mov.u32 {first}, tile;\nshr.u32 {first}, {first}, 4;\nadd.u32 {first}, {first}, {low};");
        line!(self.before, "mov.b32 {second}, {high};\nmov.b64 {whole}, {{{first}, {second}}};");
        whole
    }

    /// Accumulators of small whole numbers, each its own.
    fn start(&mut self, sums: &[String]) {
        let word = self.register(Class::B32);
        for (number, sum) in sums.iter().enumerate() {
            line!(self.before, "add.u32 {word}, %r0, {number};\ncvt.rn.f32.u32 {sum}, {word};");
        }
    }

    /// Products, once what all threads wrote to shared memory is there, up to their end.
    fn multiply(&mut self, products: &str) {
        self.before += "fence.proxy.async.shared::cta;\nbar.sync 0;\nwgmma.fence.sync.aligned;\n";
        self.before += products;
        self.before += "wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;\n";
    }

    /// All bits of the accumulators as one word of the result.
    fn fold(&mut self, sums: &[String]) {
        let (all, word) = (self.register(Class::B32), self.register(Class::B32));
        line!(self.after, "mov.u32 {all}, 0;");
        for sum in sums {
            line!(self.after, "mov.b32 {word}, {sum};\nmad.lo.u32 {all}, {all}, 0x9e3779b1, {word};");
        }
        self.keep(&all, Type::B32);
    }
}
