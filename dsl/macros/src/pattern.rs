//! `#[pattern]`: a predicate becomes a function from its arguments to a mask.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Ident, ItemFn, ReturnType};

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
        if !matches!(&*typed.ty, syn::Type::Path(path) if path.path.is_ident("u32")) {
            errors.at(&typed.ty, format!("`{name}` is an argument of a pattern, and those are `u32`"));
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
    let names: Vec<&Ident> = rest.iter().map(|(name, _)| *name).collect();
    let inputs = rest.iter().map(|(_, typed)| typed);
    let texts: Vec<String> = names.iter().map(|n| n.to_string()).collect();
    let index = 0..names.len();
    quote! {
        #(#attrs)*
        #vis fn #name(#(#inputs),*) -> #dsl::Mask {
            fn keep(#q: #q_type, #kv: #kv_type, #(#names: #dsl::Pos),*) -> #output #block
            #dsl::Mask::record(#text, &[#((#texts, #names)),*], |q, kv, args| keep(q, kv, #(args[#index]),*))
        }
    }
}
