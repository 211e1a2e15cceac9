//! File tests of the tile IR: a text file in, a text file out.
//!
//! Each `*.ir` under `tests/filetests/` starts with a line `; passes: verify partition`, and is a func. The passes run in
//! that order; the snapshot beside the file is the func that they leave, or the error. Whatever they leave must also satisfy
//! the verifier and read back as itself. `INSTA_UPDATE=always` blesses.

use lacuna_codegen::ir::{Func, read};
use lacuna_codegen::passes;

/// The func after the passes that the first line names.
fn outcome(text: &str) -> Result<Func, String> {
    let first = text.lines().next().unwrap_or_default();
    let names = first.strip_prefix("; passes:").ok_or("the first line is not `; passes: NAME ..`")?;
    let func = read(text).map_err(|error| error.to_string())?;
    names
        .split_whitespace()
        .try_fold(func, |func, name| passes::run(name, func).map_err(|error| format!("{name}: {error}")))
}

#[test]
fn passes_do_what_their_files_say() {
    insta::glob!("../filetests", "**/*.ir", |path| {
        let text = std::fs::read_to_string(path).expect("a readable file");
        let shown = match outcome(&text) {
            Ok(func) => {
                passes::verify(&func)
                    .unwrap_or_else(|error| panic!("{}: what is left: {error}\n{func}", path.display()));
                let shown = func.to_string();
                let back =
                    read(&shown).unwrap_or_else(|error| panic!("{}: what is left: {error}\n{shown}", path.display()));
                assert_eq!(back.to_string(), shown, "{}", path.display());
                shown
            }
            Err(error) => format!("error: {error}\n"),
        };
        let mut settings = insta::Settings::clone_current();
        settings.set_snapshot_path(path.parent().expect("a file has a folder"));
        settings.set_prepend_module_to_snapshot(false);
        settings.set_omit_expression(true);
        settings.remove_snapshot_suffix();
        let name = path.file_name().expect("a file has a name").to_string_lossy();
        settings.bind(|| insta::assert_snapshot!(name.as_ref(), shown));
    });
}
