//! What a kernel reads besides queries, keys, values and documents: tables, by name. Given, or drawn.

use std::collections::BTreeMap;
use std::fmt;

use lacuna_dsl::Mask;

use super::Options;
use crate::reference::Pair;
use crate::validate::{self, Described, Invalid};

/// A tensor of whole numbers on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ints {
    /// Its extents, outermost first.
    pub shape: Vec<usize>,
    /// Its elements, the last extent fastest.
    pub data: Vec<i32>,
}

/// Tensors of whole numbers, by name.
pub type Extras = BTreeMap<String, Ints>;

/// Says of a pair whether the query sees the key.
pub(super) type ByHand = Box<dyn Fn(&Pair) -> bool + Send + Sync>;

/// A mask that reads tables, twice: as the kernel has it, and by hand for the reference.
pub(super) struct Tabled {
    pub(super) mask: Mask,
    /// The tables, in the order of the functions below.
    pub(super) names: &'static [&'static str],
    /// Draws them, given a seed and cu_seqlens.
    pub(super) draw: Draw,
    /// The mask by hand, given the tables.
    pub(super) reference: fn(Vec<Vec<i32>>) -> ByHand,
}

/// Draws tables, given a seed, cu_seqlens and what was chosen.
pub(super) type Draw = fn(u64, &[i32], &Options) -> Vec<Vec<i32>>;

impl Tabled {
    /// The given tables, and those that are not given drawn: all of them, where one is missing.
    pub(super) fn complete(
        &self,
        given: &Extras,
        cu_seqlens: &[i32],
        options: &Options,
        seed: u64,
    ) -> Result<Extras, Invalid> {
        let tokens = cu_seqlens.last().map_or(0, |&end| end as usize);
        for name in self.names {
            if let Some(table) = given.get(*name) {
                validate::table(&Described { name, shape: &table.shape, dtype: "i32" }, tokens)?;
            }
        }
        if let Some(missing) = self.names.iter().find(|name| !given.contains_key(**name)) {
            if let Some(alone) = self.names.iter().find(|name| given.contains_key(**name)) {
                return Err(Invalid::TableAlone { name: alone, missing });
            }
            let drawn = (self.draw)(seed, cu_seqlens, options);
            let named = self.names.iter().zip(drawn);
            return Ok(named.map(|(name, data)| ((*name).to_owned(), Ints { shape: vec![tokens], data })).collect());
        }
        Ok(self.names.iter().map(|name| ((*name).to_owned(), given[*name].clone())).collect())
    }

    /// The mask by hand.
    ///
    /// # Panics
    /// If a table is missing.
    pub(super) fn by_hand(&self, extras: &Extras) -> ByHand {
        let table = |name: &&str| match extras.get(*name) {
            Some(table) => table.data.clone(),
            None => panic!("the table `{name}` is compared with the same table"),
        };
        (self.reference)(self.names.iter().map(table).collect())
    }
}

impl fmt::Debug for Tabled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tabled").field("names", &self.names).finish_non_exhaustive()
    }
}
