//! A kernel at one shape: planned in any of its ways, and what its result is held to.

use std::collections::BTreeMap;
use std::fmt;

use lacuna_codegen::plan::Scalar;
use lacuna_dsl::schedule::{Bound, Schedule};
use lacuna_dsl::{Error, Mask, Pick, Plan, Score, Space, Target, TileSize, Tunable};

use super::extras::{Extras, Listed, Tabled};
use super::options::one_of;
use super::{Kernel, Options, ScoreByHand};
use crate::classified::Classified;
use crate::host::{Float, Host, Precision, Row};
use crate::nsa::ByBlock;
use crate::reference::tiles::TileLists;
use crate::reference::{self, Attended, Problem, masks, nsa};
use crate::scores;
use crate::tolerance::{self, Verdicts};
use crate::validate::Invalid;

/// A schedule at one shape, whichever it is.
pub trait Plannable: Tunable {
    /// The numbers that the schedule itself gives at launch, by the names the plan has for them.
    fn given(&self, target: Target) -> Result<BTreeMap<String, Scalar>, Error>;
}

impl Plannable for ByBlock {
    fn given(&self, target: Target) -> Result<BTreeMap<String, Scalar>, Error> {
        ByBlock::given(self, target)
    }
}

impl<S: Schedule> Plannable for Bound<S> {
    fn given(&self, target: Target) -> Result<BTreeMap<String, Scalar>, Error> {
        Bound::given(self, target)
    }
}

impl Plannable for Classified {
    fn given(&self, target: Target) -> Result<BTreeMap<String, Scalar>, Error> {
        Classified::given(self, target)
    }
}

/// What a query sees.
pub(super) enum Sees {
    /// What a mask keeps: the kernel's, and the reference's own.
    Mask { mask: Mask, reference: Box<dyn Fn(i64, i64) -> bool + Send + Sync> },
    /// What a mask keeps that reads tables.
    Tabled(Tabled),
    /// What lies in the blocks that are listed for a tile of queries.
    Listed(Listed),
    /// What a causal mask keeps, under a score: the kernel's, and the reference's own for so many query heads.
    Scored { mask: Mask, score: Score, reference: Box<dyn Fn(usize) -> ScoreByHand + Send + Sync> },
    /// What lies in the picked blocks and not in the future.
    Picks { block: usize },
}

/// A kernel at one shape. [`Kernel::build`] makes it.
pub struct Attention {
    /// The kernel.
    pub kernel: &'static Kernel,
    /// The schedule that computes it at this shape: `block-major`.
    pub schedule_name: &'static str,
    /// What was chosen.
    pub options: Options,
    pub(super) schedule: Box<dyn Plannable>,
    pub(super) sees: Sees,
    /// Knobs whose default is not the schedule's.
    pub(super) usual: &'static [(&'static str, u32)],
}

/// What a result is compared with: rows in f64, and the same rows of the plain computation.
#[derive(Clone, Debug, PartialEq)]
pub struct Expected {
    /// The f64 reference.
    pub reference: Attended<f64>,
    /// The plain computation, not yet rounded to the type of the result.
    pub plain: Attended<f32>,
}

impl Expected {
    /// The verdicts on outputs (stored as `stored`, widened to f32) and LSE of the same rows.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn check(&self, o: &[f32], lse: &[f32], stored: Precision) -> Verdicts {
        tolerance::check_attention(o, lse, &self.reference, &self.plain, stored)
    }
}

impl Attention {
    /// The mask, where there is one: a kernel of picked blocks has none.
    pub fn mask(&self) -> Option<&Mask> {
        match &self.sees {
            Sees::Mask { mask, .. } | Sees::Scored { mask, .. } | Sees::Tabled(Tabled { mask, .. }) => Some(mask),
            Sees::Picks { .. } | Sees::Listed(_) => None,
        }
    }

    /// How large the blocks of its lists are, where it reads lists for tiles of queries.
    pub fn lists(&self) -> Option<TileSize> {
        match &self.sees {
            Sees::Listed(listed) => Some(listed.size),
            _ => None,
        }
    }

    /// Of the lists for one head: the pairs of a query and a key that they keep, and the keys that tiles of queries visit.
    ///
    /// # Panics
    /// If the kernel reads no lists, or they are not there.
    pub fn listed(&self, extras: &Extras, lengths: &[usize]) -> (u64, u64) {
        let lists = self.tile_lists(extras);
        lists.unwrap_or_else(|| panic!("`{}` reads no lists", self.kernel.name)).pairs(lengths)
    }

