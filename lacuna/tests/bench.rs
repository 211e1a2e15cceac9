//! `lacuna bench`: what it times, what it draws of it, and what it says where there is no GPU.

mod common;

use common::lacuna;
use image::Rgb;
use lacuna::kernels::registry;
use lacuna::runtime::Device;

/// Small shapes of selected attention block by block, which is several launches.
const CHAIN: [&str; 15] = [
    "bench",
    "nsa-selected",
    "--by-block",
    "1",
    "--blocks",
    "3",
    "--tokens",
    "128,256",
    "--heads",
    "2",
    "--head-dim",
    "32",
    "--device",
    "emulator",
    "--json",
];

#[test]
fn without_a_gpu_it_says_so() {
    let Some(why) = Device::no_cuda() else { return };
    let done = lacuna(&["bench", "causal"]).refuses(3, &format!("error: there is no GPU to time `causal` on: {why}"));
    assert!(
        done.stderr.contains("--device emulator runs it here; its times say nothing of a GPU's"),
        "{}",
        done.stderr
    );
    let json = lacuna(&["bench", "causal", "--json"]).ends(3).json();
    assert_eq!((&json["ok"], &json["error"]["kind"]), (&false.into(), &"device".into()));
}

#[test]
fn every_launch_of_a_chain_has_its_time_beside_the_whole() {
    let done = lacuna(&CHAIN).ends(0).json();
    let rows = done["rows"].as_array().unwrap();
    assert_eq!(rows.iter().map(|row| row["tokens"].as_u64().unwrap()).collect::<Vec<_>>(), [128, 256]);
    for row in rows {
        let launches = row["launches"].as_array().unwrap();
        let names: Vec<&str> = launches.iter().map(|launch| launch["launch"].as_str().unwrap()).collect();
        assert_eq!((names[names.len() - 2], names[names.len() - 1]), ("block_major", "merge"), "{names:?}");
        assert!(names.len() > 4 && launches.iter().all(|launch| launch["milliseconds"].as_f64() > Some(0.0)));
        let parts = launches.iter().map(|launch| launch["milliseconds"].as_f64().unwrap());
        assert!(parts.sum::<f64>() > 0.0 && row["milliseconds"].as_f64() > Some(0.0));
        // 3 of 4 blocks of 64 keys, each token counting whole blocks: 1, 2, 3, 3 for the longer one.
        let blocks = if row["tokens"] == 128 { 64 * 3 } else { 64 * 9 };
        assert_eq!(row["flops"].as_f64(), Some(f64::from(4 * 2 * 32 * 64 * blocks)));
        assert!(row["share_of_floor"].as_f64().unwrap() > 0.0 && row["workspace_bytes"].as_u64() > Some(0));
    }
}

#[test]
fn a_table_has_a_row_for_each_shape_and_each_launch() {
    let text = lacuna(&CHAIN[..CHAIN.len() - 1]).ends(0).stdout;
    let row = |start: &str| {
        let found = text.lines().find(|line| line.trim_start().starts_with(&format!("{start} ")));
        found.unwrap_or_else(|| panic!("no line begins with {start}: {text}")).split_whitespace().collect::<Vec<_>>()
    };
    assert!(text.starts_with("nsa-selected: block-major, sm_80\n"), "{text}");
    assert!(text.contains("the host's clock, one run on the emulator"), "{text}");
    assert_eq!(row("launch"), ["launch", "128", "256"]);
    for launch in ["block_major", "merge", "sum", "whole"] {
        let cells = row(launch);
        assert!(cells.len() == 3 && cells[1..].iter().all(|cell| cell.parse::<f64>().unwrap() > 0.0), "{cells:?}");
    }
    assert_eq!(row("tokens")[..4], ["tokens", "runs", "time", "±"]);
    assert_eq!(row("256")[1], "1");
}

/// Tokens in two chunks, KV heads in two: what is launched for each of them is one line. JSON has every launch.
#[test]
fn launches_that_come_again_are_one_line_of_the_table() {
    let args = ["bench", "moba", "--tokens", "128,256", "--block", "32", "--top-k", "2", "--heads", "2"];
    let chunks = ["--head-dim", "32", "--head-chunks", "2", "--token-chunks", "2", "--device", "emulator"];
    let args = [&args[..], &chunks].concat();
    let text = lacuna(&args).ends(0).stdout;
    let of = |step: &str| -> Vec<Vec<&str>> {
        let words = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        words.filter(|words| words.first() == Some(&step)).collect()
    };
    for (step, times) in [("moba_route", None), ("chosen_blocks", Some("(4)")), ("own_and_parts", Some("(4)"))] {
        let [line] = &of(step)[..] else { panic!("{step} is not one line: {text}") };
        let said: Vec<&str> = line.iter().copied().filter(|word| word.starts_with('(')).collect();
        assert_eq!(said, times.map_or(vec![], |times| vec![times; 2]), "{text}");
    }
    assert!(text.contains("(n): so many launches of one entry, added up"), "{text}");
    let json = lacuna(&[&args[..], &["--json"]].concat()).ends(0).json();
    let launches = json["rows"][1]["launches"].as_array().unwrap().iter();
    let names: Vec<&str> = launches.map(|launch| launch["launch"].as_str().unwrap()).collect();
    let blocks: Vec<&str> = names.iter().copied().filter(|name| name.starts_with("chosen_blocks")).collect();
    assert_eq!(blocks, ["chosen_blocks", "chosen_blocks 2", "chosen_blocks 3", "chosen_blocks 4"]);
}

