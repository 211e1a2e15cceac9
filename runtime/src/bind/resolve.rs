//! From names to numbers: every extent, grid and argument of a run, or the first thing that does not fit.

use std::collections::BTreeMap;

use lacuna_codegen::{
    ir::Elem,
    plan::{Access, Arg, Dim, Expr, Launch, MULTIPROCESSORS, Plan, Scalar, TensorSpec},
};
use lacuna_ptx::ParamType;

use super::{
    BindError, Bindings, KernelArg,
    map::{Map, MapError},
};
use crate::{
    Device, Error, Result, Tensor,
    header::{Entry, type_name},
    layout::{Placed, overlap},
};

/// What a launch may use on a device.
pub(crate) struct Limits {
    /// Bytes of shared memory a CTA, static and dynamic.
    pub(crate) shared: u64,
    /// Bytes of it that the kernel's arrays of a fixed size take.
    pub(crate) static_shared: u64,
    /// Threads a CTA.
    pub(crate) threads: u32,
    /// Why there are no clusters.
    pub(crate) no_clusters: Option<&'static str>,
}

/// A run with every number known, except where its workspace lies.
#[derive(Debug)]
pub(crate) struct Resolved<'p> {
    pub(crate) plan: &'p Plan,
    pub(crate) steps: Vec<Step<'p>>,
    /// Bytes.
    pub(crate) workspace: u64,
}

impl Resolved<'_> {
    /// Whether a launch takes a counter.
    pub(crate) fn counts(&self) -> bool {
        self.steps.iter().any(|step| step.args.contains(&Slot::Counter))
    }
}

/// A launch of it.
#[derive(Debug)]
pub(crate) struct Step<'p> {
    pub(crate) launch: &'p Launch,
    pub(crate) grid: [u32; 3],
    pub(crate) args: Vec<Slot>,
}

/// Where a run has what is not the caller's.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Places {
    pub(crate) workspace: u64,
    /// Where no launch takes one, nowhere.
    pub(crate) counter: u64,
}

/// An argument of it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Slot {
    Value(KernelArg),
    /// Bytes from the start of the workspace.
    Workspace(u64),
    /// The counter of the stream.
    Counter,
    Map(Map),
}

impl Step<'_> {
    /// Whether there is nothing to launch.
    pub(crate) fn is_empty(&self) -> bool {
        self.grid.contains(&0)
    }

    /// The arguments, once the workspace and the counter are placed.
    pub(crate) fn args(&self, places: Places) -> Vec<KernelArg> {
        let value = |slot: &Slot| match slot {
            Slot::Value(value) => value.clone(),
            Slot::Workspace(offset) => KernelArg::U64(places.workspace + offset),
            Slot::Counter => KernelArg::U64(places.counter),
            Slot::Map(map) => map.placed(places.workspace),
        };
        self.args.iter().map(value).collect()
    }
}

/// Checks every binding against the plan, and computes every number of the run.
pub(crate) fn resolve<'p>(device: &Device, plan: &'p Plan, bindings: &Bindings) -> Result<Resolved<'p>> {
    let refuse = |source: BindError| Error::Bind { plan: plan.name.clone(), source: Box::new(source) };
    check_plan(plan)?;
    names(plan, bindings).map_err(refuse)?;
    if let Some(stream) = &bindings.stream
        && stream.device() != *device
    {
        return Err(refuse(BindError::OtherStream { found: stream.device().name(), expected: device.name() }));
    }
    let mut extents = Extents::default();
    for spec in &plan.tensors {
        check_tensor(device, spec, &bindings.tensors[&spec.name], &mut extents).map_err(refuse)?;
    }
    aliases(plan, bindings).map_err(refuse)?;
    for spec in &plan.scalars {
        check_scalar(&spec.name, spec.elem, bindings.scalars[&spec.name]).map_err(refuse)?;
    }
    let mut symbols = extents.values();
    symbols.insert(MULTIPROCESSORS.to_owned(), device.multiprocessors().into());
    let known = Known { symbols, bindings };
    for requirement in &plan.requires {
        let eval = |side: &Expr| known.eval(side, || requirement.what.clone());
        let (left, right) = (eval(&requirement.left).map_err(refuse)?, eval(&requirement.right).map_err(refuse)?);
        if left != right {
            return Err(refuse(BindError::Requirement { what: requirement.what.clone(), left, right }));
        }
    }
    let workspace = known.eval(&plan.workspace, || "the size of the workspace".to_owned()).map_err(refuse)?;
    let mut steps = Vec::new();
    for launch in &plan.launches {
        steps.push(known.step(plan, launch, workspace).map_err(|failure| match failure {
            Failure::Bind(source) => refuse(source),
            Failure::Plan(what) => Error::Plan { plan: plan.name.clone(), what },
        })?);
    }
    Ok(Resolved { plan, steps, workspace })
}

