//! CTAs of a cluster: who they are, how they wait for each other, and what is wrong between them.

#[path = "common/small.rs"]
mod small;

use lacuna_emulator::{Arg, Fault, FaultKind, Launch, Memory, Options, Program, run};
use small::module;

/// Runs a body in clusters of two CTAs of one warp: a word for each thread of the grid, in `%r1`.
fn clustered(ctas: u32, seed: u64, body: &str) -> Result<Vec<u32>, Box<Fault>> {
    let text = module(&format!(
        "mov.u32 %r13, %ctaid.x; shl.b32 %r14, %r13, 5; add.u32 %r14, %r14, %r0; mul.wide.u32 %d2, %r14, 4; add.u64 %d2, %d1, %d2;\n\
         mov.u32 %r10, smem; mov.u32 %r11, %cluster_ctarank; xor.b32 %r12, %r11, 1;\n{body}\nst.global.u32 [%d2], %r1;\nret;"
    ))
    .replacen("{\n", ".explicitcluster\n.reqnctapercluster 2, 1, 1\n{\n", 1);
    let program = Program::from_text(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let memory = Memory::new();
    let count = ctas as usize * 32;
    let output = memory.alloc(count as u64 * 4);
    let args = [Arg::U64(0), Arg::U64(output)];
    let launch = Launch { entry: "k", grid: [ctas, 1, 1], block: [32, 1, 1], shared: 1024, args: &args };
    let options = Options { seed, max_instructions: Some(1_000_000), ..Options::default() };
    run(&program, &launch, &memory, &options)?;
    let mut bytes = vec![0; count * 4];
    memory.read(output, &mut bytes).unwrap();
    Ok(bytes.chunks_exact(4).map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]])).collect())
}

fn fault(body: &str) -> Box<Fault> {
    match clustered(2, 0, body) {
        Err(fault) => fault,
        Ok(_) => panic!("nothing is found wrong with\n{body}"),
    }
}

const MEET: &str = "barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;\n";

/// Each CTA makes an mbarrier for one arrival, and arrives at the other's.
fn handshake(between: &str, end: &str) -> String {
    format!(
        "setp.eq.u32 %p0, %r0, 0;\n@%p0 mbarrier.init.shared::cta.b64 [%r10], 1;\n@%p0 fence.mbarrier_init.release.cluster;\n{between}\
         mapa.shared::cluster.u32 %r15, %r10, %r12;\n\
         @%p0 mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r15];\n\
         bar.warp.sync 0xffffffff;\n\
         W: mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 %p1, [%r10], 0;\n@!%p1 bra W;\nmov.u32 %r1, %r11;\n{end}"
    )
}

#[test]
fn ctas_know_their_rank() {
    let out = clustered(6, 0, "mov.u32 %r2, %cluster_nctarank; mad.lo.u32 %r1, %r2, 100, %r11;").unwrap();
    assert!(out.iter().enumerate().all(|(at, word)| *word == 200 + (at as u32 / 32) % 2), "{out:?}");
}

#[test]
fn an_arrival_reaches_the_other_cta() {
    for seed in 0..4 {
        let out = clustered(4, seed, &handshake(MEET, MEET)).unwrap_or_else(|fault| panic!("{fault}"));
        assert!(out.iter().enumerate().all(|(at, word)| *word == (at as u32 / 32) % 2), "{out:?}");
    }
}

#[test]
fn an_mbarrier_must_be_made_before_the_other_arrives() {
    // Without the cluster's barrier between.
    let fault = fault(&handshake("bar.warp.sync 0xffffffff;\n", MEET));
    let report = fault.to_string();
    let misses = matches!(fault.kind, FaultKind::Mbarrier { .. } | FaultKind::Race { .. });
    assert!(misses && report.contains("mbarrier.arrive.release.cluster"), "{report}");
    // A relaxed arrival hands nothing over.
    let relaxed = MEET.replace("arrive.aligned", "arrive.relaxed.aligned");
    let fault = self::fault(&handshake(&relaxed, MEET));
    assert!(matches!(fault.kind, FaultKind::Race { .. }), "{fault}");
    assert!(fault.to_string().contains("mbarrier.init") && fault.sites[0].cta != fault.sites[1].cta, "{fault}");
}

#[test]
fn a_cta_that_has_ended_cannot_be_reached() {
    // Without the barrier at the end: CTA 0 ends as soon as it was reached, and CTA 1 arrives once more.
    let again = "mapa.shared::cluster.u32 %r15, %r10, %r12;\n@%p0 mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r15];";
    let body = handshake(MEET, &format!("setp.eq.u32 %p2, %r11, 0;\n@%p2 bra DONE;\n{again}\nDONE:"));
    let report = fault(&body).to_string();
    assert!(
        report.contains("CTA 0 of the cluster has ended: its shared memory is no more")
            || report.contains("the mbarrier at 0x0") && report.contains("arrivals"),
        "{report}"
    );
    assert!(report.contains("mbarrier.arrive.release.cluster") && report.contains("CTA 1,0,0"), "{report}");
}

#[test]
fn a_cluster_that_waits_for_itself() {
    let fault = fault(&format!(
        "setp.eq.u32 %p0, %r11, 1;\n@%p0 bra ONE;\n{MEET}bra BOTH;\nONE: bar.sync 3, 64;\nBOTH: mov.u32 %r1, 0;"
    ));
    let report = fault.to_string();
    assert!(matches!(fault.kind, FaultKind::Deadlock { .. }), "{report}");
    for word in [
        "barrier.cluster.wait.aligned;",
        "CTA 0,0,0 warp 0, waits for the barrier of the cluster",
        "CTA 1,0,0 warp 0, waits for barrier 3",
    ] {
        assert!(report.contains(word), "{word}\n{report}");
    }
    let fault = self::fault("barrier.cluster.wait.aligned;\nmov.u32 %r1, 0;");
    assert!(fault.to_string().contains("the warp has not arrived"), "{fault}");
    let fault = self::fault("barrier.cluster.arrive.aligned;\nbarrier.cluster.arrive.aligned;\nmov.u32 %r1, 0;");
    assert!(fault.to_string().contains("has not waited since it arrived before"), "{fault}");
    let fault = self::fault("mapa.shared::cluster.u32 %r1, %r10, 2;");
    assert!(fault.to_string().contains("a rank below 2"), "{fault}");
}

#[test]
fn a_grid_has_whole_clusters() {
    let report = clustered(3, 0, "mov.u32 %r1, 0;").unwrap_err().to_string();
    assert!(report.contains("clusters of [2, 1, 1] CTAs, and 3 along x are no whole number of them"), "{report}");
}
