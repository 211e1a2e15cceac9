//! Every shipped kernel, once: its name, what it is for, what may be chosen, what it needs, how it is built, and what it is
//! held to. The command's parsing and help, its demonstration, tests and benchmarks all come from here.
//!
//! ```
//! use lacuna_dsl::{Elem, Shape, Target, Tunable};
//! use lacuna_kernels::registry;
//!
//! let kernel = registry::find("sink-window").unwrap();
//! let options = kernel.options([("window", 128)])?;
//! let attention = kernel.build(Shape::new(Elem::Bf16, 64, 64, 4), &options)?;
//! let pick = attention.pick(Target::SM_80, &Default::default())?;
//! let plan = attention.plan(Target::SM_80, &pick)?;
//! assert!(plan.scalars.iter().any(|s| s.name == "window"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod attention;
mod class;
mod extras;
mod options;
mod scored;
mod work;

use std::collections::BTreeMap;

use lacuna_dsl::{Error, Mask, Schedule, Shape, Target, TileSize};

pub use attention::{Attention, Expected, Plannable};
pub use class::Fact;
pub use extras::{Extras, Ints};
use extras::{Listed, Routed, Tabled};
pub use options::{Allowed, BadOption, Options, Setting};
use scored::{AHEAD, CAP};
pub use scored::{Floats, SCORES, SINKS, ScoreKind, Tables, find_score};
pub use work::{Counted, Extents};

use crate::classified::Classified;
use crate::dense::QueryMajor;
use crate::inputs;
use crate::moba::{self, Moba, RoutingIs};
use crate::nsa::{ByBlock, GroupCentric};
use crate::patterns;
use crate::reference::masks;
use crate::reference::moba::MobaConfig;
use crate::reference::nsa::NsaConfig;
use crate::sparse::BlockSparse;
use crate::validate;

/// A tensor that not every kernel needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Need {
    /// Where the documents begin: the caller must say, one document is not assumed. Every kernel honours cu_seqlens that are
    /// there.
    CuSeqlens,
    /// The blocks that each token and KV head attends to, `[tokens, Hk, n]`.
    Picks,
}

/// A shipped kernel.
#[derive(Debug)]
pub struct Kernel {
    /// What it is called everywhere: `sink-window`.
    pub name: &'static str,
    /// One line on what it computes.
    pub about: &'static str,
    /// The schedule that computes it: `query-major`. Where there are several, the one under no score and not by block.
    pub schedule: &'static str,
    /// What a caller may choose.
    pub settings: &'static [Setting],
    /// The tensors that it needs besides q, k and v.
    pub needs: &'static [Need],
    how: How,
}

/// What a kernel is made of.
#[derive(Debug)]
enum How {
    /// Query-major under a mask.
    Masked(fn(&Options) -> Seen),
    /// Query-major under a mask that reads tables.
    Tabled(fn() -> Tabled),
    /// Query-major, causal, under the score of that name, and with learnable sinks or without.
    Under(Option<&'static str>, bool),
    /// Block-sparse rows.
    Listed(fn(&Options) -> Listed),
    /// Group-centric over picked blocks.
    Picked,
    /// Blocks that a gate chooses, or that a routing lists.
    Routed,
}

/// What is known of a launch when it is planned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// The longest document, in keys: an attention that may see as many blocks as that has is dense.
    pub max_seqlen: Option<usize>,
    /// The extents of the tensors, by the symbols of plans: `tokens`, `heads_q`, `heads_kv`, `segments_plus_one`. What does not
    /// fit in the workspace at once is done in chunks.
    pub extents: Option<BTreeMap<String, u64>>,
    /// Whose the routing is, of a kernel that has one.
    pub routing: RoutingIs,
}

/// One mask, twice: as the kernel has it, and by hand for the reference.
struct Seen {
    mask: Mask,
    reference: Box<dyn Fn(i64, i64) -> bool + Send + Sync>,
    spills: Spills,
}

