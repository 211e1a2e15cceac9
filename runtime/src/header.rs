//! What the host must know of a PTX text before it is run: versions, and every entry's parameters.

use lacuna_ptx::{Limits, Module, ParamType, Target, Version};

use crate::{Error, Result};

/// The declarations of a PTX module.
#[derive(Debug)]
pub(crate) struct Header {
    pub(crate) version: Version,
    pub(crate) target: Target,
    pub(crate) entries: Vec<Entry>,
}

/// The declaration of a kernel.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) params: Vec<ParamType>,
    pub(crate) limits: Limits,
    /// Bytes of shared arrays of a fixed size.
    pub(crate) static_shared: u32,
}

impl Header {
    /// Reads the declarations. A text that our reader refuses is refused on every device: what runs on a GPU can run on
    /// the emulator.
    pub(crate) fn read(plan: &str, ptx: &str) -> Result<Self> {
        let module = lacuna_ptx::read(ptx).map_err(|e| Error::Ptx { plan: plan.to_owned(), what: e.to_string() })?;
        Ok(Self::of(&module))
    }

    fn of(module: &Module) -> Self {
        let fixed = |arrays: &[lacuna_ptx::SharedArray]| arrays.iter().filter_map(|array| array.bytes).sum::<u32>();
        let outside = fixed(&module.shared);
        let entries = module.entries.iter().map(|entry| Entry {
            name: entry.name.clone(),
            params: entry.params.iter().map(|param| param.ty).collect(),
            limits: entry.limits,
            static_shared: outside + fixed(&entry.shared),
        });
        Self { version: module.version, target: module.target, entries: entries.collect() }
    }

    pub(crate) fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.name == name)
    }
}

/// A parameter's type in the words of PTX.
pub(crate) fn type_name(ty: ParamType) -> String {
    match ty {
        ParamType::U32 => ".u32".to_owned(),
        ParamType::U64 => ".u64".to_owned(),
        ParamType::F32 => ".f32".to_owned(),
        ParamType::Bytes { align, bytes } => format!(".align {align} .b8 [{bytes}]"),
    }
}
