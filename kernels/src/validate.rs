//! Whether a problem is one: shapes, element types and the values that the host knows, before anything runs.
//!
//! Every refusal gives the value and what would be right. Values on the device (the picks themselves, NaN in the inputs)
//! are not looked at here.

mod moba;

pub use lacuna_dsl::schedule::WIDTHS;
pub use moba::{BLOCK_STEP, MAX_TOP, MIN_BLOCK, full_heads, moba, routing, routing_exists};

use crate::host::{Dims, Host, Precision, Sides};
use crate::reference::nsa::NsaConfig;

/// The largest GQA group.
pub const MAX_GROUP: usize = 64;

/// The most tokens that cu_seqlens, i32, can count.
pub const MAX_TOKENS: usize = i32::MAX as usize;

/// A tensor as the caller describes it.
#[derive(Clone, Copy, Debug)]
pub struct Described<'a> {
    /// What it is called in messages: `q`, `picks`.
    pub name: &'static str,
    /// Its extents, outermost first.
    pub shape: &'a [usize],
    /// Its element type: `bf16`, `f16`, `f32`, `i32`.
    pub dtype: &'a str,
}

/// Why a problem is refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Invalid {
    /// Another number of dimensions than the layout has.
    #[error("{name} has {} dimensions, {shape:?}; it needs {}: [{}]", .shape.len(), .layout.len(), .layout.join(", "))]
    Rank {
        /// The tensor.
        name: &'static str,
        /// Its shape.
        shape: Vec<usize>,
        /// The names of the dimensions that it must have.
        layout: &'static [&'static str],
    },
    /// An element type that is not taken.
    #[error("{name} is {dtype}; it must be {right}")]
    Dtype {
        /// The tensor.
        name: &'static str,
        /// Its element type.
        dtype: String,
        /// What is taken.
        right: &'static str,
    },
    /// An extent that must be the same in two tensors.
    #[error("{name} has {got} {what} and {other} has {want}; both must have the same number")]
    Differ {
        /// The tensor.
        name: &'static str,
        /// The dimension: `tokens`, `heads`.
        what: &'static str,
        /// Its extent.
        got: usize,
        /// The tensor that it must agree with.
        other: &'static str,
        /// The extent there.
        want: usize,
    },
    /// More tokens than an i32 counts.
    #[error("{name} has {tokens} tokens; at most {MAX_TOKENS} can be counted in i32 cu_seqlens")]
    TooManyTokens {
        /// The tensor.
        name: &'static str,
        /// Its tokens.
        tokens: usize,
    },
    /// No heads at all.
    #[error("{name} has no heads; it needs at least 1")]
    NoHeads {
        /// The tensor.
        name: &'static str,
    },
    /// Query heads that cannot be shared out evenly.
    #[error(
        "{hq} query heads cannot be shared out evenly over {hk} KV heads; the query heads must be a multiple of the KV heads"
    )]
    Heads {
        /// Query heads.
        hq: usize,
        /// KV heads.
        hk: usize,
    },
    /// A GQA group beyond the largest.
    #[error("{hq} query heads over {hk} KV heads make groups of {}; groups of 1 to {MAX_GROUP} work", .hq / .hk)]
    Group {
        /// Query heads.
        hq: usize,
        /// KV heads.
        hk: usize,
    },
    /// A head width that no kernel is made for.
    #[error("the heads of {name} are {width} wide; {} is right", lacuna_codegen::one_of(&WIDTHS))]
    Width {
        /// The tensor.
        name: &'static str,
        /// Its last extent.
        width: usize,
    },
    /// A head width that must be the same in two tensors.
    #[error("the heads of {name} are {got} wide and those of {other} {want}; both must be equally wide")]
    WidthsDiffer {
        /// The tensor.
        name: &'static str,
        /// Its width.
        got: usize,
        /// The tensor that it must agree with.
        other: &'static str,
        /// The width there.
        want: usize,
    },
    /// cu_seqlens too short to hold a sequence.
    #[error(
        "{name} has {entries} entries; it needs batch + 1, at least 2: where each sequence begins, and where the last one ends"
    )]
    NoSequences {
        /// The tensor.
        name: &'static str,
        /// How many entries it has.
        entries: usize,
    },
    /// cu_seqlens that begins elsewhere.
    #[error("{name} begins with {first}; it must begin with 0")]
    Begin {
        /// The tensor.
        name: &'static str,
        /// Its first entry.
        first: i32,
    },
    /// cu_seqlens that goes back.
    #[error(
        "{name} falls from {from} to {to} at entry {entry}; it must never fall (equal entries are an empty sequence)"
    )]
    Falls {
        /// The tensor.
        name: &'static str,
        /// The entry, counted from 0.
        entry: usize,
        /// The entry before.
        from: i32,
        /// This entry.
        to: i32,
    },
    /// cu_seqlens that counts other tokens than there are.
    #[error("{name} ends with {last}; it must end with {total}, {of}")]
    End {
        /// The tensor.
        name: &'static str,
        /// Its last entry.
        last: i32,
        /// The tokens.
        total: usize,
        /// Of which tensors.
        of: &'static str,
    },
    /// Keys of other sequences than the queries'.
    #[error(
        "cu_seqlens_k has {keys} entries and cu_seqlens {queries}; both must have one for each sequence, and one more"
    )]
    Sequences {
        /// Entries of cu_seqlens_k.
        keys: usize,
        /// Entries of cu_seqlens.
        queries: usize,
    },
    /// Keys of another number, and nothing that says of which sequences.
    #[error(
        "q has {queries} tokens in {sequences} sequences and k has {keys}; `cu_seqlens_k` must say which keys are whose"
    )]
    WhoseKeys {
        /// Tokens of q.
        queries: usize,
        /// Tokens of k.
        keys: usize,
        /// Sequences.
        sequences: usize,
    },
    /// A max_seqlen that a sequence exceeds.
    #[error("max_seqlen is {given} and the longest sequence has {longest} tokens; it must be {longest} or more")]
    MaxSeqlen {
        /// What was given.
        given: usize,
        /// The longest sequence.
        longest: usize,
    },
    /// A scale that is no positive number.
    #[error("the scale is {scale}; it must be finite and above 0 (1/sqrt of the head width is usual)")]
    Scale {
        /// What was given.
        scale: f32,
    },
    /// A window without a token, or too wide to count.
    #[error("the window is {window} tokens; it must be 1 to {}, the token itself counts", i32::MAX)]
    Window {
        /// What was given.
        window: i64,
    },
    /// Sink tokens below 0, or too many to count.
    #[error("the sink is {sink} tokens; it must be 0 to {}", i32::MAX)]
    Sink {
        /// What was given.
        sink: i64,
    },
    /// Picks without room for a block.
    #[error("{name} has shape {shape:?}: no room for a block; the last extent must be 1 or more")]
    NoPicks {
        /// The tensor.
        name: &'static str,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// A pick that is no block of its sequence.
    #[error(
        "picks[{token}, {head}, {slot}] is {block}; the sequence of token {token} has {}, and -1 is none",
        if *.blocks == 0 { "no blocks".to_owned() } else { format!("blocks 0 to {}", .blocks - 1) }
    )]
    Pick {
        /// The token.
        token: usize,
        /// The KV head.
        head: usize,
        /// The place in the list.
        slot: usize,
        /// What stands there.
        block: i32,
        /// How many blocks the sequence has.
        blocks: usize,
    },
    /// Block lengths that do not fit together.
    #[error(
        "a stride of {d} does not divide blocks of {l} (compression) and {l_sel} (selection) tokens; it must divide both"
    )]
    Stride {
        /// `d`.
        d: usize,
        /// `l`.
        l: usize,
        /// `l'`.
        l_sel: usize,
    },
    /// A table that has not a number for each token.
    #[error("the table {name} has {entries} numbers and there are {tokens} tokens; it needs one for each token")]
    Table {
        /// The table.
        name: &'static str,
        /// How many numbers it has.
        entries: usize,
        /// How many tokens there are.
        tokens: usize,
    },
    /// One of several tables that belong together.
    #[error("the table {name} is given, and {missing} is not; they belong together")]
    TableAlone {
        /// The table that is there.
        name: &'static str,
        /// The table that is not.
        missing: &'static str,
    },
    /// A table of a score, or sinks, for another number of heads.
    #[error("{name} has numbers for {rows} heads; it needs them for {heads}, the query heads")]
    PerHead {
        /// The table.
        name: &'static str,
        /// For how many heads it is.
        rows: usize,
        /// The query heads.
        heads: usize,
    },
    /// A table of a score without an entry.
    #[error("{name} has no entries; an index past its end reads the last one, so it needs at least 1")]
    NoEntries {
        /// The table.
        name: &'static str,
    },
    /// Lists for another number of documents, heads or tiles.
    #[error("{name} has {got} {what}; {right} is right")]
    Lists {
        /// The tensor.
        name: &'static str,
        /// What there are too many or too few of.
        what: &'static str,
        /// How many there are.
        got: usize,
        /// How many there should be.
        right: String,
    },
    /// A length that a list cannot have.
    #[error(
        "lists_counts[{document}, {head}, {tile}] is {count}; a list has room for {n} blocks, so 0 to {n} is right"
    )]
    Count {
        /// The document.
        document: usize,
        /// The head.
        head: usize,
        /// The tile.
        tile: usize,
        /// The length.
        count: i32,
        /// The room.
        n: usize,
    },
    /// An entry of a list that is no block of its document.
    #[error(
        "lists[{document}, {head}, {tile}, {slot}] is {block}; {}, and -1 ends a list",
        if *.blocks == 0 { "the document has no blocks".to_owned() } else { format!("the document has blocks 0 to {}", .blocks - 1) }
    )]
    Entry {
        /// The document.
        document: usize,
        /// The head.
        head: usize,
        /// The tile.
        tile: usize,
        /// The place in the list.
        slot: usize,
        /// What stands there.
        block: i32,
        /// How many blocks the document has.
        blocks: usize,
    },
    /// Fewer selected blocks than forced ones.
    #[error("{n} selected blocks leave no room for the 3 forced ones; it must be 3 or more")]
    Selected {
        /// `n`.
        n: usize,
    },
    /// A length that a block of MoBA cannot have.
    #[error("a block has {block} keys; a multiple of {BLOCK_STEP} is right, at least {MIN_BLOCK}")]
    Block {
        /// What was given.
        block: usize,
    },
    /// More or fewer blocks to a row than there can be.
    #[error("top-k is {top}; 1 to {MAX_TOP} is right, the own block counts")]
    Top {
        /// What was given.
        top: usize,
    },
    /// A routing of another number of blocks than was chosen.
    #[error("routing has {found} blocks a row, and top-k is {top}; both must be the same")]
    OtherTop {
        /// The routing's.
        found: usize,
        /// What was chosen.
        top: usize,
    },
    /// More full heads than there are heads.
    #[error("{full} heads are to be full, and there are {heads}; 0 to {heads} is right")]
    FullHeads {
        /// How many were asked for.
        full: u32,
        /// The query heads.
        heads: usize,
    },
    /// A table that says which heads are full, for an attention in which none is.
    #[error("full_heads is given, and nothing reads it: full-heads must be 1 or more")]
    FullHeadsUnread,
    /// An entry of a routing that its row cannot have.
    #[error(
        "routing[{token}, {head}, {slot}] is {entry}; {}",
        match (*.slot, *.own) {
            (_, ..0) => "a row without a key has -1 alone".to_owned(),
            (0, own) => format!("a row begins with its own block, which is {own}"),
            (_, 0) => "the row's own block is 0, so -1 alone is right".to_owned(),
            (_, own) => format!("the row's own block is {own}, so blocks 0 to {} are right, each once, and -1 is none", own - 1),
        }
    )]
    Route {
        /// The token.
        token: usize,
        /// The query head.
        head: usize,
        /// The place in the row.
        slot: usize,
        /// What stands there.
        entry: i32,
        /// The row's own block, below 0 where it has none.
        own: i32,
    },
    /// A head that is neither full nor not.
    #[error("full_heads[{head}] is {value}; 1 is a full head, 0 is none")]
    FullHead {
        /// The query head.
        head: usize,
        /// What stands there.
        value: i32,
    },
}

