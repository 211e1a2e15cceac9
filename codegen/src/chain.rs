//! Several plans as one: what one launch leaves in the workspace, the next one reads.

use std::collections::BTreeMap;

use crate::Error;
use crate::ir::Elem;
use crate::plan::{
    Access, Arg, Dim, Expr, Launch, MapBase, MapDim, MapStride, Plan, Requirement, ScalarSpec, TensorMap, TensorSpec,
    WRAP,
};

/// What every tensor in the workspace begins at a multiple of, in bytes: L2 works in lines of 128.
const ALIGN: u64 = 256;

/// A tensor that exists between the launches of a [chain](Plan::chain) only: contiguous, in the workspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Temporary {
    /// Its name in the plans that write and read it.
    pub name: String,
    /// What it holds.
    pub elem: Elem,
    /// Its extents, outermost first, from those of the tensors that the caller binds.
    pub dims: Vec<Expr>,
}

impl Temporary {
    /// A tensor in the workspace.
    pub fn new(name: impl Into<String>, elem: Elem, dims: impl Into<Vec<Expr>>) -> Self {
        Temporary { name: name.into(), elem, dims: dims.into() }
    }

    /// Elements between two neighbours along a dimension.
    fn stride(&self, dim: usize) -> Expr {
        self.dims[dim + 1..].iter().cloned().fold(Expr::Const(1), times)
    }

    /// Its size, up to where the next one may begin.
    fn bytes(&self) -> Expr {
        let elements = self.dims.iter().cloned().fold(Expr::Const(1), times);
        times((elements * Expr::Const(self.elem.bytes().into())).ceil_div(ALIGN), Expr::Const(ALIGN))
    }
}

/// A product, without factors of one.
fn times(a: Expr, b: Expr) -> Expr {
    match (a, b) {
        (Expr::Const(1), x) | (x, Expr::Const(1)) => x,
        (a, b) => a * b,
    }
}

/// A sum, without addends of zero.
fn plus(a: Expr, b: Expr) -> Expr {
    match (a, b) {
        (Expr::Const(0), x) | (x, Expr::Const(0)) => x,
        (a, b) => a + b,
    }
}

impl Plan {
    /// Runs `plans` one after the other, as one.
    ///
    /// A name means the same everywhere: tensors and numbers of one name are one tensor and one number, and a symbol is one
    /// extent. The `temporaries` are no longer the caller's to bind: they lie in the workspace, and symbols that stand in
    /// their dimensions alone are replaced by their extents. What one plan has in its workspace stays its own.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where plans cannot be chained: none at all, different targets, a name that stands for two
    /// different things, a tensor that is read before another plan writes it, a temporary that no plan writes before it is
    /// read.
    pub fn chain(
        name: impl Into<String>,
        plans: impl IntoIterator<Item = Plan>,
        temporaries: &[Temporary],
    ) -> Result<Plan, Error> {
        let name = name.into();
        let mut chain = Chain { name: &name, temporaries, symbols: BTreeMap::new(), whole: None };
        let plans: Vec<Plan> = plans.into_iter().collect();
        chain.written_first(&plans)?;
        for plan in &plans {
            chain.extents(plan)?;
        }
        // An extent that an input has as well is no definition but a condition.
        let inputs: Vec<&TensorSpec> = plans.iter().flat_map(|p| &p.tensors).filter(|t| !chain.temporary(t)).collect();
        let given = |symbol: &str| inputs.iter().any(|t| t.dims.contains(&Dim::Symbol(symbol.to_owned())));
        let (conditions, symbols): (BTreeMap<_, _>, BTreeMap<_, _>) =
            std::mem::take(&mut chain.symbols).into_iter().partition(|(symbol, _)| given(symbol));
        chain.symbols = symbols;
        for plan in plans {
            chain.add(plan)?;
        }
        let Some(mut whole) = chain.whole.take() else {
            return Err(chain.wrong("a chain has one plan at least"));
        };
        for (symbol, expr) in conditions.into_iter().filter(|(symbol, expr)| *expr != Expr::symbol(symbol.clone())) {
            let what = format!("`{symbol}` is what `{name}` makes of it");
            whole.requires.push(Requirement { what, left: Expr::symbol(symbol), right: expr });
        }
        whole.name = name;
        Ok(whole)
    }
}

