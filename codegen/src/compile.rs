//! From a staged func to PTX text.

use lacuna_ptx::Module;

use crate::ir::Func;
use crate::{Boxes, Error, lower, passes};

/// A compiled func.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// The module, with one entry named as the func is.
    pub module: Module,
    /// Its text.
    pub text: String,
    /// Dynamic shared memory of a CTA in bytes.
    pub shared: u32,
    /// Threads of a CTA.
    pub threads: u32,
    /// Registers that a thread needs, estimated.
    pub registers: u32,
    /// CTAs that a multiprocessor has at once, estimated.
    pub resident: u32,
    /// Whether its CTAs do tile after tile. Then the entry takes [`Tiles::args`](crate::plan::Tiles::args) behind the func's
    /// parameters.
    pub persists: bool,
    /// Whether they draw them from a counter. Then its address ([`Arg::Counter`](crate::plan::Arg::Counter)) is behind those.
    pub draws: bool,
    /// Whether a producer gathers rows for them.
    pub gathers: bool,
    /// The tensor maps that the entry takes behind its other parameters, in their order.
    pub maps: Vec<Boxes>,
}

/// Runs every pass and lowers.
///
/// The entry's parameters follow the func's: a tensor is a `u64` address, then a `u64` stride in elements for every
/// dimension but the last; a scalar is one 4-byte parameter. Behind them are the tensor maps, 128 bytes each.
pub fn compile(func: Func) -> Result<Compiled, Error> {
    let func = passes::ORDER.iter().try_fold(func, |func, (name, pass)| {
        let func = pass(func)?;
        debug_assert_eq!(passes::verify(&func), Ok(()), "`{name}` left a func that does not verify");
        Ok(func)
    })?;
    let lower::Lowered { module, shared, threads, registers, resident, persists, draws, gathers, maps } =
        lower::lower(&func)?;
    let text = module.to_string();
    Ok(Compiled { module, text, shared, threads, registers, resident, persists, draws, gathers, maps })
}