const Q: &[&str] = &["tokens", "query heads", "head width"];
const KV: &[&str] = &["tokens", "KV heads", "head width"];
const LSE: &[&str] = &["tokens", "query heads"];
const LISTS: &[&str] = &["documents", "heads", "tiles", "blocks"];
const PICKS: &[&str] = &["tokens", "KV heads", "blocks"];

fn extents<const R: usize>(t: &Described<'_>, layout: &'static [&'static str]) -> Result<[usize; R], Invalid> {
    t.shape.try_into().map_err(|_| Invalid::Rank { name: t.name, shape: t.shape.to_vec(), layout })
}

fn dtype(t: &Described<'_>, right: &'static str) -> Result<(), Invalid> {
    if t.dtype == right { Ok(()) } else { Err(Invalid::Dtype { name: t.name, dtype: t.dtype.to_string(), right }) }
}

fn same(t: &Described<'_>, what: &'static str, got: usize, other: &Described<'_>, want: usize) -> Result<(), Invalid> {
    let (name, other) = (t.name, other.name);
    if got == want { Ok(()) } else { Err(Invalid::Differ { name, what, got, other, want }) }
}

fn width(t: &Described<'_>, width: usize) -> Result<(), Invalid> {
    if WIDTHS.iter().any(|&w| w as usize == width) { Ok(()) } else { Err(Invalid::Width { name: t.name, width }) }
}

/// Checks queries `[total, Hq, Dk]`, keys `[total, Hk, Dk]` and values `[total, Hk, Dv]`, all bf16 or all f16; `Hq` is a
/// multiple of `Hk`, at most 64 times it; `Dk` and `Dv` are of [`WIDTHS`].
pub fn qkv(q: &Described<'_>, k: &Described<'_>, v: &Described<'_>) -> Result<(Dims, Precision), Invalid> {
    operands(q, k, v, false)
}

/// [`qkv`], with a number of keys and values of their own: `[keys, Hk, Dk]` and `[keys, Hk, Dv]`.
pub fn qkv_apart(q: &Described<'_>, k: &Described<'_>, v: &Described<'_>) -> Result<(Dims, Precision), Invalid> {
    operands(q, k, v, true)
}

fn operands(
    q: &Described<'_>,
    k: &Described<'_>,
    v: &Described<'_>,
    apart: bool,
) -> Result<(Dims, Precision), Invalid> {
    let ([total, hq, dk], [keys, hk, k_dk]) = (extents::<3>(q, Q)?, extents::<3>(k, KV)?);
    let [v_total, v_hk, dv] = extents::<3>(v, KV)?;
    let precision = match q.dtype {
        "bf16" => Precision::Bf16,
        "f16" => Precision::F16,
        other => return Err(Invalid::Dtype { name: q.name, dtype: other.to_string(), right: "bf16 or f16" }),
    };
    for t in [k, v] {
        dtype(t, precision.name())?;
    }
    if !apart {
        same(k, "tokens", keys, q, total)?;
        same(v, "tokens", v_total, q, total)?;
    }
    same(v, "tokens", v_total, k, keys)?;
    if let Some((t, tokens)) = [(q, total), (k, keys)].into_iter().find(|(_, tokens)| *tokens > MAX_TOKENS) {
        return Err(Invalid::TooManyTokens { name: t.name, tokens });
    }
    if let Some((t, _)) = [(q, hq), (k, hk)].into_iter().find(|(_, heads)| *heads == 0) {
        return Err(Invalid::NoHeads { name: t.name });
    }
    same(v, "heads", v_hk, k, hk)?;
    if hq % hk != 0 {
        return Err(Invalid::Heads { hq, hk });
    }
    if hq / hk > MAX_GROUP {
        return Err(Invalid::Group { hq, hk });
    }
    if k_dk != dk {
        return Err(Invalid::WidthsDiffer { name: k.name, got: k_dk, other: q.name, want: dk });
    }
    width(q, dk)?;
    width(v, dv)?;
    Ok((Dims { total, keys, hq, hk, dk, dv }, precision))
}

/// Checks outputs `[total, Hq, Dv]` of the type of the inputs and LSE `[total, Hq]` of f32, for queries `q` and values `v`
/// that have been checked.
pub fn outputs(
    o: &Described<'_>,
    lse: &Described<'_>,
    q: &Described<'_>,
    v: &Described<'_>,
    dims: Dims,
    precision: Precision,
) -> Result<(), Invalid> {
    let ([o_total, o_heads, o_width], [l_total, l_heads]) = (extents::<3>(o, Q)?, extents::<2>(lse, LSE)?);
    dtype(o, precision.name())?;
    dtype(lse, "f32")?;
    same(o, "tokens", o_total, q, dims.total)?;
    same(o, "heads", o_heads, q, dims.hq)?;
    if o_width != dims.dv {
        return Err(Invalid::WidthsDiffer { name: o.name, got: o_width, other: v.name, want: dims.dv });
    }
    same(lse, "tokens", l_total, q, dims.total)?;
    same(lse, "heads", l_heads, q, dims.hq)
}

/// Checks that cu_seqlens, or cu_seqlens_k, are `[batch + 1]`, of i32.
pub fn cu_seqlens_tensor(cu_seqlens: &Described<'_>) -> Result<(), Invalid> {
    extents::<1>(cu_seqlens, &["batch + 1"])?;
    dtype(cu_seqlens, "i32")
}

/// Checks cu_seqlens of `total` tokens; gives the length of the longest sequence.
pub fn cu_seqlens(values: &[i32], total: usize) -> Result<usize, Invalid> {
    ends("cu_seqlens", values, total, "the tokens of the tensors")
}

/// Checks cu_seqlens_k of `total` keys beside cu_seqlens that have been checked; gives how many keys the sequence with most
/// has.
pub fn cu_seqlens_k(values: &[i32], total: usize, cu_seqlens: &[i32]) -> Result<usize, Invalid> {
    let most = ends("cu_seqlens_k", values, total, "the tokens of k and v")?;
    if values.len() != cu_seqlens.len() {
        return Err(Invalid::Sequences { keys: values.len(), queries: cu_seqlens.len() });
    }
    Ok(most)
}

fn ends(name: &'static str, values: &[i32], total: usize, of: &'static str) -> Result<usize, Invalid> {
    let [first, .., last] = *values else {
        return Err(Invalid::NoSequences { name, entries: values.len() });
    };
    if first != 0 {
        return Err(Invalid::Begin { name, first });
    }
    if let Some(at) = values.windows(2).position(|w| w[1] < w[0]) {
        return Err(Invalid::Falls { name, entry: at + 1, from: values[at], to: values[at + 1] });
    }
    if usize::try_from(last) != Ok(total) {
        return Err(Invalid::End { name, last, total, of });
    }
    Ok(values.windows(2).map(|w| (w[1] - w[0]) as usize).max().unwrap_or(0))
}

/// Checks a max_seqlen against the longest sequence.
pub fn max_seqlen(given: usize, longest: usize) -> Result<(), Invalid> {
    if given >= longest { Ok(()) } else { Err(Invalid::MaxSeqlen { given, longest }) }
}

/// Checks the scale of the logits: finite, above 0.
pub fn scale(scale: f32) -> Result<(), Invalid> {
    if scale.is_finite() && scale > 0.0 { Ok(()) } else { Err(Invalid::Scale { scale }) }
}

/// Checks a window in tokens, the token itself included.
pub fn window(window: i64) -> Result<i32, Invalid> {
    i32::try_from(window).ok().filter(|&w| w >= 1).ok_or(Invalid::Window { window })
}

/// Checks a number of sink tokens.
pub fn sink(sink: i64) -> Result<i32, Invalid> {
    i32::try_from(sink).ok().filter(|&s| s >= 0).ok_or(Invalid::Sink { sink })
}

/// Checks picks `[total, Hk, n]` of i32 for queries `q` and keys `k` that have been checked; gives `n`.
pub fn picks(picks: &Described<'_>, q: &Described<'_>, k: &Described<'_>, dims: Dims) -> Result<usize, Invalid> {
    let [total, heads, n] = extents::<3>(picks, PICKS)?;
    dtype(picks, "i32")?;
    same(picks, "tokens", total, q, dims.total)?;
    same(picks, "heads", heads, k, dims.hk)?;
    if n == 0 {
        return Err(Invalid::NoPicks { name: picks.name, shape: picks.shape.to_vec() });
    }
    Ok(n)
}

/// Checks that each pick is a block of its token's sequence, with blocks of `l_sel` tokens, or -1. Kernels skip the others.
pub fn picks_exist<'a>(picks: &Host<i32>, cu_seqlens: impl Into<Sides<'a>>, l_sel: usize) -> Result<(), Invalid> {
    let [_, heads, _] = picks.shape;
    for (queries, keys) in cu_seqlens.into().each() {
        let blocks = keys.len().div_ceil(l_sel);
        for (token, head) in queries.flat_map(|token| (0..heads).map(move |head| (token, head))) {
            let exists = |block: i32| block == -1 || usize::try_from(block).is_ok_and(|block| block < blocks);
            if let Some((slot, &block)) = picks.row(token, head).iter().enumerate().find(|(_, block)| !exists(**block))
            {
                return Err(Invalid::Pick { token, head, slot, block, blocks });
            }
        }
    }
    Ok(())
}