/// The line of the whole is above that of the floor, which the emulator does not reach.
#[test]
fn the_picture_shows_the_whole_and_the_floor() {
    let dir = tempfile::tempdir().unwrap();
    let (png, svg) = (dir.path().join("times.png"), dir.path().join("times.svg"));
    for path in [&png, &svg] {
        let args =
            ["bench", "window", "--tokens", "64,256", "--heads", "1", "--head-dim", "32", "--device", "emulator"];
        let done = lacuna(&[&args[..], &["--picture", path.to_str().unwrap()]].concat()).ends(0);
        assert!(done.stdout.ends_with(&format!("{}: time against tokens\n", path.display())), "{}", done.stdout);
    }
    let picture = image::open(&png).unwrap().into_rgb8();
    assert_eq!(picture.dimensions(), (1280, 800));
    let rows_of = |colour: [u8; 3]| {
        let drawn = picture.enumerate_pixels().filter(|(x, _, pixel)| (150..850).contains(x) && **pixel == Rgb(colour));
        drawn.map(|(_, y, _)| y).filter(|y| (60..=720).contains(y)).collect::<Vec<_>>()
    };
    let (whole, floor) = (rows_of([24, 28, 36]), rows_of([140, 146, 158]));
    assert!(whole.len() > 500 && floor.len() > 500, "{} and {}", whole.len(), floor.len());
    assert!(whole.iter().max() < floor.iter().min(), "the whole is slower than the floor everywhere");
    let text = std::fs::read_to_string(&svg).unwrap();
    assert!(text.contains("<polyline") && text.contains("#181C24"), "{}", &text[..400]);
}

#[test]
fn help_names_every_option_with_its_default() {
    let help = lacuna(&["bench", "--help"]).ends(0).stdout;
    for (option, default) in [
        ("--tokens <N,..>", "[default: 8k,32k]"),
        ("--batch <N>", "[default: 1]"),
        ("--heads <N>", "[default: 16]"),
        ("--kv-heads <N>", "[default: as many as query heads]"),
        ("--head-dim <N>", "[default: 128]"),
        ("--dtype <DTYPE>", "[default: bf16]"),
        ("--rounds <N>", "[default: 20]"),
        ("--picture <FILE>", "both logarithmic"),
        ("--json", "Print JSON"),
    ] {
        let said = help.split(option).nth(1).unwrap_or_else(|| panic!("no {option}: {help}"));
        let said = said.split("\n      --").next().unwrap();
        assert!(said.contains(default), "{option}: {said}");
    }
    assert!(registry::settings().iter().all(|setting| help.contains(&format!("--{} <N>", setting.name))));
}

#[test]
fn every_kernel_can_be_timed() {
    for kernel in registry::KERNELS {
        let args = ["bench", kernel.name, "--tokens", "96", "--batch", "2", "--heads", "2", "--kv-heads", "1"];
        let done =
            lacuna(&[&args[..], &["--head-dim", "32", "--device", "emulator", "--json"]].concat()).ends(0).json();
        assert!(done["rows"][0]["milliseconds"].as_f64() > Some(0.0), "{}", kernel.name);
    }
}

#[test]
fn what_cannot_be_timed() {
    let on = |args: &[&str]| lacuna(&[&["bench", "causal", "--device", "emulator"], args].concat());
    let said = on(&["--tokens", "0"]).ends(2).stderr;
    assert!(said.contains("'0' for '--tokens <N,..>': a number of tokens is right, such as 8192, 8k or 1m"), "{said}");
    assert!(on(&["--rounds", "0"]).ends(2).stderr.contains("'0' for '--rounds <N>'"));
    on(&["--heads", "3", "--kv-heads", "2"]).refuses(
        2,
        "error: 3 query heads cannot be shared out evenly over 2 KV heads; the query heads must be a multiple of the KV heads",
    );
    on(&["--tokens", "2m", "--batch", "1024"])
        .refuses(2, "error: q has 2147483648 tokens; at most 2147483647 can be counted in i32 cu_seqlens");
    on(&["--picture", "times.jpg"]).refuses(2, "error: times.jpg: a picture is a .png or an .svg");
}
