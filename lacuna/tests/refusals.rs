//! What the `lacuna` command refuses: with which code, and in which words.

mod common;

use common::{Call, Tensors, files_of, lacuna, small};
use half::bf16;
use lacuna::kernels::host::Host;
use lacuna::kernels::inputs;
use lacuna::runtime::Device;
use tempfile::TempDir;

/// `lacuna run` of a kernel on a file, on the emulator.
fn on(dir: &TempDir, file: &[u8], args: &[&str]) -> Call {
    let path = dir.path().join("in.safetensors");
    std::fs::write(&path, file).unwrap();
    let input = ["--device", "emulator", "--input", path.to_str().unwrap()];
    lacuna(&[&["run"], args, &input[..]].concat())
}

/// A file, spoiled.
fn spoiled(spoil: impl FnOnce(&mut Tensors)) -> Vec<u8> {
    let mut file = small().file();
    spoil(&mut file);
    file.bytes()
}

fn run(args: &[&str]) -> Call {
    lacuna(&[&["run", "--device", "emulator"], args].concat())
}

#[test]
fn files_that_are_none() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("in.safetensors");
    let whole = small().file().bytes();
    let line = |what: &str| format!("error: {}: {what}", path.display());
    let short = format!("cut short: it has {} bytes, and {} are needed", whole.len() - 7, whole.len());
    on(&dir, &whole[..whole.len() - 7], &["causal"]).refuses(2, &line(&short));
    on(&dir, &whole[..5], &["causal"]).refuses(2, &line("cut short: it has 5 bytes, and 8 are needed"));
    on(&dir, &[whole.clone(), vec![0; 3]].concat(), &["causal"])
        .refuses(2, &line("3 bytes follow the last tensor; not a safetensors file, or a damaged one"));
    let nowhere = dir.path().join("nothing.safetensors");
    let want = format!("error: {}: cannot open: No such file or directory (os error 2)", nowhere.display());
    run(&["causal", "--input", nowhere.to_str().unwrap()]).refuses(2, &want);
}

#[test]
fn tensors_that_are_no_problem() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |spoil: &dyn Fn(&mut Tensors), kernel: &str, want: &str| {
        on(&dir, &spoiled(spoil), &[kernel]).refuses(2, &format!("error: {want}"));
    };
    let drawn = |shape: [usize; 3]| inputs::normal::<bf16, 3>(1, shape, 1.0);
    let path = dir.path().join("in.safetensors");
    let want = format!("{}: q, k and v are needed; it has: cu_seqlens, k, q", path.display());
    refused(&|f| f.remove("v"), "causal", &want);
    let want = "k has 89 tokens and q has 90; both must have the same number";
    refused(&|f| f.halves("k", &drawn([89, 2, 32])), "causal", want);
    let longer = |f: &mut Tensors| {
        f.halves("k", &drawn([200, 2, 32]));
        f.halves("v", &drawn([200, 2, 64]));
    };
    let want = "q has 90 tokens in 2 sequences and k has 200; `cu_seqlens_k` must say which keys are whose";
    refused(&longer, "causal", want);
    let ends = |cu: &'static [i32]| {
        move |f: &mut Tensors| {
            longer(f);
            f.ints("cu_seqlens_k", &[cu.len()], cu);
        }
    };
    let want =
        "cu_seqlens_k falls from 150 to 140 at entry 2; it must never fall (equal entries are an empty sequence)";
    refused(&ends(&[0, 150, 140]), "causal", want);
    let want = "cu_seqlens_k ends with 190; it must end with 200, the tokens of k and v";
    refused(&ends(&[0, 150, 190]), "causal", want);
    let want = "cu_seqlens_k has 2 entries and cu_seqlens 3; both must have one for each sequence, and one more";
    refused(&ends(&[0, 200]), "causal", want);
    refused(
        &|f| f.halves("k", &drawn([90, 2, 64])),
        "causal",
        "the heads of k are 64 wide and those of q 32; both must be equally wide",
    );
    refused(&|f| f.floats("k", &[90, 2, 32], 1.0), "causal", "k is f32; it must be bf16");
    refused(&|f| f.floats("q", &[90, 4, 32], 1.0), "causal", "q is f32; it must be bf16 or f16");
    let want = "q has 2 dimensions, [90, 128]; it needs 3: [tokens, query heads, head width]";
    refused(&|f| f.ints("q", &[90, 128], &[0; 90 * 128]), "causal", want);
    let want =
        "3 query heads cannot be shared out evenly over 2 KV heads; the query heads must be a multiple of the KV heads";
    refused(&|f| f.halves("q", &drawn([90, 3, 32])), "causal", want);
    let want = "cu_seqlens falls from 60 to 57 at entry 2; it must never fall (equal entries are an empty sequence)";
    refused(&|f| f.ints("cu_seqlens", &[4], &[0, 60, 57, 90]), "documents", want);
    let want = "cu_seqlens ends with 91; it must end with 90, the tokens of the tensors";
    refused(&|f| f.ints("cu_seqlens", &[3], &[0, 57, 91]), "causal", want);
    refused(&|f| f.ints("cu_seqlens", &[2], &[1, 90]), "causal", "cu_seqlens begins with 1; it must begin with 0");
    refused(&|f| f.floats("cu_seqlens", &[3], 0.0), "causal", "cu_seqlens is f32; it must be i32");
    let want = "cu_seqlens has 2 dimensions, [1, 2]; it needs 1: [batch + 1]";
    refused(&|f| f.ints("cu_seqlens", &[1, 2], &[0, 90]), "causal", want);
    let want = "picks has 4 heads and k has 2; both must have the same number";
    refused(&|f| f.ints("picks", &[90, 4, 3], &[0; 90 * 12]), "nsa-selected", want);
    let want = "`documents` needs cu_seqlens, and the input (in.safetensors) has none";
    refused(&|f| f.remove("cu_seqlens"), "documents", want);
}

