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

/// The patterns of a source, each with the lines of its body: what stands between the line that ends in `{` and the `}`.
fn patterns(source: &str) -> Vec<(&str, usize)> {
    bodies(source, "#[pattern]")
}

/// The same of the functions under any attribute.
fn bodies<'a>(source: &'a str, attribute: &str) -> Vec<(&'a str, usize)> {
    let mut found = Vec::new();
    let mut lines = source.lines();
    while lines.any(|line| line == attribute) {
        let head = lines.find(|line| line.starts_with("pub fn ")).expect("an attribute stands before a function");
        let name = head["pub fn ".len()..].split('(').next().expect("a name");
        if !head.ends_with('{') {
            lines.find(|line| line.ends_with('{')).expect("a body");
        }
        found.push((name, lines.by_ref().take_while(|&line| line != "}").count()));
    }
    found
}

/// What a table of the readme says: names, our lines, FlexAttention's; against the functions of a source.
fn as_short_as_said(source: &str, attribute: &str, head: &str) {
    let read = |path: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{} cannot be read: {error}", path.display()))
    };
    let (readme, source) = (read("README.md"), read(source));
    let table = readme.lines().skip_while(|line| !line.ends_with(head)).skip(2);
    let row = |line: &str| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [name, _, ours, theirs] = cells[..] else { panic!("`{line}` has four cells") };
        let number = |text: &str| text.parse::<usize>().unwrap_or_else(|_| panic!("`{line}` counts lines"));
        (name.trim_matches('`').to_owned(), number(ours), number(theirs))
    };
    let table: Vec<_> = table.take_while(|line| line.starts_with('|')).map(row).collect();
    let said: Vec<_> = table.iter().map(|(name, ours, _)| (name.as_str(), *ours)).collect();
    assert!(!said.is_empty(), "no table ends with `{head}`");
    assert_eq!(said, bodies(&source, attribute));
    assert!(table.iter().all(|(_, ours, theirs)| ours <= theirs), "{table:?}");
}

/// The tables say how long each pattern and score is: it is, and none is longer than FlexAttention's.
#[test]
fn every_pattern_is_as_short_as_the_table_says() {
    as_short_as_said("kernels/src/patterns/mod.rs", "#[pattern]", "| lines | FlexAttention |");
}

#[test]
fn every_score_is_as_short_as_the_table_says() {
    as_short_as_said("kernels/src/scores/mod.rs", "#[score]", "| lines of it | of FlexAttention's |");
}

#[test]
fn lines_of_patterns_are_counted() {
    let source = "#[pattern]\n/// Text.\npub fn a(q: Pos) -> Keep {\n    let b = q;\n    b.lt(1)\n}\n\nfn other() {\n}\n#[pattern]\n\
                  pub fn c(\n    q: Pos,\n) -> Keep {\n    q\n}\n";
    assert_eq!(patterns(source), [("a", 2), ("c", 1)]);
}

#[test]
fn fences_are_found() {
    let text = "a\n```rust\nlet s = \"```\";\n```\n````text\n```\n````\n  ```sh\n  ```\n```\n```\n";
    assert_eq!(fences(text), [(2, "rust"), (5, "text"), (8, "sh"), (10, "")]);
}
