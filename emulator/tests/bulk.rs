//! Bulk copies: what they bring, what orders them with everything else, and what each mistake is called.

#[path = "common/copies.rs"]
mod copies;

use copies::{Copies, map, out, wait};
use half::{bf16, f16};
use lacuna_emulator::{Fault, FaultKind, Misuse, Options, Swizzle, TensorElem, TensorMap};

fn nothing() -> TensorMap {
    map(0, TensorElem::F32, &[(4, 4, 4)], Swizzle::None)
}

fn bytes(count: usize) -> Vec<u8> {
    (0..count).map(|i| (i * 7 % 251) as u8).collect()
}

const LOAD: &str = "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes";

/// 256 bytes into shared memory, expected, waited for, and out.
fn good() -> String {
    format!(
        "@%p0 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r11], 256;\n@%p0 {LOAD} [%r10], [%d1+16], 256, [%r11];\n{}{}ret;",
        wait("full", 0),
        out(32, 256)
    )
}

fn run(text: &str) -> Result<Vec<u8>, Box<Fault>> {
    let copies = Copies::new(&bytes(1024), 256);
    copies.run(text, &nothing()).map(|()| copies.read(256))
}

fn changed(text: &str, from: &str, to: &str) -> String {
    let changed = text.replacen(from, to, 1);
    assert_ne!(changed, text, "{from}");
    changed
}

fn fault(text: &str) -> Box<Fault> {
    run(text).expect_err("something is wrong with it")
}

#[test]
fn bytes_come_in_one_piece() {
    for seed in 0..10 {
        let mut copies = Copies::new(&bytes(1024), 256);
        copies.options = Options { seed, ..copies.options };
        copies.run(&good(), &nothing()).unwrap_or_else(|fault| panic!("{fault}"));
        assert_eq!(copies.read(256), bytes(1024)[16..272]);
    }
}

#[test]
fn bytes_are_passed_on_within_shared_memory_in_clusters_alone() {
    let text = changed(&good(), "[%r10], [%d1+16], 256, [%r11]", "[%r10+256], [%d1], 256, [%r11]");
    // What the first copy brought is read by the second.
    let pass =
        "cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%r10], [%r10+256], 256, [%r11];";
    let again =
        format!("@%p0 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r11], 256;\n@%p0 {pass}\n{}", wait("passed", 1));
    let text = changed(&text, "shl.b32", &format!("{again}shl.b32"));
    let copies = Copies { limits: ".explicitcluster\n.reqnctapercluster 1, 1, 1\n", ..Copies::new(&bytes(1024), 256) };
    copies.run(&text, &nothing()).unwrap_or_else(|fault| panic!("{fault}"));
    assert_eq!(copies.read(256), bytes(1024)[..256]);
    let found = fault(&text).to_string();
    assert!(found.starts_with("operand: a bulk copy from shared memory to shared memory is for kernels"), "{found}");
    assert!(found.contains(pass), "{found}");
}

#[test]
fn what_is_brought_is_read_after_the_wait() {
    let early = changed(&good(), &wait("full", 0), "");
    let found = fault(&early);
    assert!(matches!(found.kind, FaultKind::Pending { address: 0 }), "{found}");
    let note = "the copy completes phase 0 of the mbarrier at 0x8000, and of its phases this warp has waited for none";
    assert_eq!(found.note.as_deref(), Some(note));
    assert!(found.to_string().contains(&format!("{LOAD} [%r10]")), "{found}");
    // The wrong phase: on a new mbarrier a wait for parity 1 passes at once.
    let wrong = changed(&good(), &wait("full", 0), &wait("full", 1));
    assert!(matches!(fault(&wrong).kind, FaultKind::Pending { .. }));
    // Another warp, that has not waited.
    let mut copies = Copies::new(&bytes(1024), 256);
    copies.threads = 64;
    let text = changed(&good(), &out(32, 256), &out(64, 256));
    let text = changed(&text, "full:\n", "setp.gt.u32 %p3, %r0, 31;\n@%p3 bra read;\nfull:\n");
    let text = changed(&text, "shl.b32", "read:\nbar.sync 1, 64;\nshl.b32");
    copies.run(&text.replace("@%p3 bra read;\n", ""), &nothing()).unwrap_or_else(|fault| panic!("{fault}"));
    // It is ordered by the barrier after one that has.
    copies.run(&text, &nothing()).unwrap_or_else(|fault| panic!("{fault}"));
    let unordered = copies.fault(&changed(&text, "bar.sync 1, 64;\n", ""), &nothing());
    assert!(matches!(unordered.kind, FaultKind::Pending { .. } | FaultKind::UnwrittenMemory { .. }), "{unordered}");
}