#[test]
fn values_that_checked_mode_finds() {
    let dir = tempfile::tempdir().unwrap();
    let with = |x: f32| {
        let mut k = small().qkv.k;
        k.row_mut(41, 1)[5] = bf16::from_f32(x);
        spoiled(|f| f.halves("k", &k))
    };
    for (x, shown) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf"), (f32::NEG_INFINITY, "-inf")] {
        let want = format!("error: k[41, 1, 5] is {shown}: only finite numbers are allowed here");
        on(&dir, &with(x), &["causal", "--checked"]).refuses(2, &want);
    }
    // Without it, NaN goes through as in the formula: the result is right, and so is the exit code.
    on(&dir, &with(f32::NAN), &["causal"]).ends(0);

    let picks = |block: i32| {
        let mut picks = Host::filled(0, [90, 2, 3]);
        picks.row_mut(70, 1)[2] = block;
        spoiled(|f| f.ints("picks", &picks.shape, &picks.data))
    };
    for block in [3, -2] {
        let want =
            format!("error: picks[70, 1, 2] is {block}; the sequence of token 70 has blocks 0 to 2, and -1 is none");
        on(&dir, &picks(block), &["nsa-selected", "--block", "16", "--checked"]).refuses(2, &want);
    }
    for block in [2, -1] {
        on(&dir, &picks(block), &["nsa-selected", "--block", "16", "--checked"]).ends(0);
    }
    // Without it, a pick that is no block is skipped.
    on(&dir, &picks(1 << 30), &["nsa-selected", "--block", "16"]).ends(0);
    let want = "error: --blocks is 5, and the picks of in.safetensors have 3 blocks";
    on(&dir, &picks(0), &["nsa-selected", "--blocks", "5"]).refuses(2, want);
}