/// Extents by symbol, with the tensor and dimension that gave each.
#[derive(Default)]
struct Extents(BTreeMap<String, (String, usize, u64)>);

impl Extents {
    fn values(&self) -> BTreeMap<String, u64> {
        self.0.iter().map(|(symbol, (_, _, extent))| (symbol.clone(), *extent)).collect()
    }
}

/// What a plan must not contradict in itself.
fn check_plan(plan: &Plan) -> Result<()> {
    let wrong = |what: String| Err(Error::Plan { plan: plan.name.clone(), what });
    for spec in &plan.tensors {
        if spec.elem == Elem::Bool {
            return wrong(format!("tensor `{}` holds bool, which has no form in memory", spec.name));
        }
        if !spec.align.is_power_of_two() {
            return wrong(format!("tensor `{}` is aligned to {}, which is no power of two", spec.name, spec.align));
        }
    }
    match plan.scalars.iter().find(|spec| !matches!(spec.elem, Elem::I32 | Elem::F32)) {
        Some(spec) => wrong(format!("scalar `{}` is an {}; scalars are i32 or f32", spec.name, spec.elem.name())),
        None => Ok(()),
    }
}

/// That the plan's names are the bound names.
fn names(plan: &Plan, bindings: &Bindings) -> Result<(), BindError> {
    let list = |names: Vec<&String>| match names.is_empty() {
        true => "none".to_owned(),
        false => names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "),
    };
    if let Some(name) = bindings.tensors.keys().find(|name| plan.tensors.iter().all(|spec| spec.name != **name)) {
        let known = list(plan.tensors.iter().map(|spec| &spec.name).collect());
        return Err(BindError::UnknownTensor { name: name.clone(), known });
    }
    if let Some(name) = bindings.scalars.keys().find(|name| plan.scalars.iter().all(|spec| spec.name != **name)) {
        let known = list(plan.scalars.iter().map(|spec| &spec.name).collect());
        return Err(BindError::UnknownScalar { name: name.clone(), known });
    }
    if let Some(spec) = plan.tensors.iter().find(|spec| !bindings.tensors.contains_key(&spec.name)) {
        return Err(BindError::MissingTensor { name: spec.name.clone(), expected: describe(spec) });
    }
    if let Some(spec) = plan.scalars.iter().find(|spec| !bindings.scalars.contains_key(&spec.name)) {
        return Err(BindError::MissingScalar { name: spec.name.clone(), expected: spec.elem.name() });
    }
    let is_index = |name: &str| {
        let input = |spec: &TensorSpec| spec.name == *name && spec.elem == Elem::I32 && spec.access == Access::Read;
        plan.tensors.iter().any(input)
    };
    match bindings.expected.keys().find(|name| !is_index(name)) {
        Some(name) => Err(BindError::Expectation { name: name.clone() }),
        None => Ok(()),
    }
}

/// `bf16 [tokens, heads, 128]`.
fn describe(spec: &TensorSpec) -> String {
    let dims = spec.dims.iter().map(|dim| match dim {
        Dim::Symbol(name) => name.clone(),
        Dim::Fixed(extent) => extent.to_string(),
    });
    format!("{} [{}]", spec.elem.name(), dims.collect::<Vec<_>>().join(", "))
}

