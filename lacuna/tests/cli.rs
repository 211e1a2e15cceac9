//! The `lacuna` command as a user meets it: what it prints, what it writes, and which code it ends with.

mod common;

use common::{files_of, lacuna, small, stored};
use lacuna::kernels::host::{Host, Precision};
use lacuna::kernels::inputs;
use lacuna::kernels::reference::nsa::{self, NsaConfig};
use lacuna::kernels::reference::{self, Problem, masks};
use lacuna::kernels::tolerance;
use lacuna::runtime::{Device, load};

#[test]
fn alone_it_shows_every_row_and_every_row_is_right() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("shown");
    let done = lacuna(&["--device", "emulator", "--out", out.to_str().unwrap()]).ends(0);
    let lines: Vec<&str> = done.stdout.lines().collect();
    assert!(lines[0].contains("device: emulator"), "{}", lines[0]);
    assert!(lines[0].ends_with("minilm layer 3: 1341 tokens in 3 sequences, 12 heads x 32"), "{}", lines[0]);
    for (row, label) in
        lines[2..7].iter().zip(["documents, causal", "sliding window", "sink 4 + window", "NSA selected", "MoBA"])
    {
        assert!(row.trim_start().starts_with(label) && row.contains("sm_80") && row.ends_with(".ptx"), "{row}");
    }
    assert!(!done.stdout.contains("WRONG"), "{}", done.stdout);
    let stems = ["documents", "moba", "nsa_selected", "sink_window", "window"];
    assert_eq!(files_of(&out), stems.map(|stem| [format!("{stem}.png"), format!("{stem}.ptx")]).concat());
    for stem in stems {
        let ptx = std::fs::read_to_string(out.join(format!("{stem}.ptx"))).unwrap();
        assert!(ptx.contains("mma.sync.aligned") && ptx.contains(".target sm_80"), "{stem}");
        let png = std::fs::read(out.join(format!("{stem}.png"))).unwrap();
        assert!(png.starts_with(b"\x89PNG") && png.len() > 2000, "{stem}");
    }
    for command in lines[8].split('`').skip(1).step_by(2) {
        let words: Vec<&str> = command.split(' ').skip(1).collect();
        lacuna(&words).env("LACUNA_DEVICE", "emulator").ends(0);
    }
}

#[test]
fn alone_with_json_it_prints_json_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let done = lacuna(&["--json", "--out", dir.path().to_str().unwrap()]).env("LACUNA_DEVICE", "emulator").ends(0);
    assert_eq!(done.stderr, "");
    let shown = done.json();
    assert_eq!(shown["ok"], true);
    for row in shown["rows"].as_array().unwrap() {
        let (error, allowed) = (row["error"].as_f64().unwrap(), row["allowed"].as_f64().unwrap());
        assert!(0.0 < error && error <= allowed && allowed < 0.5, "{row}");
        assert!(std::path::Path::new(row["picture"].as_str().unwrap()).exists());
    }
}

#[test]
fn what_it_saves_is_the_attention_of_what_it_was_given() {
    let dir = tempfile::tempdir().unwrap();
    let (input, output) = (dir.path().join("in.safetensors"), dir.path().join("out.safetensors"));
    let x = small();
    x.file().write(&input);
    let args = ["sink-window", "--window", "20", "--sink", "3", "--checked", "--scale", "0.3"];
    let files = ["--input", input.to_str().unwrap(), "--output", output.to_str().unwrap()];
    let done = lacuna(&[&["run"], &args[..], &files[..]].concat()).ends(0);
    assert!(
        done.stdout.contains("90 tokens in 2 sequences, 4 query heads over 2 KV heads x 32 (v 64), bf16"),
        "{}",
        done.stdout
    );

    let problem = Problem {
        q: &x.qkv.q,
        k: &x.qkv.k,
        v: &x.qkv.v,
        cu_seqlens: &x.cu_seqlens,
        cu_seqlens_k: &x.cu_seqlens,
        scale: 0.3,
    };
    let (o, lse) = stored(&output);
    let verdicts = |window| {
        let mask = masks::window_sink(window, 3);
        let (right, plain) = (reference::attention(&problem, &mask), tolerance::plain_attention(&problem, &mask));
        tolerance::check_attention(&o, &lse, &right, &plain, Precision::Bf16)
    };
    assert!(verdicts(20).ok(), "{}", verdicts(20));
    assert!(!verdicts(19).o.ok && !verdicts(21).o.ok, "another window is not this one: {}", verdicts(19));
}

