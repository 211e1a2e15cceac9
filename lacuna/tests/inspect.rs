//! `lacuna inspect`: what it counts stands in the text, what it cannot know it says, and what it computes is the architecture's.

#![allow(clippy::print_stderr, reason = "what is not tested is said")]

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
    let call =
        |args: &[&str]| lacuna(args).env("LACUNA_PTXAS", "/nowhere/ptxas").env("LACUNA_NVDISASM", "/nowhere/nvdisasm");
    let found = call(&["inspect", "causal", "--json"]).ends(0).json();
    assert!(found["sass"].is_null());
    let want = "there is no machine code: cannot run /nowhere/ptxas: No such file or directory (os error 2)";
    assert_eq!(found["sass_unknown"], want);
    assert!(found["ptx"]["kinds"]["mma"].as_u64() > Some(0));
    // A GPU's driver knows registers too.
    if found["driver"].is_null() {
        assert_eq!(found["driver_unknown"], "no GPU");
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
        for part in ["registers     not known: ", "SASS          not counted: ", "driver        not asked: no GPU"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    } else {
        assert_eq!(found["used"]["by"], "driver", "{found}");
    }
    let warpgroups = ["inspect", "causal", "--target", "sm_90a"];
    let found = call(&[&warpgroups[..], &["--json"]].concat()).ends(0).json();
    assert!(found["warpgroups"].is_null() && found["ptx"]["kinds"]["wgmma"].as_u64() > Some(0), "{found}");
    assert_eq!(found["warpgroups_unknown"], "cannot run /nowhere/ptxas: No such file or directory (os error 2)");
    let text = call(&warpgroups).ends(0).stdout;
    assert!(text.contains("warpgroups    not known: cannot run /nowhere/ptxas: "), "{text}");
}

/// Whether the program is there. What is not tested for want of it is said.
fn there(name: &str, found: Option<std::path::PathBuf>) -> bool {
    if found.is_none() {
        eprintln!("nothing was tested: there is no {name}; `cargo xtask tools` fetches it");
    }
    found.is_some()
}

#[test]
fn with_ptxas_registers_are_known_and_nothing_spills() {
    if !there("ptxas", lacuna::ptx::tools::ptxas()) {
        return;
    }
    let found = inspect(&["causal", "--dim", "64"]);
    let used = &found["used"];
    assert_eq!(used["by"], "ptxas", "{found}");
    assert!((32..=255).contains(&used["registers"].as_u64().unwrap()), "{used}");
    assert_eq!((&used["spill_store_bytes"], &used["spill_load_bytes"]), (&0.into(), &0.into()));
    assert!(found["occupancy"]["allowed"]["registers"].as_u64() > Some(0));
}

#[test]
fn with_nvdisasm_machine_instructions_are_those_that_the_text_asks_for() {
    if !there("ptxas", lacuna::ptx::tools::ptxas()) || !there("nvdisasm", lacuna::ptx::tools::nvdisasm()) {
        return;
    }
    for target in ["sm_80", "sm_90"] {
        let found = inspect(&["causal", "--dim", "64", "--target", target]);
        let (ptx, sass) = (&found["ptx"]["kinds"], &found["sass"]["kinds"]);
        // Each product and each load of a fragment is one machine instruction, unless the assembler unrolls a loop.
        for (of_text, of_code) in [("mma", "HMMA"), ("ldmatrix", "LDSM")] {
            let (text, code) = (ptx[of_text].as_u64().unwrap(), sass[of_code].as_u64().unwrap());
            assert!(
                text > 0 && code >= text && code.is_multiple_of(text),
                "{target}: {text} {of_text}, {code} {of_code}"
            );
        }
        assert!(sass["LDGSTS"].as_u64() >= ptx["cp.async"].as_u64().map(|_| 1) && sass["MUFU"].as_u64() > Some(0));
        assert_eq!((&sass["STL"], &sass["LDL"]), (&0.into(), &0.into()), "{target}: nothing spills");
        let each = found["sass"]["instructions"].as_object().unwrap();
        assert_eq!(each.values().map(|n| n.as_u64().unwrap()).sum::<u64>(), sass["all"].as_u64().unwrap());
        assert!(each["EXIT"].as_u64() > Some(0), "{found}");
    }
}

#[test]
fn with_nvdisasm_products_of_warpgroups_are_those_of_the_text_and_softmax_runs_beside_them() {
    if !there("ptxas", lacuna::ptx::tools::ptxas()) || !there("nvdisasm", lacuna::ptx::tools::nvdisasm()) {
        return;
    }
    let of = |overlap: &str| inspect(&["causal", "--target", "sm_90a", "--pick", overlap]);
    for (overlap, beside) in [("overlap=1", false), ("overlap=2", true), ("overlap=3", true)] {
        let found = of(overlap);
        let made = &found["warpgroups"];
        assert_eq!(made["products"]["written"], found["ptx"]["kinds"]["wgmma"], "{overlap}: {made}");
        assert_eq!((&made["as_written"], &made["remark"]), (&true.into(), &Value::Null), "{overlap}: {made}");
        let number = |name: &str| made[name].as_u64().unwrap();
        let all = number("exponentials");
        assert!(all > 0 && number("exponentials_beside") <= all, "{overlap}: {made}");
        assert_eq!(number("exponentials_beside") > 0, beside, "{overlap}: {made}");
        let stages = made["stages"].as_array().unwrap();
        assert_eq!(stages.iter().map(|stage| stage["exponentials"].as_u64().unwrap()).sum::<u64>(), all);
    }
    assert!(inspect(&["causal", "--target", "sm_90"])["warpgroups"].is_null());
}

