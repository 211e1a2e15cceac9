//! What the text holds, and what machine code is made of it, as far as the tools that are there can say.

use std::collections::BTreeMap;

use lacuna::codegen::plan::Plan;
use lacuna::ptx::{
    self, Stmt,
    tools::{self, Assembled, Warpgroups},
};
use lacuna::runtime::{Device, Resources};
use serde_json::{Value, json};

/// What the machine code uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Used {
    /// Who says so.
    pub(super) by: &'static str,
    pub(super) registers: u32,
    /// Bytes of a thread that are spilled and loaded back; the driver does not tell them from the stack.
    pub(super) spills: Option<(u32, u32)>,
    /// Bytes of stack a thread, spills included.
    pub(super) stack: u32,
    /// Bytes of a CTA.
    pub(super) static_shared: u32,
}

/// Something that is known, or why it is not.
pub(super) type Known<T> = Result<T, String>;

/// What the driver's compiler makes of it, on a GPU that runs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ByDriver {
    /// The GPU.
    pub(super) device: String,
    /// Registers a thread, bytes of local memory a thread (spills among them), and bytes of static shared memory a CTA.
    pub(super) resources: Resources,
    /// CTAs that a multiprocessor holds.
    pub(super) ctas: u32,
}

/// What ptxas makes of the launch that attends: the usage, and everything.
pub(super) fn assembled(plan: &Plan) -> (Known<Used>, Known<Assembled>) {
    let launch = plan.attending();
    match tools::assemble(&launch.ptx, plan.target).map_err(|error| one_line(&error.to_string())) {
        Ok(done) => {
            let used = done.usage(&launch.entry).filter(|usage| usage.registers > 0).map(|usage| Used {
                by: "ptxas",
                registers: usage.registers,
                spills: Some((usage.spill_stores, usage.spill_loads)),
                stack: usage.stack,
                static_shared: usage.shared_static,
            });
            (used.ok_or_else(|| format!("ptxas does not say what `{}` uses", launch.entry)), Ok(done))
        }
        Err(why) => (Err(why.clone()), Err(why)),
    }
}

/// What the driver says, where there is a GPU that runs the target.
pub(super) fn by_driver(plan: &Plan) -> Known<ByDriver> {
    let device = Device::best();
    if !device.is_cuda() {
        return Err("no GPU".to_owned());
    }
    if !device.runs(plan.target) {
        return Err(format!("{device} does not run {}", plan.target));
    }
    let compiled = device.compile(plan).map_err(|error| one_line(&error.to_string()))?;
    let main = compiled.iter().find(|compiled| compiled.entry == plan.attending().entry);
    let first = main.and_then(|compiled| compiled.resources.zip(compiled.ctas));
    let (resources, ctas) = first.ok_or_else(|| "the driver does not say".to_owned())?;
    Ok(ByDriver { device: device.name(), resources, ctas })
}

impl ByDriver {
    /// As what the machine code uses: the driver does not tell spills from the stack.
    pub(super) fn used(&self) -> Used {
        let Resources { registers, local_bytes, static_shared, .. } = self.resources;
        let spills = (local_bytes == 0).then_some((0, 0));
        Used { by: "driver", registers, spills, stack: local_bytes, static_shared }
    }
}