/// A file with keys of another number: `cu_seqlens_k` says which are whose, and where there is one sequence they are its.
#[test]
fn keys_of_the_file_may_be_of_another_number() {
    let dir = tempfile::tempdir().unwrap();
    let (input, output) = (dir.path().join("in.safetensors"), dir.path().join("out.safetensors"));
    let x = small();
    let q = Host::new(x.qkv.q.data[..40 * 4 * 32].to_vec(), [40, 4, 32]);
    for (cu_seqlens, cu_seqlens_k) in
        [(Some([0, 15, 40]), Some(vec![0, 70, 90])), (None, None), (None, Some(vec![0, 90]))]
    {
        let mut file = x.file();
        file.halves("q", &q);
        file.remove("cu_seqlens");
        if let Some(cu) = &cu_seqlens {
            file.ints("cu_seqlens", &[3], cu);
        }
        if let Some(cu) = &cu_seqlens_k {
            file.ints("cu_seqlens_k", &[cu.len()], cu);
        }
        file.write(&input);
        let (cu, cu_k) = (cu_seqlens.map_or(vec![0, 40], |cu| cu.to_vec()), cu_seqlens_k.unwrap_or(vec![0, 90]));
        let problem = Problem {
            q: &q,
            k: &x.qkv.k,
            v: &x.qkv.v,
            cu_seqlens: &cu,
            cu_seqlens_k: &cu_k,
            scale: 1.0 / 32f32.sqrt(),
        };
        let files = ["--input", input.to_str().unwrap(), "--output", output.to_str().unwrap(), "--json"];
        let done = lacuna(&[&["run", "window", "--window", "20", "--checked"], &files[..]].concat()).ends(0).json();
        assert_eq!((&done["input"]["tokens"], &done["input"]["keys"]), (&40.into(), &90.into()));
        let (o, lse) = stored(&output);
        let verdicts = |window| {
            let mask = masks::window(window);
            let (right, plain) = (reference::attention(&problem, &mask), tolerance::plain_attention(&problem, &mask));
            tolerance::check_attention(&o, &lse, &right, &plain, Precision::Bf16)
        };
        assert!(verdicts(20).ok(), "{}", verdicts(20));
        assert!(!verdicts(21).o.ok, "another window is not this one: {}", verdicts(21));
    }
}

/// Drawn: a decode step, a chunk of a prefill, more queries than keys, a document without keys.
#[test]
fn keys_of_another_number_are_drawn() {
    for kernel in ["causal", "nsa-selected", "document-table", "bsr", "alibi"] {
        let args = ["run", kernel, "--docs", "1,40,90,3", "--keys", "130,200,20,0", "--heads", "4", "--kv-heads", "2"];
        let done = lacuna(&[&args[..], &["--device", "emulator"]].concat()).ends(0);
        assert!(done.stdout.contains("134 tokens over 350 keys in 4 sequences"), "{kernel}: {}", done.stdout);
        assert!(done.stdout.contains("every row: 536"), "{kernel}: {}", done.stdout);
    }
    let done =
        lacuna(&["run", "full", "--tokens", "1", "--keys", "300", "--device", "emulator", "--json"]).ends(0).json();
    assert_eq!((&done["input"]["max_seqlen"], &done["input"]["max_seqlen_k"]), (&1.into(), &300.into()));
}

#[test]
fn picks_of_the_file_are_used_and_missing_ones_are_scored() {
    let dir = tempfile::tempdir().unwrap();
    let x = small();
    let config = NsaConfig { l_sel: 16, n: 3, ..NsaConfig::PAPER };
    let run = |name: &str, picks: Option<&Host<i32>>| {
        let (input, output) = (dir.path().join(format!("{name}.in")), dir.path().join(format!("{name}.out")));
        let mut file = x.file();
        if let Some(picks) = picks {
            file.ints("picks", &picks.shape, &picks.data);
        }
        file.write(&input);
        let files = ["--input", input.to_str().unwrap(), "--output", output.to_str().unwrap()];
        let blocks: &[&str] = if picks.is_some() { &[] } else { &["--blocks", "3"] };
        let done = lacuna(&[&["run", "nsa-selected", "--block", "16", "--json"], blocks, &files[..]].concat()).ends(0);
        (done.json()["input"]["picks"].as_str().unwrap().to_owned(), stored(&output))
    };
    let scored = nsa::select(&x.qkv.q, &x.qkv.k, &x.cu_seqlens, config);
    let drawn = inputs::picks(5, &x.cu_seqlens, 2, 16, 3, inputs::Locality::PerToken);
    let (origin, from_scores) = run("scored", None);
    assert_eq!(origin, "scored by the reference");
    assert_eq!(run("given", Some(&scored)), ("from the file".to_owned(), from_scores.clone()));
    let nothing = Host::filled(-1, drawn.shape);
    let (_, (o, lse)) = run("nothing", Some(&nothing));
    assert!(o.iter().all(|&x| x == 0.0) && lse.iter().all(|&x| x == f32::NEG_INFINITY));
}

