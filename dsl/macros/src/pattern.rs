//! `#[pattern]`: a predicate becomes a function from its arguments to a mask.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{FnArg, Ident, ItemFn, Pat, PatType, ReturnType};

use crate::Errors;

pub(crate) fn expand(dsl: &TokenStream, args: TokenStream, item: TokenStream) -> TokenStream {
    let func: ItemFn = match syn::parse2(item.clone()) {
        Ok(func) => func,
        Err(_) => {
            let error = syn::Error::new(
                proc_macro2::Span::call_site(),
                "a pattern is a function: `fn causal(q: Pos, kv: Pos) -> Keep`",
            );
            let error = error.to_compile_error();
            return quote!(#error #item);
        }
    };
    let mut errors = Errors::default();
    if !args.is_empty() {
        errors.at(&args, "a pattern takes no arguments here; its own are parameters of the function");
    }
    if !func.sig.generics.params.is_empty() {
        errors.at(&func.sig.generics, "a pattern is one predicate: it cannot be generic");
    }
    if func.sig.asyncness.is_some() || func.sig.constness.is_some() {
        errors.at(func.sig.fn_token, "a pattern is a plain `fn`");
    }
    if matches!(func.sig.output, ReturnType::Default) {
        errors.at(&func.sig.ident, "a pattern says which keys to keep: it returns `Keep`");
    }
    let params: Vec<(&Ident, &PatType)> = func
        .sig
        .inputs
        .iter()
        .filter_map(|input| match input {
            FnArg::Typed(typed) => match &*typed.pat {
                Pat::Ident(pat) => Some((&pat.ident, typed)),
                other => {
                    errors.at(other, "a parameter of a pattern is a plain name");
                    None
                }
            },
            FnArg::Receiver(receiver) => {
                errors.at(receiver, "a pattern is a free function, without `self`");
                None
            }
        })
        .collect();
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
