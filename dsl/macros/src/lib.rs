//! The attribute macros `#[schedule]`, `#[pattern]` and `#[score]`.
//!
//! They stand on ordinary functions and emit them again, so that rustc, rust-analyzer and rustdoc see what the author wrote;
//! where a macro refuses something, it emits its error **and** the function. Types are rustc's business alone: no macro here
//! looks at one, beyond finding the parameter that is the context.

use proc_macro::TokenStream;
use proc_macro2::TokenStream as TokenStream2;
use quote::quote;

mod attribute;
mod pattern;
mod recorded;
mod schedule;
mod score;
mod staged;

/// Turns a function into a schedule: what one CTA of an attention does, staged once per pick.
///
/// ```ignore
/// #[schedule(tune(Rows in [128, 64], stages in [2, 3], warps in [4, 8]))]
/// pub fn query_major(cx: &Cx, q: Queries<Dk>, .., #[fixed] mask: &Mask) -> OutLse<Dv> { .. }
/// ```
///
/// * The first parameter is the context, `cx: &Cx`.
/// * Parameters marked `#[fixed]` are choices made before compiling; they become fields of the generated schedule.
/// * Parameters marked `#[optional]` may be left out: `score: Option<&Score>` is such a choice, given by `.with_score(..)`, and
///   `sinks: Option<Sinks>` such an input, there after `.with_sinks()`. What is left out leaves nothing in the kernel.
/// * Every other parameter is an input in global memory, named after the parameter: `Queries`, `Keys`, `Values`, `Blocks`,
///   `Segments`, `Sinks`.
/// * A knob of `tune(..)` that is named like an axis sets that axis' extent, `warps` sets the warps of a CTA, and every
///   other one is a `u32` of that name in the body. The first value of each is the default.
///
/// For `query_major`, the macro makes `QueryMajor`, which is a `Schedule`, and `QueryMajorPick`, one `u32` a knob.
///
/// A staged body, that is the body of `for .. in cx.pipelined(..)`, `for .. in cx.range(..)` or `cx.when(.., || ..)`, runs
/// once, when the schedule is staged. So `break`, `continue`, `return` and `?` out of one, and assignments to variables
/// from outside of it, are refused: state that changes is a `cx.var(..)`.
#[proc_macro_attribute]
pub fn schedule(args: TokenStream, item: TokenStream) -> TokenStream {
    schedule::expand(&quote!(::lacuna_dsl), args.into(), item.into()).into()
}

/// [`macro@schedule`], for crates that see the DSL through `lacuna`.
#[doc(hidden)]
#[proc_macro_attribute]
pub fn schedule_of_lacuna(args: TokenStream, item: TokenStream) -> TokenStream {
    schedule::expand(&quote!(::lacuna::dsl), args.into(), item.into()).into()
}

/// Turns a predicate on positions into a mask: which keys a query sees.
///
/// ```ignore
/// /// The last `window` tokens and the first `sink` ones.
/// #[pattern]
/// pub fn window_sink(q: Pos, kv: Pos, window: u32, sink: u32) -> Keep {
///     kv.le(q) & ((q - kv).lt(window) | kv.lt(sink))
/// }
/// ```
///
/// The first two parameters are the positions of the query and of the key, counted in their document; the others are `u32`
/// arguments, given when the kernel is launched, and tables. The macro makes `fn window_sink(window: u32, sink: u32) -> Mask`.
/// In the body an argument is a number like a position: it can be added, compared and divided by, not branched on.
///
/// A `Table` is a tensor `[tokens]`, i32, that is bound by the parameter's name; it has a number for each token, and is read
/// at the query's position or the key's:
///
/// ```ignore
/// /// Each token sees its own document, causally; `docs` has the document of each token.
/// #[pattern]
/// pub fn document_table(q: Pos, kv: Pos, docs: Table) -> Keep {
///     docs.at(q).eq_(docs.at(kv)) & kv.le(q)
/// }
/// ```
#[proc_macro_attribute]
pub fn pattern(args: TokenStream, item: TokenStream) -> TokenStream {
    pattern::expand(&quote!(::lacuna_dsl), args.into(), item.into()).into()
}

/// [`macro@pattern`], for crates that see the DSL through `lacuna`.
#[doc(hidden)]
#[proc_macro_attribute]
pub fn pattern_of_lacuna(args: TokenStream, item: TokenStream) -> TokenStream {
    pattern::expand(&quote!(::lacuna::dsl), args.into(), item.into()).into()
}

/// Turns an expression on a logit into a score: what happens to it before the softmax.
///
/// ```ignore
/// /// ALiBi: a bias against the distance, by a slope for each head.
/// #[score]
/// pub fn alibi(logit: Logit, q: Pos, kv: Pos, slopes: PerHead) -> Logit {
///     logit - slopes * (q - kv)
/// }
/// ```
///
/// The first three parameters are the scaled logit and the positions of the query and of the key, counted in their document.
/// The others are `u32`, `i32` or `f32` arguments, given when the kernel is launched, and tables: tensors, f32, that are bound
/// by the parameter's name. A `PerHead` is `[heads_q]`, a number for each head; a `PerHeadTable` is `[heads_q, n]` and a `Table`
/// `[n]`, of which `bias.at(q - kv)` is the number at a whole index, the first or last one where the index is beyond them. The
/// macro makes `fn alibi() -> Score`, with the arguments that are not tables as its parameters. In the body all numbers are of
/// the type `Logit`: they can be computed with, not branched on.
#[proc_macro_attribute]
pub fn score(args: TokenStream, item: TokenStream) -> TokenStream {
    score::expand(&quote!(::lacuna_dsl), args.into(), item.into()).into()
}

/// [`macro@score`], for crates that see the DSL through `lacuna`.
#[doc(hidden)]
#[proc_macro_attribute]
pub fn score_of_lacuna(args: TokenStream, item: TokenStream) -> TokenStream {
    score::expand(&quote!(::lacuna::dsl), args.into(), item.into()).into()
}

/// Errors found so far; all of them are shown.
#[derive(Default)]
struct Errors(Vec<syn::Error>);

impl Errors {
    fn at(&mut self, tokens: impl quote::ToTokens, message: impl std::fmt::Display) {
        self.0.push(syn::Error::new_spanned(tokens, message));
    }

    fn tokens(&self) -> TokenStream2 {
        self.0.iter().map(syn::Error::to_compile_error).collect()
    }
}
