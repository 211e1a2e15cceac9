//! A kernel at one shape: planned in any of its ways, and what its result is held to.

use std::collections::BTreeMap;
use std::fmt;

use lacuna_codegen::one_of;
use lacuna_codegen::plan::Scalar;
use lacuna_dsl::schedule::{Bound, Schedule};
use lacuna_dsl::{Error, Mask, Pick, Plan, Score, Shape, Space, Target, TileSize, Tunable};

use super::extras::{Extras, Listed, Routed, Tabled};
use super::scored::{self, SINKS, Scored, Tables};
use super::{Kernel, NARROW, Options, Spills};
use crate::classified::Classified;
use crate::host::{Float, Host, Precision, Row, Sides};
use crate::moba::{Moba, RoutingIs};
use crate::nsa::ByBlock;
use crate::reference::moba::{self, MobaConfig};
use crate::reference::tiles::TileLists;
use crate::reference::{self, Attended, Keys, Problem, Under};
use crate::tolerance::{self, Verdicts};
use crate::validate::Invalid;

/// A schedule at one shape, whichever it is.
pub trait Plannable: Tunable + Send + Sync {
    /// The numbers that the schedule itself gives at launch, by the names the plan has for them.
    fn given(&self, target: Target) -> Result<BTreeMap<String, Scalar>, Error>;
}

impl Plannable for ByBlock {
    fn given(&self, target: Target) -> Result<BTreeMap<String, Scalar>, Error> {
        ByBlock::given(self, target)
    }
}

impl Plannable for Moba {
    fn given(&self, target: Target) -> Result<BTreeMap<String, Scalar>, Error> {
        Moba::given(self, target)
    }
}

impl<S: Schedule + Send + Sync> Plannable for Bound<S> {
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
    /// What lies in the picked blocks and not in the future.
    Picks { block: usize },
    /// What lies in the own block and in those of a routing.
    Routed(Routed),
}

