//! The order of global memory: what races, what orders, and what the reports say. Stages of shared memory too.

#[path = "common/small.rs"]
mod small;

use lacuna_emulator::{Arg, FaultKind, Launch, Memory, Options, Program, run};
use small::{Small, module};

fn two_warps() -> Small {
    Small { threads: 64, output: 64, ..Small::default() }
}

/// `%d3` is the word of the thread in the other warp (of 64).
const ACROSS: &str = "xor.b32 %r12, %r0, 32; mul.wide.u32 %d3, %r12, 4; add.u64 %d3, %d1, %d3;\n";

#[test]
fn warps_of_a_cta_race_in_global_memory() {
    let fault = two_warps().fault(&format!(
        "{ACROSS}st.global.u32 [%d2], %r0;\n// from kernels/src/merge.rs:12:5 store\nst.global.u32 [%d3], %r0;\nret;"
    ));
    let FaultKind::Race { address, .. } = fault.kind else { panic!("{fault}") };
    assert_eq!(
        fault.to_string(),
        format!(
            "race: global memory at {address:#x} is written by warp 1 after it was written by warp 0, and no barrier orders them\n  \
             --> k.ptx:12   st.global.u32 [%d2], %r0;   CTA 0,0,0 warp 1 lane 0\n      \
             k.ptx:14   st.global.u32 [%d3], %r0;   CTA 0,0,0 warp 0 lane 0\n      from kernels/src/merge.rs:12:5 store"
        )
    );
    // A read first, then the write of another.
    let init = format!("{ACROSS}st.global.u32 [%d2], %r0;\nbar.sync 0;\n");
    let fault = two_warps().fault(&format!("{init}ld.global.u32 %r1, [%d3];\nst.global.u32 [%d2], %r1;\nret;"));
    assert!(fault.to_string().contains("is read by warp 0 after it was written by warp 1"), "{fault}");
    let fault = two_warps().fault(&format!(
        "{init}setp.ge.u32 %p0, %r0, 32;\n@%p0 ld.global.u32 %r1, [%d3];\n@!%p0 st.global.u32 [%d2], %r0;\nret;"
    ));
    assert!(fault.to_string().contains("is written by warp 0 after it was read by warp 1"), "{fault}");
    // A barrier orders both.
    two_warps()
        .run(&format!("{init}ld.global.u32 %r1, [%d3];\nbar.sync 0;\nst.global.u32 [%d2], %r1;\nret;"))
        .unwrap_or_else(|fault| panic!("{fault}"));
    // One for other warps does not.
    let fault = two_warps()
        .fault(&format!("{ACROSS}st.global.u32 [%d2], %r0;\nbar.sync 3, 32;\nld.global.u32 %r1, [%d3];\nret;"));
    assert!(matches!(fault.kind, FaultKind::Race { .. } | FaultKind::UnwrittenMemory { .. }), "{fault}");
}

#[test]
fn lanes_of_a_warp_race_in_global_memory() {
    let across = "xor.b32 %r12, %r0, 1; mul.wide.u32 %d3, %r12, 4; add.u64 %d3, %d1, %d3;\nst.global.u32 [%d2], %r0;\n";
    let fault = Small::default().fault(&format!("{across}ld.global.u32 %r1, [%d3];\nret;"));
    assert!(fault.to_string().contains("read by one lane of warp 0 after it was written by another"), "{fault}");
    Small::default().run(&format!("{across}bar.warp.sync 0xffffffff;\nld.global.u32 %r1, [%d3];\nret;")).unwrap();
    // All lanes of one store may write one word: one of them wins.
    Small::default().run("st.global.u32 [%d1], %r0;\nret;").unwrap();
}

#[test]
fn halves_of_a_word_belong_to_different_threads() {
    let body = "mov.b32 {%h0, %h1}, %r0; mul.wide.u32 %d3, %r0, 2; add.u64 %d3, %d1, %d3;\nst.global.b16 [%d3], %h0;\n";
    two_warps().run(&format!("{body}ld.global.b16 %h2, [%d3];\nret;")).unwrap_or_else(|fault| panic!("{fault}"));
}

fn ctas(count: u32) -> Small {
    let options = Options { threads: 1, max_instructions: Some(1_000_000), ..Options::default() };
    Small { ctas: count, output: 128, input: vec![0; 4], options, ..Small::default() }
}