/// Where ptxas (13.0) is known to spill though the estimate of registers lets the schedule's first pick pass: for a target,
/// and a shape whose wider head is so wide, what the default is instead.
type Spills = fn(Target, &Shape, u32) -> Option<(&'static str, u32)>;

/// Smaller blocks of keys, which leave a mask or a score their registers.
const NARROW: (&str, u32) = ("kv", 32);

impl Seen {
    fn new(mask: Mask, reference: impl Fn(i64, i64) -> bool + Send + Sync + 'static) -> Self {
        Seen { mask, reference: Box::new(reference), spills: |_, _, _| None }
    }

    fn that_spills(self, spills: Spills) -> Self {
        Seen { spills, ..self }
    }
}

const POSITIONS: u32 = i32::MAX as u32;

const WINDOW: Setting = Setting {
    name: "window",
    about: "tokens that a query sees, itself included",
    default: 1024,
    allowed: Allowed::Range(1, POSITIONS),
};

const SINK: Setting = Setting {
    name: "sink",
    about: "first tokens of a document that every later query sees",
    default: 4,
    allowed: Allowed::Range(0, POSITIONS),
};

const PREFIX: Setting = Setting {
    name: "prefix",
    about: "first tokens of a document that every token sees",
    default: 256,
    allowed: Allowed::Range(0, POSITIONS),
};

const STEP: Setting = Setting {
    name: "step",
    about: "distance from one token that a query sees to the next",
    default: 4,
    allowed: Allowed::Range(1, POSITIONS),
};

const CHUNK: Setting = Setting {
    name: "chunk",
    about: "tokens of a chunk, which see one another",
    default: 256,
    allowed: Allowed::Range(1, POSITIONS),
};

const REACH: Setting = Setting {
    name: "reach",
    about: "how far a query sees, forwards and backwards",
    default: 256,
    allowed: Allowed::Range(0, POSITIONS),
};

const GLOBAL: Setting = Setting {
    name: "global",
    about: "first tokens of a document, which see every token and are seen by every token",
    default: 4,
    allowed: Allowed::Range(0, POSITIONS),
};

const PACKED: Setting = Setting {
    name: "packed",
    about: "documents of equal length in a table that is drawn",
    default: 16,
    allowed: Allowed::Range(1, POSITIONS),
};

const QUERY_BLOCK: Setting = Setting {
    name: "query-block",
    about: "queries of a tile that has a list of blocks",
    default: 128,
    allowed: Allowed::OneOf(&[64, 128, 256]),
};

const KEY_BLOCK: Setting = Setting {
    name: "key-block",
    about: "keys of a block that is listed",
    default: 128,
    allowed: Allowed::OneOf(&[32, 64, 128, 256]),
};

const DENSITY: Setting = Setting {
    name: "density",
    about: "of a hundred blocks, how many are listed where lists are drawn",
    default: 25,
    allowed: Allowed::Range(0, 100),
};

const CAUSAL: Setting = Setting {
    name: "causal",
    about: "whether keys behind the query are hidden in listed blocks: 1 or 0",
    default: 1,
    allowed: Allowed::OneOf(&[1, 0]),
};

const BLOCK: Setting = Setting {
    name: "block",
    about: "tokens in a selected block: the paper's l'",
    default: 64,
    allowed: Allowed::OneOf(&[16, 32, 64, 128]),
};

const BLOCKS: Setting = Setting {
    name: "blocks",
    about: "blocks selected for each token and KV head, the 3 forced ones included: the paper's n",
    default: 16,
    allowed: Allowed::Range(3, 1024),
};

const BY_BLOCK: Setting = Setting {
    name: "by-block",
    about: "1: block by block, each for all tokens that picked it; 0: token by token; 2: block by block for groups up to 8",
    default: 2,
    allowed: Allowed::OneOf(&[0, 1, 2]),
};

const KEYS: Setting = Setting {
    name: "block",
    about: "keys of a block that is chosen",
    default: 128,
    allowed: Allowed::Steps(validate::BLOCK_STEP as u32, validate::MIN_BLOCK as u32),
};

const TOP: Setting = Setting {
    name: "top-k",
    about: "blocks that a query head of a token sees, its own included: the paper's top-k",
    default: 8,
    allowed: Allowed::Range(1, validate::MAX_TOP as u32),
};

const FULL_HEADS: Setting = Setting {
    name: "full-heads",
    about: "query heads that see every key before them: so many of the first, or those that `full_heads` of the input says",
    default: 0,
    allowed: Allowed::Range(0, POSITIONS),
};

const FUSED: Setting = Setting {
    name: "own-fused",
    about: "1: the own block is seen where the parts of others are merged; 0: it is a part like others",
    default: 1,
    allowed: Allowed::OneOf(&[1, 0]),
};

const WORKSPACE: Setting = Setting {
    name: "workspace",
    about: "megabytes that may lie between launches; more is done in chunks, where extents are known",
    default: (moba::WORKSPACE / 1_000_000) as u32,
    allowed: Allowed::Range(1, POSITIONS),
};

const HEAD_CHUNKS: Setting = Setting {
    name: "head-chunks",
    about: "chunks of KV heads, one behind the other in the same workspace; 0: as `workspace` says",
    default: 0,
    allowed: Allowed::Range(0, 1024),
};

const TOKEN_CHUNKS: Setting = Setting {
    name: "token-chunks",
    about: "chunks of tokens, one behind the other in the same workspace; 0: as `workspace` says",
    default: 0,
    allowed: Allowed::Range(0, 1024),
};

/// The largest group that is faster block by block: an H200, 64k tokens, 16 blocks of 64, width 128. Token by token costs
/// 3.4 ms a KV head, whatever its group; block by block 0.36 ms a query head.
const LARGEST_BY_BLOCK: u32 = 8;

/// The shipped kernels, in the order in which they are shown.
pub const KERNELS: &[Kernel] = &[
    Kernel {
        name: "causal",
        about: "each token sees itself and what is before it",
        schedule: "query-major",
        settings: &[],
        needs: &[],
        how: How::Masked(|_| Seen::new(patterns::causal(), masks::causal)),
    },
    Kernel {
        name: "full",
        about: "each token sees every token of its document",
        schedule: "query-major",
        settings: &[],
        needs: &[],
        how: How::Masked(|_| {
            Seen::new(patterns::full(), masks::full)
                .that_spills(|target, _, width| (width >= 128 && target == Target::SM_120).then_some(NARROW))
        }),
    },
    Kernel {
        name: "window",
        about: "each token sees the last `window` tokens",
        schedule: "query-major",
        settings: &[WINDOW],
        needs: &[],
        how: How::Masked(|options| {
            let window = options.get("window");
            Seen::new(patterns::window(window), masks::window(window.into()))
        }),
    },
    Kernel {
        name: "sink-window",
        about: "each token sees the last `window` tokens and the first `sink` ones",
        schedule: "query-major",
        settings: &[WINDOW, SINK],
        needs: &[],
        how: How::Masked(|options| {
            let (window, sink) = (options.get("window"), options.get("sink"));
            Seen::new(patterns::window_sink(window, sink), masks::window_sink(window.into(), sink.into()))
                .that_spills(|_, shape, width| (width >= 128 && shape.group > 1).then_some(NARROW))
        }),
    },
    Kernel {
        name: "prefix-lm",
        about: "each token sees the first `prefix` tokens, itself and what is before it",
        schedule: "query-major",
        settings: &[PREFIX],
        needs: &[],
        how: How::Masked(|options| {
            let prefix = options.get("prefix");
            Seen::new(patterns::prefix_lm(prefix), masks::prefix_lm(prefix.into()))
        }),
    },
    Kernel {
        name: "dilated",
        about: "each token sees itself and every `step`-th token before it",
        schedule: "query-major",
        settings: &[STEP],
        needs: &[],
        how: How::Masked(|options| {
            let step = options.get("step");
            Seen::new(patterns::dilated(step), masks::dilated(step.into()))
                .that_spills(|_, _, width| (width >= 128).then_some(NARROW))
        }),
    },
    Kernel {
        name: "block-diagonal",
        about: "each token sees its chunk of `chunk` tokens",
        schedule: "query-major",
        settings: &[CHUNK],
        needs: &[],
        how: How::Masked(|options| {
            let chunk = options.get("chunk");
            Seen::new(patterns::block_diagonal(chunk), masks::block_diagonal(chunk.into()))
        }),
    },
    Kernel {
        name: "longformer",
        about: "each token sees `reach` tokens on either side and the first `global` ones, which see all: arXiv 2004.05150",
        schedule: "query-major",
        settings: &[REACH, GLOBAL],
        needs: &[],
        how: How::Masked(|options| {
            let (reach, global) = (options.get("reach"), options.get("global"));
            Seen::new(patterns::longformer(reach, global), masks::longformer(reach.into(), global.into()))
                .that_spills(|_, shape, width| (width >= 128 && shape.group > 1).then_some(NARROW))
        }),
    },
    Kernel {
        name: "documents",
        about: "causal attention in each of several documents, packed one behind the other",
        schedule: "query-major",
        settings: &[],
        needs: &[Need::CuSeqlens],
        how: How::Masked(|_| Seen::new(patterns::causal(), masks::causal)),
    },
    Kernel {
        name: "document-table",
        about: "causal attention in documents that a table tells apart: `docs` has the document of each token",
        schedule: "query-major-classified",
        settings: &[PACKED],
        needs: &[],
        how: How::Tabled(|| Tabled {
            mask: patterns::document_table(),
            names: &["docs"],
            draw: |_, cu_seqlens, options| vec![inputs::document_table(cu_seqlens, options.get("packed") as usize)],
            reference: |mut tables| Box::new(masks::document_table(tables.remove(0))),
        }),
    },
    Kernel {
        name: "token-tree",
        about: "each token sees those that it descends from in a tree, by when a walk of it enters and leaves each",
        schedule: "query-major-classified",
        settings: &[],
        needs: &[],
        how: How::Tabled(|| Tabled {
            mask: patterns::token_tree(),
            names: &["enter", "leave"],
            draw: |seed, cu_seqlens, _| inputs::token_tree(seed, cu_seqlens).into(),
            reference: |mut tables| {
                let enter = tables.remove(0);
                Box::new(masks::token_tree(enter, tables.remove(0)))
            },
        }),
    },
    Kernel {
        name: "ranges",
        about: "each token sees the first keys of its document, as many as the table `ends` says",
        schedule: "query-major-classified",
        settings: &[],
        needs: &[],
        how: How::Tabled(|| Tabled {
            mask: patterns::ranges(),
            names: &["ends"],
            draw: |seed, cu_seqlens, _| vec![inputs::ranges(seed, cu_seqlens)],
            reference: |mut tables| Box::new(masks::ranges(tables.remove(0))),
        }),
    },
    Kernel {
        name: "alibi",
        about: "causal, with a bias against the distance by a slope for each head: ALiBi, arXiv 2108.12409",
        schedule: "query-major",
        settings: &[],
        needs: &[],
        how: How::Under(Some("alibi"), false),
    },
    Kernel {
        name: "softcap",
        about: "causal, with logits bent to stay within `cap`: Gemma 2, arXiv 2408.00118",
        schedule: "query-major",
        settings: &[CAP],
        needs: &[],
        how: How::Under(Some("softcap"), false),
    },
    Kernel {
        name: "relative-bias",
        about: "causal, with a bias from a table by the distance, a row for each head: T5, arXiv 1910.10683",
        schedule: "query-major",
        settings: &[AHEAD],
        needs: &[],
        how: How::Under(Some("relative-bias"), false),
    },
    Kernel {
        name: "learnable-sink",
        about: "causal, with a logit for each head that joins the softmax and has no value, as in gpt-oss",
        schedule: "query-major",
        settings: &[],
        needs: &[],
        how: How::Under(None, true),
    },
    Kernel {
        name: "bsr",
        about: "each tile of queries sees the blocks of keys that a list has for it: block-sparse rows",
        schedule: "block-sparse",
        settings: &[QUERY_BLOCK, KEY_BLOCK, DENSITY, CAUSAL],
        needs: &[],
        how: How::Listed(|options| {
            let causal = options.get("causal") == 1;
            Listed {
                mask: if causal { patterns::causal() } else { patterns::full() },
                causal,
                size: TileSize { rows: options.get("query-block"), keys: options.get("key-block") },
                percent: options.get("density"),
            }
        }),
    },
    Kernel {
        name: "nsa-selected",
        about: "each token sees the blocks selected for it: Native Sparse Attention, arXiv 2502.11089",
        schedule: "group-centric",
        settings: &[BLOCK, BLOCKS, BY_BLOCK],
        needs: &[Need::Picks],
        how: How::Picked,
    },
    Kernel {
        name: "moba",
        about: "each query head of a token sees its own block and those that a gate chooses: Mixture of Block Attention, arXiv 2502.13189",
        schedule: "chosen-blocks",
        settings: &[KEYS, TOP, FULL_HEADS, FUSED, WORKSPACE, HEAD_CHUNKS, TOKEN_CHUNKS],
        needs: &[],
        how: How::Routed,
    },
];

/// The kernel of that name.
pub fn find(name: &str) -> Option<&'static Kernel> {
    KERNELS.iter().find(|kernel| kernel.name == name)
}

