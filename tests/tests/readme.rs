//! The readme is there, and every Rust block in it is one that `cargo test --doc -p lacuna-tests` compiles and runs.

use std::path::Path;

/// The words after the fences of a text's code blocks, in order, with their lines.
fn fences(text: &str) -> Vec<(usize, &str)> {
    let mut open = None;
    let mut fences = Vec::new();
    for (line, text) in text.lines().enumerate() {
        let text = text.trim_start();
        let ticks = text.len() - text.trim_start_matches('`').len();
        match open {
            None if ticks >= 3 => {
                fences.push((line + 1, text[ticks..].trim()));
                open = Some(ticks);
            }
            Some(opened) if ticks >= opened && text.len() == ticks => open = None,
            _ => {}
        }
    }
    assert!(open.is_none(), "the code block of line {} is not closed", fences.last().map_or(0, |fence| fence.0));
    fences
}

#[test]
fn every_rust_block_is_run() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("README.md cannot be read: {error}"));
    let fences = fences(&text);
    let mut blocks = 0;
    for (line, language) in fences {
        assert!(
            !language.is_empty(),
            "README.md:{line}: a code block says its language; one without is taken for Rust"
        );
        let words: Vec<&str> = language.split([',', ' ']).collect();
        for word in ["ignore", "no_run", "compile_fail", "should_panic"] {
            assert!(
                !words.contains(&word),
                "README.md:{line}: a Rust block marked `{word}` is not compiled and run as it is"
            );
        }
        blocks += usize::from(words[0] == "rust");
    }
    assert!(blocks > 0, "README.md shows no Rust");
}

#[test]
fn fences_are_found() {
    let text = "a\n```rust\nlet s = \"```\";\n```\n````text\n```\n````\n  ```sh\n  ```\n```\n```\n";
    assert_eq!(fences(text), [(2, "rust"), (5, "text"), (8, "sh"), (10, "")]);
}
