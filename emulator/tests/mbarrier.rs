//! Mbarriers: who waits sees what those who arrived did, phases follow each other, and each misuse has its report.

#[path = "common/small.rs"]
mod small;

use lacuna_emulator::{Fault, FaultKind, Misuse, Options};
use small::Small;

fn warps(count: u32) -> Small {
    Small { threads: 32 * count, output: 32 * count as usize, ..Small::default() }
}

/// Thread 0 makes an mbarrier at the start of shared memory, whose address is `%r10`, and everybody sees it.
fn made(arrivals: u32) -> String {
    format!(
        "mov.u32 %r10, smem;\nsetp.eq.u32 %p0, %r0, 0;\n@%p0 mbarrier.init.shared::cta.b64 [%r10], {arrivals};\n\
         @%p0 fence.mbarrier_init.release.cluster;\nbar.sync 0;\nshr.u32 %r12, %r0, 5;\nsetp.ne.u32 %p1, %r12, 0;\n"
    )
}

fn wait(parity: &str) -> String {
    format!("wait:\nmbarrier.try_wait.parity.shared::cta.b64 %p2, [%r10], {parity};\n@!%p2 bra wait;\n")
}

/// Warp 0 stores and arrives, warp 1 waits and reads.
fn handed_over(arrive: &str, wait: &str) -> String {
    format!(
        "{}shl.b32 %r13, %r0, 2;\nadd.u32 %r13, %r13, %r10;\n@%p1 bra reader;\nst.shared.u32 [%r13+64], %r0;\n{arrive}\nret;\n\
         reader:\n{wait}ld.shared.u32 %r1, [%r13+-64];\nst.global.u32 [%d2], %r1;\nret;",
        made(32)
    )
}

#[test]
fn who_waits_sees_what_those_who_arrived_did() {
    let arrive = "mbarrier.arrive.shared::cta.b64 _, [%r10];";
    for seed in 0..20 {
        let options = Options { seed, ..Options::default() };
        let out = Small { options, ..warps(2) }.run(&handed_over(arrive, &wait("0")));
        let out = out.unwrap_or_else(|fault| panic!("{fault}"));
        assert_eq!(out[32..], (0..32).map(Some).collect::<Vec<_>>(), "seed {seed}");
    }
    // Without a wait, and with one for the phase that is always over on a new mbarrier.
    for wait in [String::new(), wait("1")] {
        let fault = warps(2).fault(&handed_over(arrive, &wait));
        assert!(matches!(fault.kind, FaultKind::Race { .. } | FaultKind::UnwrittenMemory { .. }), "{fault}");
    }
}

#[test]
fn phases_follow_each_other() {
    // Both warps arrive and wait three times; parities 0, 1, 0; each writes what the other reads next.
    let body = format!(
        "{}xor.b32 %r14, %r0, 32;\nshl.b32 %r13, %r0, 2;\nadd.u32 %r13, %r13, %r10;\nshl.b32 %r15, %r14, 2;\nadd.u32 %r15, %r15, %r10;\n\
         mov.u32 %r16, 0;\nmov.u32 %r1, %r0;\nloop:\nst.shared.u32 [%r13+64], %r1;\nmbarrier.arrive.shared::cta.b64 _, [%r10];\n\
         and.b32 %r17, %r16, 1;\nmbarrier.arrive.expect_tx.shared::cta.b64 _, [%r10], 0;\n{}\
         ld.shared.u32 %r1, [%r15+64];\nadd.u32 %r1, %r1, 100;\nbar.sync 1;\nadd.u32 %r16, %r16, 1;\nsetp.lt.u32 %p3, %r16, 3;\n\
         @%p3 bra loop;\nst.global.u32 [%d2], %r1;\nret;",
        made(128),
        wait("%r17")
    );
    let out = warps(2).run(&body).unwrap_or_else(|fault| panic!("{fault}"));
    assert_eq!(out, (0..64).map(|thread| Some((thread ^ 32) + 300)).collect::<Vec<_>>());
}

#[test]
fn a_test_says_how_it_is_and_goes_on() {
    let test = "mbarrier.test_wait.parity.shared::cta.b64 %p2, [%r10], 0;\nselp.u32 %r2, 1, 0, %p2;\n";
    let arrive = "mbarrier.arrive.shared::cta.b64 _, [%r10];\n";
    let body =
        format!("{}{test}mov.u32 %r3, %r2;\n{arrive}{test}shl.b32 %r2, %r2, 4;\nor.b32 %r1, %r2, %r3;", made(32));
    assert_eq!(Small::default().words(&body), [16; 32]);
}

/// The report of a fault, and what it is.
fn misuse(fault: &Fault) -> (Misuse, String) {
    match fault.kind {
        FaultKind::Mbarrier { what, .. } => (what, fault.to_string()),
        _ => panic!("{fault}"),
    }
}