/// `%r13` is the CTA, `%d4` the word of this thread in it, `%d5` that in the next one of four.
const PLACES: &str = "mov.u32 %r13, %ctaid.x; shl.b32 %r14, %r13, 5; add.u32 %r14, %r14, %r0; mul.wide.u32 %d4, %r14, 4; \
                      add.u64 %d4, %d1, %d4; add.u32 %r15, %r14, 32; and.b32 %r15, %r15, 127; mul.wide.u32 %d5, %r15, 4; \
                      add.u64 %d5, %d1, %d5;\n";

#[test]
fn ctas_of_a_launch_race() {
    let fault = ctas(2).fault("// from kernels/src/split.rs:9:1 store\nst.global.u32 [%d2], %r0;\nret;");
    let FaultKind::Race { address, .. } = fault.kind else { panic!("{fault}") };
    assert_eq!(
        fault.to_string(),
        format!(
            "race: global memory at {address:#x} is written by CTA 1,0,0 after it was written by CTA 0,0,0, and nothing orders CTAs of \
             a launch but membar.gl around atomics at one address\n  --> k.ptx:12   st.global.u32 [%d2], %r0;   CTA 1,0,0 warp 0 lane \
             0\n      from kernels/src/split.rs:9:1 store\n      k.ptx:12   st.global.u32 [%d2], %r0;   CTA 0,0,0 warp 0 lane 0"
        )
    );
    // Each its own words; and sums in any order.
    ctas(4).run(&format!("{PLACES}st.global.u32 [%d4], %r0;\nret;")).unwrap_or_else(|fault| panic!("{fault}"));
    ctas(4).run("red.global.add.u32 [%d0], 1;\natom.global.add.u32 %r1, [%d0+4], 1;\nret;").unwrap();
    // But a sum is no barrier for who reads it.
    let fault = ctas(2).fault("red.global.add.u32 [%d0], 1;\nld.global.u32 %r1, [%d0];\nret;");
    assert!(matches!(fault.kind, FaultKind::Race { first_writes: true, second_writes: false, .. }), "{fault}");
}

/// Each CTA writes, all wait for all, each reads what the next one wrote.
fn grid_barrier(release: &str, acquire: &str) -> String {
    format!(
        "{PLACES}st.global.u32 [%d4], %r14;
         bar.sync 0;
         setp.ne.u32 %p0, %r0, 0;
         @%p0 bra MET;
         {release}
         atom.global.add.u32 %r2, [%d0], 1;
         SPIN:
         atom.global.add.u32 %r2, [%d0], 0;
         setp.lt.u32 %p1, %r2, 4;
         @%p1 bra SPIN;
         {acquire}
         MET:
         bar.sync 0;
         ld.global.u32 %r1, [%d5];
         bar.sync 0;
         ret;"
    )
}

#[test]
fn a_grid_barrier_orders_with_both_of_its_fences() {
    ctas(4).run(&grid_barrier("membar.gl;", "membar.gl;")).unwrap_or_else(|fault| panic!("{fault}"));
    for (release, acquire) in [("", ""), ("membar.gl;", ""), ("", "membar.gl;"), ("membar.cta;", "membar.gl;")] {
        let fault = ctas(4).fault(&grid_barrier(release, acquire));
        assert!(matches!(fault.kind, FaultKind::Race { .. }), "{release}{acquire}: {fault}");
    }
}

#[test]
fn the_source_of_a_copy_is_locked_until_its_wait() {
    let issue = "mov.u32 %r10, smem; mad.lo.u32 %r11, %r0, 16, %r10; mul.wide.u32 %d3, %r0, 16; add.u64 %d3, %d1, %d3;\n\
                 st.global.v4.u32 [%d3], {%r0, %r0, %r0, %r0};\ncp.async.cg.shared.global [%r11], [%d3], 16;\ncp.async.commit_group;\n";
    let case = Small { output: 128, ..Small::default() };
    let fault = case.fault(&format!("{issue}st.global.u32 [%d3+4], %r0;\nret;"));
    let FaultKind::SourceInFlight { address } = fault.kind else { panic!("{fault}") };
    assert_eq!(
        fault.to_string(),
        format!(
            "missing wait: global memory at {address:#x} is written while an asynchronous copy from it is in flight: the thread that \
             issued it has not waited for its group\n  --> k.ptx:15   st.global.u32 [%d3+4], %r0;                    CTA 0,0,0 warp 0 \
             lane 0\n      k.ptx:13   cp.async.cg.shared.global [%r11], [%d3], 16;   CTA 0,0,0 warp 0 lane 0\n  its thread has \
             waited for nothing: a wait that lets 0 groups pass must follow"
        )
    );
    case.run(&format!("{issue}cp.async.wait_group 0;\nst.global.u32 [%d3+4], %r0;\nret;"))
        .unwrap_or_else(|fault| panic!("{fault}"));
}

