//! What may not stand in a staged body, and where staged bodies are.
//!
//! The body of `for .. in cx.pipelined(..)`, `for .. in cx.range(..)` and `cx.when(.., || ..)` runs once, in Rust, whatever
//! the kernel does with it later. So nothing in it may leave it early or change a variable from outside: the kernel would not
//! do the same. What is refused is also replaced by something that compiles, so that each mistake is told once.

use std::collections::HashMap;

use quote::ToTokens;
use syn::visit_mut::{self, VisitMut};
use syn::{
    Arm, BinOp, Block, Expr, ExprClosure, ExprForLoop, Ident, ItemFn, Label, Local, Pat, parse_quote_spanned,
    spanned::Spanned,
};

use crate::Errors;

/// Refuses what staged bodies of `func` must not hold.
pub(crate) fn check(func: &mut ItemFn, cx: &Ident, errors: &mut Errors) {
    let mut check = Check { cx, errors, scopes: vec![Scope::default()], frames: Vec::new() };
    for input in &func.sig.inputs {
        if let syn::FnArg::Typed(typed) = input {
            check.bind(&typed.pat);
        }
    }
    check.visit_block_mut(&mut func.block);
}

/// Names of one block, and whether each is a variable that can change.
#[derive(Default)]
struct Scope(HashMap<String, bool>);

/// What `break`, `continue`, `return` and `?` may meet on their way out.
#[derive(Clone, PartialEq)]
enum Frame {
    /// A Rust loop, with its label.
    Loop(Option<String>),
    /// A labelled block, which a plain `break` passes by.
    Block(Option<String>),
    /// A plain closure.
    Closure,
    /// A staged loop, with its label, and the number of scopes outside of it.
    StagedLoop(Option<String>, usize),
    /// A staged branch, and the number of scopes outside of it.
    StagedBranch(usize),
}

struct Check<'a> {
    cx: &'a Ident,
    errors: &'a mut Errors,
    scopes: Vec<Scope>,
    frames: Vec<Frame>,
}

impl Check<'_> {
    /// `cx.pipelined(..)`, `cx.range(..)`.
    fn opens_loop(&self, expr: &Expr) -> Option<String> {
        let Expr::MethodCall(call) = peel(expr) else { return None };
        let opens = (call.method == "pipelined" || call.method == "range") && self.is_cx(&call.receiver);
        opens.then(|| format!("{}.{}(..)", self.cx, call.method))
    }

    fn is_cx(&self, expr: &Expr) -> bool {
        matches!(peel(expr), Expr::Path(path) if path.path.is_ident(self.cx))
    }

    fn bind(&mut self, pat: &Pat) {
        struct Names<'a>(&'a mut Scope);
        impl syn::visit::Visit<'_> for Names<'_> {
            fn visit_pat_ident(&mut self, pat: &syn::PatIdent) {
                self.0.0.insert(pat.ident.to_string(), pat.mutability.is_some());
                syn::visit::visit_pat_ident(self, pat);
            }
        }
        let scope = self.scopes.last_mut().expect("the function's scope is always open");
        syn::visit::Visit::visit_pat(&mut Names(scope), pat);
    }

    fn scoped(&mut self, body: impl FnOnce(&mut Self)) {
        self.scopes.push(Scope::default());
        body(self);
        self.scopes.pop();
    }

    fn framed(&mut self, frame: Frame, body: impl FnOnce(&mut Self)) {
        self.frames.push(frame);
        body(self);
        self.frames.pop();
    }

    /// How many scopes are outside of the innermost staged body.
    fn staged(&self) -> Option<usize> {
        self.frames.iter().rev().find_map(|frame| match frame {
            Frame::StagedLoop(_, outside) | Frame::StagedBranch(outside) => Some(*outside),
            _ => None,
        })
    }

    /// The variable behind a place, where it was declared outside of the innermost staged body.
    fn outer<'e>(&self, place: &'e Expr) -> Option<(&'e Ident, bool)> {
        let outside = self.staged()?;
        let ident = root(place)?;
        let found =
            self.scopes.iter().enumerate().rev().find_map(|(n, s)| s.0.get(&ident.to_string()).map(|m| (n, *m)));
        match found {
            Some((n, _)) if n >= outside => None,
            Some((_, mutable)) => Some((ident, mutable)),
            None => Some((ident, true)),
        }
    }

    fn assignment(&mut self, place: &Expr, at: &dyn ToTokens) {
        if let Expr::Tuple(tuple) = peel(place) {
            tuple.elems.iter().for_each(|place| self.assignment(place, at));
        } else if let Some((ident, _)) = self.outer(place) {
            self.errors.at(
                at,
                format!(
                    "`{ident}` lives outside this staged body, which runs once: the kernel would not see it change; keep it in a \
                     `{cx}.var(..)` and use its `set`",
                    cx = self.cx
                ),
            );
        }
    }

    /// Whether `break` or `continue` would leave a staged body.
    fn leaves_by_jump(&self, label: Option<&syn::Lifetime>) -> bool {
        for frame in self.frames.iter().rev() {
            match (frame, label) {
                (Frame::Loop(_), None) => return false,
                (Frame::Loop(Some(name)) | Frame::Block(Some(name)), Some(label)) if label.ident == name => {
                    return false;
                }
                (Frame::StagedLoop(..) | Frame::StagedBranch(_), _) => return true,
                (Frame::Closure, _) => return false,
                (Frame::Loop(_), Some(_)) | (Frame::Block(_), _) => {}
            }
        }
        false
    }

    /// Whether `return` or `?` would leave a staged body.
    fn leaves_by_return(&self) -> bool {
        self.frames
            .iter()
            .rev()
            .find_map(|frame| match frame {
                Frame::StagedLoop(..) | Frame::StagedBranch(_) => Some(true),
                Frame::Closure => Some(false),
                Frame::Loop(_) | Frame::Block(_) => None,
            })
            .unwrap_or(false)
    }

    fn jump(&mut self, expr: &mut Expr) {
        let (word, label, token) = match expr {
            Expr::Break(e) => ("break", e.label.as_ref(), e.break_token.to_token_stream()),
            Expr::Continue(e) => ("continue", e.label.as_ref(), e.continue_token.to_token_stream()),
            _ => return,
        };
        if self.leaves_by_jump(label) {
            let advice = if word == "break" {
                "bound the loop by its list or range instead"
            } else {
                "put the rest of the body in a `cx.when(.., || ..)` instead"
            };
            let advice = advice.replace("cx", &self.cx.to_string());
            self.errors.at(
                token,
                format!("`{word}` in a staged body, which runs once: the kernel cannot leave it here; {advice}"),
            );
            *expr = harmless(expr);
        }
    }
}

