//! nvdisasm: from machine code to the names of its instructions.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use super::{Folder, ToolError};

/// The absolute path of nvdisasm, where there is one. `LACUNA_NVDISASM` is taken at its word.
pub fn nvdisasm() -> Option<PathBuf> {
    super::find("nvdisasm", "LACUNA_NVDISASM")
}

/// The instructions of a cubin, by entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Disassembled {
    /// Each entry's instructions in order, with their modifiers and without guards and operands: `IMAD.MOV.U32`.
    pub entries: BTreeMap<String, Vec<String>>,
}

/// Disassembles machine code.
///
/// # Errors
/// When there is no nvdisasm, when it cannot be run or does not end, when it refuses the code, and when what it prints holds
/// no instruction.
pub fn disassemble(cubin: &[u8]) -> Result<Disassembled, ToolError> {
    let missing = ToolError::Missing { tool: "nvdisasm", variable: "LACUNA_NVDISASM" };
    let program = nvdisasm().ok_or(missing)?;
    let failed = |error| ToolError::Run { program: program.clone(), error };
    let folder = Folder::new().map_err(failed)?;
    fs::write(folder.path().join("module.cubin"), cubin).map_err(failed)?;
    let done = super::run(&program, &["-c", "module.cubin"], &folder)?;
    let wrong = |what: String| ToolError::Failed { program: program.clone(), what };
    if !done.status.success() {
        return Err(wrong(format!("fails: {}", String::from_utf8_lossy(&done.stderr).trim())));
    }
    let all = read(&String::from_utf8_lossy(&done.stdout));
    if all.entries.is_empty() {
        return Err(wrong("prints no machine instruction".to_owned()));
    }
    Ok(all)
}

/// Names, from text such as
/// ```text
///     .section  .text.k,"ax",@progbits
///         /*0010*/              @!P0 IMAD.MOV.U32 R1, RZ, RZ, c[0x0][0x28] ;
/// ```
fn read(text: &str) -> Disassembled {
    let mut all = Disassembled::default();
    let mut entry: Option<&str> = None;
    for line in text.lines() {
        let line = line.trim();
        if let Some(section) = line.strip_prefix(".section").filter(|rest| rest.starts_with(char::is_whitespace)) {
            let name = section.trim().split(',').next().unwrap_or_default();
            entry = name.strip_prefix(".text.");
        }
        let (Some(entry), Some(name)) = (entry, instruction(line)) else { continue };
        all.entries.entry(entry.to_owned()).or_default().push(name.to_owned());
    }
    all
}

/// The name on a line that begins with an address.
fn instruction(line: &str) -> Option<&str> {
    let (address, rest) = line.strip_prefix("/*")?.split_once("*/")?;
    if address.is_empty() || !address.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    // Some are issued in pairs, in braces.
    let mut words = rest.split_whitespace().filter(|word| !word.starts_with('@') && *word != "{" && *word != "}");
    let name = words.next()?.trim_start_matches('{').trim_end_matches(';');
    name.starts_with(|first: char| first.is_ascii_uppercase()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_stand_under_their_entries() {
        let text = "\
\t.headerflags\t@\"EF_CUDA_TEXMODE_UNIFIED\"
        /*0000*/                   MOV R9, R9 ;
\t.section\t.text.k,\"ax\",@progbits
\t.sectioninfo\t@\"SHI_REGISTERS=221\"
.text.k:
        /*0000*/                   MOV R1, c[0x0][0x28] ;                      /* 0x00000a0000017a02 */
                                                                               /* 0x000fe40000000f00 */
        /*0010*/              @!P0 HMMA.16816.F32.BF16 R4, R8, R12, R4 ;
        /*0020*/                   EXIT;
.L_x_0:
\t.section\t.text.other,\"ax\",@progbits
        /*0000*/                   NOP;
\t.section\t.nv.info,\"\",@\"SHT_CUDA_INFO\"
        /*0000*/ \t.byte\t0x04, 0x37
";
        let entries = read(text).entries;
        let want = [("k", vec!["MOV", "HMMA.16816.F32.BF16", "EXIT"]), ("other", vec!["NOP"])];
        assert_eq!(
            entries,
            want.map(|(name, all)| (name.to_owned(), all.into_iter().map(String::from).collect())).into()
        );
        assert!(read("Usage: nvdisasm [options] <input>\n/* 12 */ no").entries.is_empty());
    }
}
