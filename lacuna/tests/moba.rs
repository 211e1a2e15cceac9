//! `lacuna run moba` and what goes with it: attention given a routing, the routing that it makes, what it refuses, what
//! it draws.

mod common;

use common::{Call, Tensors, lacuna, stored};
use half::bf16;
use lacuna::kernels::host::{Dims, Host, Precision};
use lacuna::kernels::inputs::{self, Qkv, Route};
use lacuna::kernels::reference::moba::{self, MobaConfig, Routed, Sides};
use lacuna::kernels::reference::{self, Problem, masks};
use lacuna::kernels::tolerance::{self, Verdicts};
use tempfile::TempDir;

/// 300 tokens in documents of 200, 0 and 100; 4 query heads over 2 KV heads.
struct Case {
    qkv: Qkv<bf16>,
    cu_seqlens: Vec<i32>,
}

const CONFIG: MobaConfig = MobaConfig { block: 32, top: 3, rule: moba::Rule::Past };

/// Blocks of 32 keys, 3 to a row.
const OPTIONS: [&str; 5] = ["moba", "--block", "32", "--top-k", "3"];

fn case() -> Case {
    let dims = Dims { total: 300, keys: 300, hq: 4, hk: 2, dk: 64, dv: 64 };
    Case { qkv: inputs::qkv(9, dims), cu_seqlens: inputs::cu_seqlens(&[200, 0, 100]) }
}

impl Case {
    fn file(&self) -> Tensors {
        let mut file = Tensors::default();
        file.halves("q", &self.qkv.q);
        file.halves("k", &self.qkv.k);
        file.halves("v", &self.qkv.v);
        file.ints("cu_seqlens", &[self.cu_seqlens.len()], &self.cu_seqlens);
        file
    }

    fn sides(&self) -> Sides<'_> {
        Sides::same(&self.cu_seqlens)
    }

    fn drawn(&self) -> Host<i32> {
        inputs::routing(3, &self.cu_seqlens, &self.cu_seqlens, 4, 32, 3, Route::Random)
    }

    fn problem(&self) -> Problem<'_, bf16> {
        let (cu_seqlens, cu_seqlens_k) = (&self.cu_seqlens[..], &self.cu_seqlens[..]);
        Problem { q: &self.qkv.q, k: &self.qkv.k, v: &self.qkv.v, cu_seqlens, cu_seqlens_k, scale: 0.125 }
    }

    /// The verdicts on a result, given a routing.
    fn verdicts(&self, (o, lse): &(Vec<f32>, Vec<f32>), routing: &Host<i32>, full: Option<&[i32]>) -> Verdicts {
        let (p, routed) = (self.problem(), Routed { routing, config: CONFIG, full_heads: full });
        let (right, plain) = (moba::attention(&p, &routed, None), tolerance::plain_routed(&p, &routed, None));
        tolerance::check_attention(o, lse, &right, &plain, Precision::Bf16)
    }
}

/// `lacuna run moba` on a file.
fn on(dir: &TempDir, file: &Tensors, args: &[&str]) -> Call {
    let (input, output) = (dir.path().join("in.safetensors"), dir.path().join("out.safetensors"));
    file.write(&input);
    let files = ["--device", "emulator", "--input", input.to_str().unwrap(), "-o", output.to_str().unwrap()];
    lacuna(&[&["run"], args, &files[..]].concat())
}

fn result(dir: &TempDir) -> (Vec<f32>, Vec<f32>) {
    stored(&dir.path().join("out.safetensors"))
}

#[test]
fn a_routing_of_the_file_is_attended_by() {
    let (dir, case) = (tempfile::tempdir().unwrap(), case());
    let routing = case.drawn();
    let mut file = case.file();
    file.ints("routing", &routing.shape, &routing.data);
    for more in [&[][..], &["--head-chunks", "2", "--token-chunks", "3"], &["--pick", "rows=64,kv=16,own_rows=64"]] {
        let done = on(&dir, &file, &[&OPTIONS[..], more, &["--checked"]].concat()).ends(0);
        assert!(done.stdout.contains("chosen_blocks"), "{}", done.stdout);
        let found = result(&dir);
        assert!(case.verdicts(&found, &routing, None).ok(), "{more:?}: {}", case.verdicts(&found, &routing, None));
        let mut other = routing.clone();
        other.row_mut(199, 2)[1..].copy_from_slice(&[-1, -1]);
        assert!(!case.verdicts(&found, &other, None).o.ok, "{more:?}: the blocks of one row are seen");
    }
}

