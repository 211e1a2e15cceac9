//! The checker of roles: what it refuses and with what words, and that no operation of order of a staged func can be left out,
//! doubled, moved or turned to another slot, phase or count without its notice.

mod mutants;
mod rules;

use lacuna_codegen::ir::{Func, read};
use lacuna_codegen::passes;

/// Causal attention, 128 rows a CTA, as it is staged.
const CAUSAL: &str = include_str!("causal.ir");

/// Its picks: the schedule, the stages of its loop, and its width.
fn causal(overlap: &str, stages: u32, width: u32) -> Func {
    picked(CAUSAL, overlap, stages, width)
}

/// The same with Q's rows said one by one: consumers copy them.
fn copied_q(overlap: &str, stages: u32) -> Func {
    let func = picked(&rows_of_q(), overlap, stages, 64);
    assert!(func.to_string().contains("publish"), "{func}");
    func
}

/// The same where CTAs do tile after tile: warps of the producer gather them.
fn gathered_q(overlap: &str, stages: u32, width: u32) -> Func {
    let func = picked(&rows_of_q(), &format!("{overlap} persist"), stages, width);
    assert!(func.persist && !func.to_string().contains("copy_async"), "{func}");
    func
}

/// The same where a round asks whether its block needs the mask: those that need none are rounds of their own.
fn asked(overlap: &str, stages: u32, width: u32) -> Func {
    let func = picked(&asking(), overlap, stages, width);
    assert!(func.to_string().contains("again %"), "{func}");
    func
}

/// Causal attention with its mask under a branch.
fn asking() -> String {
    let (var, scores) = ("  var %acc : f32<Q, Dv> = 0.0\n", "    %20 = dot %9 . %18 : f32<Q, Kv>\n");
    let masks = "    %29 = select %26, %20, %28 : f32<Q, Kv>\n";
    let (begin, end) = (CAUSAL.find(scores).expect("scores") + scores.len(), CAUSAL.find(masks).expect("a mask"));
    let asks = "    write %s = %20
    %60 = const 63
    %61 = add %16, %60 : i32
    %62 = le %61, %5 : bool
    %63 = not %62 : bool
    if %63 {
";
    let kept = "    %64 = read %s
    %65 = select %26, %64, %28 : f32<Q, Kv>
    write %s = %65
    }
    %29 = read %s
";
    let (before, mask, behind) = (&CAUSAL[..begin], &CAUSAL[begin..end], &CAUSAL[end + masks.len()..]);
    format!("{before}{asks}{mask}{kept}{behind}").replace(var, &format!("{var}  var %s : f32<Q, Kv> = 0.0\n"))
}

fn rows_of_q() -> String {
    let (along, rows) =
        ("  %9 = load q[%5, %1] rows token count %6 : bf16<Q, Dk>\n", "  %12 = add %10, %11 : i32<Q>\n");
    let gathered = format!("{rows}  %9 = load q[%12, %1] count %6 : bf16<Q, Dk>\n");
    CAUSAL.replace(along, "").replace(rows, &gathered)
}

fn picked(text: &str, overlap: &str, stages: u32, width: u32) -> Func {
    let text = text
        .replace("warps 4 {", &format!("warps 4 overlap {overlap} {{"))
        .replace("warps 4 overlap serial", "warps 4")
        .replace("pipelined 2", &format!("pipelined {stages}"))
        .replace("axis Dk = 64", &format!("axis Dk = {width}"))
        .replace("axis Dv = 64", &format!("axis Dv = {width}"));
    passed(&text).unwrap_or_else(|error| panic!("{overlap}, {stages} stages, width {width}: {error}"))
}

/// A staged func after all passes, the checker among them.
fn passed(text: &str) -> Result<Func, String> {
    let func = read(text).map_err(|error| format!("{error}\n{text}"))?;
    passes::ORDER.iter().try_fold(func, |func, (name, pass)| pass(func).map_err(|error| format!("{name}: {error}")))
}
