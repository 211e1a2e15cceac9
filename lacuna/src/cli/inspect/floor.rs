//! How fast an H200 could do what a launch must: the work that the registry counts, over the ceilings of ARCHITECTURE.md,
//! "Kernels and their floors".

use lacuna::codegen::plan::{Pick, Plan};
use lacuna::kernels::registry::{Attention, Counted, Extents};
use lacuna::runtime::tune::Profile;

/// The best of an H200's tensor cores in a burst, and a copy: what MoBA is measured by, whichever instructions it uses.
const BURST: f64 = 790e12;
const COPY: f64 = 4.3e12;

/// What it must do, and how long that takes at least.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Floor {
    pub(crate) flops: f64,
    /// K and V, once for each tile of queries that reads them.
    pub(crate) l2_bytes: f64,
    /// Each tensor once.
    pub(crate) hbm_bytes: f64,
    /// FLOPs a second that the products could reach.
    pub(crate) ceiling: f64,
    /// Bytes a second that HBM could move.
    pub(crate) hbm: f64,
}

impl Floor {
    /// Of an attention in a pick, and its plan.
    pub(crate) fn of(attention: &Attention, pick: &Pick, plan: &Plan, x: &Extents) -> Self {
        Floor::where_products_are(attention, pick, plan.attending().by_warpgroups(), x)
    }

    /// Of an attention in a pick, where warpgroups multiply or warps do.
    fn where_products_are(attention: &Attention, pick: &Pick, by_warpgroups: bool, x: &Extents) -> Self {
        let work = attention.work(&Counted::new(x.clone()), pick);
        let gpu = Profile::H200;
        let (ceiling, hbm) = match attention.routed() {
            Some(_) => (BURST, COPY),
            None => (gpu.products(work.rows_a_warp, by_warpgroups), gpu.hbm),
        };
        Floor { flops: work.flops, l2_bytes: work.l2_bytes, hbm_bytes: work.hbm_bytes, ceiling, hbm }
    }

    /// Each bound with its milliseconds.
    pub(crate) fn bounds(&self) -> [(&'static str, f64); 3] {
        let ms = |amount: f64, rate: f64| amount / rate * 1e3;
        [
            ("products", ms(self.flops, self.ceiling)),
            ("L2", ms(self.l2_bytes, Profile::H200.l2)),
            ("HBM", ms(self.hbm_bytes, self.hbm)),
        ]
    }

    /// The bound that takes longest.
    pub(crate) fn bound(&self) -> (&'static str, f64) {
        self.bounds().into_iter().fold(("products", 0.0), |most, bound| if bound.1 > most.1 { bound } else { most })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lacuna::dsl::{Elem, Shape, Target, Tunable as _};
    use lacuna::kernels::registry;

    fn attention(kernel: &str, x: &Extents) -> Attention {
        let kernel = registry::find(kernel).unwrap();
        let group = (x.heads / x.kv_heads) as u32;
        let shape = Shape::new(Elem::Bf16, x.dk as u32, x.dv as u32, group);
        kernel.build(shape, &kernel.options([]).unwrap()).unwrap()
    }

    fn floor(kernel: &str, pick: &[(&str, u32)], x: &Extents) -> Floor {
        let pick = pick.iter().map(|&(name, value)| (name.to_owned(), value)).collect();
        Floor::where_products_are(&attention(kernel, x), &pick, false, x)
    }

    /// ARCHITECTURE.md, "Kernels and their floors".
    #[test]
    fn they_are_those_of_the_architecture() {
        let near = |x: f64, want: f64| assert!((x / want - 1.0).abs() < 0.03, "{x} is not {want}");
        let dense = Extents { docs: vec![8192; 4], heads: 16, kv_heads: 16, dk: 128, dv: 128 };
        let causal = floor("causal", &[("rows", 128), ("kv", 64), ("warps", 4)], &dense);
        near(causal.flops, 1.10e12);
        near(causal.l2_bytes, 8.6e9 * 65.0 / 64.0);
        near(causal.hbm_bytes, 0.54e9);
        assert_eq!(causal.bound().0, "products");
        near(causal.bound().1, 1.73);
        let sparse = Extents { docs: vec![65536], heads: 64, kv_heads: 4, dk: 128, dv: 128 };
        let selected = floor("nsa-selected", &[], &sparse);
        near(selected.flops, 2.20e12);
        near(selected.l2_bytes, 137e9);
        near(selected.hbm_bytes, 2.3e9);
        assert_eq!(selected.bound().0, "L2");
        near(selected.bound().1, 15.4);
        let sparse = Extents { heads: 16, kv_heads: 16, ..sparse };
        let by_block = floor("nsa-selected", &[("rows", 64), ("warps", 4)], &sparse);
        near(by_block.flops, 0.55e12);
        near(by_block.l2_bytes, 21.4e9);
        near(by_block.hbm_bytes, 9.9e9);
        assert_eq!(by_block.bound().0, "L2");
        near(by_block.bound().1, 2.4);
    }

    /// Block by block has no knob of how products overlap, and warpgroups multiply for it as for dense attention.
    #[test]
    fn the_ceiling_is_of_what_the_plan_multiplies_with() {
        let x = Extents { docs: vec![8192], heads: 16, kv_heads: 16, dk: 128, dv: 128 };
        for (kernel, schedule) in [("causal", "query-major"), ("nsa-selected", "block-major")] {
            let attention = attention(kernel, &x);
            assert_eq!(attention.schedule_name, schedule);
            for (target, by_warpgroups) in [(Target::SM_90, false), (Target::SM_90A, true)] {
                let pick = attention.pick(target, &Pick::new()).unwrap();
                let plan = attention.plan(target, &pick).unwrap();
                let floor = Floor::of(&attention, &pick, &plan, &x);
                let wgmma = Profile::H200.products(64, true);
                assert_eq!(floor.ceiling == wgmma, by_warpgroups, "{kernel} on {target}: {}", floor.ceiling);
                assert!(floor.ceiling <= wgmma);
            }
        }
        let own = |x: &Extents| floor("moba", &[("rows", 128), ("warps", 8)], x).ceiling;
        assert!(own(&x) < Profile::H200.products(64, true), "a burst of all launches is less than wgmma alone");
    }

    #[test]
    fn moba_is_measured_by_pairs_and_its_gate() {
        let x = Extents { docs: vec![131_072; 2], heads: 16, kv_heads: 16, dk: 128, dv: 128 };
        let moba = floor("moba", &[("rows", 128), ("warps", 8)], &x);
        let (own, others) = (131_072.0 * 129.0 / 2.0, 7.0 * 128.0 * 131_072.0);
        let gate = 131_072.0 * 1023.0 / 2.0;
        let want = 2.0 * 16.0 * (4.0 * 128.0 * (own + others) + 2.0 * 128.0 * gate);
        assert!((moba.flops / want - 1.0).abs() < 0.01, "{} is not {want}", moba.flops);
        assert_eq!((moba.ceiling, moba.hbm), (BURST, COPY));
    }
}
