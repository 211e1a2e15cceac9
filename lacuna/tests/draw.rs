//! `lacuna draw`: every pixel is what the reference's own mask, or the picks, say that it is.

mod common;

use std::path::Path;

use common::{Tensors, files_of, lacuna};
use half::bf16;
use image::RgbImage;
use lacuna::kernels::host::{Dims, Host};
use lacuna::kernels::inputs::{self, Locality};
use lacuna::kernels::reference::masks;
use lacuna::kernels::registry;

const BLUE: [u8; 3] = [38, 84, 140];
const AMBER: [u8; 3] = [240, 160, 48];
const GREY: [u8; 3] = [226, 230, 236];
const WHITE: [u8; 3] = [255, 255, 255];

fn picture(path: &Path) -> RgbImage {
    image::open(path).unwrap().into_rgb8()
}

/// The document that a token is of, and its place there.
fn place(token: u32, lengths: &[u32]) -> (usize, u32) {
    let mut first = 0;
    let document = lengths.iter().position(|len| {
        let here = token < first + len;
        first += if here { 0 } else { *len };
        here
    });
    (document.unwrap(), token - first)
}

#[test]
fn a_masks_blocks_are_whole_cut_or_skipped_as_the_reference_says() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("map.png");
    // From 960 tokens on, a pixel is a token.
    let lengths = [500, 0, 470];
    let (window, sink, rows, kv) = (130, 40, 64, 32);
    let sees = masks::window_sink(window, sink);
    let done = lacuna(&[
        "draw",
        "sink-window",
        "--window",
        "130",
        "--sink",
        "40",
        "--docs",
        "500,0,470",
        "--pick",
        "rows=64,kv=32",
        "-o",
        path.to_str().unwrap(),
    ])
    .ends(0);
    assert!(
        done.stdout.starts_with(&format!("{}: 64 queries by 32 keys, 970 tokens\n", path.display())),
        "{}",
        done.stdout
    );
    let picture = picture(&path);
    assert_eq!(picture.dimensions(), (970, 970));
    let mut seen = [0; 3];
    for (across, down, pixel) in picture.enumerate_pixels() {
        let ((q_doc, q), (k_doc, k)) = (place(down, &lengths), place(across, &lengths));
        if q_doc != k_doc {
            assert_eq!(pixel.0, WHITE, "query {down}, key {across}");
            continue;
        }
        let len = lengths[q_doc];
        let (first, block) = (q / rows * rows, k / kv * kv);
        let (last, end) = ((first + rows).min(len), (block + kv).min(len));
        // Cells leave a gap at the right and below.
        if q + 3 > last || k + 3 > end || (q, k) != (first, block) && (q % 7, k % 5) != (0, 0) {
            continue;
        }
        let kept = (first..last).flat_map(|q| (block..end).map(move |k| (q, k)));
        let kept = kept.filter(|&(q, k)| sees(q.into(), k.into())).count();
        let all = ((last - first) * (end - block)) as usize;
        let (which, want) = if kept == all {
            (0, BLUE)
        } else if kept > 0 {
            (1, AMBER)
        } else {
            (2, GREY)
        };
        seen[which] += 1;
        assert_eq!(pixel.0, want, "query {q}, key {k} of document {q_doc}: {kept} of {all} pairs count");
    }
    assert!(seen.iter().all(|&n| n > 100), "blue, amber, grey: {seen:?}");
}

/// 960 tokens in two documents, and picks for them.
fn picked(dir: &Path) -> (String, Host<i32>) {
    let cu_seqlens = inputs::cu_seqlens(&[600, 360]);
    let x = inputs::qkv::<bf16>(3, Dims { total: 960, keys: 960, hq: 2, hk: 1, dk: 32, dv: 32 });
    let picks = inputs::picks(5, &cu_seqlens, 1, 32, 5, Locality::PerToken);
    let mut file = Tensors::default();
    file.halves("q", &x.q);
    file.halves("k", &x.k);
    file.halves("v", &x.v);
    file.ints("cu_seqlens", &[3], &cu_seqlens);
    file.ints("picks", &picks.shape, &picks.data);
    let path = dir.join("in.safetensors");
    file.write(&path);
    (path.display().to_string(), picks)
}

