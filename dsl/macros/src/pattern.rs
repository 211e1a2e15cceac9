//! `#[pattern]`: a predicate becomes a function from its arguments to a mask.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Ident, ItemFn, ReturnType, Type};

use crate::recorded::{self, Words};

const WORDS: Words = Words {
    what: "pattern",
    one: "predicate",
    example: "fn causal(q: Pos, kv: Pos) -> Keep",
    result: "which keys to keep: it returns `Keep`",
};

pub(crate) fn expand(dsl: &TokenStream, args: TokenStream, item: TokenStream) -> TokenStream {
    let (func, mut errors) = match recorded::function(&WORDS, &args, item) {
        Ok(function) => function,
        Err(refused) => return refused,
    };
    let params = recorded::params(&WORDS, &func, &mut errors);
    let [q, kv, rest @ ..] = params.as_slice() else {
        errors.at(&func.sig.ident, "a pattern compares two positions: `(q: Pos, kv: Pos, ..)`");
        let errors = errors.tokens();
        return quote!(#errors #func);
    };
    for (name, typed) in rest {
        if !is(&typed.ty, "u32") && !is(&typed.ty, "Table") {
            errors.at(&typed.ty, format!("`{name}` is an argument of a pattern, and those are `u32` or `Table`"));
        }
    }
    if !errors.0.is_empty() {
        let errors = errors.tokens();
        return quote!(#errors #[allow(dead_code)] #func);
    }

    let ItemFn { attrs, vis, sig, block, .. } = &func;
    let name = &sig.ident;
    let text = name.to_string();
    let ((q, q_type), (kv, kv_type)) = ((q.0, &q.1.ty), (kv.0, &kv.1.ty));
    let output = match &sig.output {
        ReturnType::Type(_, ty) => quote_spanned!(ty.span()=> #ty),
        ReturnType::Default => quote!(()),
    };
    let (tables, args): (Vec<_>, Vec<_>) = rest.iter().partition(|(_, typed)| is(&typed.ty, "Table"));
    let tables: Vec<String> = tables.into_iter().map(|(name, _)| name.to_string()).collect();
    let inputs = args.iter().map(|(_, typed)| typed);
    let names: Vec<&Ident> = args.iter().map(|(name, _)| *name).collect();
    let texts: Vec<String> = names.iter().map(|n| n.to_string()).collect();
    let symbols = rest.iter().map(|(name, typed)| match is(&typed.ty, "Table") {
        true => quote!(#typed),
        false => quote!(#name: #dsl::Pos),
    });
    let (mut arg, mut table) = (0usize.., 0usize..);
    let passed = rest.iter().map(|(_, typed)| match is(&typed.ty, "Table") {
        true => table.next().map(|n| quote!(tables[#n])),
        false => arg.next().map(|n| quote!(args[#n])),
    });
    quote! {
        #(#attrs)*
        #vis fn #name(#(#inputs),*) -> #dsl::Mask {
            fn keep(#q: #q_type, #kv: #kv_type, #(#symbols),*) -> #output #block
            #dsl::Mask::record(#text, &[#((#texts, #names)),*], &[#(#tables),*], |q, kv, args, tables| {
                let _ = (args, tables);
                keep(q, kv, #(#passed),*)
            })
        }
    }
}

/// Whether a type is this one, by its name.
fn is(ty: &Type, name: &str) -> bool {
    matches!(ty, Type::Path(path) if path.path.segments.last().is_some_and(|s| s.ident == name))
}