    /// The lists among its extras, for a kernel that reads lists for tiles of queries.
    ///
    /// # Panics
    /// If they are not there.
    pub fn tile_lists<'a>(&self, extras: &'a Extras) -> Option<TileLists<'a>> {
        match &self.sees {
            Sees::Listed(listed) => Some(listed.by_hand(extras)),
            _ => None,
        }
    }

    /// The score, where there is one.
    pub fn score(&self) -> Option<&Score> {
        match &self.sees {
            Sees::Scored { score, .. } => Some(score),
            Sees::Mask { .. } | Sees::Tabled(_) | Sees::Listed(_) | Sees::Picks { .. } => None,
        }
    }

    /// The tensors `[heads]`, f32, to bind besides those that every attention has: what the reference takes for them.
    pub fn tables(&self, heads: usize) -> BTreeMap<String, Vec<f32>> {
        let names = self.score().into_iter().flat_map(Score::tables);
        names.map(|name| (name.to_owned(), scores::slopes(heads))).collect()
    }

    /// The tensors of whole numbers to bind besides those that every attention of so many query heads has: the given ones, or drawn with a seed where
    /// none is given. Others among the given are left out.
    ///
    /// # Errors
    /// What is wrong with the given ones: another length than the tokens, one of several that belong together, a block that
    /// there is not.
    pub fn extras(&self, given: &Extras, cu_seqlens: &[i32], heads: usize, seed: u64) -> Result<Extras, Invalid> {
        match &self.sees {
            Sees::Listed(listed) => listed.complete(given, cu_seqlens, heads, seed),
            Sees::Tabled(tabled) => tabled.complete(given, cu_seqlens, &self.options, seed),
            Sees::Mask { .. } | Sees::Scored { .. } | Sees::Picks { .. } => Ok(Extras::new()),
        }
    }

    /// The numbers to give at each launch besides `scale` and `max_seqlen`: the arguments of the mask and of the score.
    ///
    /// # Errors
    /// What staging refuses.
    pub fn given(&self, target: Target) -> Result<BTreeMap<String, Scalar>, Error> {
        self.schedule.given(target)
    }

    /// The first pick of the space that agrees with `wanted` and compiles for the target, with the kernel's own defaults
    /// before the schedule's: the default, where nothing is wanted.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a knob that there is not, or a value that it does not have; if no pick compiles, why the
    /// first one does not.
    pub fn pick(&self, target: Target, wanted: &Pick) -> Result<Pick, Error> {
        let space = self.space();
        for (name, value) in wanted {
            let Some((_, values)) = space.knobs.iter().find(|(knob, _)| knob == name) else {
                let known: Vec<&str> = space.knobs.iter().map(|(knob, _)| knob.as_str()).collect();
                let (schedule, known) = (self.schedule_name, known.join(", "));
                return Err(Error::Unsupported(format!("{schedule} has no knob `{name}`; it has {known}")));
            };
            if !values.contains(value) {
                let (schedule, right) = (self.schedule_name, one_of(values));
                return Err(Error::Unsupported(format!(
                    "the knob `{name}` of {schedule} is {value}; {right} is right"
                )));
            }
        }
        let agrees = |pick: &Pick| wanted.iter().all(|(name, value)| pick.get(name) == Some(value));
        let unusual = |pick: &Pick| {
            self.usual.iter().any(|&(name, value)| !wanted.contains_key(name) && pick.get(name) != Some(&value))
        };
        let mut picks: Vec<Pick> = space.picks().into_iter().filter(agrees).collect();
        picks.sort_by_key(unusual);
        let mut first = None;
        for pick in picks {
            match self.plan(target, &pick) {
                Ok(_) => return Ok(pick),
                Err(error) => first = first.or(Some(error)),
            }
        }
        Err(first.unwrap_or_else(|| Error::Unsupported("the space of picks is empty".to_owned())))
    }

    /// The f64 reference and the plain computation: of every row, or of these. `picks` and `extras` are needed where the kernel
    /// needs them.
    ///
    /// # Panics
    /// If picks or extras are needed and not given.
    pub fn expected<T: Float>(
        &self,
        p: &Problem<'_, T>,
        picks: Option<&Host<i32>>,
        extras: &Extras,
        rows: Option<&[Row]>,
    ) -> Expected {
        match &self.sees {
            Sees::Listed(listed) => {
                let lists = listed.by_hand(extras);
                match rows {
                    None => Expected {
                        reference: reference::tiles::attention_listed(p, &lists),
                        plain: tolerance::plain_listed(p, &lists),
                    },
                    Some(rows) => Expected {
                        reference: reference::tiles::attention_listed_rows(p, &lists, rows),
                        plain: tolerance::plain_listed_rows(p, &lists, rows),
                    },
                }
            }
            Sees::Tabled(tabled) => {
                let sees = tabled.by_hand(extras);
                match rows {
                    None => Expected {
                        reference: reference::attention_of(p, &*sees),
                        plain: tolerance::plain_of(p, &*sees),
                    },
                    Some(rows) => Expected {
                        reference: reference::attention_of_rows(p, &*sees, rows),
                        plain: tolerance::plain_of_rows(p, &*sees, rows),
                    },
                }
            }
            Sees::Mask { reference: mask, .. } => match rows {
                None => {
                    Expected { reference: reference::attention(p, mask), plain: tolerance::plain_attention(p, mask) }
                }
                Some(rows) => Expected {
                    reference: reference::attention_rows(p, mask, rows),
                    plain: tolerance::plain_attention_rows(p, mask, rows),
                },
            },
            Sees::Scored { reference: by_hand, .. } => {
                let score = by_hand(p.q.shape[1]);
                match rows {
                    None => Expected {
                        reference: reference::attention_scored(p, &masks::causal, &score),
                        plain: tolerance::plain_scored(p, &masks::causal, &score),
                    },
                    Some(rows) => Expected {
                        reference: reference::attention_scored_rows(p, &masks::causal, &score, rows),
                        plain: tolerance::plain_scored_rows(p, &masks::causal, &score, rows),
                    },
                }
            }
            &Sees::Picks { block } => {
                let picks = picks.expect("a kernel of picked blocks is compared with the same picks");
                match rows {
                    None => Expected {
                        reference: nsa::selected_attention(p, picks, block),
                        plain: tolerance::plain_selected(p, picks, block),
                    },
                    Some(rows) => Expected {
                        reference: nsa::selected_attention_rows(p, picks, block, rows),
                        plain: tolerance::plain_selected_rows(p, picks, block, rows),
                    },
                }
            }
        }
    }
}

impl Tunable for Attention {
    fn space(&self) -> Space {
        self.schedule.space()
    }

    fn plan(&self, target: Target, pick: &Pick) -> Result<Plan, Error> {
        self.schedule.plan(target, pick)
    }
}

impl fmt::Debug for Attention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attention")
            .field("kernel", &self.kernel.name)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}