#[test]
fn without_a_routing_the_gate_makes_one_which_is_checked() {
    let (dir, case) = (tempfile::tempdir().unwrap(), case());
    let done = on(&dir, &case.file(), &[&OPTIONS[..], &["--checked", "--json"]].concat()).ends(0).json();
    assert_eq!(
        (&done["compared"]["routing"]["ok"], &done["compared"]["routing"]["rows"]),
        (&true.into(), &1200.into())
    );
    assert!(done["workspace_bytes"].as_u64() > Some(0), "{done}");
    let routing = moba::route(&case.qkv.q, &case.qkv.k, case.sides(), CONFIG);
    let verdicts = case.verdicts(&result(&dir), &routing, None);
    assert!(verdicts.ok(), "{verdicts}");
    on(&dir, &case.file(), &[&OPTIONS[..], &["--own-fused", "0"]].concat()).ends(0);
    let verdicts = case.verdicts(&result(&dir), &routing, None);
    assert!(verdicts.ok(), "the own block is a part: {verdicts}");
    let text = on(&dir, &case.file(), &OPTIONS).ends(0).stdout;
    assert!(text.contains("routing   that of its scores in f64, up to near ties: 1200 rows\n"), "{text}");
    assert!(text.contains(" bytes of workspace\n"), "{text}");
}

#[test]
fn full_heads_see_everything_before_them() {
    let (dir, case) = (tempfile::tempdir().unwrap(), case());
    let routing = moba::route(&case.qkv.q, &case.qkv.k, case.sides(), CONFIG);
    let (first, third) = ([1, 0, 0, 0], [0, 0, 1, 0]);
    on(&dir, &case.file(), &[&OPTIONS[..], &["--full-heads", "1"]].concat()).ends(0);
    let found = result(&dir);
    assert!(case.verdicts(&found, &routing, Some(&first)).ok(), "{}", case.verdicts(&found, &routing, Some(&first)));
    assert!(!case.verdicts(&found, &routing, None).o.ok);
    let mut file = case.file();
    file.ints("full_heads", &[4], &third);
    on(&dir, &file, &[&OPTIONS[..], &["--full-heads", "1"]].concat()).ends(0);
    assert!(case.verdicts(&result(&dir), &routing, Some(&third)).ok(), "the file says which");
    let given = case.drawn();
    file.ints("routing", &given.shape, &given.data);
    on(&dir, &file, &[&OPTIONS[..], &["--full-heads", "1", "--checked"]].concat()).ends(0);
    assert!(case.verdicts(&result(&dir), &given, Some(&third)).ok(), "given a routing too");
}

/// Fewer queries than keys are the last ones; of more the first see nothing. The routing is compared too.
#[test]
fn queries_and_keys_may_be_of_other_lengths() {
    let args =
        ["--docs", "150,0,90,30", "--keys", "310,20,40,0", "--heads", "4", "--kv-heads", "2", "--device", "emulator"];
    let done = lacuna(&[&["run"], &OPTIONS[..], &args, &["--checked", "--json"]].concat()).ends(0).json();
    assert_eq!((&done["ok"], &done["compared"]["routing"]["rows"]), (&true.into(), &1080.into()), "{done}");
    assert_eq!(done["schedule"], "chosen-blocks", "310 keys are more than 96");
    let args = ["--docs", "150,0", "--keys", "90,20", "--heads", "4", "--device", "emulator", "--json"];
    let done = lacuna(&[&["run"], &OPTIONS[..], &args].concat()).ends(0).json();
    assert_eq!((&done["ok"], &done["schedule"]), (&true.into(), &"query-major".into()), "90 keys are not, {done}");
}

#[test]
fn where_every_block_may_be_seen_it_is_causal_attention() {
    let (dir, case) = (tempfile::tempdir().unwrap(), case());
    let text = on(&dir, &case.file(), &["moba", "--block", "32", "--top-k", "7"]).ends(0).stdout;
    assert!(text.starts_with("moba: query-major, ") && !text.contains("routing"), "{text}");
    let p = case.problem();
    let (right, plain) = (reference::attention(&p, &masks::causal), tolerance::plain_attention(&p, &masks::causal));
    let (o, lse) = result(&dir);
    assert!(tolerance::check_attention(&o, &lse, &right, &plain, Precision::Bf16).ok());
    let text = on(&dir, &case.file(), &["moba", "--block", "32", "--top-k", "6"]).ends(0).stdout;
    assert!(text.starts_with("moba: chosen-blocks, "), "192 of 200 keys are not every block: {text}");
}

