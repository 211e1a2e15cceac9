//! Which parameters a kernel may store through.
//!
//! A kernel reads far more global memory than it writes, and only what one launch both writes and touches otherwise can race.
//! So an address is followed from the parameter that it comes from to the stores, atomics and reductions that use it, and
//! the reads of other allocations need not be remembered.
//!
//! In: a kernel's instructions. Out: every parameter whose value a stored-to address may derive from, whatever path is
//! taken; where an address may have come out of memory, anything. Not followed: an address put together from two words
//! that were loaded, and one that reaches from one allocation into another. A store there is found when it is made, and
//! what was read there before is not known.

use lacuna_ptx::isa::Space;
use lacuna_ptx::{Address, Base, Class, Inst, Op, Operand, Param, Reg};
use std::collections::{HashMap, HashSet};

/// What stored-to addresses derive from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stored {
    /// Numbers of parameters.
    pub(crate) params: Vec<usize>,
    /// An address may have come out of memory.
    pub(crate) anything: bool,
}

/// Where a register's value may have come from: a parameter, or memory.
const MEMORY: usize = usize::MAX;

fn base(inst: &Inst, space: Space) -> Option<Reg> {
    let places = inst.form.slots();
    inst.operands.iter().zip(places).find_map(|(operand, place)| match (operand, place) {
        (Operand::Tensor { map, .. }, _) if space == Space::Global => match map.base {
            Base::Reg(reg) => Some(reg),
            Base::Symbol(_) => None,
        },
        (Operand::Address(address), lacuna_ptx::isa::Slot::Address(of)) if *of == space => match address.base {
            Base::Reg(reg) => Some(reg),
            Base::Symbol(_) => None,
        },
        _ => None,
    })
}

fn loads(op: Op) -> bool {
    use Op::*;
    matches!(op, LdGlobal | LdGlobalVector | LdGlobalPair | LdShared | LdSharedVector | AtomAdd | AtomMinMax | Ldmatrix)
}

fn stores(op: Op) -> bool {
    use Op::*;
    matches!(
        op,
        StGlobal
            | StGlobalVector
            | StGlobalPair
            | AtomAdd
            | AtomMinMax
            | RedAdd
            | RedAddVector
            | RedAddHalves
            | BulkStore
            | BulkStoreHint
            | BulkAdd
            | BulkAddHint
            | TensorStore
            | TensorAdd
    )
}

/// What a kernel may store through.
pub(crate) fn stored(texts: &[Inst], params: &[(u32, Param)]) -> Stored {
    let mut from: HashMap<Reg, HashSet<usize>> = HashMap::new();
    let mut grew = true;
    while grew {
        grew = false;
        for text in texts {
            let mut sources: HashSet<usize> = HashSet::new();
            if !loads(text.form.op()) {
                sources.extend(text.reads().filter_map(|reg| from.get(&reg)).flatten());
            }
            for operand in &text.operands {
                let name = match operand {
                    Operand::Address(Address { base: Base::Symbol(name), .. }) | Operand::Symbol(name) => name,
                    _ => continue,
                };
                sources.extend(params.iter().position(|(_, param)| param.name == *name));
            }
            for reg in text.writes() {
                let known = from.entry(reg).or_default();
                let before = known.len();
                known.extend(&sources);
                if loads(text.form.op()) && reg.class == Class::B64 {
                    known.insert(MEMORY);
                }
                grew |= known.len() != before;
            }
        }
    }
    let mut all: HashSet<usize> = HashSet::new();
    for text in texts.iter().filter(|text| stores(text.form.op())) {
        all.extend(base(text, Space::Global).and_then(|reg| from.get(&reg)).into_iter().flatten());
    }
    let anything = all.remove(&MEMORY);
    let mut params: Vec<usize> = all.into_iter().collect();
    params.sort_unstable();
    Stored { params, anything }
}