/// Checks a table `[total]` of i32: any number for each token.
pub fn table(table: &Described<'_>, total: usize) -> Result<(), Invalid> {
    let [entries] = extents::<1>(table, &["tokens"])?;
    dtype(table, "i32")?;
    if entries == total { Ok(()) } else { Err(Invalid::Table { name: table.name, entries, tokens: total }) }
}

/// Checks numbers of f32 that a score reads: one for each query head, a row for each, or, without heads, one row for all.
pub fn numbers(table: &Described<'_>, heads: Option<usize>, row: bool) -> Result<(), Invalid> {
    dtype(table, "f32")?;
    let (rows, entries) = match (heads, row) {
        (Some(_), true) => extents::<2>(table, &["query heads", "entries"]).map(|[rows, entries]| (rows, entries))?,
        (Some(_), false) => extents::<1>(table, &["query heads"]).map(|[rows]| (rows, 1))?,
        (None, _) => extents::<1>(table, &["entries"]).map(|[entries]| (0, entries))?,
    };
    match heads {
        Some(heads) if heads != rows => Err(Invalid::PerHead { name: table.name, rows, heads }),
        _ if entries == 0 => Err(Invalid::NoEntries { name: table.name }),
        _ => Ok(()),
    }
}

/// Checks block lists `[documents, heads, tiles, n]` of i32 for tiles of `rows` queries, the heads being 1 or all; gives their
/// extents.
pub fn tile_lists(lists: &Described<'_>, cu_seqlens: &[i32], heads: usize, rows: usize) -> Result<[usize; 4], Invalid> {
    let shape = extents::<4>(lists, LISTS)?;
    dtype(lists, "i32")?;
    let longest = cu_seqlens.windows(2).map(|pair| (pair[1] - pair[0]) as usize).max().unwrap_or(0);
    let (documents, tiles) = (cu_seqlens.len().saturating_sub(1), longest.div_ceil(rows));
    let wrong = |what, got, right: String| Err(Invalid::Lists { name: lists.name, what, got, right });
    match shape {
        [got, ..] if got != documents => wrong("documents", got, documents.to_string()),
        [_, got, ..] if got != 1 && got != heads => wrong("heads", got, format!("1 or {heads}")),
        [_, _, got, _] if got != tiles => {
            wrong("tiles", got, format!("{tiles}, for {longest} tokens in tiles of {rows},"))
        }
        [.., 0] => Err(Invalid::NoPicks { name: lists.name, shape: lists.shape.to_vec() }),
        shape => Ok(shape),
    }
}

