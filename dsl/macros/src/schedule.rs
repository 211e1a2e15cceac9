//! `#[schedule]`: a function becomes a type that stages it.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens as _, format_ident, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Attribute, FnArg, Ident, ItemFn, Pat, ReturnType, Type, Visibility};

use crate::attribute::{self, Knob, Knobs};
use crate::{Errors, staged};

/// Names that the outputs and the scale have.
const TAKEN: [&str; 5] = ["o", "lse", "scale", "cu_seqlens", "max_seqlen"];

/// Knobs that the body does not see: they say how it is compiled.
const OF_STAGING: [&str; 5] = ["warps", "overlap", "turns", "pack", "persist"];

/// A parameter after the context.
struct Param {
    name: Ident,
    ty: Type,
    kind: Kind,
}

/// How a parameter comes to its value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A tensor in global memory.
    Input,
    /// Chosen before compiling.
    Fixed,
    /// Chosen before compiling, or left out: `Option<&T>`.
    OptionalChoice,
    /// A tensor in global memory, or none: `Option<T>`.
    OptionalInput,
}

pub(crate) fn expand(dsl: &TokenStream, args: TokenStream, item: TokenStream) -> TokenStream {
    let mut func: ItemFn = match syn::parse2(item.clone()) {
        Ok(func) => func,
        Err(_) => {
            let error =
                syn::Error::new(Span::call_site(), "a schedule is a function: `fn name(cx: &Cx, ..) -> OutLse<Dv>`");
            let error = error.to_compile_error();
            return quote!(#error #item);
        }
    };
    let mut errors = Errors::default();
    let mut knobs = attribute::knobs(args, &mut errors);
    let cx = context(&func, &mut errors);
    let params = params(&mut func, &mut errors);
    let whole = signature(&func, &mut errors);
    let portable = knobs.portable;
    let mut at = 0;
    knobs.all.retain(|knob| {
        at += 1;
        let taken = params.iter().any(|p| p.name == knob.name);
        if taken {
            errors.at(&knob.name, format!("`{}` is also a parameter of the function", knob.name));
            knobs.portable -= usize::from(at <= portable);
        }
        !taken
    });
    let (Some(cx), true) = (cx, whole) else {
        let errors = errors.tokens();
        return quote!(#errors #[allow(dead_code, unused_variables)] #func);
    };
    staged::check(&mut func, &cx, &mut errors);
    bind_knobs(&mut func, &cx, &knobs.all);

    let schedule = schedule(dsl, &func, &knobs, &params);
    if errors.0.is_empty() {
        // Its parameters are a kernel's inputs, and those are as many as they are.
        quote!(#[allow(clippy::too_many_arguments)] #func #schedule)
    } else {
        let errors = errors.tokens();
        quote!(#errors #[allow(dead_code, unused, clippy::all)] #func #schedule)
    }
}

/// The name of the first parameter, which is the context.
fn context(func: &ItemFn, errors: &mut Errors) -> Option<Ident> {
    let found = func.sig.inputs.first().and_then(|input| match input {
        FnArg::Typed(typed) => match (&*typed.pat, &*typed.ty) {
            (Pat::Ident(pat), Type::Reference(reference)) if reference.mutability.is_none() => match &*reference.elem {
                Type::Path(path) if path.path.segments.last().is_some_and(|s| s.ident == "Cx") => {
                    Some(pat.ident.clone())
                }
                _ => None,
            },
            _ => None,
        },
        FnArg::Receiver(_) => None,
    });
    if found.is_none() {
        match func.sig.inputs.first() {
            Some(first) => errors.at(first, "the first parameter of a schedule is the context: `cx: &Cx`"),
            None => errors.at(&func.sig.ident, "the first parameter of a schedule is the context: `cx: &Cx`"),
        }
    }
    found
}

/// The parameters after the context; takes `#[fixed]` and `#[optional]` off them.
fn params(func: &mut ItemFn, errors: &mut Errors) -> Vec<Param> {
    let mut params = Vec::new();
    for input in func.sig.inputs.iter_mut().skip(1) {
        let FnArg::Typed(typed) = input else { continue };
        let has = |name: &str| typed.attrs.iter().any(|a| a.path().is_ident(name));
        let (fixed, optional) = (has("fixed"), has("optional"));
        typed.attrs.retain(|a| !a.path().is_ident("fixed") && !a.path().is_ident("optional"));
        let Pat::Ident(pat) = &*typed.pat else {
            errors.at(&typed.pat, "a parameter of a schedule is a plain name: it names the tensor");
            continue;
        };
        if fixed && optional {
            errors.at(&pat.ident, format!("`{}` is fixed or optional, not both", pat.ident));
        }
        // After a mistake it is what its type says, so that no other mistake follows.
        let kind = match (fixed && !optional, inside(&typed.ty)) {
            (true, _) => Kind::Fixed,
            (false, Some(Type::Reference(_))) if optional => Kind::OptionalChoice,
            (false, Some(_)) if optional => Kind::OptionalInput,
            (false, _) if optional => {
                let what = "an optional parameter is an `Option`: of a choice, `Option<&Score>`, or of an input, `Option<Sinks>`";
                errors.at(&typed.ty, what);
                if matches!(&*typed.ty, Type::Reference(_)) { Kind::Fixed } else { Kind::Input }
            }
            _ => Kind::Input,
        };
        if kind != Kind::Fixed && kind != Kind::OptionalChoice && TAKEN.contains(&pat.ident.to_string().as_str()) {
            errors.at(
                &pat.ident,
                format!("`{}` is the name of something that every schedule has; call this input otherwise", pat.ident),
            );
        }
        params.push(Param { name: pat.ident.clone(), ty: (*typed.ty).clone(), kind });
    }
    params
}

/// The `T` of an `Option<T>`.
fn inside(ty: &Type) -> Option<&Type> {
    let Type::Path(path) = ty else { return None };
    let last = path.path.segments.last().filter(|segment| segment.ident == "Option")?;
    match &last.arguments {
        syn::PathArguments::AngleBracketed(of) => of.args.iter().find_map(|arg| match arg {
            syn::GenericArgument::Type(ty) => Some(ty),
            _ => None,
        }),
        _ => None,
    }
}

/// A type, without its reference.
fn owned(ty: &Type) -> &Type {
    match ty {
        Type::Reference(reference) => &reference.elem,
        ty => ty,
    }
}

/// Whether the signature is one that a schedule can have.
fn signature(func: &ItemFn, errors: &mut Errors) -> bool {
    let before = errors.0.len();
    if !func.sig.generics.params.is_empty() {
        errors.at(
            &func.sig.generics,
            "a schedule is staged as it stands: it cannot be generic; what varies is a knob or `#[fixed]`",
        );
    }
    if func.sig.asyncness.is_some() || func.sig.constness.is_some() || !matches!(func.sig.safety, syn::Safety::Default)
    {
        errors.at(func.sig.fn_token, "a schedule is a plain `fn`");
    }
    errors.0.len() == before
}

/// Puts the knobs that are not axes in scope.
fn bind_knobs(func: &mut ItemFn, cx: &Ident, knobs: &[Knob]) {
    let bound: Vec<syn::Stmt> = knobs
        .iter()
        .filter(|knob| !knob.is_axis() && !OF_STAGING.iter().any(|name| knob.name == name))
        .map(|knob| {
            let (name, text) = (&knob.name, knob.name.to_string());
            syn::parse_quote_spanned!(name.span()=> let #name: u32 = #cx.knob(#text);)
        })
        .collect();
    func.block.stmts.splice(0..0, bound);
}

fn schedule(dsl: &TokenStream, func: &ItemFn, knobs: &Knobs, params: &[Param]) -> TokenStream {
    let (vis, function) = (&func.vis, &func.sig.ident);
    let name = Ident::new(&pascal(&function.to_string()), function.span());
    let pick = format_ident!("{name}Pick");
    let docs: Vec<&Attribute> =
        func.attrs.iter().filter(|a| a.path().is_ident("doc") || a.path().is_ident("cfg")).collect();

    let definition = definition(vis, &name, function, &docs, params);
    let pick_definition = pick_definition(dsl, vis, &pick, &name, knobs);

    let settings = knobs.all.iter().map(|knob| {
        let (field, span) = (knob.field(), knob.name.span());
        let (knob_name, text) = (&knob.name, knob.name.to_string());
        if knob.is_axis() {
            quote_spanned!(span=> staging.axis::<#knob_name>(pick.#field);)
        } else if OF_STAGING.iter().any(|name| knob_name == name) {
            quote!(staging.#knob_name(pick.#knob_name);)
        } else {
            quote!(staging.knob(#text, pick.#field);)
        }
    });
    let arguments = params.iter().map(|param| {
        let (name, ty, text) = (&param.name, &param.ty, param.name.to_string());
        match (param.kind, ty) {
            (Kind::Input, _) => quote_spanned!(ty.span()=> <#ty as #dsl::Input>::declare(cx, #text)),
            (Kind::Fixed, Type::Reference(_)) => quote!(&self.#name),
            (Kind::Fixed, _) => quote!(::core::clone::Clone::clone(&self.#name)),
            (Kind::OptionalChoice, _) => quote!(self.#name.as_ref()),
            (Kind::OptionalInput, _) => {
                let input = inside(ty).unwrap_or(ty);
                quote_spanned!(ty.span()=> self.#name.then(|| <#input as #dsl::Input>::declare(cx, #text)))
            }
        }
    });
    let text = function.to_string();
    let begin = quote_spanned!(function.span()=> cx.begin(););
    let returned = match &func.sig.output {
        ReturnType::Default => function.span(),
        output => output.span(),
    };
    let store = quote_spanned!(returned=> #dsl::Output::store(out, cx););
    let (inner, pick_type) = (format_ident!("staging"), &pick);
    quote! {
        #definition
        #pick_definition
        impl #dsl::Schedule for #name {
            type Pick = #pick_type;

            fn name(&self) -> &'static str {
                #text
            }

            fn declare(&self, #inner: &mut #dsl::Staging, pick: &#pick_type) {
                let _ = pick;
                #(#settings)*
            }

            #[allow(clippy::let_unit_value, reason = "a schedule may write tables and return nothing")]
            fn body(&self, cx: &#dsl::Cx) {
                #begin
                let out = #function(cx, #(#arguments),*);
                #store
            }
        }
    }
}

/// The type, with a field for each compile-time choice.
fn definition(vis: &Visibility, name: &Ident, function: &Ident, docs: &[&Attribute], params: &[Param]) -> TokenStream {
    let line = format!("The schedule that [`{function}()`] writes, with its compile-time choices.");
    let choices: Vec<&Param> = params.iter().filter(|p| p.kind != Kind::Input).collect();
    if choices.is_empty() {
        return quote! {
            #(#docs)*
            #[doc = ""]
            #[doc = #line]
            #[derive(Clone, Copy, Debug, Default)]
            #vis struct #name;
        };
    }
    let fields = choices.iter().map(|p| {
        let (field, ty) = (&p.name, &p.ty);
        let (line, ty) = match p.kind {
            Kind::OptionalChoice => {
                let ty = owned(inside(ty).unwrap_or(ty));
                (format!("The `{field}` of [`{function}()`], where it has one."), quote!(::core::option::Option<#ty>))
            }
            Kind::OptionalInput => (format!("Whether [`{function}()`] has `{field}`."), quote!(bool)),
            Kind::Input | Kind::Fixed => (format!("The `{field}` of [`{function}()`]."), owned(ty).to_token_stream()),
        };
        quote!(#[doc = #line] pub #field: #ty,)
    });
    let (fixed, optional): (Vec<&Param>, Vec<&Param>) = choices.iter().partition(|p| p.kind == Kind::Fixed);
    let names: Vec<&Ident> = fixed.iter().map(|p| &p.name).collect();
    let types = fixed.iter().map(|p| owned(&p.ty));
    let others = optional.iter().map(|p| {
        let field = &p.name;
        if p.kind == Kind::OptionalChoice {
            quote!(#field: ::core::option::Option::None)
        } else {
            quote!(#field: false)
        }
    });
    let builders = optional.iter().map(|p| {
        let (field, with) = (&p.name, format_ident!("with_{}", p.name));
        let line = format!("The schedule with `{field}`.");
        let builder = match p.kind {
            Kind::OptionalChoice => {
                let ty = owned(inside(&p.ty).unwrap_or(&p.ty));
                quote!(pub fn #with(self, #field: #ty) -> Self { Self { #field: ::core::option::Option::Some(#field), ..self } })
            }
            _ => quote!(pub fn #with(self) -> Self { Self { #field: true, ..self } }),
        };
        quote!(#[doc = #line] #[must_use] #[allow(dead_code, clippy::needless_update)] #builder)
    });
    let default = fixed.is_empty().then(|| quote!(, Default));
    quote! {
        #(#docs)*
        #[doc = ""]
        #[doc = #line]
        #[derive(Clone, Debug #default)]
        #vis struct #name {
            #(#fields)*
        }

        impl #name {
            /// The schedule with these choices.
            #[allow(clippy::new_without_default)]
            pub fn new(#(#names: #types),*) -> Self {
                Self { #(#names,)* #(#others),* }
            }

            #(#builders)*
        }
    }
}

/// The typed pick: one `u32` a knob.
fn pick_definition(dsl: &TokenStream, vis: &Visibility, pick: &Ident, schedule: &Ident, knobs: &Knobs) -> TokenStream {
    let Knobs { all: knobs, portable, targets } = knobs;
    let line = format!("A value for each knob of [`{schedule}`]; the default is the first one of each.");
    let fields: Vec<Ident> = knobs.iter().map(Knob::field).collect();
    let texts: Vec<String> = fields.iter().map(|f| f.to_string()).collect();
    let lines = knobs.iter().map(|knob| match (knob.is_axis(), knob.name == "warps") {
        (true, _) => format!("The extent of `{}`.", knob.name),
        (_, true) => "Warps of a CTA, where each multiplies for itself.".to_owned(),
        _ if knob.name == "turns" => "Whether warpgroups start products in turns: 1 is no, 2 yes.".to_owned(),
        _ if knob.name == "pack" => {
            "What rows a tile of tokens has: 1 of one query head, 2 of a whole group.".to_owned()
        }
        _ if knob.name == "persist" => "Whether a CTA does tile after tile: 1 is no, 2 yes.".to_owned(),
        _ if knob.name == "overlap" => "How products overlap: 1 is serial, 2 fenced, 3 deferred.".to_owned(),
        _ => format!("`{}`.", knob.name),
    });
    let first = knobs.iter().map(|k| &k.values[0]);
    let values = knobs.iter().map(|k| {
        let values = &k.values;
        quote!(&[#(#values),*])
    });
    let index = 0..knobs.len();
    let targets = targets.iter().map(|(target, knobs)| {
        let (name, texts) = (target.to_string(), knobs.iter().map(|knob| knob.field().to_string()));
        let values = knobs.iter().map(|knob| &knob.values);
        quote!((#name, &[#((#texts, &[#(#values),*])),*]))
    });
    quote! {
        #[doc = #line]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #vis struct #pick {
            #(#[doc = #lines] pub #fields: u32,)*
        }

        impl ::core::default::Default for #pick {
            fn default() -> Self {
                Self { #(#fields: #first),* }
            }
        }

        impl #dsl::Knobs for #pick {
            const KNOBS: &'static [(&'static str, &'static [u32])] = &[#((#texts, #values)),*];
            const PORTABLE: usize = #portable;
            const TARGETS: &'static [#dsl::OfTarget] = &[#(#targets),*];

            fn values(&self) -> ::std::vec::Vec<u32> {
                ::std::vec![#(self.#fields),*]
            }

            fn from_values(values: &[u32]) -> Self {
                let _ = values;
                Self { #(#fields: values[#index]),* }
            }
        }
    }
}

fn pascal(name: &str) -> String {
    let mut out = String::new();
    for part in name.split('_') {
        let mut chars = part.chars();
        out.extend(chars.next().into_iter().flat_map(char::to_uppercase).chain(chars));
    }
    out
}