fn check_tensor(device: &Device, spec: &TensorSpec, tensor: &Tensor, extents: &mut Extents) -> Result<(), BindError> {
    let name = || spec.name.clone();
    if tensor.device() != device {
        return Err(BindError::OtherDevice { name: name(), found: tensor.device().name(), expected: device.name() });
    }
    if tensor.dtype() != spec.elem {
        return Err(BindError::Dtype { name: name(), found: tensor.dtype().name(), expected: spec.elem.name() });
    }
    if tensor.shape().len() != spec.dims.len() {
        let (found, rank, expected) = (tensor.shape().to_vec(), spec.dims.len(), describe(spec));
        return Err(BindError::Rank { name: name(), found, rank, expected });
    }
    for (dim, (&found, expected)) in tensor.shape().iter().zip(&spec.dims).enumerate() {
        match expected {
            &Dim::Fixed(expected) if found != expected => {
                return Err(BindError::Extent { name: name(), dim, found, expected });
            }
            Dim::Fixed(_) => {}
            Dim::Symbol(symbol) => {
                let (first_name, first_dim, first) =
                    extents.0.entry(symbol.clone()).or_insert_with(|| (name(), dim, found)).clone();
                if first != found {
                    let (symbol, second_name) = (symbol.clone(), name());
                    let (second_dim, second) = (dim, found);
                    return Err(BindError::Symbol {
                        symbol,
                        first_name,
                        first_dim,
                        first,
                        second_name,
                        second_dim,
                        second,
                    });
                }
            }
        }
    }
    check_memory(spec, tensor)
}

/// Contiguity and alignment. Strides of extents up to 1 are never followed, so they may be anything.
fn check_memory(spec: &TensorSpec, tensor: &Tensor) -> Result<(), BindError> {
    let name = || spec.name.clone();
    if tensor.numel() == 0 {
        return Ok(());
    }
    let align = spec.align;
    if !tensor.address().is_multiple_of(align.into()) {
        return Err(BindError::PointerAlign { name: name(), address: tensor.address(), align });
    }
    let last = spec.dims.len().wrapping_sub(1);
    for (dim, (&extent, &stride)) in tensor.shape().iter().zip(tensor.strides()).enumerate() {
        if extent <= 1 {
            continue;
        }
        if dim == last && stride != 1 {
            return Err(BindError::LastStride { name: name(), stride });
        }
        let bytes = u128::from(stride) * u128::from(spec.elem.bytes());
        if dim != last && bytes % u128::from(align) != 0 {
            return Err(BindError::StrideAlign { name: name(), dim, stride, bytes, align });
        }
    }
    if spec.access == Access::Write && tensor.layout().overlaps_itself() {
        let (shape, strides) = (tensor.shape().to_vec(), tensor.strides().to_vec());
        return Err(BindError::Folded { name: name(), shape, strides });
    }
    Ok(())
}

/// That no output shares memory with anything.
fn aliases(plan: &Plan, bindings: &Bindings) -> Result<(), BindError> {
    let place = |spec: &TensorSpec| -> (u64, &Tensor) {
        let tensor = &bindings.tensors[&spec.name];
        (tensor.address(), tensor)
    };
    for output in plan.tensors.iter().filter(|spec| spec.access == Access::Write) {
        let (address, tensor) = place(output);
        let a = Placed { address, layout: tensor.layout(), size: output.elem.bytes().into() };
        for other in plan.tensors.iter().filter(|other| other.name != output.name) {
            let (address, tensor) = place(other);
            let b = Placed { address, layout: tensor.layout(), size: other.elem.bytes().into() };
            if overlap(a, b) {
                return Err(BindError::Alias { output: output.name.clone(), other: other.name.clone() });
            }
        }
    }
    Ok(())
}