#[test]
fn what_is_no_moba_is_refused_and_nothing_runs() {
    let (dir, case) = (tempfile::tempdir().unwrap(), case());
    let refused = |spoil: &dyn Fn(&mut Tensors), args: &[&str], want: &str| {
        let mut file = case.file();
        spoil(&mut file);
        on(&dir, &file, &[&["moba"], args].concat()).refuses(2, &format!("error: {want}"));
        assert!(!dir.path().join("out.safetensors").exists(), "{want}: something ran");
    };
    let drawn = |shape: [usize; 3]| inputs::normal::<bf16, 3>(1, shape, 1.0);
    let nothing = |_: &mut Tensors| ();
    for block in ["0", "100"] {
        let want = format!(
            "invalid value '{block}' for '--block <N>': 16, 32, 64 or 128, or a multiple of 16 from 32 on is right"
        );
        refused(&nothing, &["--block", block], &want);
    }
    refused(&nothing, &["--block", "16"], "`block` of `moba` is 16; a multiple of 16 from 32 on is right");
    for top in ["0", "65"] {
        refused(&nothing, &["--top-k", top], &format!("invalid value '{top}' for '--top-k <N>': 1 to 64 is right"));
    }
    let want = "cu_seqlens falls from 90 to 57 at entry 2; it must never fall (equal entries are an empty sequence)";
    refused(&|f| f.ints("cu_seqlens", &[4], &[0, 90, 57, 300]), &[], want);
    let want = "cu_seqlens ends with 290; it must end with 300, the tokens of the tensors";
    refused(&|f| f.ints("cu_seqlens", &[3], &[0, 57, 290]), &[], want);
    let want = "the heads of k are 32 wide and those of q 64; both must be equally wide";
    refused(&|f| f.halves("k", &drawn([300, 2, 32])), &[], want);
    let want =
        "4 query heads cannot be shared out evenly over 3 KV heads; the query heads must be a multiple of the KV heads";
    refused(
        &|f| {
            f.halves("k", &drawn([300, 3, 64]));
            f.halves("v", &drawn([300, 3, 64]));
        },
        &[],
        want,
    );
    refused(&|f| f.floats("q", &[300, 4, 64], 1.0), &[], "q is f32; it must be bf16 or f16");

    let routing = |shape: &'static [usize], value: i32| {
        move |f: &mut Tensors| f.ints("routing", shape, &vec![value; shape.iter().product()])
    };
    let options = &OPTIONS[1..];
    let want = "routing has 2 dimensions, [300, 12]; it needs 3: [tokens, query heads, top-k]";
    refused(&routing(&[300, 12], 0), options, want);
    let want = "routing has 299 tokens and q has 300; both must have the same number";
    refused(&routing(&[299, 4, 3], 0), options, want);
    let want = "routing has 2 query heads and q has 4; both must have the same number";
    refused(&routing(&[300, 2, 3], 0), options, want);
    let want = "routing has 2 blocks a row, and top-k is 3; both must be the same";
    refused(&routing(&[300, 4, 2], 0), options, want);
    let checked = [options, &["--checked"]].concat();
    let want = "routing[0, 0, 1] is 0; the row's own block is 0, so -1 alone is right";
    refused(&routing(&[300, 4, 3], 0), &checked, want);
    let want = "full_heads is given, and nothing reads it: full-heads must be 1 or more";
    refused(&|f| f.ints("full_heads", &[4], &[1, 0, 0, 0]), options, want);
    let full = [options, &["--full-heads", "1"]].concat();
    let want = "full_heads[2] is 3; 1 is a full head, 0 is none";
    refused(&|f| f.ints("full_heads", &[4], &[1, 0, 3, 0]), &full, want);
    let five = [options, &["--full-heads", "5"]].concat();
    refused(&nothing, &five, "5 heads are to be full, and there are 4; 0 to 4 is right");
}

/// From 960 tokens on, a pixel is a token.
#[test]
fn the_routing_is_drawn() {
    let dir = tempfile::tempdir().unwrap();
    let dims = Dims { total: 960, keys: 960, hq: 2, hk: 1, dk: 32, dv: 32 };
    let case = Case { qkv: inputs::qkv(5, dims), cu_seqlens: inputs::cu_seqlens(&[600, 360]) };
    let config = MobaConfig::new(48, 3);
    let path = dir.path().join("map.png");
    let draw = |file: &Tensors| {
        let input = dir.path().join("in.safetensors");
        file.write(&input);
        let files = ["--input", input.to_str().unwrap(), "-o", path.to_str().unwrap()];
        let done = lacuna(&[&["draw", "moba", "--block", "48", "--top-k", "3"], &files[..]].concat()).ends(0);
        assert!(done.stdout.contains(": 1 query by 48 keys, 960 tokens\n"), "{}", done.stdout);
        image::open(&path).unwrap().into_rgb8()
    };
    let given = inputs::routing(4, &case.cu_seqlens, &case.cu_seqlens, 2, 48, 3, Route::Random);
    let mut with = case.file();
    with.ints("routing", &given.shape, &given.data);
    let scored = moba::route(&case.qkv.q, &case.qkv.k, case.sides(), config);
    assert_ne!(given, scored);
    for (file, routing) in [(&case.file(), &scored), (&with, &given)] {
        let mut seen = [0; 4];
        for (across, down, pixel) in draw(file).enumerate_pixels() {
            let place = |token: u32| if token < 600 { (0, token) } else { (1, token - 600) };
            let ((q_doc, q), (k_doc, k)) = (place(down), place(across));
            let chosen = routing.row(down as usize, 0).contains(&((k / 48) as i32));
            let (which, want) = match (q_doc == k_doc, k <= q && chosen, k / 48 == q / 48) {
                (false, ..) => (0, [255, 255, 255]),
                (_, false, _) => (1, [226, 230, 236]),
                (.., true) => (2, [38, 84, 140]),
                (.., false) => (3, [240, 160, 48]),
            };
            seen[which] += 1;
            assert_eq!(pixel.0, want, "query {q}, key {k} of document {q_doc}");
        }
        assert!(seen.iter().all(|&n| n > 1000), "{seen:?}");
    }
}

