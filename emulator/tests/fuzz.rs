//! Whatever the text, reading it, decoding it and running it end in a result or a report, never in a panic.
//!
//! Inputs are drawn anew from a fixed seed, so that a run repeats; `PROPTEST_CASES` and `PROPTEST_RNG_SEED` ask for others. What
//! failed once is a file in `tests/corpus` and runs first.

#[path = "common/small.rs"]
mod small;

use lacuna_emulator::{Arg, Launch, Memory, Options, Program, Swizzle, TensorDim, TensorElem, TensorMap, run};
use lacuna_ptx::ParamType;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed};

const REAL: [&str; 6] = [
    include_str!("../../ptx/tests/kernels/gqa16.ptx"),
    include_str!("../../ptx/tests/kernels/gqa16_masked.ptx"),
    include_str!("../../ptx/tests/kernels/gqa16_overlaid.ptx"),
    include_str!("../../ptx/tests/kernels/product_sm90a.ptx"),
    include_str!("../../ptx/tests/kernels/forward_d128.ptx"),
    include_str!("../../ptx/tests/kernels/gather.ptx"),
];

/// A map of 128 rows of 128 elements, under two more dimensions or not.
fn map(memory: &Memory, deep: bool) -> TensorMap {
    let base = memory.alloc(1 << 15);
    memory.write(base, &[0; 1 << 15]).expect("it was just allocated");
    let dim = |extent, stride, tile| TensorDim { extent, stride, tile };
    let mut dims = vec![dim(128, 2, 64), dim(128, 256, 128)];
    if deep {
        dims.extend([dim(2, 256, 1), dim(1, 1 << 15, 1)]);
    }
    TensorMap { base, elem: TensorElem::Bf16, dims, swizzle: Swizzle::B128 }
}

/// Loads a text and runs every kernel of it on a little memory. The result is whatever it is.
fn feed(text: &str) {
    let Ok(program) = Program::from_text(text) else { return };
    let Ok(module) = lacuna_ptx::read(text) else { return };
    for entry in &module.entries {
        let memory = Memory::new();
        let arg = |ty: ParamType| match ty {
            ParamType::U32 => Arg::U32(2),
            ParamType::U64 => {
                let at = memory.alloc(1 << 14);
                memory.write(at, &[0; 1 << 14]).map_or(Arg::U64(0), |()| Arg::U64(at))
            }
            ParamType::F32 => Arg::F32(1.0),
            ParamType::Bytes { bytes: 128, align: 64 } => Arg::TensorMap(map(&memory, entry.name.contains("fa_fwd"))),
            ParamType::Bytes { bytes, .. } => Arg::Bytes(vec![0; bytes as usize]),
        };
        let args: Vec<Arg> = entry.params.iter().map(|param| arg(param.ty)).collect();
        let most = entry.limits.required_threads.or(entry.limits.max_threads);
        let block = most.filter(|_| text.contains("wgmma")).or(entry.limits.required_threads).unwrap_or([128, 1, 1]);
        let shared = if text.contains("wgmma") { 170_000 } else { 80_000 };
        let launch = Launch { entry: &entry.name, grid: [2, 1, 1], block, shared, args: &args };
        let options = Options { threads: 1, max_instructions: Some(20_000), ..Options::default() };
        let _ = run(&program, &launch, &memory, &options);
    }
}

#[test]
fn the_corpus_ends_in_results_and_reports() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty());
    for file in files {
        feed(&String::from_utf8_lossy(&std::fs::read(&file).unwrap()));
    }
}

/// Words of PTX, some of them in no order that is any.
fn soup() -> impl Strategy<Value = String> {
    let operands =
        ["%r0", "%r31", "%f1", "%d0", "%d1", "%d2", "%p0", "%h1", "smem", "[%d1]", "[%d2+4]", "[%r10]", "%tid.x"];
    let numbers =
        ["0", "-1", "4294967295", "0x80000000", "0f7f800000", "18446744073709551615", "{%r1, %r2}", "{%h0, %h1}"];
    let forms: Vec<String> = lacuna_ptx::Form::all().map(|form| form.to_string()).collect();
    let operand =
        prop_oneof![3 => prop::sample::select(operands.to_vec()), 1 => prop::sample::select(numbers.to_vec())];
    let line = (prop::option::of(prop::sample::select(vec!["@%p0 ", "@!%p1 ", "L: "])), prop::sample::select(forms));
    let line = (line, prop::collection::vec(operand, 0..5))
        .prop_map(|((before, form), operands)| format!("{}{form} {};\n", before.unwrap_or(""), operands.join(", ")));
    prop::collection::vec(line, 1..6)
        .prop_map(|lines| small::module(&format!("mov.u32 %r10, smem;\n{}", lines.concat())))
}

/// A real kernel with lines lost, doubled and swapped, and characters changed.
fn mutated() -> impl Strategy<Value = String> {
    let change = (0u8..5, any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<char>());
    (0..REAL.len(), prop::collection::vec(change, 1..5)).prop_map(|(real, changes)| {
        let mut lines: Vec<String> = REAL[real].lines().map(str::to_owned).collect();
        for (how, a, b, with) in changes {
            let (a, b) = (a.index(lines.len()), b.index(lines.len()));
            match how {
                0 => drop(lines.remove(a)),
                1 => lines.insert(a, lines[b].clone()),
                2 => lines.swap(a, b),
                3 => {
                    let digits: String = lines[a].chars().map(|c| if c.is_ascii_digit() { '7' } else { c }).collect();
                    lines[a] = digits;
                }
                _ => lines[a].push(with),
            }
        }
        lines.join("\n")
    })
}

fn config(cases: u32) -> Config {
    let seed =
        if std::env::var_os("PROPTEST_RNG_SEED").is_some() { Config::default().rng_seed } else { RngSeed::Fixed(1) };
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() { Config::default().cases } else { cases };
    Config { cases, rng_seed: seed, failure_persistence: None, ..Config::default() }
}

proptest! {
    #![proptest_config(config(300))]

    #[test]
    fn bytes_end_in_results_and_reports(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        feed(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn words_in_any_order_end_in_results_and_reports(text in soup()) {
        feed(&text);
    }

    #[test]
    fn mutated_kernels_end_in_results_and_reports(text in mutated()) {
        feed(&text);
    }
}