/// Every setting of every kernel and of every score, each once. Kernels may allow different values under one name: such
/// settings follow one another.
pub fn settings() -> Vec<&'static Setting> {
    let mut all: Vec<&Setting> = Vec::new();
    let of_scores = SCORES.iter().flat_map(|score| score.settings);
    for setting in KERNELS.iter().flat_map(|kernel| kernel.settings).chain(of_scores) {
        if !all.contains(&setting) {
            let same = all.iter().rposition(|known| known.name == setting.name);
            all.insert(same.map_or(all.len(), |at| at + 1), setting);
        }
    }
    all
}

impl Kernel {
    /// Whether it needs this tensor.
    pub fn needs(&self, need: Need) -> bool {
        self.needs.contains(&need)
    }

    /// Its options: those given, and the defaults of the others.
    ///
    /// # Errors
    /// [`BadOption`] for a name that it does not have, or a value out of range.
    pub fn options<'a>(&self, given: impl IntoIterator<Item = (&'a str, u32)>) -> Result<Options, BadOption> {
        self.options_under(None, false, given)
    }

    /// Its options under a score, by its name, and with learnable sinks or without: those given, and the defaults of the
    /// others. A kernel that is under a score itself has that one.
    ///
    /// # Errors
    /// [`BadOption`] for a score that there is not, or one beside the kernel's own; and as [`Kernel::options`].
    pub fn options_under<'a>(
        &self,
        score: Option<&str>,
        sinks: bool,
        given: impl IntoIterator<Item = (&'a str, u32)>,
    ) -> Result<Options, BadOption> {
        let (own, sunk) = match self.how {
            How::Under(score, sinks) => (score, sinks),
            _ => (None, false),
        };
        if let (Some(own), Some(score)) = (own, score) {
            return Err(BadOption::TwoScores { kernel: self.name, own, score: score.to_owned() });
        }
        Options::of(self, score.or(own), sinks || sunk, given)
    }

    /// The attention for one shape. Blocks of the shape are set from the options.
    ///
    /// # Errors
    /// [`lacuna_dsl::Error::Unsupported`] for a shape that no kernel is made for.
    ///
    /// # Panics
    /// If the options are another kernel's.
    pub fn build(&'static self, shape: Shape, options: &Options) -> Result<Attention, lacuna_dsl::Error> {
        self.build_for(shape, options, &Known::default())
    }

    /// [`Kernel::build`] for launches of which more is known. Where every block of the longest document may be seen, and no
    /// routing is given, MoBA is dense causal attention.
    ///
    /// # Errors
    /// As [`Kernel::build`].
    ///
    /// # Panics
    /// As [`Kernel::build`].
    pub fn build_for(
        &'static self,
        shape: Shape,
        options: &Options,
        known: &Known,
    ) -> Result<Attention, lacuna_dsl::Error> {
        assert_eq!(options.kernel(), self.name, "these options are of another kernel");
        let scored = options.score.map(|kind| (kind.make)(options));
        let query_major = |mask: &Mask| {
            let schedule = QueryMajor { sinks: options.sinks, ..QueryMajor::new(mask.clone()) };
            match &scored {
                Some(scored) => schedule.with_score(scored.score.clone()),
                None => schedule,
            }
        };
        let mut spills: Spills = |_, _, _| None;
        // Which blocks a tile visits: in closed form where the mask bounds them, else by launches before. Those know neither
        // scores nor sinks: under one, every block is visited.
        let masked = |mask: Mask| -> (&'static str, Box<dyn Plannable>) {
            match mask.pattern().is_bounded() || scored.is_some() || options.sinks {
                true => ("query-major", Box::new(query_major(&mask).at(shape.clone()))),
                false => ("query-major-classified", Box::new(Classified::new(mask, shape.clone()))),
            }
        };
        let ((name, schedule), sees): ((_, Box<dyn Plannable>), _) = match self.how {
            How::Masked(make) => {
                let seen = make(options);
                spills = seen.spills;
                let sees = attention::Sees::Mask { mask: seen.mask.clone(), reference: seen.reference };
                (masked(seen.mask), sees)
            }
            How::Tabled(make) => {
                let tabled = make();
                // The mask of a block that is cut reads the tables.
                spills = |_, _, width| (width >= 128).then_some(NARROW);
                (masked(tabled.mask.clone()), attention::Sees::Tabled(tabled))
            }
            How::Listed(make) => {
                if scored.is_some() || options.sinks {
                    let message = format!("`{}` takes neither a score nor sinks yet", self.name);
                    return Err(Error::Unsupported(message));
                }
                let listed = make(options);
                spills = |_, _, width| (width >= 128).then_some(NARROW);
                let schedule = BlockSparse::new(listed.size, listed.mask.clone()).at(shape.clone());
                ((self.schedule, Box::new(schedule)), attention::Sees::Listed(listed))
            }
            How::Under(..) => {
                let (mask, reference) = (patterns::causal(), Box::new(masks::causal));
                let schedule = query_major(&mask).at(shape.clone());
                ((self.schedule, Box::new(schedule)), attention::Sees::Mask { mask, reference })
            }
            How::Routed => {
                if scored.is_some() || options.sinks {
                    let message = format!("`{}` takes neither a score nor sinks yet", self.name);
                    return Err(Error::Unsupported(message));
                }
                spills = |_, _, width| (width == 128).then_some(NARROW);
                let [block, top, full] = ["block", "top-k", "full-heads"].map(|name| options.get(name));
                let mut moba = Moba::new(shape.clone(), block, top).with_routing(known.routing);
                moba.blocks.fused = options.get("own-fused") == 1;
                if full > 0 {
                    moba = moba.with_full_heads();
                }
                if let Some(keys) = known.max_seqlen {
                    moba = moba.covering(keys as u64);
                }
                let chunks = ["head-chunks", "token-chunks"].map(|name| options.get(name));
                if let Some(extents) = &known.extents {
                    // Where chunks are said, the workspace is what they take.
                    let most =
                        if chunks == [0, 0] { u64::from(options.get("workspace")) * 1_000_000 } else { u64::MAX };
                    moba = moba.within(most, extents)?;
                }
                if chunks != [0, 0] {
                    moba = moba.in_chunks(chunks[0].max(1), chunks[1].max(1));
                }
                match moba.full {
                    true => {
                        let (mask, reference) = (patterns::causal(), Box::new(masks::causal));
                        (("query-major", Box::new(moba)), attention::Sees::Mask { mask, reference })
                    }
                    false => {
                        let config = MobaConfig::new(block as usize, top as usize);
                        let sees = attention::Sees::Routed(Routed { config, full, routing: known.routing });
                        ((self.schedule, Box::new(moba)), sees)
                    }
                }
            }
            How::Picked => {
                let block = options.get("block");
                let shape = shape.clone().with_block(block);
                let more = scored.is_some() || options.sinks;
                let by_block = match options.get("by-block") {
                    // Block by block, heads of 256 find no pick without spills where a CTA has 99 KB.
                    2 => shape.group <= LARGEST_BY_BLOCK && shape.dk.max(shape.dv) < 256 && !more,
                    1 if more => {
                        let message = "block by block there are neither scores nor sinks yet; by-block 0 has both";
                        return Err(Error::Unsupported(message.to_owned()));
                    }
                    chosen => chosen == 1,
                };
                let schedule: (_, Box<dyn Plannable>) = if by_block {
                    ("block-major", Box::new(ByBlock::new(shape.clone())))
                } else {
                    let score = scored.as_ref().map(|s| s.score.clone());
                    (self.schedule, Box::new(GroupCentric { score, sinks: options.sinks }.at(shape)))
                };
                (schedule, attention::Sees::Picks { block: block as usize })
            }
        };
        if scored.is_some() {
            spills = |_, _, width| match width {
                ..64 => None,
                96 => Some(("rows", 64)),
                _ => Some(NARROW),
            };
        }
        shape.check()?;
        let (schedule_name, options) = (name, options.clone());
        Ok(Attention { kernel: self, schedule_name, options, shape, schedule, sees, scored, spills })
    }

    /// Block length and blocks of a row, of a kernel that has a routing.
    pub fn routed(&self, options: &Options) -> Option<MobaConfig> {
        let [block, top] = matches!(self.how, How::Routed).then(|| ["block", "top-k"].map(|name| options.get(name)))?;
        Some(MobaConfig::new(block as usize, top as usize))
    }

    /// The lengths of the scoring that makes picks where none are given: the paper's `l = 32` and `d = 16`, and the options'
    /// block and number. `None` for a kernel that needs no picks.
    pub fn selection(&self, options: &Options) -> Option<NsaConfig> {
        let blocks = || NsaConfig {
            l_sel: options.get("block") as usize,
            n: options.get("blocks") as usize,
            ..NsaConfig::PAPER
        };
        self.needs(Need::Picks).then(blocks)
    }
}

#[cfg(test)]
mod tests;
