//! What a kernel reads besides queries, keys, values and documents: tables and block lists, by name. Given, or drawn.

use std::collections::BTreeMap;
use std::fmt;

use lacuna_dsl::{Mask, TileSize};

use super::Options;
use crate::host::{Dims, Host, Sides};
use crate::inputs;
use crate::moba::RoutingIs;
use crate::reference::Pair;
use crate::reference::moba::{self, MobaConfig};
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
    /// The given tables, and those that are not given drawn: all of them, where one is missing. They have a number for
    /// each key.
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

/// Blocks that are chosen for each query head of a token.
#[derive(Clone, Copy, Debug)]
pub(super) struct Routed {
    pub(super) config: MobaConfig,
    /// How many of the first query heads are full, where the input does not say which; none at all, where it is 0.
    pub(super) full: u32,
    /// Whose the routing is.
    pub(super) routing: RoutingIs,
}

/// The names of the routing, and of the table of full heads.
pub(super) const ROUTING: &str = "routing";
const FULL_HEADS: &str = "full_heads";

impl Routed {
    /// The given routing, or a drawn one, where the kernel reads one: -1 throughout for full heads. Which heads are
    /// full, where some are.
    pub(super) fn complete(
        &self,
        given: &Extras,
        cu_seqlens: Sides<'_>,
        heads: usize,
        seed: u64,
    ) -> Result<Extras, Invalid> {
        let MobaConfig { block, top, .. } = self.config;
        let total = cu_seqlens.q.last().map_or(0, |&end| end as usize);
        let dims = Dims { total, keys: total, hq: heads, hk: heads, dk: 0, dv: 0 };
        let full = match (self.full, given.get(FULL_HEADS)) {
            (0, None) => None,
            (0, Some(_)) => return Err(Invalid::FullHeadsUnread),
            (_, Some(table)) => {
                let described = Described { name: FULL_HEADS, shape: &table.shape, dtype: "i32" };
                validate::full_heads(&described, &table.data, dims)?;
                Some(table.clone())
            }
            (full, None) if full as usize > heads => return Err(Invalid::FullHeads { full, heads }),
            (full, None) => {
                Some(Ints { shape: vec![heads], data: (0..heads as u32).map(|head| i32::from(head < full)).collect() })
            }
        };
        let mut extras = Extras::new();
        if self.routing == RoutingIs::Given {
            let mut routing = match given.get(ROUTING) {
                None => {
                    let drawn =
                        inputs::routing(seed, cu_seqlens.q, cu_seqlens.k, heads, block, top, inputs::Route::Random);
                    Ints { shape: drawn.shape.to_vec(), data: drawn.data }
                }
                Some(routing) => {
                    let described = Described { name: ROUTING, shape: &routing.shape, dtype: "i32" };
                    let q = Described { name: "q", shape: &[], dtype: "" };
                    let found = validate::routing(&described, &q, dims)?;
                    if found != top {
                        return Err(Invalid::OtherTop { found, top });
                    }
                    routing.clone()
                }
            };
            if let Some(full) = &full {
                // A full head has no choices.
                for (row, choices) in routing.data.chunks_mut(top).enumerate() {
                    if full.data[row % heads] == 1 {
                        choices.fill(-1);
                    }
                }
            }
            extras.insert(ROUTING.to_owned(), routing);
        }
        extras.extend(full.map(|full| (FULL_HEADS.to_owned(), full)));
        Ok(extras)
    }

    /// The routing that the reference attends by, where there is one; else it makes its own.
    pub(super) fn routing(&self, extras: &Extras) -> Option<Host<i32>> {
        extras.get(ROUTING).map(|ints| {
            let shape = ints.shape.as_slice().try_into().expect("a routing has three extents");
            Host::new(ints.data.clone(), shape)
        })
    }

    /// The routing and the full heads as the reference takes them.
    pub(super) fn by_hand<'a>(&self, routing: &'a Host<i32>, extras: &'a Extras) -> moba::Routed<'a> {
        let full_heads = extras.get(FULL_HEADS).map(|ints| ints.data.as_slice());
        moba::Routed { routing, config: self.config, full_heads }
    }
}
