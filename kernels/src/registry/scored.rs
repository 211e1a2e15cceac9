//! Scores that any kernel can be under, and learnable sinks: by name, with what they read, given or drawn.

use std::collections::BTreeMap;
use std::fmt;

use lacuna_dsl::Score;
use lacuna_dsl::score::Holds;

use super::{Allowed, Options, POSITIONS, Setting};
use crate::inputs;
use crate::reference::scores as by_hand;
use crate::scores;
use crate::validate::{self, Described, Invalid};

/// A tensor of f32 on the host.
#[derive(Clone, Debug, PartialEq)]
pub struct Floats {
    /// Its extents, outermost first.
    pub shape: Vec<usize>,
    /// Its elements, the last extent fastest.
    pub data: Vec<f32>,
}

/// Tensors of f32, by name.
pub type Tables = BTreeMap<String, Floats>;

/// The tensor of learnable sinks, `[heads]`.
pub const SINKS: &str = "sinks";

/// A shipped score.
#[derive(Debug)]
pub struct ScoreKind {
    /// What it is called everywhere: `softcap`.
    pub name: &'static str,
    /// One line on what it does.
    pub about: &'static str,
    /// What a caller may choose.
    pub settings: &'static [Setting],
    pub(super) make: fn(&Options) -> Scored,
}

/// What becomes of a logit, by hand.
pub(super) type ScoreByHand = Box<dyn Fn(f64, i64, i64, usize) -> f64 + Send + Sync>;

/// Makes a table for so many heads and a seed.
type Draw = fn(usize, u64) -> Floats;

/// One score, twice: as the kernel has it, and by hand for the reference, given what its tables hold.
pub(super) struct Scored {
    pub(super) score: Score,
    /// The names of its tables, in its order.
    names: &'static [&'static str],
    /// Makes a table where none is given.
    draw: Draw,
    pub(super) reference: Box<dyn Fn(&Tables) -> ScoreByHand + Send + Sync>,
}

impl fmt::Debug for Scored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scored").field("score", &self.score).finish_non_exhaustive()
    }
}

pub(super) const CAP: Setting =
    Setting { name: "cap", about: "what no logit goes beyond", default: 50, allowed: Allowed::Range(1, 1 << 20) };

pub(super) const AHEAD: Setting = Setting {
    name: "ahead",
    about: "which entry of the table is for a distance of 0",
    default: 0,
    allowed: Allowed::Range(0, POSITIONS / 2),
};

/// The shipped scores, in the order in which they are shown.
pub const SCORES: &[ScoreKind] = &[
    ScoreKind {
        name: "alibi",
        about: "a bias against the distance, by a slope for each head (`slopes`): ALiBi, arXiv 2108.12409",
        settings: &[],
        make: |_| Scored {
            score: scores::alibi(),
            names: &["slopes"],
            draw: |heads, _| Floats { shape: vec![heads], data: scores::slopes(heads) },
            reference: Box::new(|tables| Box::new(by_hand::alibi(tables["slopes"].data.clone()))),
        },
    },
    ScoreKind {
        name: "softcap",
        about: "logits bent to stay within `cap`: Gemma 2, arXiv 2408.00118",
        settings: &[CAP],
        make: |options| {
            let cap = options.get("cap");
            Scored {
                score: scores::softcap(cap as f32),
                names: &[],
                draw: |_, _| unreachable!("it reads no table"),
                reference: Box::new(move |_| Box::new(by_hand::softcap(cap.into()))),
            }
        },
    },
    ScoreKind {
        name: "relative-bias",
        about: "a bias from a table by the distance, a row for each head (`bias`): T5, arXiv 1910.10683",
        settings: &[AHEAD],
        make: |options| {
            let ahead = options.get("ahead");
            Scored {
                score: scores::relative_bias(ahead),
                names: &["bias"],
                draw: |heads, seed| {
                    // T5's 32 buckets and 128 distances.
                    let buckets = inputs::normal::<f32, 2>(seed + 1, [heads, 32], 1.0);
                    Floats { shape: vec![heads, 129], data: scores::t5_bias(&buckets.data, 32, 128) }
                },
                reference: Box::new(move |tables| {
                    let Floats { shape, data } = &tables["bias"];
                    Box::new(by_hand::relative_bias(data.clone(), shape[1], ahead.into()))
                }),
            }
        },
    },
];

/// The score of that name.
pub fn find_score(name: &str) -> Option<&'static ScoreKind> {
    SCORES.iter().find(|score| score.name == name)
}

/// The tables of a score and the sinks, for so many heads: the given ones, the others drawn with a seed.
///
/// # Errors
/// A given one of another shape.
pub(super) fn complete(
    scored: Option<&Scored>,
    sinks: bool,
    given: &Tables,
    heads: usize,
    seed: u64,
) -> Result<Tables, Invalid> {
    let of = |scored: &Scored| {
        let holds: Vec<Holds> = scored.score.tables().map(|(_, holds)| holds).collect();
        scored.names.iter().zip(holds).map(|(&name, holds)| (name, holds, scored.draw)).collect()
    };
    let read: Vec<(&'static str, Holds, Draw)> = scored.map_or(Vec::new(), of);
    // Of the size of the sum over some dozen keys.
    let drawn_sinks: Draw = |heads, seed| {
        let noise = inputs::normal::<f32, 1>(seed + 2, [heads], 1.0).data;
        Floats { shape: vec![heads], data: noise.into_iter().map(|x| x + 3.0).collect() }
    };
    let read = read.into_iter().chain(sinks.then_some((SINKS, Holds::Number, drawn_sinks)));
    read.map(|(name, holds, draw)| {
        let table = given.get(name).cloned().unwrap_or_else(|| draw(heads, seed));
        let described = Described { name, shape: &table.shape, dtype: "f32" };
        validate::numbers(&described, (holds != Holds::Shared).then_some(heads), holds != Holds::Number)?;
        Ok((name.to_owned(), table))
    })
    .collect()
}