/// A kernel at one shape. [`Kernel::build`] makes it.
pub struct Attention {
    /// The kernel.
    pub kernel: &'static Kernel,
    /// The schedule that computes it at this shape: `block-major`.
    pub schedule_name: &'static str,
    /// What was chosen.
    pub options: Options,
    pub(super) shape: Shape,
    pub(super) schedule: Box<dyn Plannable>,
    pub(super) sees: Sees,
    pub(super) scored: Option<Scored>,
    pub(super) spills: Spills,
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
            Sees::Mask { mask, .. } | Sees::Tabled(Tabled { mask, .. }) => Some(mask),
            Sees::Picks { .. } | Sees::Listed(_) | Sees::Routed(_) => None,
        }
    }

    /// Block length and blocks of a row, where it has a routing.
    pub fn routed(&self) -> Option<MobaConfig> {
        match &self.sees {
            Sees::Routed(routed) => Some(routed.config),
            _ => None,
        }
    }

    /// Whose the routing is, where it has one.
    pub fn routing(&self) -> Option<RoutingIs> {
        match &self.sees {
            Sees::Routed(routed) => Some(routed.routing),
            _ => None,
        }
    }

    /// Whether the routing is the caller's afterwards.
    pub fn returns_routing(&self) -> bool {
        self.routing() == Some(RoutingIs::Returned)
    }

    /// Its shape.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// How large the blocks of its lists are, where it reads lists for tiles of queries.
    pub fn lists(&self) -> Option<TileSize> {
        match &self.sees {
            Sees::Listed(listed) => Some(listed.size),
            _ => None,
        }
    }

    /// Of the lists for one head: the pairs of a query and a key that they keep, and the keys that tiles of queries
    /// visit.
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
        self.scored.as_ref().map(|scored| &scored.score)
    }

    /// The tensors of f32 to bind besides those that every attention has, for so many query heads: tables of the score
    /// and learnable sinks. The given ones, or drawn with a seed where they are not given. Others among the given are
    /// left out.
    ///
    /// # Errors
    /// A given one of another shape.
    pub fn tables(&self, given: &Tables, heads: usize, seed: u64) -> Result<Tables, Invalid> {
        scored::complete(self.scored.as_ref(), self.options.sinks, given, heads, seed)
    }

    /// The tensors of whole numbers to bind besides those that every attention of so many query heads has: the given
    /// ones, or drawn with a seed where none is given. Others among the given are left out.
    ///
    /// # Errors
    /// What is wrong with the given ones: another length than the keys, one of several that belong together, a block that
    /// there is not.
    pub fn extras<'a>(
        &self,
        given: &Extras,
        cu_seqlens: impl Into<Sides<'a>>,
        heads: usize,
        seed: u64,
    ) -> Result<Extras, Invalid> {
        let cu_seqlens = cu_seqlens.into();
        match &self.sees {
            Sees::Listed(listed) => listed.complete(given, cu_seqlens, heads, seed),
            Sees::Tabled(tabled) => tabled.complete(given, cu_seqlens.k, &self.options, seed),
            Sees::Routed(routed) => routed.complete(given, cu_seqlens, heads, seed),
            Sees::Mask { .. } | Sees::Picks { .. } => Ok(Extras::new()),
        }
    }

    /// The numbers to give at each launch besides `scale` and `max_seqlen`: the arguments of the mask and of the score.
    ///
    /// # Errors
    /// What staging refuses.
    pub fn given(&self, target: Target) -> Result<BTreeMap<String, Scalar>, Error> {
        self.schedule.given(target)
    }

    /// What [`Tunable::choose`] chooses: the default pick, where nothing is wanted. Where ptxas is known to spill at
    /// it, the best of those that the kernel names instead.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a knob that there is not, or a value that it does not have; if no pick compiles, why the
    /// first one does not.
    pub fn pick(&self, target: Target, wanted: &Pick) -> Result<Pick, Error> {
        let space = self.space(target);
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
        let width = self.shape.dk.max(self.shape.dv);
        // Under every mask, for one GPU or another.
        let uneven = (self.shape.dk, self.shape.dv) == (192, 128);
        let known = match target.has(Target::SM_90A) {
            true => self.spills_in_warpgroups(width),
            false => (self.spills)(target, &self.shape, width).or(uneven.then_some(NARROW)),
        };
        if let Some((knob, value)) = known
            && !wanted.contains_key(knob)
        {
            let narrower = wanted.clone().into_iter().chain([(knob.to_owned(), value)]).collect();
            if let Ok(pick) = self.schedule.choose(target, &narrower) {
                return Ok(pick);
            }
        }
        self.schedule.choose(target, wanted)
    }

    /// The same where warpgroups multiply: masks and scores of many numbers leave three of them too few registers, and one that
    /// reads tables leaves none for products that overlap.
    fn spills_in_warpgroups(&self, width: u32) -> Option<(&'static str, u32)> {
        let tables = matches!(self.sees, Sees::Tabled(_));
        match width {
            ..=64 if tables || self.scored.is_some() || self.kernel.name == "longformer" => Some(("rows", 128)),
            128.. if tables => Some(("overlap", 1)),
            _ => None,
        }
    }

    /// The f64 reference and the plain computation: of every row, or of these. `picks`, `extras` and `tables` are
    /// needed where the kernel needs them. A routing that is not among the `extras` is made by the reference's own
    /// gate; where scores are near to one another, that may be another one than the kernel's.
    ///
    /// # Panics
    /// If picks, extras or tables are needed and not given.
    pub fn expected<T: Float>(
        &self,
        p: &Problem<'_, T>,
        picks: Option<&Host<i32>>,
        extras: &Extras,
        tables: &Tables,
        rows: Option<&[Row]>,
    ) -> Expected {
        let sees;
        let keys = match &self.sees {
            Sees::Listed(listed) => {
                let lists = listed.by_hand(extras);
                return match rows {
                    None => Expected {
                        reference: reference::tiles::attention_listed(p, &lists),
                        plain: tolerance::plain_listed(p, &lists),
                    },
                    Some(rows) => Expected {
                        reference: reference::tiles::attention_listed_rows(p, &lists, rows),
                        plain: tolerance::plain_listed_rows(p, &lists, rows),
                    },
                };
            }
            Sees::Routed(routed) => {
                let routing = routed.routing(extras).unwrap_or_else(|| moba::route(p.q, p.k, p.sides(), routed.config));
                let by_hand = routed.by_hand(&routing, extras);
                return Expected {
                    reference: moba::attention(p, &by_hand, rows),
                    plain: tolerance::plain_routed(p, &by_hand, rows),
                };
            }
            Sees::Tabled(tabled) => {
                sees = tabled.by_hand(extras);
                Keys::Pairs(&*sees)
            }
            Sees::Mask { reference, .. } => Keys::Mask(reference),
            &Sees::Picks { block } => {
                let picks = picks.expect("a kernel of picked blocks is compared with the same picks");
                Keys::Picks { picks, block }
            }
        };
        let score = self.scored.as_ref().map(|scored| (scored.reference)(tables));
        let under = Under {
            score: score.as_ref().map(|score| &**score as reference::Score<'_>),
            sinks: self.options.sinks.then(|| &*tables[SINKS].data),
        };
        Expected {
            reference: reference::attention_under(p, keys, under, rows),
            plain: tolerance::plain_under(p, keys, under, rows),
        }
    }
}

impl Tunable for Attention {
    fn space(&self, target: Target) -> Space {
        self.schedule.space(target)
    }

    fn plan(&self, target: Target, pick: &Pick) -> Result<Plan, Error> {
        self.schedule.plan(target, pick)
    }

    fn choose(&self, target: Target, wanted: &Pick) -> Result<Pick, Error> {
        self.pick(target, wanted)
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
