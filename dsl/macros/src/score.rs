//! `#[score]`: an expression on a logit becomes a function from its arguments to a score.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Ident, ItemFn, ReturnType, Type};

use crate::recorded::{self, Words};

const WORDS: Words = Words {
    what: "score",
    one: "expression",
    example: "fn softcap(logit: Logit, q: Pos, kv: Pos, cap: f32) -> Logit",
    result: "what becomes of a logit: it returns `Logit`",
};

/// What is no argument but a tensor.
const TABLES: [&str; 3] = ["PerHead", "PerHeadTable", "Table"];

pub(crate) fn expand(dsl: &TokenStream, args: TokenStream, item: TokenStream) -> TokenStream {
    let (func, mut errors) = match recorded::function(&WORDS, &args, item) {
        Ok(function) => function,
        Err(refused) => return refused,
    };
    let params = recorded::params(&WORDS, &func, &mut errors);
    let [logit, q, kv, rest @ ..] = params.as_slice() else {
        errors.at(&func.sig.ident, "a score takes a logit and two positions: `(logit: Logit, q: Pos, kv: Pos, ..)`");
        let errors = errors.tokens();
        return quote!(#errors #[allow(dead_code)] #func);
    };
    for ((name, typed), right) in [(logit, "Logit"), (q, "Pos"), (kv, "Pos")] {
        if !is(&typed.ty, &[right]) {
            errors.at(
                &typed.ty,
                format!("`{name}` is a `{right}`: a score begins with `(logit: Logit, q: Pos, kv: Pos)`"),
            );
        }
    }
    for (name, typed) in rest {
        if !is(&typed.ty, &["u32", "i32", "f32"]) && !is(&typed.ty, &TABLES) {
            let message = format!(
                "`{name}` is an argument of a score, and those are `u32`, `i32`, `f32`, `PerHead`, `PerHeadTable` or `Table`"
            );
            errors.at(&typed.ty, message);
        }
    }
    if !errors.0.is_empty() {
        let errors = errors.tokens();
        return quote!(#errors #[allow(dead_code, unused_variables)] #func);
    }

    let ItemFn { attrs, vis, sig, block, .. } = &func;
    let name = &sig.ident;
    let text = name.to_string();
    let output = match &sig.output {
        ReturnType::Type(_, ty) => quote_spanned!(ty.span()=> #ty),
        ReturnType::Default => quote!(()),
    };
    let (tables, scalars): (Vec<_>, Vec<_>) = rest.iter().partition(|(_, typed)| is(&typed.ty, &TABLES));
    let tables = tables.into_iter().map(|(name, typed)| {
        let name = name.to_string();
        let holds = match () {
            () if is(&typed.ty, &["PerHead"]) => quote!(Number),
            () if is(&typed.ty, &["Table"]) => quote!(Shared),
            () => quote!(Row),
        };
        quote!((#name, #dsl::score::Holds::#holds))
    });
    let inputs = scalars.iter().map(|(_, typed)| typed);
    let names: Vec<&Ident> = scalars.iter().map(|(name, _)| *name).collect();
    let texts: Vec<String> = names.iter().map(|name| name.to_string()).collect();
    let (mut arg, mut table) = (0usize.., 0usize..);
    let passed = rest.iter().map(|(_, typed)| match () {
        () if is(&typed.ty, &["PerHead"]) => table.next().map(|n| quote!(tables[#n].number())),
        () if is(&typed.ty, &TABLES) => table.next().map(|n| quote!(tables[#n])),
        () => arg.next().map(|n| quote!(args[#n])),
    });
    let symbols = params.iter().map(|(name, typed)| {
        let table = is(&typed.ty, &["PerHeadTable", "Table"]);
        if table { quote!(#name: #dsl::score::Table) } else { quote!(#name: #dsl::Logit) }
    });
    quote! {
        #(#attrs)*
        #vis fn #name(#(#inputs),*) -> #dsl::Score {
            #[allow(clippy::too_many_arguments)]
            fn score(#(#symbols),*) -> #output #block
            #dsl::Score::record(
                #text,
                &[#((#texts, #dsl::score::Arg::from(#names))),*],
                &[#(#tables),*],
                |logit, q, kv, args, tables| {
                    let _ = (args, tables);
                    score(logit, q, kv, #(#passed),*)
                },
            )
        }
    }
}

/// Whether a type is one of these, by its name.
fn is(ty: &Type, names: &[&str]) -> bool {
    matches!(ty, Type::Path(path) if path.path.segments.last().is_some_and(|s| names.iter().any(|name| s.ident == name)))
}