struct Chain<'a> {
    name: &'a str,
    temporaries: &'a [Temporary],
    /// What the symbols of temporaries stand for.
    symbols: BTreeMap<String, Expr>,
    whole: Option<Plan>,
}

impl Chain<'_> {
    fn wrong(&self, what: impl std::fmt::Display) -> Error {
        Error::Unsupported(format!("the launches of `{}` do not go together: {what}", self.name))
    }

    fn temporary(&self, tensor: &TensorSpec) -> bool {
        self.temporaries.iter().any(|t| t.name == tensor.name)
    }

    /// Every tensor that some plan writes is written by the first that names it.
    fn written_first(&self, plans: &[Plan]) -> Result<(), Error> {
        let mut first: BTreeMap<&str, Access> = BTreeMap::new();
        for tensor in plans.iter().flat_map(|plan| &plan.tensors) {
            let earlier = *first.entry(&tensor.name).or_insert(tensor.access);
            if earlier == Access::Read && (tensor.access == Access::Write || self.temporary(tensor)) {
                return Err(self.wrong(format!("`{}` is read before it is written", tensor.name)));
            }
        }
        match self.temporaries.iter().find(|t| !first.contains_key(t.name.as_str())) {
            Some(unused) => Err(self.wrong(format!("nothing writes `{}`", unused.name))),
            None => Ok(()),
        }
    }

    /// Learns what the symbols of a plan's temporaries stand for.
    fn extents(&mut self, plan: &Plan) -> Result<(), Error> {
        for tensor in &plan.tensors {
            let Some(temporary) = self.temporaries.iter().find(|t| t.name == tensor.name) else { continue };
            if (temporary.elem, temporary.dims.len()) != (tensor.elem, tensor.dims.len()) {
                return Err(self.wrong(format!("`{}` is another tensor in `{}`", tensor.name, plan.name)));
            }
            for (dim, expr) in tensor.dims.iter().zip(&temporary.dims) {
                match dim {
                    Dim::Fixed(extent) if *expr != Expr::Const(*extent) => {
                        let message = format!("`{}` has {extent} elements a row in `{}`", tensor.name, plan.name);
                        return Err(self.wrong(message));
                    }
                    Dim::Fixed(_) => {}
                    Dim::Symbol(symbol) => {
                        let known = self.symbols.entry(symbol.clone()).or_insert_with(|| expr.clone());
                        if known != expr {
                            return Err(self.wrong(format!("`{symbol}` stands for two extents")));
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// An expression without the symbols of temporaries.
    fn resolve(&self, expr: &Expr) -> Expr {
        expr.replaced(&|e| match e {
            Expr::Symbol(symbol) => self.symbols.get(symbol).cloned(),
            _ => None,
        })
    }

    /// Where a temporary begins.
    fn offset(&self, name: &str) -> Expr {
        let before = self.temporaries.iter().take_while(|t| t.name != name);
        before.fold(Expr::Const(0), |sum, t| plus(sum, t.bytes()))
    }

    fn add(&mut self, plan: Plan) -> Result<(), Error> {
        let all = self.temporaries.iter().fold(Expr::Const(0), |sum, t| plus(sum, t.bytes()));
        let mut whole = self.whole.take().unwrap_or_else(|| Plan {
            name: self.name.to_owned(),
            target: plan.target,
            tensors: Vec::new(),
            scalars: Vec::new(),
            requires: Vec::new(),
            workspace: all,
            launches: Vec::new(),
        });
        if whole.target != plan.target {
            return Err(self.wrong(format!("`{}` is for {}, and others for {}", plan.name, plan.target, whole.target)));
        }
        // Its own workspace lies behind what there is.
        let own = whole.workspace.clone();
        if plan.workspace != Expr::Const(0) {
            let bytes = self.resolve(&plan.workspace).ceil_div(ALIGN) * Expr::Const(ALIGN);
            whole.workspace = plus(whole.workspace, bytes);
        }
        for tensor in &plan.tensors {
            if !self.temporary(tensor) {
                self.tensor(&mut whole.tensors, tensor)?;
            }
        }
        for scalar in plan.scalars {
            self.scalar(&mut whole.scalars, scalar)?;
        }
        for Requirement { what, left, right } in plan.requires {
            let requirement = Requirement { what, left: self.resolve(&left), right: self.resolve(&right) };
            if !whole.requires.contains(&requirement) {
                whole.requires.push(requirement);
            }
        }
        for launch in plan.launches {
            let grid = launch.grid.each_ref().map(|extent| self.resolve(extent));
            let args = launch.args.iter().map(|arg| self.arg(arg, &own)).collect();
            whole.launches.push(Launch { grid, args, ..launch });
        }
        self.whole = Some(whole);
        Ok(())
    }

    fn tensor(&self, all: &mut Vec<TensorSpec>, tensor: &TensorSpec) -> Result<(), Error> {
        match all.iter_mut().find(|known| known.name == tensor.name) {
            Some(known) if (known.elem, &known.dims) == (tensor.elem, &tensor.dims) => {
                known.align = known.align.max(tensor.align);
            }
            Some(known) => return Err(self.wrong(format!("`{}` is two different tensors", known.name))),
            None => all.push(tensor.clone()),
        }
        Ok(())
    }

    fn scalar(&self, all: &mut Vec<ScalarSpec>, scalar: ScalarSpec) -> Result<(), Error> {
        match all.iter().find(|known| known.name == scalar.name) {
            Some(known) if *known == scalar => {}
            Some(known) => return Err(self.wrong(format!("`{}` is two different numbers", known.name))),
            None => all.push(scalar),
        }
        Ok(())
    }

    fn arg(&self, arg: &Arg, own: &Expr) -> Arg {
        let of = |name: &str| self.temporaries.iter().find(|t| t.name == name);
        match arg {
            Arg::Pointer(name) if of(name).is_some() => Arg::Workspace { offset: self.offset(name) },
            Arg::Stride { tensor, dim } => match of(tensor) {
                Some(temporary) => Arg::Wide(temporary.stride(*dim)),
                None => arg.clone(),
            },
            Arg::Computed(expr) => Arg::Computed(self.resolve(expr)),
            Arg::Wide(expr) => Arg::Wide(self.resolve(expr)),
            Arg::Workspace { offset } => Arg::Workspace { offset: plus(own.clone(), self.resolve(offset)) },
            Arg::TensorMap(map) => Arg::TensorMap(self.map(map, own)),
            Arg::Pointer(_) | Arg::Scalar(_) | Arg::Counter => arg.clone(),
        }
    }

    /// A tensor map with temporaries as places in the workspace.
    fn map(&self, map: &TensorMap, own: &Expr) -> TensorMap {
        let of = |name: &str| self.temporaries.iter().find(|t| t.name == name);
        let mut map = map.replaced(|expr| self.resolve(expr));
        map.base = match map.base {
            MapBase::Tensor(name) if of(&name).is_some() => MapBase::Workspace(self.offset(&name)),
            MapBase::Workspace(offset) => MapBase::Workspace(plus(own.clone(), offset)),
            base @ MapBase::Tensor(_) => base,
        };
        for MapDim { stride, .. } in &mut map.outer {
            let known = |tensor: &str, dim: usize| of(tensor).map(|temporary| temporary.stride(dim));
            let elements = match &*stride {
                MapStride::Dim { tensor, dim } => known(tensor, *dim),
                MapStride::WrapLess { tensor, dim } => known(tensor, *dim).map(|stride| Expr::Const(WRAP) - stride),
                MapStride::Elements(_) => None,
            };
            if let Some(elements) = elements {
                *stride = MapStride::Elements(elements);
            }
        }
        map
    }
}