fn check_scalar(name: &str, elem: Elem, value: Scalar) -> Result<(), BindError> {
    let name = name.to_owned();
    match (elem, value) {
        (Elem::F32, Scalar::F32(value)) if value.is_nan() => Err(BindError::ScalarNan { name }),
        (Elem::F32, Scalar::F32(_)) | (Elem::I32, Scalar::I32(_)) => Ok(()),
        (_, Scalar::F32(value)) => {
            Err(BindError::ScalarType { name, found: format!("the f32 {value:?}"), expected: elem.name() })
        }
        (_, Scalar::I32(value)) => {
            Err(BindError::ScalarType { name, found: format!("the i32 {value}"), expected: elem.name() })
        }
    }
}

/// Whose fault it is: the caller's or the plan's.
enum Failure {
    Bind(BindError),
    Plan(String),
}

impl From<MapError> for Failure {
    fn from(error: MapError) -> Self {
        match error {
            MapError::Bind(error) => Failure::Bind(error),
            MapError::Plan(what) => Failure::Plan(what),
        }
    }
}

impl From<BindError> for Failure {
    fn from(error: BindError) -> Self {
        Failure::Bind(error)
    }
}

pub(super) struct Known<'b> {
    symbols: BTreeMap<String, u64>,
    bindings: &'b Bindings,
}

impl Known<'_> {
    pub(super) fn eval(&self, expr: &Expr, what: impl FnOnce() -> String) -> Result<u64, BindError> {
        let value = expr.eval(&self.symbols, &self.bindings.scalars);
        value.map_err(|source| BindError::Expr { what: what(), source })
    }

    fn step<'p>(&self, plan: &Plan, launch: &'p Launch, workspace: u64) -> Result<Step<'p>, Failure> {
        let entry = &launch.entry;
        let mut grid = [0; 3];
        for ((axis, limit), (extent, count)) in
            [('x', (1 << 31) - 1), ('y', 65535), ('z', 65535)].into_iter().zip(launch.grid.iter().zip(&mut grid))
        {
            let found = self.eval(extent, || format!("the grid of `{entry}` along {axis}"))?;
            if found > limit {
                return Err(BindError::Grid { entry: entry.clone(), axis, found, limit }.into());
            }
            *count = found as u32;
        }
        for (i, axis) in ['x', 'y', 'z'].into_iter().enumerate() {
            let (found, cluster) = (grid[i], launch.cluster[i]);
            if cluster == 0 {
                return Err(Failure::Plan(format!("the clusters of `{entry}` have no CTAs along {axis}")));
            }
            if found % cluster != 0 {
                return Err(BindError::Cluster { entry: entry.clone(), axis, found, cluster }.into());
            }
        }
        let mut args = Vec::new();
        for (index, arg) in launch.args.iter().enumerate() {
            args.push(self.arg(plan, entry, index, arg, workspace, grid.contains(&0))?);
        }
        Ok(Step { launch, grid, args })
    }

    fn arg(
        &self,
        plan: &Plan,
        entry: &str,
        index: usize,
        arg: &Arg,
        workspace: u64,
        empty: bool,
    ) -> Result<Slot, Failure> {
        let tensor = |name: &str| {
            let found = plan.tensors.iter().any(|spec| spec.name == name).then(|| &self.bindings.tensors[name]);
            found.ok_or_else(|| Failure::Plan(format!("argument {index} of `{entry}` is of no tensor `{name}`")))
        };
        let what = || format!("argument {index} of `{entry}`");
        Ok(match arg {
            Arg::Pointer(name) => Slot::Value(KernelArg::U64(tensor(name)?.address())),
            Arg::Stride { tensor: name, dim } => match tensor(name)?.strides().get(*dim) {
                Some(&stride) => Slot::Value(KernelArg::U64(stride)),
                None => return Err(Failure::Plan(format!("{} is of no dimension {dim} of `{name}`", what()))),
            },
            Arg::Scalar(name) => match self.bindings.scalars.get(name) {
                Some(&Scalar::I32(value)) => Slot::Value(KernelArg::U32(value.cast_unsigned())),
                Some(&Scalar::F32(value)) => Slot::Value(KernelArg::F32(value)),
                None => return Err(Failure::Plan(format!("{} is of no scalar `{name}`", what()))),
            },
            Arg::Computed(expr) => {
                let value = self.eval(expr, what)?;
                let fits =
                    i32::try_from(value).map_err(|_| BindError::Argument { entry: entry.to_owned(), index, value })?;
                Slot::Value(KernelArg::U32(fits.cast_unsigned()))
            }
            Arg::Wide(expr) => Slot::Value(KernelArg::U64(self.eval(expr, what)?)),
            Arg::Workspace { offset } => {
                let offset = self.eval(offset, what)?;
                if offset > workspace {
                    return Err(Failure::Plan(format!(
                        "{} lies at byte {offset} of a workspace of {workspace} bytes",
                        what()
                    )));
                }
                Slot::Workspace(offset)
            }
            Arg::Counter => Slot::Counter,
            Arg::TensorMap(map) => {
                let tensor = |name: &str| {
                    let found = plan.tensors.iter().any(|spec| spec.name == name).then(|| &self.bindings.tensors[name]);
                    found.ok_or_else(|| format!("{} is of no tensor `{name}`", what()))
                };
                Slot::Map(Map::resolve(map, self, tensor, [entry, &what()], workspace, empty)?)
            }
        })
    }
}

