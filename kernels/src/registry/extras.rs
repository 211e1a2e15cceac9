//! What a kernel reads besides queries, keys, values and documents: tables and block lists, by name. Given, or drawn.

use std::collections::BTreeMap;
use std::fmt;

use lacuna_dsl::{Mask, TileSize};

use super::Options;
use crate::host::Sides;
use crate::inputs;
use crate::reference::Pair;
use crate::reference::tiles::TileLists;
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
    /// The given tables, and those that are not given drawn: all of them, where one is missing. They have a number for each key.
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

/// Block lists of tiles of queries.
#[derive(Clone, Debug)]
pub(super) struct Listed {
    /// What is hidden in the listed blocks.
    pub(super) mask: Mask,
    pub(super) causal: bool,
    pub(super) size: TileSize,
    /// How many of a hundred blocks are listed where lists are drawn.
    pub(super) percent: u32,
}

/// The names of the lists, and of their lengths.
const LISTS: &str = "lists";
const COUNTS: &str = "lists_counts";

impl Listed {
    /// The given lists, or drawn ones, the same for all heads; with their lengths, which are counted up to the first -1
    /// where they are not given. All of it as `heads` heads have it.
    pub(super) fn complete(
        &self,
        given: &Extras,
        cu_seqlens: Sides<'_>,
        heads: usize,
        seed: u64,
    ) -> Result<Extras, Invalid> {
        let (rows, keys) = (self.size.rows as usize, self.size.keys as usize);
        let (lists, shape) = match given.get(LISTS) {
            None if given.contains_key(COUNTS) => {
                return Err(Invalid::TableAlone { name: COUNTS, missing: LISTS });
            }
            None => inputs::tile_lists(seed, cu_seqlens, 1, (rows, keys), self.percent, self.causal),
            Some(lists) => {
                let described = Described { name: LISTS, shape: &lists.shape, dtype: "i32" };
                (lists.data.clone(), validate::tile_lists(&described, cu_seqlens.q, heads, rows)?)
            }
        };
        let n = shape[3];
        let counts: Vec<i32> = match given.get(COUNTS) {
            None => {
                lists.chunks(n).map(|list| list.iter().position(|&block| block == -1).unwrap_or(n) as i32).collect()
            }
            Some(counts) => {
                let described = Described { name: COUNTS, shape: &counts.shape, dtype: "i32" };
                validate::tile_counts(&described, &counts.data, shape)?;
                counts.data.clone()
            }
        };
        validate::tiles_exist(&lists, &counts, shape, cu_seqlens.k, keys)?;
        // One list for all heads, written out.
        let each = if shape[1] == 1 { heads } else { 1 };
        let spread = |data: &[i32], one: usize| -> Vec<i32> {
            data.chunks((one * shape[2]).max(1)).flat_map(|document| document.repeat(each)).collect()
        };
        let shape = vec![shape[0], heads, shape[2], n];
        let counts = Ints { shape: shape[..3].to_vec(), data: if each == 1 { counts } else { spread(&counts, 1) } };
        let lists = Ints { shape, data: if each == 1 { lists } else { spread(&lists, n) } };
        Ok(Extras::from([(LISTS.to_owned(), lists), (COUNTS.to_owned(), counts)]))
    }

    /// The lists as the reference takes them.
    ///
    /// # Panics
    /// If they are missing.
    pub(super) fn by_hand<'a>(&self, extras: &'a Extras) -> TileLists<'a> {
        let [lists, counts] = [LISTS, COUNTS].map(|name| match extras.get(name) {
            Some(ints) => ints,
            None => panic!("`{name}` is compared with the same lists"),
        });
        let shape = lists.shape.as_slice().try_into().expect("lists have four extents");
        let (rows, keys, causal) = (self.size.rows as usize, self.size.keys as usize, self.causal);
        TileLists { lists: &lists.data, shape, counts: &counts.data, rows, keys, causal }
    }
}
