//! Copies into the shared memory of other CTAs of a cluster: multicast boxes, and bytes passed on.

#[path = "common/copies.rs"]
mod copies;

use copies::{BARRIERS, module, wait};
use lacuna_emulator::{
    Arg, Fault, FaultKind, Launch, Memory, Misuse, Options, Program, Swizzle, TensorDim, TensorElem, TensorMap, run,
};

/// Runs a body in clusters of two CTAs of a warp: rows of 32 words in, a row out for each CTA.
fn clustered(ctas: u32, seed: u64, body: &str) -> Result<Vec<u32>, Box<Fault>> {
    let ranked = format!(
        "mov.u32 %r12, %cluster_ctarank; xor.b32 %r13, %r12, 1; mov.u32 %r14, %ctaid.x; shl.b32 %r15, %r14, 7;\n\
         cvt.u64.u32 %d3, %r15; add.u64 %d2, %d2, %d3; shl.b32 %r20, %r0, 2; add.u32 %r21, %r10, %r20; cvt.u64.u32 %d20, %r20;\n\
         add.u64 %d20, %d20, %d2;\n{body}"
    );
    let text = module(&ranked).replacen("{\n", ".explicitcluster\n.reqnctapercluster 2, 1, 1\n{\n", 1);
    let program = Program::from_text(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let memory = Memory::new();
    let words = ctas as usize * 32;
    let (input, output) = (memory.alloc(words as u64 * 4), memory.alloc(words as u64 * 4));
    let bytes: Vec<u8> = (0..words as u32).flat_map(u32::to_le_bytes).collect();
    memory.write(input, &bytes).unwrap();
    let dim = |extent, stride, tile| TensorDim { extent, stride, tile };
    let map = TensorMap {
        base: input,
        elem: TensorElem::I32,
        dims: vec![dim(32, 4, 32), dim(ctas.into(), 128, 1)],
        swizzle: Swizzle::None,
    };
    let args = [Arg::TensorMap(map), Arg::U64(input), Arg::U64(output)];
    let launch = Launch { entry: "k", grid: [ctas, 1, 1], block: [32, 1, 1], shared: BARRIERS + 256, args: &args };
    let options = Options { seed, max_instructions: Some(1_000_000), ..Options::default() };
    run(&program, &launch, &memory, &options)?;
    let mut out = vec![0; bytes.len()];
    memory.read(output, &mut out).unwrap();
    Ok(out.chunks_exact(4).map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]])).collect())
}

const MEET: &str = "barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;\n";

/// Each CTA brings its row of the input to both, one behind the other, and each adds both rows.
fn cast(begin: &str, mask: u32, expects: u32) -> String {
    format!(
        "{begin}shl.b32 %r30, %r12, 7;\nadd.u32 %r30, %r10, %r30;\nmov.u32 %r31, 0;\nmov.b32 {{%h0, %h1}}, %r32;\n\
         @%p0 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r11], {expects};\n\
         @%p0 cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%r30], \
         [%d0, {{%r31, %r14}}], [%r11], %h0;\n{}ld.shared.u32 %r22, [%r21];\nld.shared.u32 %r23, [%r21+128];\n\
         add.u32 %r22, %r22, %r23;\nst.global.u32 [%d20], %r22;\n{MEET}ret;",
        wait("full", 0)
    )
    .replace("mov.b32 {%h0, %h1}, %r32;", &format!("mov.u32 %r32, {mask};\nmov.b32 {{%h0, %h1}}, %r32;"))
}

fn fault(body: &str) -> Box<Fault> {
    clustered(2, 0, body).expect_err("something is wrong with it")
}

#[test]
fn a_box_comes_to_every_cta_of_the_mask() {
    for seed in 0..12 {
        let out = clustered(4, seed, &cast(MEET, 3, 256)).unwrap_or_else(|fault| panic!("seed {seed}: {fault}"));
        // CTAs 0 and 1 have the sum of rows 0 and 1, the others that of 2 and 3.
        let expected = |at: u32| 2 * (at % 32) + if at < 64 { 32 } else { 160 };
        assert_eq!(out, (0..128).map(expected).collect::<Vec<_>>(), "seed {seed}");
    }
}