/// Checks the lengths of block lists of these extents: `[documents, heads, tiles]` of i32, each from 0 to the room there is.
pub fn tile_counts(counts: &Described<'_>, values: &[i32], shape: [usize; 4]) -> Result<(), Invalid> {
    let found = extents::<3>(counts, &LISTS[..3])?;
    dtype(counts, "i32")?;
    let [_, heads, tiles, n] = shape;
    let whats = ["documents", "heads", "tiles"];
    for ((what, got), right) in whats.into_iter().zip(found).zip(shape) {
        if got != right {
            return Err(Invalid::Lists { name: counts.name, what, got, right: right.to_string() });
        }
    }
    let possible = |count: i32| usize::try_from(count).is_ok_and(|count| count <= n);
    match values.iter().position(|&count| !possible(count)) {
        None => Ok(()),
        Some(at) => {
            let (document, head, tile) = (at / tiles / heads, at / tiles % heads, at % tiles);
            Err(Invalid::Count { document, head, tile, count: values[at], n })
        }
    }
}

/// Checks that each entry of block lists that counts is a block of its document, with blocks of `keys` keys, or -1. Kernels
/// skip the others.
pub fn tiles_exist(
    lists: &[i32],
    counts: &[i32],
    shape: [usize; 4],
    cu_seqlens: &[i32],
    keys: usize,
) -> Result<(), Invalid> {
    let [_, heads, tiles, n] = shape;
    for (at, (list, &count)) in lists.chunks(n).zip(counts).enumerate() {
        let (document, head, tile) = (at / tiles / heads, at / tiles % heads, at % tiles);
        let blocks = ((cu_seqlens[document + 1] - cu_seqlens[document]) as usize).div_ceil(keys);
        let exists = |block: i32| block == -1 || usize::try_from(block).is_ok_and(|block| block < blocks);
        if let Some((slot, &block)) = list.iter().take(count as usize).enumerate().find(|(_, block)| !exists(**block)) {
            return Err(Invalid::Entry { document, head, tile, slot, block, blocks });
        }
    }
    Ok(())
}

/// Checks the lengths of NSA.
pub fn nsa(config: NsaConfig) -> Result<(), Invalid> {
    let NsaConfig { l, d, l_sel, n } = config;
    if l == 0 || d == 0 || l_sel == 0 || l % d != 0 || l_sel % d != 0 {
        return Err(Invalid::Stride { d, l, l_sel });
    }
    if n < 3 { Err(Invalid::Selected { n }) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