#[test]
fn what_the_launch_wrote_is_not_read_through_the_constant_cache() {
    let body = "st.global.u32 [%d2], %r0;\nbar.sync 0;\nld.global.nc.u32 %r1, [%d2];\nret;";
    let fault = Small::default().fault(body);
    let FaultKind::Constant { address } = fault.kind else { panic!("{fault}") };
    assert!(
        fault.to_string().starts_with(&format!(
            "race: global memory at {address:#x} is read through the non-coherent cache after this launch has written it\n  --> k.ptx:13"
        )),
        "{fault}"
    );
    Small::default().run(&body.replace(".nc", "")).unwrap();
}

#[test]
fn a_launch_sees_everything_of_the_one_before() {
    let program = Program::from_text(&module(
        "add.u32 %r5, %r0, 5; and.b32 %r5, %r5, 31; mul.wide.u32 %d3, %r5, 4; add.u64 %d4, %d0, %d3;\nld.global.nc.u32 %r1, [%d4];\n\
         st.global.u32 [%d2], %r1;\nret;",
    ))
    .unwrap();
    let memory = Memory::new();
    let (a, b) = (memory.alloc(128), memory.alloc(128));
    memory.write(a, &[7; 128]).unwrap();
    for (from, to) in [(a, b), (b, a), (a, b)] {
        let args = [Arg::U64(from), Arg::U64(to)];
        let launch = Launch { entry: "k", grid: [1, 1, 1], block: [32, 1, 1], shared: 0, args: &args };
        run(&program, &launch, &memory, &Options::default()).unwrap_or_else(|fault| panic!("{fault}"));
    }
}

#[test]
fn reports_speak_of_groups_and_stages() {
    let case = Small { input: vec![1; 512], threads: 64, output: 64, ..Small::default() };
    let copy =
        |stage: u32| format!("cp.async.cg.shared.global [%r11+{}], [%d3], 16;\ncp.async.commit_group;\n", 1024 * stage);
    let head = "mov.u32 %r10, smem; mad.lo.u32 %r11, %r0, 16, %r10; mul.wide.u32 %d3, %r0, 16; add.u64 %d3, %d0, %d3;\n\
                xor.b32 %r12, %r11, 512; setp.ge.u32 %p0, %r0, 32;\n";
    let read = "bar.sync 0;\nld.shared.b32 %r1, [%r12];\n";
    let note = |body: &str| {
        let fault = case.fault(&format!("{head}{body}ret;"));
        fault.note.clone().unwrap_or_else(|| panic!("{fault}"))
    };
    let two = format!("{}{}", copy(0), copy(1));
    assert_eq!(
        note(&format!("{two}cp.async.wait_group 2;\n{read}")),
        "the last wait, at line 17, lets 2 groups pass, and of those committed this copy's is number 2 from the last: the wait lets 1 \
         too many pass"
    );
    assert_eq!(
        note(&format!("{}cp.async.wait_group 0;\n{read}", copy(0).replace("cp.async.commit_group;\n", ""))),
        "its group was never committed: no wait covers it"
    );
    assert_eq!(
        note(&format!("{}cp.async.wait_group 0;\n@%p0 ld.shared.b32 %r1, [%r12];\n", copy(0))),
        "the copy has landed for the thread that waited for it: a barrier after its wait shows it to the others"
    );
    assert_eq!(
        note(&format!(
            "{}cp.async.wait_group 0;\nbar.sync 0;\n@%p0 ld.shared.b32 %r1, [%r12];\n{}",
            copy(0),
            copy(0).replace("cp.async.cg", "@!%p0 cp.async.cg")
        )),
        "the copy refills a stage that is still read: a barrier must stand after the last read of it"
    );
    case.run(&format!("{head}{two}cp.async.wait_group 1;\n{read}ret;")).unwrap_or_else(|fault| panic!("{fault}"));
}