/// `inspect --json` of one kernel where ptxas and nvdisasm are these scripts, each given one second.
#[cfg(unix)]
fn with_scripts(ptxas: &str, nvdisasm: &str) -> Value {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let script = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path.into_os_string().into_string().unwrap()
    };
    let (ptxas, nvdisasm) = (script("ptxas", ptxas), script("nvdisasm", nvdisasm));
    let call = lacuna(&["inspect", "causal", "--dim", "32", "--json", "--target", "sm_120"]);
    let call = call.env("LACUNA_PTXAS", &ptxas).env("LACUNA_NVDISASM", &nvdisasm).env("LACUNA_TOOL_SECONDS", "1");
    let found = call.env("TMPDIR", dir.path().to_str().unwrap()).ends(0).json();
    assert_eq!(common::files_of(dir.path()), ["nvdisasm", "ptxas"], "temporary files are gone");
    found
}

/// A ptxas that assembles, as far as can be seen.
#[cfg(unix)]
const ASSEMBLES: &str = "entry=$(sed -n 's/^.visible .entry \\([a-z0-9_]*\\).*/\\1/p' module.ptx)
echo code $entry > module.cubin
echo \"ptxas info    : Compiling entry function '$entry' for 'sm_120'\"
echo 'ptxas info    : Used 77 registers, used 1 barriers, 352 bytes cmem[0]'";

/// An nvdisasm that finds three instructions in what that one made.
#[cfg(unix)]
const DISASSEMBLES: &str = "read _ entry < module.cubin
echo \"\t.section\t.text.$entry,\"
echo '  /*0000*/ @P0 HMMA.16816.F32 R1, R2 ;'
echo '  /*0010*/ STL [R1], R2 ;'
echo '  /*0020*/ EXIT ;'";

#[cfg(unix)]
#[test]
fn what_the_tools_say_is_taken() {
    let found = with_scripts(ASSEMBLES, DISASSEMBLES);
    assert_eq!((&found["used"]["by"], &found["used"]["registers"]), (&"ptxas".into(), &77.into()), "{found}");
    assert_eq!(found["sass"]["instructions"], serde_json::json!({ "HMMA": 1, "STL": 1, "EXIT": 1 }), "{found}");
    let kinds = &found["sass"]["kinds"];
    assert_eq!(
        (&kinds["all"], &kinds["HMMA"], &kinds["STL"], &kinds["LDL"]),
        (&3.into(), &1.into(), &1.into(), &0.into())
    );
}

#[cfg(unix)]
#[test]
fn tools_that_fail_hang_or_print_garbage_are_named_and_the_rest_is_known() {
    let said = |found: &Value, name: &str, want: &str| {
        let why = found[name].as_str().unwrap_or_else(|| panic!("{name}: {found}"));
        assert!(why.contains(want), "{why}");
        assert!(found["ptx"]["kinds"]["mma"].as_u64() > Some(0) && found["launch"]["flops"].as_f64() > Some(0.0));
    };
    let hangs = "exec sleep 60";
    let garbage = "head -c 3000 /dev/urandom; echo; echo 12 registers, everywhere";
    // What the disassembler does.
    let found = with_scripts(ASSEMBLES, "echo 'no such file' >&2; exit 1");
    said(&found, "sass_unknown", "nvdisasm fails: no such file");
    said(&with_scripts(ASSEMBLES, hangs), "sass_unknown", "nvdisasm has not ended after 1 s (LACUNA_TOOL_SECONDS) and");
    said(&with_scripts(ASSEMBLES, garbage), "sass_unknown", "nvdisasm prints no machine instruction");
    let other = DISASSEMBLES.replace("$entry,", "other,");
    said(&with_scripts(ASSEMBLES, &other), "sass_unknown", "nvdisasm finds no entry `query_major");
    // What the assembler does. A GPU's driver would know registers without it, and runs no sm_120 here.
    let found = with_scripts("echo 'ptxas fatal   : Out of luck' >&2; exit 255", DISASSEMBLES);
    said(
        &found,
        "sass_unknown",
        "there is no machine code: ptxas refuses the text for sm_120: ptxas fatal   : Out of luck",
    );
    said(&with_scripts(hangs, DISASSEMBLES), "sass_unknown", "ptxas has not ended after 1 s");
    said(&with_scripts(garbage, DISASSEMBLES), "sass_unknown", "ptxas says that it is done, and wrote no machine code");
    let silent = "echo x > module.cubin";
    let found = with_scripts(silent, DISASSEMBLES);
    if found["driver"].is_null() {
        said(&found, "used_unknown", "ptxas does not say what `query_major");
        assert_eq!(found["occupancy"]["registers_known"], false);
    }
}

#[test]
fn its_table_has_a_line_for_everything() {
    let text = lacuna(&["inspect", "sink-window", "--window", "512", "--tokens", "4096"]).ends(0).stdout;
    for start in [
        "pick",
        "registers",
        "shared",
        "PTX",
        "SASS",
        "driver",
        "occupancy",
        "launch",
        "  products",
        "  L2",
        "  HBM",
        "floor",
    ] {
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