impl VisitMut for Check<'_> {
    fn visit_block_mut(&mut self, block: &mut Block) {
        self.scoped(|this| visit_mut::visit_block_mut(this, block));
    }

    fn visit_local_mut(&mut self, local: &mut Local) {
        // The initialiser does not see the new names.
        visit_mut::visit_local_mut(self, local);
        self.bind(&local.pat);
    }

    fn visit_arm_mut(&mut self, arm: &mut Arm) {
        self.scoped(|this| {
            this.bind(&arm.pat);
            visit_mut::visit_arm_mut(this, arm);
        });
    }

    fn visit_item_mut(&mut self, _: &mut syn::Item) {
        // An item inside the body sees none of its variables.
    }

    fn visit_pat_ident_mut(&mut self, pat: &mut syn::PatIdent) {
        if let (Some(by_ref), Some(mutability)) = (&pat.by_ref, &pat.mutability)
            && self.staged().is_some()
        {
            let at = quote::quote!(#by_ref #mutability);
            self.errors.at(
                at,
                format!(
                    "a staged body runs once: write `let` and `{}.var(..)` for what changes, not `ref mut`",
                    self.cx
                ),
            );
        }
        visit_mut::visit_pat_ident_mut(self, pat);
    }

    fn visit_expr_mut(&mut self, expr: &mut Expr) {
        match expr {
            Expr::ForLoop(looped) => self.for_loop(looped),
            Expr::While(looped) => {
                let frame = Frame::Loop(label(looped.label.as_ref()));
                self.scoped(|this| {
                    this.visit_expr_mut(&mut looped.cond);
                    this.framed(frame, |this| this.visit_block_mut(&mut looped.body));
                });
            }
            Expr::Loop(looped) => {
                let frame = Frame::Loop(label(looped.label.as_ref()));
                self.framed(frame, |this| this.visit_block_mut(&mut looped.body));
            }
            Expr::Block(block) if block.label.is_some() => {
                let frame = Frame::Block(label(block.label.as_ref()));
                self.framed(frame, |this| this.visit_block_mut(&mut block.block));
            }
            Expr::If(_) => self.scoped(|this| visit_mut::visit_expr_mut(this, expr)),
            Expr::Let(bound) => {
                self.visit_expr_mut(&mut bound.expr);
                self.bind(&bound.pat);
            }
            Expr::Closure(closure) => self.closure(closure, Frame::Closure),
            Expr::MethodCall(call) if call.method == "when" && self.is_cx(&call.receiver) => {
                let outside = self.scopes.len();
                for (n, arg) in call.args.iter_mut().enumerate() {
                    match arg {
                        Expr::Closure(closure) if n == 1 => self.closure(closure, Frame::StagedBranch(outside)),
                        Expr::Path(_) if n == 1 => {
                            self.errors
                                .at(&*arg, format!("write the branch here: `{}.when(.., || {{ .. }})`", self.cx));
                        }
                        _ => self.visit_expr_mut(arg),
                    }
                }
            }
            Expr::Break(_) | Expr::Continue(_) => {
                visit_mut::visit_expr_mut(self, expr);
                self.jump(expr);
            }
            Expr::Return(returned) => {
                if let Some(value) = &mut returned.expr {
                    self.visit_expr_mut(value);
                }
                if self.leaves_by_return() {
                    self.errors.at(
                        returned.return_token,
                        format!(
                            "`return` in a staged body, which runs once: the kernel cannot leave it here; put what follows in a \
                             `{}.when(.., || ..)` instead",
                            self.cx
                        ),
                    );
                    *expr = harmless(expr);
                }
            }
            Expr::Try(tried) => {
                self.visit_expr_mut(&mut tried.expr);
                if self.leaves_by_return() {
                    self.errors.at(
                        tried.question_token,
                        "`?` in a staged body, which runs once: the kernel cannot leave it here; compute this before the loop or branch",
                    );
                    let inner = &tried.expr;
                    *expr = parse_quote_spanned!(inner.span()=> #inner.unwrap());
                }
            }
            Expr::Assign(assign) => {
                self.assignment(&assign.left, &assign.eq_token);
                visit_mut::visit_expr_mut(self, expr);
            }
            Expr::Binary(binary) if assigns(&binary.op) => {
                self.assignment(&binary.left, &binary.op);
                visit_mut::visit_expr_mut(self, expr);
            }
            Expr::Reference(reference) => {
                if let Some(mutability) = reference.mutability
                    && let Some((ident, _)) = self.outer(&reference.expr)
                {
                    let and = reference.and_token;
                    self.errors.at(
                        quote::quote!(#and #mutability),
                        format!(
                            "`{ident}` lives outside this staged body, which runs once: the kernel would not see it change; keep it in \
                             a `{cx}.var(..)`",
                            cx = self.cx
                        ),
                    );
                }
                visit_mut::visit_expr_mut(self, expr);
            }
            Expr::Call(call) => {
                if let Expr::Path(_) = peel(&call.func)
                    && let Some((ident, true)) = self.outer(&call.func)
                    && self.scopes.iter().any(|s| s.0.contains_key(&ident.to_string()))
                {
                    self.errors.at(
                        ident,
                        format!("`{ident}` changes variables outside this staged body, which runs once; keep them in a `{}.var(..)`", self.cx),
                    );
                }
                visit_mut::visit_expr_mut(self, expr);
            }
            _ => {
                if let Some(call) = self.opens_loop(expr) {
                    self.errors.at(
                        &*expr,
                        format!("`{call}` stands in the head of a `for` loop, alone: `for b in {call} {{ .. }}`"),
                    );
                }
                visit_mut::visit_expr_mut(self, expr);
            }
        }
    }
}

impl Check<'_> {
    fn for_loop(&mut self, looped: &mut ExprForLoop) {
        let name = label(looped.label.as_ref());
        let staged = self.opens_loop(&looped.expr).is_some();
        if staged {
            if let Expr::MethodCall(call) = peel_mut(&mut looped.expr) {
                call.args.iter_mut().for_each(|arg| self.visit_expr_mut(arg));
            }
        } else {
            self.visit_expr_mut(&mut looped.expr);
        }
        let frame = if staged { Frame::StagedLoop(name, self.scopes.len()) } else { Frame::Loop(name) };
        self.framed(frame, |this| {
            this.scoped(|this| {
                this.visit_pat_mut(&mut looped.pat);
                this.bind(&looped.pat);
                this.visit_block_mut(&mut looped.body);
            });
        });
    }

    fn closure(&mut self, closure: &mut ExprClosure, frame: Frame) {
        self.framed(frame, |this| {
            this.scoped(|this| {
                closure.inputs.iter().for_each(|pat| this.bind(pat));
                this.visit_expr_mut(&mut closure.body);
            });
        });
    }
}

/// Something of type `!` in the place of a refused jump, so that only the refusal is told.
fn harmless(expr: &Expr) -> Expr {
    parse_quote_spanned!(expr.span()=> ::core::unreachable!())
}

fn label(label: Option<&Label>) -> Option<String> {
    label.map(|l| l.name.ident.to_string())
}

fn assigns(op: &BinOp) -> bool {
    use BinOp::{
        AddAssign, BitAndAssign, BitOrAssign, BitXorAssign, DivAssign, MulAssign, RemAssign, ShlAssign, ShrAssign,
        SubAssign,
    };
    matches!(
        op,
        AddAssign(_)
            | SubAssign(_)
            | MulAssign(_)
            | DivAssign(_)
            | RemAssign(_)
            | BitXorAssign(_)
            | BitAndAssign(_)
            | BitOrAssign(_)
            | ShlAssign(_)
            | ShrAssign(_)
    )
}

fn peel(expr: &Expr) -> &Expr {
    match expr {
        Expr::Paren(e) => peel(&e.expr),
        Expr::Group(e) => peel(&e.expr),
        _ => expr,
    }
}

fn peel_mut(expr: &mut Expr) -> &mut Expr {
    match expr {
        Expr::Paren(e) => peel_mut(&mut e.expr),
        Expr::Group(e) => peel_mut(&mut e.expr),
        _ => expr,
    }
}

/// The variable that a place is part of.
fn root(place: &Expr) -> Option<&Ident> {
    match place {
        Expr::Path(path) => path.path.get_ident(),
        Expr::Field(field) => root(&field.base),
        Expr::Index(index) => root(&index.expr),
        Expr::Unary(unary) => root(&unary.expr),
        Expr::Paren(e) => root(&e.expr),
        Expr::Group(e) => root(&e.expr),
        _ => None,
    }
}
