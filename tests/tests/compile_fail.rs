//! What a schedule or pattern that is wrong is told, and that it is told in the author's words.

use std::path::Path;

/// Words that no author has written or read about.
const INTERNALS: [&str; 13] = [
    "ValueId",
    "VarId",
    "ParamId",
    "AxisId",
    "Builder",
    "RefCell",
    "Staging",
    "lacuna_macros",
    "lacuna_codegen",
    "lacuna_dsl",
    "proc macro panicked",
    "from_raw",
    "staging::",
];

#[test]
fn compile_fail() {
    let cases = trybuild::TestCases::new();
    cases.compile_fail("tests/compile_fail/*.rs");
    cases.pass("tests/compile_pass/*.rs");
}

#[test]
fn messages_name_no_internals() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/compile_fail");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).expect("the folder of cases") {
        let path = entry.expect("a case").path();
        if path.extension().is_none_or(|e| e != "stderr") {
            continue;
        }
        seen += 1;
        let text = std::fs::read_to_string(&path).expect("a message");
        for word in INTERNALS {
            assert!(!text.contains(word), "{} says `{word}`", path.display());
        }
    }
    assert!(seen > 10, "only {seen} messages were read");
}
