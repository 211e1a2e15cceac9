//! What the machine code of an entry makes of its products of warpgroups: whether all are there, and what runs beside them.
//!
//! In: the entry's text, and the names of its machine instructions. Out: a [`Warpgroups`]. `wgmma.mma_async` is `HGMMA`,
//! `wgmma.wait_group` is `WARPGROUP.DEPBAR`, `wgmma.fence` is `WARPGROUP.ARRIVE`. ptxas adds waits and fences where it makes
//! products wait for each other, and may move arithmetic over a wait; both are seen here and nowhere else.

use std::fmt;

use crate::{Module, Op, Operand, Stmt};

/// Instructions of a kind: in the text, and in the machine code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// In the text.
    pub written: usize,
    /// In the machine code.
    pub made: usize,
}

/// Machine instructions from one wait to the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stage {
    /// Products that are started.
    pub products: usize,
    /// Exponentials.
    pub exponentials: usize,
    /// Exponentials of these that run while a product is in flight.
    pub beside: usize,
}

/// What became of an entry's products of warpgroups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Warpgroups {
    /// Products.
    pub products: Kept,
    /// Waits for groups of them.
    pub waits: Kept,
    /// Fences before them.
    pub fences: Kept,
    /// From the entry's begin to its first wait, from there to the next, and so on to its end, as the code lies.
    pub stages: Vec<Stage>,
}

impl Warpgroups {
    /// Reads an entry of a module and its machine instructions, as [`disassemble`](super::disassemble) names them; `None` where
    /// the module has no such entry, or it no products of warpgroups.
    pub fn of(module: &Module, entry: &str, machine: &[String]) -> Option<Warpgroups> {
        let entry = module.entries.iter().find(|found| found.name == entry)?;
        let written = |op: Op| {
            entry.body.iter().filter_map(move |stmt| match stmt {
                Stmt::Inst(inst) if inst.form.op() == op => Some(inst),
                _ => None,
            })
        };
        let made = |name: &str| machine.iter().filter(|found| found.starts_with(name)).count();
        let kept = |op, name| Kept { written: written(op).count(), made: made(name) };
        let left = written(Op::WgmmaWait).map(|inst| matches!(inst.operands.first(), Some(Operand::Int(1..))));
        let found = Warpgroups {
            products: kept(Op::Wgmma, "HGMMA"),
            waits: kept(Op::WgmmaWait, WAIT),
            fences: kept(Op::WgmmaFence, "WARPGROUP.ARRIVE"),
            stages: stages(machine, &left.collect::<Vec<_>>()),
        };
        (found.products.written > 0).then_some(found)
    }

    /// Whether products, waits and fences are those of the text.
    pub fn as_written(&self) -> bool {
        [self.products, self.waits, self.fences].iter().all(|kept| kept.written == kept.made)
    }

    /// Exponentials, and those of them that run while a product is in flight.
    pub fn exponentials(&self) -> [usize; 2] {
        self.stages.iter().fold([0; 2], |[all, beside], stage| [all + stage.exponentials, beside + stage.beside])
    }
}

/// The wait of the machine.
const WAIT: &str = "WARPGROUP.DEPBAR";

/// Stages, where `left` says of each wait of the text whether it leaves a group in flight. Waits that are not the text's leave none.
fn stages(machine: &[String], left: &[bool]) -> Vec<Stage> {
    let mut stages = vec![Stage::default()];
    let mut in_flight = false;
    for name in machine {
        if name.starts_with(WAIT) {
            in_flight &= left.get(stages.len() - 1).is_some_and(|left| *left);
            stages.push(Stage::default());
            continue;
        }
        let stage = stages.last_mut().expect("there is a first one");
        if name.starts_with("HGMMA") {
            in_flight = true;
            stage.products += 1;
        } else if name.starts_with("MUFU.EX2") {
            stage.exponentials += 1;
            stage.beside += usize::from(in_flight);
        }
    }
    stages
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.written == self.made {
            write!(f, "{}", self.made)
        } else {
            write!(f, "{} for {} in the text", self.made, self.written)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = ".version 8.0\n.target sm_90a\n.address_size 64\n\n.visible .entry k()\n{\n\
        .reg .f32 %f<4>;\n.reg .b64 %d<1>;\nmov.b64 %d0, 0;\nwgmma.fence.sync.aligned;\n\
        wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%f0, %f1, %f2, %f3}, %d0, %d0, 0, 1, 1, 0, 0;\n\
        wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 1;\nwgmma.wait_group.sync.aligned 0;\nret;\n}\n";

    fn found(machine: &str) -> Warpgroups {
        let machine: Vec<String> = machine.split(' ').map(str::to_owned).collect();
        Warpgroups::of(&crate::read(TEXT).expect("it is PTX"), "k", &machine).expect("it has a product")
    }

    #[test]
    fn exponentials_are_beside_a_product_from_its_start_to_the_wait_that_leaves_none() {
        let all = found(
            "MUFU.EX2 WARPGROUP.ARRIVE HGMMA.64x8x16.F32.BF16 MUFU.EX2 WARPGROUP.DEPBAR.LE MUFU.EX2 MUFU.EX2 WARPGROUP.DEPBAR.LE MUFU.EX2 MUFU.RCP",
        );
        let stage = |products, exponentials, beside| Stage { products, exponentials, beside };
        assert_eq!(all.stages, [stage(1, 2, 1), stage(0, 2, 2), stage(0, 1, 0)]);
        assert_eq!(all.exponentials(), [5, 3]);
        assert!(all.as_written());
    }

    #[test]
    fn waits_that_ptxas_adds_are_seen() {
        let all = found("WARPGROUP.ARRIVE HGMMA WARPGROUP.DEPBAR WARPGROUP.DEPBAR WARPGROUP.DEPBAR MUFU.EX2");
        assert!(!all.as_written());
        assert_eq!(all.waits, Kept { written: 2, made: 3 });
        assert_eq!(all.waits.to_string(), "3 for 2 in the text");
        assert_eq!(all.exponentials(), [1, 0]);
    }

    #[test]
    fn other_entries_and_entries_without_products_have_none() {
        let module = crate::read(TEXT).expect("it is PTX");
        assert_eq!(Warpgroups::of(&module, "other", &[]), None);
        let without = TEXT.lines().filter(|line| !line.starts_with("wgmma.mma")).collect::<Vec<_>>().join("\n");
        assert_eq!(Warpgroups::of(&crate::read(&without).expect("it is PTX"), "k", &[]), None);
    }
}