#[test]
fn picked_blocks_are_the_picks() {
    let dir = tempfile::tempdir().unwrap();
    let (input, picks) = picked(dir.path());
    let path = dir.path().join("map.png");
    let args = ["draw", "nsa-selected", "--block", "32", "--input", &input, "-o", path.to_str().unwrap(), "--json"];
    let json = lacuna(&args).ends(0).json();
    assert_eq!(
        (&json["rows"], &json["keys"], &json["tokens"], &json["sequences"]),
        (&1.into(), &32.into(), &960.into(), &2.into())
    );
    let mut seen = [0; 3];
    for (across, down, pixel) in picture(&path).enumerate_pixels() {
        let ((q_doc, q), (k_doc, k)) = (place(down, &[600, 360]), place(across, &[600, 360]));
        let (block, own) = (k / 32, q / 32);
        let has = picks.row(down as usize, 0).contains(&(block as i32));
        let (which, want) = match (q_doc == k_doc, has && k <= q, block == 0 || block + 1 >= own) {
            (false, ..) => (2, WHITE),
            (_, false, _) => (2, GREY),
            (.., true) => (0, BLUE),
            (.., false) => (1, AMBER),
        };
        seen[which] += 1;
        assert_eq!(pixel.0, want, "query {q}, key {k} of document {q_doc}");
    }
    assert!(seen.iter().all(|&n| n > 1000), "forced, scored, others: {seen:?}");
}

#[test]
fn rectangles_are_those_of_the_pixels() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let draw = |kernel: &str, name: &str| {
        lacuna(&["draw", kernel, "--tokens", "960", "--seed", "4", "-o", &path(name)]).ends(0);
    };
    draw("nsa-selected", "map.png");
    draw("nsa-selected", "map.svg");
    let svg = std::fs::read_to_string(path("map.svg")).unwrap();
    assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>") && !svg.contains("<text"), "{}", &svg[..200]);
    let mut drawn = RgbImage::from_pixel(960, 960, image::Rgb(WHITE));
    for rectangle in svg.lines().filter(|line| line.starts_with("<rect")) {
        let value = |name: &str| rectangle.split_once(&format!("{name}=\"")).unwrap().1.split('"').next().unwrap();
        let number = |name: &str| value(&format!(" {name}")).parse::<u32>().unwrap();
        let hex = u32::from_str_radix(value(" fill").trim_start_matches('#'), 16).unwrap();
        let [_, colour @ ..] = hex.to_be_bytes();
        for x in number("x")..(number("x") + number("width")).min(960) {
            for y in number("y")..(number("y") + number("height")).min(960) {
                drawn.put_pixel(x, y, image::Rgb(colour));
            }
        }
    }
    // A rectangle of pixels has its far edge too: it differs there, and only there.
    let pixels = picture(Path::new(&path("map.png")));
    let differ = pixels.pixels().zip(drawn.pixels()).filter(|(a, b)| a != b).count();
    assert!(differ < 960 * 960 / 20, "{differ} pixels differ");
}

#[test]
fn every_kernel_can_be_drawn() {
    let dir = tempfile::tempdir().unwrap();
    for kernel in registry::KERNELS {
        let path = dir.path().join(format!("{}.svg", kernel.name));
        lacuna(&["draw", kernel.name, "--docs", "150,90", "-o", path.to_str().unwrap()]).ends(0);
        let svg = std::fs::read_to_string(&path).unwrap();
        assert!(svg.contains("#26548C") || svg.contains("#F0A030"), "{}: nothing is visited", kernel.name);
    }
}

#[test]
fn it_draws_a_real_models_documents_unless_told_otherwise() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("map.png");
    let done = lacuna(&["draw", "causal", "--json", "-o", path.to_str().unwrap()]).ends(0).json();
    assert_eq!((&done["tokens"], &done["sequences"]), (&1341.into(), &3.into()));
    assert_eq!((&done["rows"], &done["keys"]), (&done["pick"]["rows"], &done["pick"]["kv"]));
    assert_eq!(picture(&path).dimensions(), (1341, 1341));
}

#[test]
fn what_cannot_be_drawn_is_refused_and_leaves_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let refused = |args: &[&str], path: &str, want: &str| {
        lacuna(&[&["draw", "causal", "-o", path], args].concat()).refuses(2, &format!("error: {want}"));
    };
    let (pdf, png, svg) = (at("map.pdf"), at("map.png"), at("map.svg"));
    refused(&[], &pdf, &format!("{pdf}: a picture is a .png or an .svg"));
    refused(&[], &at("map"), &format!("{}: a picture is a .png or an .svg", at("map")));
    refused(&[], "/nowhere/map.png", "cannot write /nowhere/map.png: there is no such directory");
    refused(&["--tokens", "99999"], &png, "99999 tokens are too many to draw; at most 32768 are right for .png");
    refused(&["--tokens", "5000"], &svg, "5000 tokens are too many to draw; at most 4096 are right for .svg");
    refused(&["--pick", "rows=63"], &png, "the knob `rows` of query-major is 63; 128 or 64 is right");
    refused(&["--tokens", "9", "--docs", "9"], &png, "the argument '--tokens <N>' cannot be used with '--docs <N,..>'");
    let input = at("nothing.safetensors");
    refused(&["--input", &input], &png, &format!("{input}: cannot open: No such file or directory (os error 2)"));
    assert_eq!(files_of(dir.path()), [""; 0]);
}