#[test]
fn shapes_that_cannot_be_drawn() {
    let refused = |args: &[&str], want: &str| {
        run(args).refuses(2, &format!("error: {want}"));
    };
    let want =
        "7 query heads cannot be shared out evenly over 2 KV heads; the query heads must be a multiple of the KV heads";
    refused(&["causal", "--heads", "7", "--kv-heads", "2"], want);
    refused(&["causal", "--heads", "0", "--kv-heads", "2"], "q has no heads; it needs at least 1");
    refused(&["causal", "--dim", "48"], "the heads of q are 48 wide; 32, 64, 96, 128, 192 or 256 is right");
    refused(&["causal", "--dv", "272"], "the heads of v are 272 wide; 32, 64, 96, 128, 192 or 256 is right");
    let want = "999999999999 tokens; at most 2147483647 can be counted in i32 cu_seqlens";
    refused(&["causal", "--tokens", "999999999999"], &format!("q has {want}"));
    let want = "q of [99999999, 8, 64] is too large to draw; at most 4294967296 elements are right";
    refused(&["causal", "--tokens", "99999999"], want);
    let want = "--tokens is 9, and the documents of --docs have 7 in all";
    refused(&["causal", "--tokens", "9", "--docs", "3,4"], want);
    let huge = ["causal", "--docs", "18446744073709551615,1"];
    refused(&huge, &format!("q has {} tokens; at most 2147483647 can be counted in i32 cu_seqlens", u64::MAX));
    let want = "the scale is -1; it must be finite and above 0 (1/sqrt of the head width is usual)";
    refused(&["causal", "--scale", "-1"], want);
    refused(
        &["documents", "--tokens", "90"],
        "`documents` needs cu_seqlens, and the input (drawn with seed 0) has none",
    );
}

#[test]
fn words_that_are_not_known() {
    let hinted = |args: &[&str], want: &str, hint: &str| {
        let done = lacuna(args).refuses(2, &format!("error: {want}"));
        assert!(done.stderr.contains(hint), "{}", done.stderr);
    };
    hinted(&["run", "casual"], "invalid value 'casual' for '<KERNEL>'", "a similar value exists: 'causal'");
    hinted(
        &["run", "window", "--windo", "9"],
        "unexpected argument '--windo' found",
        "a similar argument exists: '--window'",
    );
    hinted(&["emits"], "unrecognized subcommand 'emits'", "a similar subcommand exists: 'emit'");
    hinted(&["run", "causal", "--window", "9"], "`causal` has no option `window`; it has none", "window, sink-window");
    hinted(&["run", "window", "--window", "0"], "invalid value '0' for '--window <N>': 1 or more is right", "--help");
    hinted(&["run", "window", "--window", "-5"], "invalid value '-5' for '--window <N>': 1 or more is right", "--help");
    let want = "invalid value '40' for '--block <N>': 16, 32, 64 or 128, or a multiple of 16 from 32 on is right";
    hinted(&["run", "nsa-selected", "--block", "40"], want, "--help");
    let want = "error: `block` of `nsa-selected` is 48; 16, 32, 64 or 128 is right";
    lacuna(&["run", "nsa-selected", "--block", "48"]).refuses(2, want);
    let want = "invalid value 'sm_20' for '--target <TARGET>': unknown target `sm_20`; known: sm_80";
    let done = lacuna(&["run", "causal", "--target", "sm_20"]).ends(2);
    assert!(done.stderr.starts_with(&format!("error: {want}")), "{}", done.stderr);
    let want =
        "invalid value 'gpu' for '--device <DEVICE>': a device is `best`, `emulator`, `cuda`, or `cuda:` and a number";
    hinted(&["run", "causal", "--device", "gpu"], want, "--help");
    lacuna(&["run", "causal"])
        .env("LACUNA_DEVICE", "gpu")
        .refuses(2, "error: LACUNA_DEVICE is `gpu`; a device is `best`, `emulator`, `cuda`, or `cuda:` and a number");
    let json = lacuna(&["run", "casual", "--json"]).ends(2).json();
    assert_eq!((&json["exit"], &json["error"]["kind"]), (&2.into(), &"usage".into()));
}

