//! What `#[pattern]` and `#[score]` ask of a function before they record it: that it is one expression of its parameters.

use proc_macro2::{Span, TokenStream};
use quote::quote;
use syn::{FnArg, Ident, ItemFn, Pat, PatType, ReturnType};

use crate::Errors;

/// The words of one macro's refusals.
pub(crate) struct Words {
    /// `pattern`
    pub(crate) what: &'static str,
    /// `predicate`
    pub(crate) one: &'static str,
    /// A function that would be right.
    pub(crate) example: &'static str,
    /// What its result says, and the type of it.
    pub(crate) result: &'static str,
}

/// The function, with what is wrong with it so far; or what to emit where there is no function.
pub(crate) fn function(words: &Words, args: &TokenStream, item: TokenStream) -> Result<(ItemFn, Errors), TokenStream> {
    let Words { what, one, example, result } = words;
    let func: ItemFn = match syn::parse2(item.clone()) {
        Ok(func) => func,
        Err(_) => {
            let error = syn::Error::new(Span::call_site(), format!("a {what} is a function: `{example}`"));
            let error = error.to_compile_error();
            return Err(quote!(#error #item));
        }
    };
    let mut errors = Errors::default();
    if !args.is_empty() {
        errors.at(args, format!("a {what} takes no arguments here; its own are parameters of the function"));
    }
    if !func.sig.generics.params.is_empty() {
        errors.at(&func.sig.generics, format!("a {what} is one {one}: it cannot be generic"));
    }
    if func.sig.asyncness.is_some() || func.sig.constness.is_some() {
        errors.at(func.sig.fn_token, format!("a {what} is a plain `fn`"));
    }
    if matches!(func.sig.output, ReturnType::Default) {
        errors.at(&func.sig.ident, format!("a {what} says {result}"));
    }
    Ok((func, errors))
}

/// Its parameters, each a plain name and a type.
pub(crate) fn params<'a>(words: &Words, func: &'a ItemFn, errors: &mut Errors) -> Vec<(&'a Ident, &'a PatType)> {
    let what = words.what;
    let mut params = Vec::new();
    for input in &func.sig.inputs {
        match input {
            FnArg::Typed(typed) => match &*typed.pat {
                Pat::Ident(pat) => params.push((&pat.ident, typed)),
                other => errors.at(other, format!("a parameter of a {what} is a plain name")),
            },
            FnArg::Receiver(receiver) => {
                errors.at(receiver, format!("a {what} is a free function, without `self`"));
            }
        }
    }
    params
}
