//! Real kernels with lines lost, doubled and swapped: every one runs, faults, or is refused; none panics or hangs.

mod common;

use common::{Case, Draw, SHARED};
use lacuna_emulator::{Options, Program};

#[test]
fn mutants_do_not_panic() {
    let case = Case::draw(1, 3, 3, true, 9);
    let options = Options { threads: 1, max_instructions: Some(50_000), ..Options::default() };
    let mut draw = Draw(42);
    let (mut ran, mut faulted, mut refused) = (0, 0, 0);
    for _ in 0..200 {
        let mut lines: Vec<&str> = include_str!("../../ptx/tests/kernels/gqa16_masked.ptx").lines().collect();
        for _ in 0..1 + draw.next() % 4 {
            // The head and the declarations stay.
            let mut at = || 21 + (draw.next() % (lines.len() as u64 - 22)) as usize;
            let (a, b) = (at(), at());
            match draw.next() % 3 {
                0 => drop(lines.remove(a)),
                1 => lines.insert(a, lines[b]),
                _ => lines.swap(a, b),
            }
        }
        let text = lines.join("\n");
        match Program::from_text(&text) {
            Err(_) => refused += 1,
            Ok(_) => match case.run(&text, SHARED, &options) {
                Ok(_) => ran += 1,
                Err(_) => faulted += 1,
            },
        }
    }
    // A lost instruction is found more often than not.
    assert!(ran > 10 && faulted > 100, "{ran} ran, {faulted} faulted, {refused} were refused");
}
