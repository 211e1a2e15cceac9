//! Kernels around what Hopper added: mbarriers, bulk copies and sums, matrices stored, elections.

use std::fmt::Write as _;

use lacuna_ptx::{Class, Form, Op, isa::Type};

use super::build::{Kernel, Within, line};
use super::draw::{Half, Kind};

/// Waits for phase 0 of this lane's mbarrier.
const WAIT: &str = "wait:\nmbarrier.try_wait.parity.shared::cta.b64 %p0, [%r3], 0;\n@!%p0 bra wait;\n";

/// Where a lane's row of the second half of the tile lies from the first.
const OTHER_HALF: u32 = 512;

impl Kernel {
    /// The instruction, with what its operands need. Whether it is one of these.
    pub(super) fn around_hopper(&mut self, form: Form) -> bool {
        match form.op() {
            Op::Elect => {
                let (value, pred) = (self.out(Type::B32), self.out(Type::Pred));
                line!(self.before, "{form} {value}|{pred}, -1;");
            }
            Op::Stmatrix => {
                for word in 0..4 {
                    line!(self.before, "st.shared.b32 [%r1+{}], -1;", 4 * word);
                }
                let count = form.choices()[0][1..].parse().expect("a number of matrices");
                let from = self.operands_of(Type::B32, count, Kind::Any(Type::B32));
                line!(self.before, "bar.sync 0;\n{form} [%r1], {from};");
                self.keep_shared(4);
            }
            Op::RedAddVector | Op::RedAddHalves => {
                let count: u16 = form.choices()[0].parse().expect("a number of elements");
                let (ty, kind) = match form.choices().get(1) {
                    None => (Type::F32, Kind::Any(Type::F32)),
                    Some(&"bf16x2") => (Type::B32, Kind::Halves(Half::Bf16)),
                    Some(_) => (Type::B32, Kind::Halves(Half::F16)),
                };
                let (first, value) = (self.operands_of(ty, count, kind), self.operands_of(ty, count, kind));
                let own = self.result(count.into());
                line!(self.before, "st.global.v{count}.{} [%d1+{own}], {first};", ty.name());
                line!(self.before, "{form} [%d1+{own}], {value};");
            }
            Op::MbarrierTest | Op::MbarrierTry | Op::MbarrierTryFar => {
                // A wait of a phase that is not over would sleep: parities are asked for that pass, and `test_wait` before too.
                line!(self.before, "mbarrier.init.shared::cta.b64 [%r3], 1;");
                let mut parities = vec![1];
                if form.op() == Op::MbarrierTest {
                    parities.push(0);
                }
                for parity in parities {
                    let passes = self.out(Type::Pred);
                    line!(self.before, "{form} {passes}, [%r3], {parity};");
                }
                let passes = self.out(Type::Pred);
                line!(self.before, "mbarrier.arrive.shared::cta.b64 _, [%r3];\n{form} {passes}, [%r3], 0;");
            }
            Op::BulkLoad | Op::BulkLoadHint => {
                let from = self.place(4, Kind::Any(Type::B32));
                self.expect_row();
                line!(self.before, "{form} [%r1], [%d0+{from}], 16, [%r3]{};\n{WAIT}", hint(form));
                self.keep_shared(4);
            }
            Op::BulkStore | Op::BulkStoreHint | Op::BulkAdd | Op::BulkAddHint => self.around_away(form),
            _ => return false,
        }
        true
    }

    /// The instruction across a cluster of two CTAs: what each does to this lane's row, or mbarrier, of the other or of itself.
    pub(super) fn around_far(&mut self, form: Form, to: Within) {
        self.shape.cluster = 2;
        let meet = "barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;";
        let [other, row, bar] = [(); 3].map(|()| self.register(Class::B32));
        let passes = self.register(Class::Pred);
        if form.op() == Op::BulkPass {
            self.fill_shared(4, Kind::Any(Type::B32));
        }
        line!(self.before, "mbarrier.init.shared::cta.b64 [%r3], 1;\nfence.mbarrier_init.release.cluster;");
        line!(self.before, "fence.proxy.async.shared::cta;\n{meet}\nmov.u32 {other}, %cluster_ctarank;");
        let flip = u32::from(to == Within::Other);
        line!(self.before, "xor.b32 {other}, {other}, {flip};\nadd.u32 {row}, %r1, {OTHER_HALF};");
        line!(
            self.before,
            "mapa.shared::cluster.u32 {row}, {row}, {other};\nmapa.shared::cluster.u32 {bar}, %r3, {other};"
        );
        if form.op() == Op::BulkPass {
            line!(self.before, "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r3], 16;");
            line!(self.before, "{form} [{row}], [%r1], 16, [{bar}];");
        } else {
            let before = self.out(Type::Pred);
            line!(self.before, "{form} {before}, [%r3], 1;");
            line!(self.before, "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [{bar}];");
        }
        let wait = "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64";
        line!(self.before, "wait:\n{wait} {passes}, [%r3], 0;\n@!{passes} bra wait;");
        if form.op() == Op::BulkPass {
            for word in 0..4 {
                let register = self.out(Type::B32);
                line!(self.before, "ld.shared.b32 {register}, [%r1+{}];", OTHER_HALF + 4 * word);
            }
        } else {
            let after = self.out(Type::Pred);
            line!(self.before, "{form} {after}, [%r3], 0;");
        }
        line!(self.before, "{meet}");
    }

    /// This lane's mbarrier, made, with 16 bytes to come.
    fn expect_row(&mut self) {
        // `%p0` is the wait's.
        let _ = self.register(Class::Pred);
        line!(self.before, "mbarrier.init.shared::cta.b64 [%r3], 1;\nfence.mbarrier_init.release.cluster;");
        line!(self.before, "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r3], 16;");
    }

    /// This lane's row of the tile, to or onto what lies in its row of the output.
    fn around_away(&mut self, form: Form) {
        let adds = matches!(form.op(), Op::BulkAdd | Op::BulkAddHint);
        let kind = match form.choices().first() {
            Some(&"f32") => Kind::Any(Type::F32),
            Some(&"noftz.bf16") => Kind::Halves(Half::Bf16),
            Some(&"noftz.f16") => Kind::Halves(Half::F16),
            _ => Kind::Any(Type::B32),
        };
        self.fill_shared(4, kind);
        let to = self.result(4);
        if adds {
            let first = self.operands_of(Type::B32, 4, kind);
            line!(self.before, "st.global.v4.b32 [%d1+{to}], {first};");
        }
        line!(self.before, "fence.proxy.async;\nbar.sync 0;\n{form} [%d1+{to}], [%r1], 16{};", hint(form));
        line!(self.before, "cp.async.bulk.commit_group;\ncp.async.bulk.wait_group 0;");
    }
}

/// The policy that a form takes: evict last.
pub(super) fn hint(form: Form) -> &'static str {
    if form.name().contains("cache_hint") { ", 0x14F0000000000000" } else { "" }
}