#[test]
fn each_cta_expects_what_comes_to_it() {
    let few = fault(&cast(MEET, 3, 128));
    let FaultKind::Mbarrier { what, .. } = few.kind else { panic!("{few}") };
    assert!(matches!(what, Misuse::Unexpected { .. } | Misuse::TooManyBytes { .. }), "{few}");
    let FaultKind::Deadlock { mbarriers, .. } = &fault(&cast(MEET, 3, 512)).kind else { panic!("bytes are missing") };
    assert!(mbarriers.iter().all(|state| state.bytes == 256), "{mbarriers:?}");
    // To the own CTA alone, the other's row never comes.
    assert!(matches!(fault(&cast(MEET, 1, 256)).kind, FaultKind::Deadlock { .. }));
}

#[test]
fn the_other_mbarrier_is_made_before_a_copy_counts_on_it() {
    let early = fault(&cast("", 3, 256));
    assert!(
        matches!(early.kind, FaultKind::Mbarrier { what: Misuse::NotThere, .. } | FaultKind::Race { .. }),
        "{early}"
    );
    assert!(early.to_string().contains("multicast::cluster"), "{early}");
}

#[test]
fn cast_boxes_begin_at_multiples_of_16_bytes() {
    let odd = cast(MEET, 3, 256).replace("mov.u32 %r31, 0;", "mov.u32 %r31, 2;");
    let found = fault(&odd).to_string();
    assert!(found.starts_with("operand: the rows of a box begin at a multiple of 16 bytes"), "{found}");
    assert!(found.contains("multicast::cluster [%r30]"), "{found}");
}

#[test]
fn masks_name_ctas_that_there_are() {
    for mask in [0, 4] {
        let wrong = fault(&cast(MEET, mask, 256));
        assert!(wrong.to_string().starts_with("operand: the mask of a multicast names CTAs of the cluster"), "{wrong}");
    }
}

/// Each CTA passes its number, a word a lane, to the other.
fn pass(fence: &str, mbarrier: &str) -> String {
    format!(
        "{MEET}add.u32 %r22, %r14, 100;\nst.shared.u32 [%r21], %r22;\n{fence}bar.warp.sync 0xffffffff;\n\
         add.u32 %r30, %r10, 256;\nmapa.shared::cluster.u32 %r31, %r30, %r13;\nmapa.shared::cluster.u32 %r32, %r11, %r13;\n\
         @%p0 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r11], 128;\n\
         @%p0 cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%r31], [%r10], 128, [{mbarrier}];\n{}\
         ld.shared.u32 %r22, [%r21+256];\nst.global.u32 [%d20], %r22;\n{MEET}ret;",
        wait("full", 0)
    )
}

#[test]
fn bytes_are_passed_on_to_another_cta() {
    let fence = "fence.proxy.async.shared::cta;\n";
    for seed in 0..8 {
        let out = clustered(4, seed, &pass(fence, "%r32")).unwrap_or_else(|fault| panic!("seed {seed}: {fault}"));
        assert_eq!(out, (0..128u32).map(|at| 100 + ((at / 32) ^ 1)).collect::<Vec<_>>(), "seed {seed}");
    }
    let unfenced = fault(&pass("", "%r32"));
    assert!(matches!(unfenced.kind, FaultKind::Unfenced { .. }), "{unfenced}");
    let apart = fault(&pass(fence, "%r11"));
    assert!(apart.to_string().contains("completes at an mbarrier of it, not of CTA 0"), "{apart}");
    // To itself, by its shared address and by the cluster's.
    let own = pass(fence, "%r11").replace("[%r31]", "[%r30]");
    let mapped = pass(fence, "%r32").replace("%r13;", "%r12;");
    for text in [own, mapped] {
        let out = clustered(2, 0, &text).unwrap_or_else(|fault| panic!("{fault}"));
        assert_eq!(out, (0..64u32).map(|at| 100 + at / 32).collect::<Vec<_>>());
    }
}
