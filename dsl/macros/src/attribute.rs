//! Reads `tune(Rows in [128, 64], stages in [2, 3])`.

use std::collections::HashSet;

use proc_macro2::{Ident, TokenStream};
use syn::parse::{ParseStream, Parser};
use syn::{LitInt, Token, token};

use crate::Errors;

const EXAMPLE: &str = "`tune(Rows in [128, 64], stages in [2, 3])`";

/// The knobs of a schedule.
#[derive(Default)]
pub(crate) struct Knobs {
    /// Those that vary where a target has no values of its own, then those that only some targets have.
    pub(crate) all: Vec<Knob>,
    /// How many of them are the first.
    pub(crate) portable: usize,
    /// A target, and what varies there instead.
    pub(crate) targets: Vec<(Ident, Vec<Knob>)>,
}

/// A knob: a name and the values it may take.
#[derive(Clone)]
pub(crate) struct Knob {
    pub(crate) name: Ident,
    pub(crate) values: Vec<LitInt>,
}

impl Knob {
    /// Axes are types, and spelled like types.
    pub(crate) fn is_axis(&self) -> bool {
        self.name.to_string().starts_with(char::is_uppercase)
    }

    /// Its name as a field: `Rows` is `rows`, `KeyBlock` is `key_block`.
    pub(crate) fn field(&self) -> Ident {
        let mut field = String::new();
        for (n, c) in self.name.to_string().chars().enumerate() {
            if c.is_uppercase() && n > 0 {
                field.push('_');
            }
            field.extend(c.to_lowercase());
        }
        Ident::new(&field, self.name.span())
    }
}

/// The knobs, and what is wrong with them. A knob that is wrong is kept by its name, so that the body still finds it.
pub(crate) fn knobs(args: TokenStream, errors: &mut Errors) -> Knobs {
    let mut targets = Vec::new();
    let parse = |input: ParseStream<'_>| -> syn::Result<Vec<Knob>> {
        let mut knobs = Vec::new();
        while !input.is_empty() {
            let word: Ident = input.parse().map_err(|e| syn::Error::new(e.span(), format!("expected {EXAMPLE}")))?;
            if word != "tune" || !input.peek(token::Paren) {
                return Err(syn::Error::new(
                    word.span(),
                    format!("`{word}` is nothing that a schedule takes: expected {EXAMPLE}"),
                ));
            }
            let inner;
            syn::parenthesized!(inner in input);
            list(&inner, &mut knobs, Some(&mut targets), errors);
            if !input.is_empty() {
                input.parse::<Token![,]>()?;
            }
        }
        Ok(knobs)
    };
    let knobs = match parse.parse2(args) {
        Ok(knobs) => knobs,
        Err(error) => {
            errors.0.push(error);
            Vec::new()
        }
    };
    let mut all = unique(knobs, errors);
    let portable = all.len();
    let targets: Vec<(Ident, Vec<Knob>)> =
        targets.into_iter().map(|(target, knobs)| (target, unique(knobs, errors))).collect();
    for knob in targets.iter().flat_map(|(_, knobs)| knobs) {
        if all.iter().all(|known| known.name != knob.name) {
            // Elsewhere it has its first value, 1.
            all.push(Knob { name: knob.name.clone(), values: vec![LitInt::new("1", knob.name.span())] });
        }
    }
    Knobs { all, portable, targets }
}

/// Knobs; and in the outer list what varies on a target instead, `sm_90a(..)`.
fn list(
    input: ParseStream<'_>,
    knobs: &mut Vec<Knob>,
    mut targets: Option<&mut Vec<(Ident, Vec<Knob>)>>,
    errors: &mut Errors,
) {
    while !input.is_empty() {
        let result = match targets.as_deref_mut() {
            Some(targets) if input.peek2(token::Paren) => of_target(input, targets, errors),
            _ => knob(input, knobs, errors),
        };
        if let Err(error) = result {
            errors.0.push(error);
            // On to the next knob.
            while !input.is_empty() && !input.peek(Token![,]) {
                let _ = input.parse::<proc_macro2::TokenTree>();
            }
        }
        if !input.is_empty()
            && let Err(error) = input.parse::<Token![,]>()
        {
            errors.0.push(syn::Error::new(error.span(), "expected `,` before the next knob"));
            let _ = input.parse::<TokenStream>();
        }
    }
}

/// `sm_90a(Rows in [128, 192])`
fn of_target(input: ParseStream<'_>, targets: &mut Vec<(Ident, Vec<Knob>)>, errors: &mut Errors) -> syn::Result<()> {
    let target: Ident = input.parse()?;
    let inner;
    syn::parenthesized!(inner in input);
    let mut knobs = Vec::new();
    list(&inner, &mut knobs, None, errors);
    if !target.to_string().starts_with("sm_") {
        errors.at(&target, format!("`{target}` is no target; one is called `sm_90a`, say"));
    } else if targets.iter().any(|(other, _)| *other == target) {
        errors.at(&target, format!("`{target}` stands twice"));
    } else {
        targets.push((target, knobs));
    }
    Ok(())
}

fn knob(input: ParseStream<'_>, knobs: &mut Vec<Knob>, errors: &mut Errors) -> syn::Result<()> {
    let name: Ident = input
        .parse()
        .map_err(|e| syn::Error::new(e.span(), format!("expected a knob: an axis or a name, as in {EXAMPLE}")))?;
    knobs.push(Knob { name: name.clone(), values: vec![LitInt::new("1", name.span())] });
    if !input.peek(Token![in]) {
        let at = if input.is_empty() { name.span() } else { input.span() };
        return Err(syn::Error::new(at, format!("expected `in` and the values to try: `{name} in [64, 32]`")));
    }
    input.parse::<Token![in]>()?;
    if !input.peek(token::Bracket) {
        let at = if input.is_empty() { name.span() } else { input.span() };
        return Err(syn::Error::new(at, format!("expected the values to try, in brackets: `{name} in [64, 32]`")));
    }
    let inner;
    let bracket = syn::bracketed!(inner in input);
    let mut values: Vec<LitInt> = Vec::new();
    let empty = inner.is_empty();
    while !inner.is_empty() {
        let value: LitInt = inner.parse().map_err(|e| syn::Error::new(e.span(), "expected a whole number"))?;
        match value.base10_parse::<u32>() {
            Ok(0) => errors.at(&value, format!("`{name}` cannot be 0")),
            Ok(_) if values.iter().any(|v| v.base10_digits() == value.base10_digits()) => {
                errors.at(&value, format!("`{value}` stands twice among the values of `{name}`"));
            }
            Ok(_) => values.push(LitInt::new(value.base10_digits(), value.span())),
            Err(_) => errors.at(&value, format!("`{value}` is past 32 bits")),
        }
        if !inner.is_empty() {
            inner.parse::<Token![,]>().map_err(|e| syn::Error::new(e.span(), "expected `,` before the next value"))?;
        }
    }
    if empty {
        return Err(syn::Error::new(
            bracket.span.join(),
            format!("`{name}` has no value to take; the first one is the default"),
        ));
    }
    if !values.is_empty() {
        knobs.last_mut().expect("pushed above").values = values;
    }
    Ok(())
}

fn unique(knobs: Vec<Knob>, errors: &mut Errors) -> Vec<Knob> {
    let mut seen = HashSet::new();
    knobs
        .into_iter()
        .filter(|knob| {
            let new = seen.insert(knob.field().to_string());
            if !new {
                errors.at(&knob.name, format!("`{}` is tuned twice", knob.name));
            }
            new
        })
        .collect()
}