#[test]
fn byte_counts_agree() {
    let expected = |bytes: u32| changed(&good(), "[%r11], 256;", &format!("[%r11], {bytes};"));
    let few = fault(&expected(240));
    let FaultKind::Mbarrier { what: Misuse::TooManyBytes { bytes: 16, phase: 0 }, .. } = few.kind else {
        panic!("{few}")
    };
    assert!(few.to_string().contains("has 16 bytes more in phase 0 than were expected"), "{few}");
    // Nothing is expected: the phase ends before the copy is issued, which then counts in the next one.
    let none = fault(&expected(0));
    assert!(matches!(none.kind, FaultKind::Pending { .. }), "{none}");
}

#[test]
fn a_phase_does_not_end_before_its_copies() {
    // The copy is issued first, and the arrival expects too little.
    let early = format!(
        "@%p0 {LOAD} [%r10], [%d1], 256, [%r11];\n@%p0 mbarrier.arrive.shared::cta.b64 _, [%r11];\n{}ret;",
        wait("full", 0)
    );
    let found = fault(&early);
    let FaultKind::Mbarrier { what: Misuse::Unexpected { bytes: 256, phase: 0 }, .. } = found.kind else {
        panic!("{found}")
    };
    // Expected after the issue, it is in order.
    let late = changed(
        &early,
        "mbarrier.arrive.shared::cta.b64 _, [%r11];",
        "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r11], 256;",
    );
    run(&format!("{}{}ret;", late.trim_end_matches("ret;"), out(32, 256))).unwrap_or_else(|fault| panic!("{fault}"));
}

#[test]
fn more_bytes_than_expected_are_a_deadlock_with_its_bytes() {
    let many = fault(&changed(&good(), "[%r11], 256;", "[%r11], 272;"));
    let FaultKind::Deadlock { mbarriers, .. } = &many.kind else { panic!("{many}") };
    assert_eq!((mbarriers.len(), mbarriers[0].bytes, mbarriers[0].arrivals, mbarriers[0].phase), (1, 16, 0, 0));
    assert!(
        many.to_string().contains("the mbarrier at 0x8000 is in phase 0, and misses 0 arrivals and 16 bytes"),
        "{many}"
    );
}

#[test]
fn an_mbarrier_is_fenced_before_a_copy_counts_on_it() {
    let copies = Copies::new(&bytes(1024), 256);
    let made = "mbarrier.init.shared::cta.b64 [%r12], 1;";
    let with = |fence: &str| {
        format!(
            "add.u32 %r12, %r11, 8;\n@%p0 {made}\n{fence}@%p0 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r12], 256;\n\
             @%p0 {LOAD} [%r10], [%d1], 256, [%r12];\nbar.sync 0;\n{}ret;",
            wait("full", 0).replace("%r11", "%r12")
        )
    };
    let found = copies.fault(&with(""), &nothing());
    assert!(matches!(found.kind, FaultKind::Mbarrier { what: Misuse::Unfenced, .. }), "{found}");
    assert!(found.to_string().contains(made), "{found}");
    for fence in ["fence.mbarrier_init.release.cluster;\n", "fence.proxy.async.shared::cta;\n"] {
        copies.run(&with(fence), &nothing()).unwrap_or_else(|fault| panic!("{fault}"));
    }
}

/// Warp 1 brings two tiles through one slot, and warp 0 reads each; `%r12` is the mbarrier by which it gives the slot back.
fn pipeline(give_back: &str, take: &str) -> String {
    format!(
        "add.u32 %r12, %r11, 8;\n@%p0 mbarrier.init.shared::cta.b64 [%r12], 32;\nbar.sync 0;\nsetp.gt.u32 %p3, %r0, 31;\n\
         setp.eq.u32 %p4, %r0, 32;\n@%p3 bra producer;\nshl.b32 %r20, %r0, 2;\nadd.u32 %r21, %r10, %r20;\n{}\
         ld.shared.u32 %r22, [%r21];\n{give_back}{}ld.shared.u32 %r23, [%r21];\nadd.u32 %r22, %r22, %r23;\ncvt.u64.u32 %d20, %r20;\n\
         add.u64 %d20, %d20, %d2;\nst.global.u32 [%d20], %r22;\nret;\nproducer:\n@!%p4 bra done;\n\
         mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r11], 128;\n{LOAD} [%r10], [%d1], 128, [%r11];\n{take}\
         mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r11], 128;\n{LOAD} [%r10], [%d1+128], 128, [%r11];\ndone:\nret;",
        wait("first", 0),
        wait("second", 1)
    )
}

