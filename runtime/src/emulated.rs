//! The emulator as a device.

use std::sync::Arc;

use lacuna_codegen::plan::Plan;
use lacuna_emulator::{Arg, Launch, Memory, Options, Program, Stats};

use crate::{
    Error, Result,
    bind::{KernelArg, Places, Step},
    header::Header,
    modules::Modules,
};

/// The most bytes of one allocation: 2^48. Its memory is made on touch; this only keeps its address space in hand.
const MOST: u64 = 1 << 48;

/// An emulated GPU, with memory of its own.
pub(crate) struct Emulated {
    /// `emulator`, or `emulator 1` for one that does not share the process's memory.
    pub(crate) name: String,
    memory: Memory,
    options: Options,
    programs: Modules<Loaded>,
}

/// A PTX text, decoded.
pub(crate) struct Loaded {
    pub(crate) header: Header,
    program: Program,
}

impl Emulated {
    pub(crate) fn new(name: String, options: Options) -> Self {
        Self { name, memory: Memory::new(), options, programs: Modules::new() }
    }

    pub(crate) fn load(&self, plan: &Plan, ptx: &Arc<str>) -> Result<Arc<Loaded>> {
        self.programs.get_or_make(ptx, || {
            let header = Header::read(&plan.name, ptx)?;
            let program = Program::from_text(ptx)
                .map_err(|error| Error::Ptx { plan: plan.name.clone(), what: error.to_string() })?;
            Ok(Loaded { header, program })
        })
    }

    /// Runs one launch to its end.
    pub(crate) fn launch(&self, plan: &Plan, loaded: &Loaded, step: &Step<'_>, places: Places) -> Result<Stats> {
        let args: Vec<Arg> = step.args(places).into_iter().map(argument).collect();
        let launch = Launch {
            entry: &step.launch.entry,
            grid: step.grid,
            block: [step.launch.threads, 1, 1],
            shared: step.launch.shared,
            args: &args,
        };
        lacuna_emulator::run(&loaded.program, &launch, &self.memory, &self.options).map_err(|fault| Error::Fault {
            plan: plan.name.clone(),
            entry: step.launch.entry.clone(),
            fault,
        })
    }

    pub(crate) fn alloc(&self, bytes: u64) -> Result<u64> {
        if bytes > MOST {
            return Err(Error::OutOfMemory { device: self.name.clone(), bytes, free: MOST, total: MOST });
        }
        Ok(self.memory.alloc(bytes))
    }

    pub(crate) fn free(&self, address: u64) {
        self.memory.free(address);
    }

    pub(crate) fn read(&self, address: u64, out: &mut [u8]) -> Result<()> {
        self.memory.read(address, out).map_err(|error| Error::Memory(error.to_string()))
    }

    pub(crate) fn write(&self, address: u64, bytes: &[u8]) -> Result<()> {
        self.memory.write(address, bytes).map_err(|error| Error::Memory(error.to_string()))
    }

    pub(crate) fn zero(&self, address: u64, bytes: u64) -> Result<()> {
        const ZEROS: &[u8] = &[0; 1 << 16];
        for start in (0..bytes).step_by(ZEROS.len()) {
            let now = ZEROS.len().min((bytes - start) as usize);
            self.write(address + start, &ZEROS[..now])?;
        }
        Ok(())
    }

    /// The address of the first byte that was never written.
    pub(crate) fn unwritten(&self, address: u64, bytes: u64) -> Option<u64> {
        self.memory.unwritten(address, bytes)
    }
}

fn argument(arg: KernelArg) -> Arg {
    match arg {
        KernelArg::U32(value) => Arg::U32(value),
        KernelArg::U64(value) => Arg::U64(value),
        KernelArg::F32(value) => Arg::F32(value),
        KernelArg::Map(map, _) => Arg::TensorMap(*map),
    }
}
