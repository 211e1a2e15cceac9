//! What must hold of the PTX that ships.

use lacuna_dsl::Target;
use lacuna_kernels::registry;
use lacuna_tests::widths;
use rayon::prelude::*;

use crate::kernels::{
    TARGETS, assembled, attention, attention_of, default_pick, group, kernels, picks, plan, text, written,
};

#[test]
fn no_default_pick_spills() {
    let shapes = || widths().map(|width| (width, width)).into_iter().chain([(192, 128)]);
    let mut all = Vec::new();
    for (kernel, shape) in kernels().flat_map(|kernel| shapes().map(move |shape| (kernel, shape))) {
        all.extend(TARGETS.map(|target| (kernel, shape, group(kernel), target)));
        // Other groups change the text little, and take turns with the targets.
        let groups: &[u32] = if kernel.name == "nsa-selected" { &[1, 4, 32, 48, 64] } else { &[1, 7, 16] };
        let turns = groups.iter().zip(TARGETS.iter().cycle().skip(all.len() / 5));
        all.extend(turns.map(|(&group, &target)| (kernel, shape, group, target)));
    }
    let spilling = |&(kernel, (dk, dv), group, target): &(&'static registry::Kernel, (u32, u32), u32, Target)| {
        let attention = attention_of(kernel, dk, dv, group);
        let pick = default_pick(&attention, target);
        let plan = plan(&attention, target, &pick).expect("the default pick fits");
        let used = assembled(&plan);
        let (spills, stack) = (used.spill_stores + used.spill_loads, used.stack);
        let what = || {
            let name = kernel.name;
            let bytes = format!("{spills} bytes of spills, {stack} of stack, {} registers", used.registers);
            format!("{name} D{dk}/{dv} G{group} at {} for {target}: {bytes}", written(&pick))
        };
        (spills + stack > 0).then(what)
    };
    let spilling: Vec<String> = all.par_iter().filter_map(spilling).collect();
    assert!(spilling.is_empty(), "{} of {} spill:\n{}", spilling.len(), all.len(), spilling.join("\n"));
}

#[test]
fn text_is_read_back_verified_and_repeated() {
    for (kernel, width) in kernels().flat_map(|kernel| widths().map(|width| (kernel, width))) {
        let attention = attention(kernel, width, group(kernel));
        for pick in picks(&attention, Target::SM_80) {
            let Some(first) = plan(&attention, Target::SM_80, &pick) else { continue };
            let again = plan(&attention, Target::SM_80, &pick).expect("it was planned before");
            let what = format!("{} D{width} at {}", kernel.name, written(&pick));
            assert_eq!(text(&first), text(&again), "{what}: staged twice");
            let module = lacuna_ptx::read(text(&first)).unwrap_or_else(|error| panic!("{what}: {error}"));
            lacuna_ptx::verify(&module).unwrap_or_else(|errors| panic!("{what}: {}", errors[0]));
            let again = lacuna_ptx::read(&module.to_string()).unwrap_or_else(|error| panic!("{what}: {error}"));
            assert!(again == module, "{what}: printed and read again, it is another module");
            assert!(plan(&attention, Target::SM_80, &pick).is_some_and(|plan| plan.target == module.target), "{what}");
        }
    }
}

/// The text without what a target may change.
fn portable(text: &str) -> String {
    let own =
        |line: &&str| [".version", ".target", ".minnctapersm"].iter().any(|word| line.trim_start().starts_with(word));
    text.lines().filter(|line| !own(line)).map(|line| format!("{line}\n")).collect()
}

#[test]
fn targets_differ_in_the_head_alone() {
    for (kernel, width) in kernels().flat_map(|kernel| widths().map(|width| (kernel, width))) {
        let attention = attention(kernel, width, group(kernel));
        for pick in picks(&attention, Target::SM_80) {
            let plans = TARGETS.map(|target| plan(&attention, target, &pick));
            let [Some(first), others @ ..] = &plans else { continue };
            for other in others.iter().flatten() {
                let what = format!("{} D{width} at {} for {}", kernel.name, written(&pick), other.target);
                assert_eq!(portable(text(other)), portable(text(first)), "{what}");
                assert!(text(other).contains(&format!(".target {}\n", other.target)), "{what}");
            }
        }
    }
}

#[test]
fn documents_are_causal_with_a_table() {
    let of = |name| {
        let attention = attention(registry::find(name).expect("a shipped kernel"), 64, 4);
        let pick = default_pick(&attention, Target::SM_80);
        text(&plan(&attention, Target::SM_80, &pick).expect("the default pick fits")).to_owned()
    };
    assert_eq!(of("documents"), of("causal"));
}

#[test]
fn element_types_differ_in_their_names_alone() {
    use lacuna_dsl::{Elem, Shape};
    // The launch of `moba` that is looked at reads parts of 16 bits, and each type is widened in a way of its own.
    for kernel in kernels().filter(|kernel| kernel.name != "moba") {
        let of = |elem| {
            let options = kernel.options([]).expect("defaults are allowed");
            let shape = Shape::new(elem, 64, 64, group(kernel));
            let attention = kernel.build(shape, &options).expect("a shape that kernels are made for");
            let pick = default_pick(&attention, Target::SM_80);
            text(&plan(&attention, Target::SM_80, &pick).expect("the default pick fits")).to_owned()
        };
        let (bf16, f16) = (of(Elem::Bf16), of(Elem::F16));
        assert_ne!(bf16, f16, "{}", kernel.name);
        let renamed = f16.replace("f32.f16.f16.f32", "f32.bf16.bf16.f32").replace("f16x2.f32", "bf16x2.f32");
        assert_eq!(renamed.replace("bbf16", "bf16"), bf16, "{}", kernel.name);
    }
}