#[test]
fn a_slot_is_filled_again_once_its_readers_gave_it_back() {
    let words: Vec<u8> = (0..256u32).flat_map(u32::to_le_bytes).collect();
    let run = |text: &str, seed: u64| {
        let mut copies = Copies::new(&words, 128);
        copies.threads = 64;
        copies.options = Options { seed, ..copies.options };
        copies.run(text, &nothing()).map(|()| copies.read(128))
    };
    let give_back = "mbarrier.arrive.shared::cta.b64 _, [%r12];\n";
    let take = wait("empty", 0).replace("%r11", "%r12");
    let expected: Vec<u8> = (0..32u32).flat_map(|i| (2 * i + 32).to_le_bytes()).collect();
    for seed in 0..20 {
        assert_eq!(
            run(&pipeline(give_back, &take), seed).unwrap_or_else(|fault| panic!("{fault}")),
            expected,
            "{seed}"
        );
    }
    // Without the wait, and with one that passes at once, the slot is still read or not even filled.
    for take in [String::new(), wait("empty", 1).replace("%r11", "%r12")] {
        for seed in 0..20 {
            let found = run(&pipeline(give_back, &take), seed).expect_err("the slot is not free");
            let named =
                matches!(found.kind, FaultKind::Pending { .. } | FaultKind::Race { .. } | FaultKind::Mbarrier { .. });
            assert!(named, "seed {seed}: {found}");
        }
    }
    // Nobody gives it back.
    let found = run(&pipeline("", &take), 0).expect_err("the slot is not given back");
    let FaultKind::Deadlock { mbarriers, .. } = &found.kind else { panic!("{found}") };
    assert_eq!(mbarriers.len(), 2);
    assert!(found.to_string().contains("waits for parity 0 of the mbarrier at 0x8008"), "{found}");
}

const STORE: &str = "cp.async.bulk.global.shared::cta.bulk_group";

/// Thread 0 copies 128 bytes away that everybody wrote.
fn away(fence: &str, wait: &str) -> String {
    format!(
        "shl.b32 %r20, %r0, 2;\nadd.u32 %r21, %r10, %r20;\nst.shared.u32 [%r21], %r0;\n{fence}bar.sync 0;\n@%p1 bra over;\n\
         {STORE} [%d2], [%r10], 128;\ncp.async.bulk.commit_group;\n{wait}over:\n"
    )
}

const FENCE: &str = "fence.proxy.async.shared::cta;\n";
const READ: &str = "cp.async.bulk.wait_group.read 0;\n";

#[test]
fn what_is_copied_away_is_fenced_and_not_written_before_the_wait() {
    let words: Vec<u8> = (0..32u32).flat_map(u32::to_le_bytes).collect();
    let overwrite = "bar.sync 0;\nst.shared.u32 [%r21], %r9;\nret;";
    let mut copies = Copies::new(&[0; 16], 256);
    copies.threads = 64;
    let away = |fence: &str, wait: &str| changed(&away(fence, wait), "[%r10], 128;", "[%r10], 256;");
    copies.run(&(away(FENCE, READ) + overwrite), &nothing()).unwrap_or_else(|fault| panic!("{fault}"));
    assert_eq!(copies.read(128), words);

    let found = copies.fault(&(away("", READ) + overwrite), &nothing());
    assert!(matches!(found.kind, FaultKind::Unfenced { .. }), "{found}");
    let found = copies.fault(&(away(FENCE, "") + overwrite), &nothing());
    assert!(matches!(found.kind, FaultKind::BeingRead { .. }), "{found}");
    assert!(found.to_string().contains(STORE), "{found}");
    // A group that the wait lets pass.
    let found = copies.fault(&(away(FENCE, "cp.async.bulk.wait_group.read 1;\n") + overwrite), &nothing());
    assert!(matches!(found.kind, FaultKind::BeingRead { .. }), "{found}");
    // The wait is seen through the barrier: by the first warp at once.
    let found = copies.fault(&changed(&(away(FENCE, READ) + overwrite), "over:\nbar.sync 0;\n", "over:\n"), &nothing());
    assert!(matches!(found.kind, FaultKind::BeingRead { .. }), "{found}");
}

