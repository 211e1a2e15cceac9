//! What the text holds, and what machine code is made of it, as far as the tools that are there can say.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;

use lacuna::codegen::plan::Plan;
use lacuna::ptx::{self, Stmt, tools};
use lacuna::runtime::Device;

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

/// What is made of a plan's first launch: the usage, and the machine code where ptxas made it.
pub(super) fn assembled(plan: &Plan) -> (Known<Used>, Known<Vec<u8>>) {
    let launch = &plan.launches[0];
    let by_ptxas = tools::assemble(&launch.ptx, plan.target).map_err(|error| one_line(&error.to_string()));
    match by_ptxas {
        Ok(done) => {
            let used = done.usage(&launch.entry).map(|usage| Used {
                by: "ptxas",
                registers: usage.registers,
                spills: Some((usage.spill_stores, usage.spill_loads)),
                stack: usage.stack,
                static_shared: usage.shared_static,
            });
            (used.ok_or_else(|| "ptxas does not say".to_owned()), Ok(done.cubin))
        }
        Err(why) => (by_driver(plan).map_err(|no_gpu| format!("{why}; {no_gpu}")), Err(why)),
    }
}

/// What the driver's own compiler makes of it, where there is a GPU that runs it.
fn by_driver(plan: &Plan) -> Known<Used> {
    let device = Device::best();
    if !device.is_cuda() {
        return Err("no GPU".to_owned());
    }
    let compiled = device.compile(plan).map_err(|error| one_line(&error.to_string()))?;
    let resources = compiled.first().and_then(|compiled| compiled.resources);
    let used = resources.map(|resources| Used {
        by: "driver",
        registers: resources.registers,
        spills: (resources.local_bytes == 0).then_some((0, 0)),
        stack: resources.local_bytes,
        static_shared: resources.static_shared,
    });
    used.ok_or_else(|| "the driver does not say".to_owned())
}

fn one_line(text: &str) -> String {
    text.split('\n').map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

/// Instructions by kind: the first is all of them.
pub(super) const KINDS: [(&str, &str); 7] = [
    ("all", ""),
    ("mma", "mma."),
    ("ldmatrix", "ldmatrix."),
    ("cp.async", "cp.async."),
    ("bar", "bar."),
    ("ex2", "ex2."),
    ("shuffles", "shfl."),
];

/// How many instructions of each kind, and of each name up to its first dot, stand in the entry.
pub(super) fn counted(plan: &Plan) -> Known<([usize; KINDS.len()], BTreeMap<String, usize>)> {
    let launch = &plan.launches[0];
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

/// Machine instructions by name, where nvdisasm or cuobjdump is on `PATH`.
pub(super) fn disassembled(cubin: &Known<Vec<u8>>) -> Known<BTreeMap<String, usize>> {
    let (program, args) = disassembler().ok_or("neither nvdisasm nor cuobjdump is on PATH")?;
    let cubin = cubin.as_ref().map_err(|why| format!("there is no machine code: {why}"))?;
    let failed = |error: std::io::Error| format!("cannot run {}: {error}", program.display());
    let mut file = tempfile::Builder::new().suffix(".cubin").tempfile().map_err(failed)?;
    file.write_all(cubin).and_then(|()| file.flush()).map_err(failed)?;
    let done = Command::new(&program).args(args).arg(file.path()).output().map_err(failed)?;
    if !done.status.success() {
        return Err(format!("{} fails: {}", program.display(), one_line(&String::from_utf8_lossy(&done.stderr))));
    }
    Ok(sass(&String::from_utf8_lossy(&done.stdout)))
}

fn disassembler() -> Option<(PathBuf, &'static [&'static str])> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let known: [(&str, &[&str]); 2] = [("nvdisasm", &["-c"]), ("cuobjdump", &["-sass"])];
    known.into_iter().find_map(|(name, args)| {
        let mut here = std::env::split_paths(&path).map(|folder| folder.join(name));
        here.find(|program| program.is_file()).map(|program| (program, args))
    })
}

/// Names up to the first dot, from lines such as `/*0010*/  @P0 IMAD.MOV.U32 R1, RZ, RZ, c[0x0][0x28] ;`.
fn sass(text: &str) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for line in text.lines() {
        let Some((address, rest)) = line.trim().strip_prefix("/*").and_then(|line| line.split_once("*/")) else {
            continue;
        };
        if address.is_empty() || !address.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            continue;
        }
        let name = rest.split_whitespace().find(|word| !word.starts_with('@')).unwrap_or_default();
        let name = name.trim_end_matches(';').split('.').next().unwrap_or_default();
        if name.starts_with(|first: char| first.is_ascii_uppercase()) {
            *counts.entry(name.to_owned()).or_default() += 1;
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machine_instructions_are_counted_by_name() {
        let text = "\
\t.section\t.text.k,\"ax\",@progbits
.text.k:
        /*0000*/                   MOV R1, c[0x0][0x28] ;                      /* 0x00000a0000017a02 */
                                                                               /* 0x000fe40000000f00 */
        /*0010*/              @!P0 HMMA.16816.F32.BF16 R4, R8, R12, R4 ;
        /*0020*/                   HMMA.16816.F32.BF16 R4, R8, R12, R4 ;
        /*0030*/                   EXIT;
.L_x_0:
";
        let counts = sass(text);
        let want = [("EXIT", 1), ("HMMA", 2), ("MOV", 1)];
        assert_eq!(counts, want.map(|(name, n)| (name.to_owned(), n)).into());
    }
}
