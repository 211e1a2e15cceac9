//! Why bindings do not fit a plan.

use lacuna_codegen::plan::ExprError;

/// What does not fit, and what would.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// A tensor of the plan that is not bound.
    #[error("tensor `{name}` is missing; it is {expected}")]
    MissingTensor {
        /// Its name.
        name: String,
        /// Its type and shape.
        expected: String,
    },
    /// A tensor that the plan does not have.
    #[error("there is no tensor `{name}`; the tensors are {known}")]
    UnknownTensor {
        /// The name that was bound.
        name: String,
        /// The names that there are.
        known: String,
    },
    /// A tensor of another device.
    #[error("tensor `{name}` is on {found}, and the run is on {expected}: copy it with `Tensor::to_device`")]
    OtherDevice {
        /// Its name.
        name: String,
        /// Where it is.
        found: String,
        /// Where the run is.
        expected: String,
    },
    /// A stream of another device.
    #[error("the stream is on {found}, and the run is on {expected}")]
    OtherStream {
        /// Where the stream is.
        found: String,
        /// Where the run is.
        expected: String,
    },
    /// Another element type.
    #[error("tensor `{name}` holds {found}; it must hold {expected}")]
    Dtype {
        /// Its name.
        name: String,
        /// What it holds.
        found: &'static str,
        /// What it must hold.
        expected: &'static str,
    },
    /// Another number of dimensions.
    #[error("tensor `{name}` has {} dimensions, {found:?}; it must have {rank}: {expected}", .found.len())]
    Rank {
        /// Its name.
        name: String,
        /// Its shape.
        found: Vec<u64>,
        /// How many dimensions it must have.
        rank: usize,
        /// Its type and shape.
        expected: String,
    },
    /// An extent other than the one that the plan is compiled for.
    #[error("dimension {dim} of tensor `{name}` is {found}; the plan is compiled for {expected}")]
    Extent {
        /// Its name.
        name: String,
        /// Which dimension.
        dim: usize,
        /// Its extent.
        found: u64,
        /// The extent it must have.
        expected: u64,
    },
    /// Two extents that must be equal.
    #[error(
        "`{symbol}` is {first} in tensor `{first_name}` (dimension {first_dim}) and {second} in tensor `{second_name}` \
         (dimension {second_dim}); they must be equal"
    )]
    Symbol {
        /// What the plan calls the extent.
        symbol: String,
        /// The tensor that gave it its value.
        first_name: String,
        /// The dimension that gave it its value.
        first_dim: usize,
        /// Its value.
        first: u64,
        /// The tensor that differs.
        second_name: String,
        /// The dimension that differs.
        second_dim: usize,
        /// The other value.
        second: u64,
    },
    /// Extents that are not in the relation that the plan is compiled for.
    #[error("{what}; here it would have to be {right}, and it is {left}")]
    Requirement {
        /// What must hold.
        what: String,
        /// What is.
        left: u64,
        /// What must be.
        right: u64,
    },
    /// A last dimension with gaps.
    #[error("the last dimension of tensor `{name}` has stride {stride}; it must be contiguous (stride 1)")]
    LastStride {
        /// Its name.
        name: String,
        /// The stride in elements.
        stride: u64,
    },
    /// A pointer that vector loads cannot use.
    #[error("tensor `{name}` begins at address {address:#x}, which is not a multiple of {align} bytes")]
    PointerAlign {
        /// Its name.
        name: String,
        /// Its address.
        address: u64,
        /// What it must be a multiple of.
        align: u32,
    },
    /// A stride that vector loads cannot use.
    #[error(
        "dimension {dim} of tensor `{name}` has a stride of {stride} elements, {bytes} bytes, which is not a multiple of \
         {align} bytes"
    )]
    StrideAlign {
        /// Its name.
        name: String,
        /// Which dimension.
        dim: usize,
        /// The stride in elements.
        stride: u64,
        /// The stride in bytes.
        bytes: u128,
        /// What it must be a multiple of.
        align: u32,
    },
    /// An output that shares memory with another tensor.
    #[error("output `{output}` shares memory with tensor `{other}`; an output needs memory of its own")]
    Alias {
        /// The output.
        output: String,
        /// The other tensor.
        other: String,
    },
    /// An output in which two elements lie at one address.
    #[error("output `{name}` of shape {shape:?} and strides {strides:?} has two elements at one address")]
    Folded {
        /// Its name.
        name: String,
        /// Its shape.
        shape: Vec<u64>,
        /// Its strides in elements.
        strides: Vec<u64>,
    },
    /// A number of the plan that is not bound.
    #[error("scalar `{name}` is missing; it is an {expected}")]
    MissingScalar {
        /// Its name.
        name: String,
        /// Its type.
        expected: &'static str,
    },
    /// A number that the plan does not have.
    #[error("there is no scalar `{name}`; the scalars are {known}")]
    UnknownScalar {
        /// The name that was bound.
        name: String,
        /// The names that there are.
        known: String,
    },
    /// A number of another type.
    #[error("scalar `{name}` is {found}; it must be an {expected}")]
    ScalarType {
        /// Its name.
        name: String,
        /// Its value and type.
        found: String,
        /// The type it must have.
        expected: &'static str,
    },
    /// Not a number.
    #[error("scalar `{name}` is NaN; it must be a number")]
    ScalarNan {
        /// Its name.
        name: String,
    },
    /// A grid, an argument or the workspace cannot be computed.
    #[error("{what} cannot be computed: {source}")]
    Expr {
        /// Which.
        what: String,
        /// Why.
        source: ExprError,
    },
    /// More CTAs than a grid takes.
    #[error("the grid of `{entry}` has {found} CTAs along {axis}; at most {limit} fit")]
    Grid {
        /// The kernel.
        entry: String,
        /// `x`, `y` or `z`.
        axis: char,
        /// How many.
        found: u64,
        /// How many fit.
        limit: u64,
    },
    /// A grid that clusters do not divide.
    #[error("the grid of `{entry}` has {found} CTAs along {axis}, which clusters of {cluster} do not divide")]
    Cluster {
        /// The kernel.
        entry: String,
        /// `x`, `y` or `z`.
        axis: char,
        /// How many CTAs.
        found: u32,
        /// CTAs of a cluster along this axis.
        cluster: u32,
    },
    /// A tensor map that hardware cannot have.
    #[error("`{entry}` cannot be given {argument}")]
    TensorMap {
        /// The kernel.
        entry: String,
        /// Which argument, and why.
        argument: String,
    },
    /// An argument that does not fit 32 bits.
    #[error("argument {index} of `{entry}` is {value}; at most {} fits an i32", i32::MAX)]
    Argument {
        /// The kernel.
        entry: String,
        /// Which argument, from 0.
        index: usize,
        /// Its value.
        value: u64,
    },
    /// More shared memory than a CTA has.
    #[error("`{entry}` needs {found} bytes of shared memory a CTA; {device} has {limit}")]
    Shared {
        /// The kernel.
        entry: String,
        /// Bytes it needs.
        found: u64,
        /// Bytes there are.
        limit: u64,
        /// The device.
        device: String,
    },
    /// More threads than a CTA has.
    #[error("`{entry}` runs {found} threads a CTA; {device} runs 1 to {limit} of it")]
    Threads {
        /// The kernel.
        entry: String,
        /// How many it runs.
        found: u32,
        /// How many it may.
        limit: u32,
        /// The device.
        device: String,
    },
    /// Clusters where there are none.
    #[error("`{entry}` runs in clusters of {cluster:?} CTAs; {device} has {limit}")]
    NoClusters {
        /// The kernel.
        entry: String,
        /// CTAs of a cluster along x, y and z.
        cluster: [u32; 3],
        /// What the device has instead.
        limit: &'static str,
        /// The device.
        device: String,
    },
    /// An expectation about something that is no i32 input.
    #[error("values of `{name}` are to be checked, and it is no i32 input of the plan")]
    Expectation {
        /// The name.
        name: String,
    },
    /// A checked run that would not wait.
    #[error("a checked run waits for its end; use `Device::run`, not `Device::enqueue`")]
    CheckedEnqueue,
}
