//! `lacuna inspect`: what it counts stands in the text, what it cannot know it says, and what it computes is the architecture's.

mod common;

use common::lacuna;
use serde_json::Value;

fn inspect(args: &[&str]) -> Value {
    lacuna(&[&["inspect"], args, &["--json"]].concat()).ends(0).json()
}

/// Lines of a text that begin with a word.
fn lines(ptx: &str, start: &str) -> u64 {
    ptx.lines().filter(|line| line.trim_start().starts_with(start)).count() as u64
}

#[test]
fn it_counts_the_instructions_of_what_emit_prints() {
    let shape = ["nsa-selected", "--group", "16", "--dim", "64", "--pick", "warps=2", "--target", "sm_90"];
    let ptx = lacuna(&[&["emit"], &shape[..]].concat()).ends(0).stdout;
    let found = inspect(&shape);
    let kinds = &found["ptx"]["kinds"];
    for (kind, start) in [
        ("mma", "mma."),
        ("ldmatrix", "ldmatrix."),
        ("cp.async", "cp.async."),
        ("bar", "bar."),
        ("ex2", "ex2."),
        ("shuffles", "shfl."),
    ] {
        let guarded = ptx
            .lines()
            .filter(|line| line.trim_start().starts_with('@') && line.contains(&format!(" {start}")))
            .count();
        assert_eq!(kinds[kind], lines(&ptx, start) + guarded as u64, "{kind}");
    }
    assert!(kinds["mma"].as_u64() > Some(0) && kinds["cp.async"].as_u64() > Some(0));
    let each = found["ptx"]["instructions"].as_object().unwrap();
    assert_eq!(each.values().map(|n| n.as_u64().unwrap()).sum::<u64>(), kinds["all"].as_u64().unwrap());
    assert_eq!(
        (&found["target"], &found["pick"]["warps"], &found["threads"]),
        (&"sm_90".into(), &2.into(), &64.into())
    );
}

#[test]
fn floors_are_those_of_the_architecture() {
    let found = inspect(&["causal", "--docs", "8192,8192,8192,8192", "--heads", "16"]);
    let launch = &found["launch"];
    let near = |name: &str, want: f64| {
        let x = launch[name].as_f64().unwrap();
        assert!((x / want - 1.0).abs() < 0.03, "{name} is {x}; {want} is right");
    };
    near("flops", 1.10e12);
    near("l2_bytes", 8.6e9);
    near("hbm_bytes", 0.54e9);
    near("floor_milliseconds", 1.73);
    assert_eq!((&launch["bound"], &launch["kv_heads"]), (&"products".into(), &16.into()));
    let one = inspect(&["nsa-selected", "--group", "16", "--tokens", "65536", "--heads", "64"]);
    assert_eq!((&one["launch"]["bound"], &one["launch"]["kv_heads"]), (&"L2".into(), &4.into()));
}

#[test]
fn without_tools_it_says_so_and_still_knows_the_rest() {
    let call = |args: &[&str]| lacuna(args).env("LACUNA_PTXAS", "/nowhere/ptxas").env("PATH", "/nowhere");
    let found = call(&["inspect", "causal", "--json"]).ends(0).json();
    assert!(found["sass"].is_null());
    assert_eq!(found["sass_unknown"], "neither nvdisasm nor cuobjdump is on PATH");
    assert!(found["ptx"]["kinds"]["mma"].as_u64() > Some(0));
    // A GPU's driver knows registers too.
    if found["used"].is_null() {
        assert!(found["used_unknown"].as_str().unwrap().contains("cannot run /nowhere/ptxas"), "{found}");
        // 98304 bytes and what the system takes, of 164 KiB.
        let occupancy = &found["occupancy"];
        let right: [(&str, Value); 4] = [
            ("limited_by", "shared memory".into()),
            ("ctas", 1.into()),
            ("warps", 4.into()),
            ("registers_known", false.into()),
        ];
        for (name, value) in right {
            assert_eq!(occupancy[name], value, "{name}");
        }
        let text = call(&["inspect", "causal"]).ends(0).stdout;
        assert!(text.contains("registers     not known: ") && text.contains("SASS          not counted: "), "{text}");
    }
}

#[test]
fn with_ptxas_registers_are_known_and_nothing_spills() {
    let Some(_) = lacuna::ptx::tools::ptxas() else { return };
    let found = inspect(&["causal", "--dim", "64"]);
    let used = &found["used"];
    assert_eq!(used["by"], "ptxas", "{found}");
    assert!((32..=255).contains(&used["registers"].as_u64().unwrap()), "{used}");
    assert_eq!((&used["spill_store_bytes"], &used["spill_load_bytes"]), (&0.into(), &0.into()));
    assert!(found["occupancy"]["allowed"]["registers"].as_u64() > Some(0));
}

/// A disassembler that prints two instructions.
#[cfg(unix)]
#[test]
fn with_a_disassembler_machine_instructions_are_counted() {
    use std::os::unix::fs::PermissionsExt as _;
    let Some(_) = lacuna::ptx::tools::ptxas() else { return };
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("nvdisasm");
    std::fs::write(&program, "#!/bin/sh\necho '  /*0000*/ @P0 HMMA.16816 R1, R2 ;'\necho '  /*0010*/ EXIT ;'\n")
        .unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", dir.path().display(), std::env::var("PATH").unwrap_or_default());
    let found = lacuna(&["inspect", "causal", "--dim", "32", "--json"]).env("PATH", &path).ends(0).json();
    assert_eq!(found["sass"], serde_json::json!({ "HMMA": 1, "EXIT": 1 }));
    std::fs::write(&program, "#!/bin/sh\necho 'no such file' >&2; exit 1\n").unwrap();
    let found = lacuna(&["inspect", "causal", "--dim", "32", "--json"]).env("PATH", &path).ends(0).json();
    assert!(found["sass_unknown"].as_str().unwrap().ends_with("nvdisasm fails: no such file"), "{found}");
}

#[test]
fn its_table_has_a_line_for_everything() {
    let text = lacuna(&["inspect", "sink-window", "--window", "512", "--tokens", "4096"]).ends(0).stdout;
    for start in
        ["pick", "registers", "shared", "PTX", "SASS", "occupancy", "launch", "  products", "  L2", "  HBM", "floor"]
    {
        assert!(text.lines().any(|line| line.starts_with(&format!("  {start} "))), "{start}: {text}");
    }
    assert!(text.contains("4096 tokens in 1 document, 16 query heads over 16 KV heads"), "{text}");
}

#[test]
fn launches_that_cannot_be_are_refused() {
    let refused = |args: &[&str], want: &str| {
        lacuna(&[&["inspect", "causal"], args].concat()).refuses(2, &format!("error: {want}"));
    };
    refused(&["--group", "4", "--heads", "6"], "--heads is 6; a multiple of --group, 4, is right");
    refused(&["--tokens", "0"], "0 tokens; 1 to 1048576 are right");
    refused(&["--docs", "1048576,1"], "1048577 tokens; 1 to 1048576 are right");
    refused(&["--pick", "warps=3"], "the knob `warps` of query-major is 3; 4 or 8 is right");
    lacuna(&["inspect", "fly"]).ends(2);
}