fn one_line(text: &str) -> String {
    text.split('\n').map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

/// Instructions by kind: the first is all of them.
pub(super) const KINDS: [(&str, &str); 8] = [
    ("all", ""),
    ("mma", "mma."),
    ("wgmma", "wgmma.mma_async."),
    ("ldmatrix", "ldmatrix."),
    ("cp.async", "cp.async."),
    ("bar", "bar."),
    ("ex2", "ex2."),
    ("shuffles", "shfl."),
];

/// How many instructions of each kind, and of each name up to its first dot, stand in the entry.
pub(super) fn counted(plan: &Plan) -> Known<([usize; KINDS.len()], BTreeMap<String, usize>)> {
    let launch = plan.attending();
    let module = ptx::read(&launch.ptx).map_err(|error| error.to_string())?;
    let entry = module.entries.iter().find(|entry| entry.name == launch.entry);
    let entry = entry.ok_or_else(|| format!("there is no entry `{}`", launch.entry))?;
    let names = || {
        entry.body.iter().filter_map(|stmt| match stmt {
            Stmt::Inst(inst) => Some(inst.form.name()),
            _ => None,
        })
    };
    let kinds = KINDS.map(|(_, start)| names().filter(|name| name.starts_with(start)).count());
    let mut each = BTreeMap::new();
    for name in names() {
        *each.entry(name.split('.').next().unwrap_or(name).to_owned()).or_default() += 1;
    }
    Ok((kinds, each))
}

/// Machine instructions by kind: the first is all of them, the last two are spills and other local memory.
pub(super) const SASS_KINDS: [(&str, &[&str]); 9] = [
    ("all", &[]),
    ("HMMA", &["HMMA", "HGMMA"]),
    ("LDSM", &["LDSM"]),
    ("LDGSTS", &["LDGSTS", "UTMALDG"]),
    ("BAR", &["BAR"]),
    ("MUFU", &["MUFU"]),
    ("SHFL", &["SHFL"]),
    ("STL", &["STL"]),
    ("LDL", &["LDL"]),
];

/// Machine instructions of the entry: of each kind, and of each name up to its first dot.
pub(super) type Sass = ([usize; SASS_KINDS.len()], BTreeMap<String, usize>);

/// The names of the machine instructions that nvdisasm finds in the machine code.
pub(super) fn disassembled(plan: &Plan, assembled: &Known<Assembled>) -> Known<Vec<String>> {
    let entry = &plan.attending().entry;
    let assembled = assembled.as_ref().map_err(|why| format!("there is no machine code: {why}"))?;
    let mut all = tools::disassemble(&assembled.cubin).map_err(|error| one_line(&error.to_string()))?;
    all.entries.remove(entry).ok_or_else(|| format!("nvdisasm finds no entry `{entry}`"))
}

/// Counts machine instructions.
pub(super) fn sass(names: &[String]) -> Sass {
    let mut each = BTreeMap::new();
    for name in names {
        *each.entry(name.split('.').next().unwrap_or(name).to_owned()).or_default() += 1;
    }
    let of = |kinds: &[&str]| kinds.iter().filter_map(|kind| each.get(*kind)).sum::<usize>();
    let kinds = SASS_KINDS.map(|(_, names)| if names.is_empty() { each.values().sum() } else { of(names) });
    (kinds, each)
}

/// What became of products of warpgroups, and what ptxas remarks about them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Products {
    pub(super) made: Warpgroups,
    pub(super) remark: Option<String>,
}

/// What became of products of warpgroups; `None` where the launch has none.
pub(super) fn products(
    plan: &Plan,
    assembled: &Known<Assembled>,
    names: &Known<Vec<String>>,
) -> Option<Known<Products>> {
    let launch = plan.attending();
    let known = || {
        let remark = assembled.as_ref().map_err(Clone::clone)?.remark().map(|line| line.trim().to_owned());
        let module = ptx::read(&launch.ptx).map_err(|error| error.to_string())?;
        let made = Warpgroups::of(&module, &launch.entry, names.as_ref().map_err(Clone::clone)?);
        Ok(Products { made: made.ok_or_else(|| format!("`{}` has no products of them", launch.entry))?, remark })
    };
    launch.by_warpgroups().then(known)
}

impl Products {
    /// In words: what is there, and how many exponentials run beside products.
    pub(super) fn text(&self) -> String {
        let Warpgroups { products, waits, fences, stages } = &self.made;
        let [all, beside] = self.made.exponentials();
        let stages: Vec<String> =
            stages.iter().map(|stage| format!("{}+{}", stage.products, stage.exponentials)).collect();
        let as_written = if self.made.as_written() { ", as written" } else { "" };
        let remark = self.remark.as_ref().map_or(String::new(), |remark| format!("; {remark}"));
        format!(
            "{products} HGMMA, {waits} waits, {fences} fences{as_written}; {beside} of {all} EX2 beside a product; HGMMA+EX2 from wait \
             to wait: {}{remark}",
            stages.join(" ")
        )
    }

    pub(super) fn json(&self) -> Value {
        let Warpgroups { products, waits, fences, stages } = &self.made;
        let [all, beside] = self.made.exponentials();
        let kept = |kept: &tools::Kept| json!({ "written": kept.written, "made": kept.made });
        let stages = stages.iter().map(
            |stage| json!({ "products": stage.products, "exponentials": stage.exponentials, "beside": stage.beside }),
        );
        json!({
            "products": kept(products),
            "waits": kept(waits),
            "fences": kept(fences),
            "as_written": self.made.as_written(),
            "exponentials": all,
            "exponentials_beside": beside,
            "stages": stages.collect::<Vec<_>>(),
            "remark": self.remark,
        })
    }
}