/// That the launch fits the entry's declaration and the device.
pub(crate) fn check_signature(
    device: &Device,
    plan: &Plan,
    step: &Step<'_>,
    entry: Option<&Entry>,
    limits: &Limits,
) -> Result<()> {
    let launch = step.launch;
    let wrong = |what: String| Err(Error::Plan { plan: plan.name.clone(), what });
    let refuse = |source: BindError| Err(Error::Bind { plan: plan.name.clone(), source: Box::new(source) });
    let name = &launch.entry;
    let Some(entry) = entry else {
        return wrong(format!("its PTX has no entry `{name}`"));
    };
    if entry.params.len() != step.args.len() {
        let (declared, given) = (entry.params.len(), step.args.len());
        return wrong(format!("entry `{name}` has {declared} parameters, and its launch gives {given} arguments"));
    }
    for (index, (param, slot)) in entry.params.iter().zip(&step.args).enumerate() {
        let given = match slot {
            Slot::Workspace(_) | Slot::Counter | Slot::Value(KernelArg::U64(_)) => ParamType::U64,
            Slot::Value(KernelArg::U32(_)) => ParamType::U32,
            Slot::Value(KernelArg::F32(_)) => ParamType::F32,
            Slot::Map(_) | Slot::Value(KernelArg::Map(..)) => ParamType::Bytes { align: 64, bytes: 128 },
        };
        if *param != given {
            let (declared, given) = (type_name(*param), type_name(given));
            return wrong(format!("parameter {index} of `{name}` is {declared}, and its launch gives {given}"));
        }
    }
    if let Some(required) = entry.limits.required_threads
        && required != [launch.threads, 1, 1]
    {
        return wrong(format!("entry `{name}` requires {required:?} threads, and its launch has {}", launch.threads));
    }
    if let Some(required) = entry.limits.required_cluster
        && required != launch.cluster
    {
        return wrong(format!(
            "entry `{name}` requires clusters of {required:?}, and its launch has {:?}",
            launch.cluster
        ));
    }
    let most = entry.limits.max_threads.map_or(limits.threads, |[x, y, z]| limits.threads.min(x * y * z));
    if launch.threads == 0 || launch.threads > most {
        let (found, device) = (launch.threads, device.name());
        return refuse(BindError::Threads { entry: name.clone(), found, limit: most, device });
    }
    let shared = u64::from(launch.shared) + limits.static_shared;
    if shared > limits.shared {
        let (limit, device) = (limits.shared, device.name());
        return refuse(BindError::Shared { entry: name.clone(), found: shared, limit, device });
    }
    if let Some(limit) = limits.no_clusters
        && launch.cluster != [1; 3]
    {
        let (cluster, device) = (launch.cluster, device.name());
        return refuse(BindError::NoClusters { entry: name.clone(), cluster, limit, device });
    }
    Ok(())
}