#[test]
fn nobody_ends_before_its_copies_have_read() {
    let copies = Copies::new(&[0; 16], 128);
    let found = copies.fault(&(away(FENCE, "") + "ret;"), &nothing());
    assert_eq!(found.kind, FaultKind::EndsInFlight { writes: false });
    assert!(found.to_string().contains("cp.async.bulk.wait_group.read must come before"), "{found}");
    let uncommitted = changed(&(away(FENCE, READ) + "ret;"), "cp.async.bulk.commit_group;\n", "");
    assert_eq!(copies.fault(&uncommitted, &nothing()).kind, FaultKind::EndsInFlight { writes: false });
    // Nor a CTA before what is copied to it is there.
    let unread = format!(
        "@%p0 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r11], 256;\n@%p0 {LOAD} [%r10], [%d1], 256, [%r11];\nret;"
    );
    let found = fault(&unread);
    assert_eq!(found.kind, FaultKind::EndsInFlight { writes: true });
    assert!(found.to_string().contains("to the mbarrier at 0x8000"), "{found}");
}

#[test]
fn what_is_copied_away_is_there_after_a_wait_that_is_not_for_reads_alone() {
    let read_back = "@%p1 ret;\nld.global.u32 %r1, [%d2+4];\nst.global.u32 [%d2+64], %r1;\nret;";
    let copies = Copies::new(&[0; 16], 128);
    copies.memory.write(copies.output, &[9; 128]).unwrap();
    copies
        .run(&(away(FENCE, "cp.async.bulk.wait_group 0;\n") + read_back), &nothing())
        .unwrap_or_else(|fault| panic!("{fault}"));
    assert_eq!(copies.read(128)[64], 1);
    // By itself it comes late, and what was written between is written over.
    copies.run(&(away(FENCE, READ) + read_back), &nothing()).unwrap_or_else(|fault| panic!("{fault}"));
    assert_eq!(copies.read(128)[64], 16);
}

#[test]
fn sums_of_every_type() {
    let sum = |what: &str, cells: &[u8], fill: &str| {
        let copies = Copies::new(&[0; 16], 128);
        copies.memory.write(copies.output, cells).unwrap();
        let add = format!("cp.reduce.async.bulk.global.shared::cta.bulk_group.add.{what}");
        let text = changed(&(away(FENCE, READ) + "ret;"), STORE, &add);
        let text = changed(&text, "st.shared.u32 [%r21], %r0;", &format!("{fill}st.shared.u32 [%r21], %r22;"));
        copies.run(&text, &nothing()).unwrap_or_else(|fault| panic!("{fault}"));
        copies.read(128)
    };
    let float = "cvt.rn.f32.u32 %f0, %r0;\nmov.b32 %r22, %f0;\n";
    let cells: Vec<u8> = (0..32).flat_map(|i| (0.5 * i as f32).to_le_bytes()).collect();
    let expected: Vec<u8> = (0..32).flat_map(|i| (1.5 * i as f32).to_le_bytes()).collect();
    assert_eq!(sum("f32", &cells, float), expected);
    // 1 and twice the lane in each word.
    let pair = |ty: &str| {
        format!(
            "cvt.rn.f32.u32 %f0, %r0;\nadd.f32 %f1, %f0, %f0;\nmov.f32 %f0, 0f3F800000;\ncvt.rn.{ty}x2.f32 %r22, %f1, %f0;\n"
        )
    };
    let cells: Vec<u8> = (0..64).flat_map(|i| bf16::from_f32(256.0 + i as f32).to_le_bytes()).collect();
    let added = |i: usize| if i.is_multiple_of(2) { 1.0 } else { (i / 2 * 2) as f32 };
    let expected: Vec<u8> = (0..64)
        .flat_map(|i| bf16::from_f32(f32::from(bf16::from_f32(256.0 + i as f32)) + added(i)).to_le_bytes())
        .collect();
    assert_eq!(sum("noftz.bf16", &cells, &pair("bf16")), expected);
    let cells: Vec<u8> = (0..64).flat_map(|i| f16::from_f32(i as f32 / 8.0).to_le_bytes()).collect();
    let expected: Vec<u8> = (0..64).flat_map(|i| f16::from_f32(i as f32 / 8.0 + added(i)).to_le_bytes()).collect();
    assert_eq!(sum("noftz.f16", &cells, &pair("f16")), expected);
}