#[test]
fn kernels_run_in_every_pick_of_their_space() {
    for kernel in ["sink-window", "nsa-selected"] {
        let picks = lacuna(&["emit", kernel, "--space", "--json", "--dim", "64"]).ends(0).json();
        for row in picks["picks"].as_array().unwrap() {
            let pick: Vec<String> =
                row["pick"].as_object().unwrap().iter().map(|(knob, n)| format!("{knob}={n}")).collect();
            let mut args = vec!["run", kernel, "--docs", "70,0,33", "--heads", "2", "--device", "emulator", "--json"];
            if kernel == "sink-window" {
                args.extend(["--window", "9"]);
            }
            let pick = pick.join(",");
            let done = lacuna(&[&args[..], &["--pick", &pick]].concat()).ends(0).json();
            assert_eq!(done["pick"], row["pick"]);
            assert_eq!(done["compared"]["o"]["ok"], true, "{pick}");
        }
    }
}

#[test]
fn too_many_rows_are_sampled_and_it_says_so() {
    let large =
        ["run", "window", "--window", "8", "--tokens", "9000", "--heads", "1", "--dim", "32", "--device", "emulator"];
    let done = lacuna(&large).ends(0);
    assert!(done.stdout.contains("rows of 9000, evenly spread"), "{}", done.stdout);
}

#[test]
fn emitted_ptx_is_ptx_and_the_same_everywhere() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kernel.ptx");
    let printed =
        lacuna(&["emit", "nsa-selected", "--by-block", "0", "--target", "sm_90", "--dim", "64", "--group", "5"])
            .ends(0)
            .stdout;
    assert!(printed.contains(".target sm_90") && printed.contains("mma.sync.aligned"));
    let module = lacuna::ptx::read(&printed).unwrap();
    let args = [
        "emit",
        "nsa-selected",
        "--by-block",
        "0",
        "--target",
        "sm_90",
        "--dim",
        "64",
        "--group",
        "5",
        "-o",
        path.to_str().unwrap(),
    ];
    assert_eq!(lacuna(&args).ends(0).stdout, "");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), printed);
    let json = lacuna(&[
        "emit",
        "nsa-selected",
        "--by-block",
        "0",
        "--target",
        "sm_90",
        "--dim",
        "64",
        "--group",
        "5",
        "--json",
    ])
    .ends(0)
    .json();
    let launch = &json["launches"][0];
    assert_eq!(launch["ptx"], printed);
    assert_eq!(launch["grid"][0], serde_json::json!({ "symbol": "tokens" }));
    assert_eq!(launch["args"].as_array().unwrap().len(), module.entries[0].params.len());
    assert!(launch["threads"].as_u64() >= Some(32) && launch["shared_bytes"].as_u64() > Some(0));
}

#[test]
fn devices_are_listed() {
    let text = lacuna(&["devices"]).ends(0).stdout;
    assert!(text.contains("emulator"), "{text}");
    let json = lacuna(&["devices", "--json"]).ends(0).json();
    let last = json["devices"].as_array().unwrap().last().unwrap();
    assert_eq!(last["device"], "emulator");
    assert_eq!(last["targets"][0], "sm_80");
}

#[test]
fn help_names_every_kernel_option_and_exit_code() {
    let help = lacuna(&["run", "--help"]).ends(0).stdout;
    for kernel in lacuna::kernels::registry::KERNELS {
        assert!(help.contains(kernel.name) && help.contains(kernel.about), "{}", kernel.name);
        assert!(kernel.settings.iter().all(|s| help.contains(&format!("--{} <N>", s.name)) && help.contains(s.about)));
    }
    for code in ["0  everything is right", "1  the numbers are wrong", "2  bad usage", "3  trouble with the device"] {
        assert!(help.contains(code), "{help}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_trouble() {
    let command = || std::process::Command::new(env!("CARGO_BIN_EXE_lacuna"));
    let mut child = command()
        .args(["emit", "causal"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let done = child.wait_with_output().unwrap();
    assert_eq!((done.status.code(), String::from_utf8_lossy(&done.stderr).as_ref()), (Some(0), ""));
}

#[test]
fn a_saved_file_says_what_made_it() {
    let dir = tempfile::tempdir().unwrap();
    let output = dir.path().join("out.safetensors");
    lacuna(&[
        "run",
        "full",
        "--tokens",
        "40",
        "--heads",
        "1",
        "--dtype",
        "f16",
        "--device",
        "emulator",
        "-o",
        output.to_str().unwrap(),
    ])
    .ends(0);
    let file = load(&Device::emulator(), &output).unwrap();
    assert_eq!(file.metadata()["kernel"], "full");
    assert_eq!(file.get("o").unwrap().shape(), [40, 1, 64]);
    assert_eq!(file.get("o").unwrap().dtype(), lacuna::runtime::Elem::F16);
}