/// 2 x 64k tokens of 16 heads have more parts than 2 GB hold; 512 tokens are covered by 8 blocks of 128.
#[test]
fn ptx_for_a_launch_is_in_the_chunks_that_it_takes() {
    let launches = |docs: &str, more: &[&str]| {
        let args = ["emit", "moba", "--target", "sm_90", "--json", "--docs", docs, "--heads", "16"];
        let emitted = lacuna(&[&args[..], more].concat()).ends(0).json();
        let entries = emitted["launches"].as_array().unwrap().clone();
        entries.iter().map(|launch| launch["entry"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let chunks = |entries: &[String]| entries.iter().filter(|entry| *entry == "chosen_blocks").count();
    assert!(chunks(&launches("65536,65536", &[])) > 1);
    assert_eq!(chunks(&launches("65536,65536", &["--workspace", "8000"])), 1);
    assert_eq!(chunks(&launches("65536,65536", &["--head-chunks", "3", "--token-chunks", "2"])), 6);
    assert_eq!(launches("512,100", &[]), ["query_major"]);
    lacuna(&["emit", "moba", "--docs", "64", "--heads", "3", "--group", "2"])
        .refuses(2, "error: --heads is 3; a multiple of --group, 2, is right");
}

/// Its launches have knobs of their own: all of them together are too many.
#[test]
fn picks_are_shown_one_knob_at_a_time() {
    let shown = lacuna(&["emit", "moba", "--space", "--json", "--dim", "64"]).ends(0).json();
    let picks = shown["picks"].as_array().unwrap();
    let default = picks[0]["pick"].as_object().unwrap();
    assert!(picks.len() > default.len() && (picks.len() as u64) < shown["of"].as_u64().unwrap());
    for row in &picks[1..] {
        let pick = row["pick"].as_object().unwrap();
        assert_eq!(pick.iter().filter(|(knob, value)| default[*knob] != **value).count(), 1, "{row}");
        assert!(row["threads"].as_u64() > Some(0) || row["error"].is_string(), "{row}");
    }
    let text = lacuna(&["emit", "moba", "--space", "--dim", "64"]).ends(0).stdout;
    let last = format!("the default pick and those that differ from it in one knob, of {} picks\n", shown["of"]);
    assert!(text.ends_with(&last), "{text}");
}

#[test]
fn ptx_and_floors_of_every_step_are_there() {
    let emitted = lacuna(&["emit", "moba", "--dim", "64", "--block", "64", "--json"]).ends(0).json();
    let entries: Vec<&str> =
        emitted["launches"].as_array().unwrap().iter().map(|launch| launch["entry"].as_str().unwrap()).collect();
    for entry in ["moba_pool", "moba_route", "chosen_blocks", "own_and_parts"] {
        assert!(entries.contains(&entry), "{entries:?}");
    }
    assert!(emitted["tensors"].as_array().unwrap().iter().all(|tensor| tensor["name"] != "routing"));
    let found =
        lacuna(&["inspect", "moba", "--block", "512", "--top-k", "3", "--tokens", "32768", "--json"]).ends(0).json();
    // 64 blocks: their triangles, and 1 and then 2 whole ones; the gate scores 32256 / 2 blocks a token of 512 in the
    // mean.
    let (own, whole, gate) = (64.0 * 512.0 * 513.0 / 2.0, 125.0 * 512.0 * 512.0, 512.0 * 64.0 * 63.0 / 2.0);
    let want = 2.0 * 16.0 * 128.0 * (2.0 * (own + whole) + gate);
    assert_eq!(found["launch"]["flops"].as_f64(), Some(want));
    assert!(found["workspace_bytes"].as_u64() > Some(0), "{found}");
}