#[test]
fn vectors_of_sums() {
    let copies = Copies::new(&[0; 16], 512);
    copies.memory.write(copies.output, &[0; 512]).unwrap();
    let text = "cvt.rn.f32.u32 %f0, %r0;\nadd.f32 %f1, %f0, %f0;\nadd.f32 %f2, %f1, %f0;\nadd.f32 %f3, %f1, %f1;\nshl.b32 %r20, %r0, 4;\n\
                cvt.u64.u32 %d20, %r20;\nadd.u64 %d20, %d20, %d2;\nred.global.add.v4.f32 [%d20], {%f0, %f1, %f2, %f3};\n\
                red.global.add.v2.f32 [%d20+8], {%f0, %f1};\nret;";
    copies.run(text, &nothing()).unwrap_or_else(|fault| panic!("{fault}"));
    let expected: Vec<u8> =
        (0..32).flat_map(|i| [1, 2, 4, 6].map(|by| (i * by) as f32)).flat_map(f32::to_le_bytes).collect();
    assert_eq!(copies.read(512), expected);

    copies.memory.write(copies.output, &[0; 512]).unwrap();
    let text =
        "mov.b32 %r1, 0x3f804000;\nmov.b32 %r2, 0x40003f80;\nred.global.add.noftz.v2.bf16x2 [%d2], {%r1, %r2};\nret;";
    copies.run(text, &nothing()).unwrap_or_else(|fault| panic!("{fault}"));
    let halves: Vec<u8> =
        [64.0, 32.0, 32.0, 64.0].into_iter().flat_map(|sum| bf16::from_f32(sum).to_le_bytes()).collect();
    assert_eq!(copies.read(8), halves);
    let fault = copies.fault(&changed(text, "[%d2]", "[%d2+4]"), &nothing());
    assert!(matches!(fault.kind, FaultKind::Misaligned { bytes: 8, .. }), "{fault}");
}

#[test]
fn an_arrival_follows_the_copies_of_its_thread() {
    // Every thread copies 16 bytes by `cp.async` and arrives when they are there; the other warp waits for that alone.
    let text = |arrive: &str| {
        format!(
            "add.u32 %r12, %r11, 8;\n@%p0 mbarrier.init.shared::cta.b64 [%r12], 32;\nbar.sync 0;\nsetp.gt.u32 %p3, %r0, 31;\n\
             and.b32 %r1, %r0, 31;\nshl.b32 %r20, %r1, 4;\nadd.u32 %r21, %r10, %r20;\ncvt.u64.u32 %d20, %r20;\n\
             add.u64 %d21, %d20, %d1;\n@%p3 bra reader;\ncp.async.cg.shared.global [%r21], [%d21], 16;\n{arrive}ret;\nreader:\n{}\
             ld.shared.v4.b32 {{%r1, %r2, %r3, %r4}}, [%r21];\nadd.u64 %d20, %d20, %d2;\nst.global.v4.b32 [%d20], {{%r1, %r2, %r3, %r4}};\n\
             ret;",
            wait("full", 0).replace("%r11", "%r12")
        )
    };
    let arrive = "cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%r12];\n";
    for seed in 0..10 {
        let mut copies = Copies::new(&bytes(512), 512);
        copies.threads = 64;
        copies.options = Options { seed, ..copies.options };
        copies.run(&text(arrive), &nothing()).unwrap_or_else(|fault| panic!("{fault}"));
        assert_eq!(copies.read(512), bytes(512));
        let early = copies.fault(&text("mbarrier.arrive.shared::cta.b64 _, [%r12];\n"), &nothing());
        assert!(matches!(early.kind, FaultKind::Pending { .. }), "{early}");
    }
}

#[test]
fn sizes_and_places_are_multiples_of_16() {
    let found = fault(&changed(&good(), "[%d1+16], 256,", "[%d1+8], 256,"));
    assert!(matches!(found.kind, FaultKind::Misaligned { bytes: 16, .. }), "{found}");
    let sized = changed(&good(), "[%d1+16], 256,", "[%d1+16], %r30,");
    let found = fault(&format!("mov.u32 %r30, 24;\n{sized}"));
    assert!(
        found.to_string().starts_with("operand: a bulk copy moves multiples of 16 bytes, and this one is of 24"),
        "{found}"
    );
}