#[test]
fn picks_that_cannot_be() {
    run(&["causal", "--pick", "row=64"])
        .refuses(2, "error: query-major has no knob `row`; it has warps, rows, kv, stages");
    run(&["causal", "--pick", "stages=9"])
        .refuses(2, "error: the knob `stages` of query-major is 9; 2, 3 or 1 is right");
    run(&["causal", "--pick", "stages=2,stages=3"]).refuses(2, "error: the knob `stages` is given twice");
    let want = "error: group_centric at stages = 4, warps = 4 needs 266240 bytes of shared memory, and a CTA of sm_80 may use \
                166912; fewer stages or smaller blocks fit";
    let large = ["nsa-selected", "--by-block", "0", "--block", "128", "--dim", "128", "--pick", "stages=4"];
    run(&large).refuses(2, want);
    lacuna(&[&["emit"], &large[..]].concat()).refuses(2, want);
}

#[test]
fn a_gpu_that_is_not_there() {
    let Some(why) = Device::no_cuda() else { return };
    for args in
        [&["run", "causal", "--device", "cuda"][..], &["run", "full", "--device", "cuda:3"], &["--device", "cuda"]]
    {
        let done = lacuna(args).ends(3);
        assert!(
            done.stderr.ends_with("  without a GPU: `--device emulator`\n") && done.stdout.is_empty(),
            "{}",
            done.stderr
        );
    }
    lacuna(&["run", "causal", "--device", "cuda"]).refuses(3, &format!("error: {why}"));
    lacuna(&["run", "causal"]).env("LACUNA_DEVICE", "cuda").refuses(3, &format!("error: {why}"));
    let json = lacuna(&["run", "causal", "--device", "cuda", "--json"]).ends(3).json();
    assert_eq!((&json["ok"], &json["error"]["kind"]), (&false.into(), &"device".into()));
    lacuna(&["run", "causal", "--device", "best", "--tokens", "40", "--heads", "1"]).ends(0);
}

#[test]
fn places_that_cannot_be_written() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "kept").unwrap();
    let (under, nowhere) = (file.join("out"), dir.path().join("nowhere").join("out"));
    let line = |path: &std::path::Path, why: &str| format!("error: cannot write {}: {why}", path.display());
    for (path, why) in [(&under, "not a directory"), (&nowhere, "there is no such directory")] {
        run(&["causal", "--tokens", "40", "-o", path.to_str().unwrap()]).refuses(2, &line(path, why));
        lacuna(&["emit", "causal", "-o", path.to_str().unwrap()]).refuses(2, &line(path, why));
    }
    lacuna(&["--device", "emulator", "--out", file.to_str().unwrap()]).ends(2);
    // A directory has the name: it stays, and nothing lies beside it.
    let taken = dir.path().join("taken");
    std::fs::create_dir(&taken).unwrap();
    run(&["causal", "--tokens", "40", "--heads", "1", "-o", taken.to_str().unwrap()]).ends(2);
    lacuna(&["emit", "causal", "-o", taken.to_str().unwrap()]).ends(2);
    // What was there before a failure is there after it.
    let old = dir.path().join("old");
    std::fs::write(&old, "before").unwrap();
    run(&["causal", "--heads", "7", "--kv-heads", "2", "-o", old.to_str().unwrap()]).ends(2);
    assert_eq!(std::fs::read_to_string(&old).unwrap(), "before");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "kept");
    assert_eq!(files_of(dir.path()), ["file", "old", "taken"]);
}

#[test]
fn keys_that_are_not_of_the_documents() {
    let want = "error: --keys has numbers for 1 document, and the draw has 2 documents";
    run(&["causal", "--docs", "70,33", "--keys", "200"]).refuses(2, want);
    let want = "error: --keys has numbers for 2 documents, and the draw has 1 document";
    run(&["causal", "--tokens", "70", "--keys", "200,100"]).refuses(2, want);
    // A picture has as many keys as queries.
    let dir = tempfile::tempdir().unwrap();
    let (path, picture) = (dir.path().join("in.safetensors"), dir.path().join("out.png"));
    let file = spoiled(|f| f.ints("cu_seqlens_k", &[3], &[0, 30, 90]));
    std::fs::write(&path, file).unwrap();
    let want = "error: in.safetensors has keys apart from its queries; pictures are of as many of both";
    lacuna(&["draw", "causal", "--input", path.to_str().unwrap(), "--output", picture.to_str().unwrap()])
        .refuses(2, want);
}