#[test]
fn what_was_not_made_is_not_there() {
    let fault = warps(1).fault("mov.u32 %r10, smem;\nmbarrier.arrive.shared::cta.b64 _, [%r10+8];\nret;");
    assert_eq!(
        fault.to_string(),
        "mbarrier: the mbarrier at 0x8 is used, and no mbarrier.init made it\n  --> k.ptx:12   mbarrier.arrive.shared::cta.b64 _, \
         [%r10+8];   CTA 0,0,0 warp 0 lane 0"
    );
    let gone = format!("{}@%p0 mbarrier.inval.shared::cta.b64 [%r10];\n{}ret;", made(1), wait("0"));
    assert_eq!(misuse(&warps(1).fault(&gone)).0, Misuse::NotThere);
}

#[test]
fn what_is_made_is_made_once_and_seen_before_it_is_used() {
    let twice = format!("{}@%p0 mbarrier.init.shared::cta.b64 [%r10], 2;\nret;", made(1));
    let (what, report) = misuse(&warps(1).fault(&twice));
    assert_eq!(what, Misuse::MadeTwice);
    assert!(report.contains("the mbarrier at 0x0 is made a second time: mbarrier.inval must come before"), "{report}");
    let again = "@%p0 mbarrier.inval.shared::cta.b64 [%r10];\n@%p0 mbarrier.init.shared::cta.b64 [%r10], 2;\n";
    warps(1).run(&format!("{}{again}ret;", made(1))).unwrap_or_else(|fault| panic!("{fault}"));

    let early = made(64).replace("bar.sync 0;\n", "");
    let fault = warps(2).fault(&format!("{early}mbarrier.arrive.shared::cta.b64 _, [%r10];\nret;"));
    assert!(matches!(fault.kind, FaultKind::Race { first_writes: true, .. }), "{fault}");
    assert!(fault.to_string().contains("mbarrier.init.shared::cta.b64"), "{fault}");
}

#[test]
fn arrivals_past_the_count() {
    // Bytes are missing, so the phase is not over: the second arrival is one too many.
    let body = format!(
        "{}@%p0 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r10], 512;\n@%p0 mbarrier.arrive.shared::cta.b64 _, [%r10];\nret;",
        made(1)
    );
    let (what, report) = misuse(&warps(1).fault(&body));
    assert_eq!(what, Misuse::TooManyArrivals { count: 1, phase: 0 });
    assert!(report.contains("is arrived at once more in phase 0, which all of its 1 arrivals have made"), "{report}");
}

#[test]
fn counts_out_of_range() {
    let body = format!("{}mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%r10], 1048560;\nret;", made(1));
    assert_eq!(misuse(&warps(1).fault(&body)).0, Misuse::OutOfRange { bytes: 2 * 1_048_560 });
    let fault =
        warps(1).fault("mov.u32 %r10, smem;\nmov.u32 %r1, 0;\nmbarrier.init.shared::cta.b64 [%r10], %r1;\nret;");
    assert!(fault.to_string().starts_with("operand: an mbarrier is for 1 to 1048575 arrivals, not 0"), "{fault}");
    let body = format!("{}mov.u32 %r1, 2;\n{}ret;", made(1), wait("%r1"));
    assert!(
        warps(1).fault(&body).to_string().starts_with("operand: the parity of a phase is 0 or 1, and this one is 2")
    );
    let fault = warps(1).fault("mov.u32 %r10, smem;\nmbarrier.init.shared::cta.b64 [%r10+4], 1;\nret;");
    assert!(matches!(fault.kind, FaultKind::Misaligned { bytes: 8, .. }), "{fault}");
}

#[test]
fn ordinary_accesses_do_not_touch_it() {
    for access in ["ld.shared.u32 %r1, [%r10+4];", "st.shared.u32 [%r10], %r0;"] {
        let (what, report) = misuse(&warps(1).fault(&format!("{}{access}\nret;", made(1))));
        assert_eq!(what, Misuse::Touched, "{report}");
        assert!(report.contains("mbarrier.init.shared::cta.b64 [%r10], 1;"), "{report}");
    }
}

#[test]
fn a_deadlock_names_who_waits_where_and_for_what() {
    let body = format!("{}@%p1 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r10], 48;\n{}ret;", made(33), wait("0"));
    let fault = warps(2).fault(&body);
    let FaultKind::Deadlock { mbarriers, .. } = &fault.kind else { panic!("{fault}") };
    assert_eq!((mbarriers.len(), mbarriers[0].arrivals, mbarriers[0].bytes), (1, 1, 48 * 32));
    assert_eq!(
        fault.to_string(),
        "deadlock: no warp of the CTA can go on; the mbarrier at 0x0 is in phase 0, and misses 1 arrivals and 1536 bytes\n  --> \
         k.ptx:20   mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r10], 0;   CTA 0,0,0 warp 0, waits for parity 0 of the mbarrier \
         at 0x0\n      k.ptx:20   mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r10], 0;   CTA 0,0,0 warp 1, waits for parity 0 \
         of the mbarrier at 0x0"
    );
}
