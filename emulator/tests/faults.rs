//! Everything that a run can find wrong, provoked, and the report's words.

#[path = "common/small.rs"]
mod small;

use lacuna_emulator::{Arg, Fault, FaultKind, Launch, Memory, Options, Program, run};
use small::{Small, module};

/// The report without addresses that depend on where memory lies.
fn report(fault: &Fault) -> String {
    fault.to_string()
}

fn one_warp(body: &str) -> Box<Fault> {
    Small::default().fault(body)
}

#[test]
fn global_memory_out_of_bounds() {
    let fault = one_warp("// from kernels/src/nsa.rs:31:17 dot\nst.global.u32 [%d2+4], %r0;\nret;");
    let FaultKind::OutOfBounds { address, bytes: 4, .. } = fault.kind else { panic!("{fault}") };
    assert_eq!(
        report(&fault),
        format!(
            "out of bounds: 4 bytes of global memory at {address:#x} are not all in one allocation\n  --> k.ptx:12   \
             st.global.u32 [%d2+4], %r0;   CTA 0,0,0 warp 0 lane 31\n      from kernels/src/nsa.rs:31:17 dot"
        )
    );
    for body in
        ["mov.u64 %d3, 0; ld.global.u32 %r1, [%d3]; ret;", "ld.global.v4.u32 {%r1, %r2, %r3, %r4}, [%d1+128]; ret;"]
    {
        assert!(matches!(one_warp(body).kind, FaultKind::OutOfBounds { .. }));
    }
    // The copy's source, at issue.
    let fault = one_warp("mov.u32 %r10, smem; cp.async.cg.shared.global [%r10], [%d1+256], 16; ret;");
    assert!(matches!(fault.kind, FaultKind::OutOfBounds { bytes: 16, .. }), "{fault}");
}

#[test]
fn shared_memory_out_of_bounds() {
    let fault = one_warp(
        "mov.u32 %r10, smem; mad.lo.u32 %r11, %r0, 256, %r10; st.shared.v4.b32 [%r11+-16], {%r0, %r0, %r0, %r0}; ret;",
    );
    assert_eq!(
        report(&fault),
        "out of bounds: 16 bytes of shared memory at 0xfffffff0 are not all in the 4096 bytes that the CTA has\n  --> k.ptx:11   \
         st.shared.v4.b32 [%r11+-16], {%r0, %r0, %r0, %r0};   CTA 0,0,0 warp 0 lane 0"
    );
    let past = one_warp("mov.u32 %r10, smem; ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r1}, [%r10+4096]; ret;");
    assert!(matches!(past.kind, FaultKind::OutOfBounds { address: 4096, .. }), "{past}");
}

#[test]
fn misaligned() {
    let fault = one_warp(
        "mov.u32 %r10, smem; mad.lo.u32 %r11, %r0, 8, %r10; st.shared.v4.b32 [%r11], {%r0, %r0, %r0, %r0}; ret;",
    );
    assert_eq!(
        report(&fault),
        "misaligned: 16 bytes of shared memory at 0x8, which is not a multiple of 16\n  --> k.ptx:11   \
         st.shared.v4.b32 [%r11], {%r0, %r0, %r0, %r0};   CTA 0,0,0 warp 0 lane 1"
    );
    for body in [
        "ld.global.u32 %r1, [%d1+2]; ret;",
        "ld.global.b64 %d3, [%d1+4]; ret;",
        "mov.u32 %r10, smem; cp.async.cg.shared.global [%r10], [%d1+8], 16; ret;",
        "mov.u32 %r10, smem; cp.async.cg.shared.global [%r10+4], [%d1], 16, 0; ret;",
        "mov.u32 %r10, smem; ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r1}, [%r10+8]; ret;",
        "atom.global.add.u32 %r1, [%d1+1], 1; ret;",
    ] {
        let fault = one_warp(body);
        assert!(matches!(fault.kind, FaultKind::Misaligned { .. }), "{body}\n{fault}");
    }
}

#[test]
fn registers_that_nobody_wrote() {
    let fault = one_warp("setp.lt.u32 %p0, %r0, 30;\n@%p0 mov.u32 %r5, 1;\nadd.u32 %r6, %r5, 1;\nret;");
    assert_eq!(
        report(&fault),
        "uninitialised: %r5 is read and was never written\n  --> k.ptx:13   add.u32 %r6, %r5, 1;   CTA 0,0,0 warp 0 lane 30"
    );
    for (body, name) in [
        ("fma.rn.f32 %f1, %f2, %f3, %f2; ret;", "%f2"),
        ("@%p3 mov.u32 %r1, 1; ret;", "%p3"),
        ("add.u64 %d5, %d6, 1; ret;", "%d6"),
        ("st.global.u32 [%d2], %r7; ret;", "%r7"),
        // Written on the path that some lanes do not take.
        ("setp.lt.u32 %p0, %r0, 3; @%p0 bra L; mov.u32 %r1, 1; L: add.u32 %r2, %r1, 1; ret;", "%r1"),
    ] {
        let fault = one_warp(body);
        assert_eq!(fault.kind, FaultKind::UnwrittenRegister { register: name.into() }, "{body}");
    }
}

#[test]
fn memory_that_nobody_wrote() {
    let fault = one_warp(
        "mov.u32 %r10, smem; mad.lo.u32 %r11, %r0, 8, %r10; st.shared.b32 [%r11], 0; ld.shared.v2.b32 {%r1, %r2}, [%r11]; ret;",
    );
    assert_eq!(
        report(&fault),
        "uninitialised: shared memory at 0x4 is read and was never written\n  --> k.ptx:11   \
         ld.shared.v2.b32 {%r1, %r2}, [%r11];   CTA 0,0,0 warp 0 lane 0"
    );
    for body in [
        "ld.global.u32 %r1, [%d2]; ret;",
        "atom.global.add.u32 %r1, [%d2], 1; ret;",
        "st.global.u16 [%d2], 1; ld.global.u32 %r1, [%d2]; ret;",
        "mov.u32 %r10, smem; cp.async.ca.shared.global [%r10], [%d1], 4; ret;",
    ] {
        let body = body.replace("st.global.u16 [%d2], 1", "mov.b32 {%h0, %h1}, %r0; st.global.b16 [%d2], %h0");
        let fault = one_warp(&body);
        assert!(matches!(fault.kind, FaultKind::UnwrittenMemory { .. }), "{body}\n{fault}");
    }
}

#[test]
fn a_copy_that_was_not_waited_for() {
    let case = Small { input: vec![1; 256], ..Small::default() };
    let issue = "mov.u32 %r10, smem;\nmad.lo.u32 %r11, %r0, 16, %r10;\nmul.wide.u32 %d3, %r0, 16;\nadd.u64 %d3, %d0, %d3;\n\
                 cp.async.cg.shared.global [%r11], [%d3], 16;\ncp.async.commit_group;\n";
    let fault = case.fault(
        &format!("{issue}ld.shared.b32 %r1, [%r11+4];\nret;")
            .replace("cp.async.cg", "setp.lt.u32 %p0, %r0, 16;\n@%p0 cp.async.cg"),
    );
    assert_eq!(
        report(&fault),
        "missing wait: shared memory at 0x4 is touched while an asynchronous copy to it is in flight: the thread that issued it has \
         not waited for its group\n  --> k.ptx:18   ld.shared.b32 %r1, [%r11+4];                        CTA 0,0,0 warp 0 lane 0\n      \
         k.ptx:16   @%p0 cp.async.cg.shared.global [%r11], [%d3], 16;   CTA 0,0,0 warp 0 lane 0\n  its thread has waited for nothing: a wait that lets 0 groups pass must follow"
    );
    // Overwriting it is no better, nor is a second copy to the same place.
    for later in ["st.shared.b32 [%r11], %r0; ret;", "cp.async.cg.shared.global [%r11], [%d3], 16; ret;"] {
        let fault = case.fault(&format!("{issue}{later}"));
        assert!(matches!(fault.kind, FaultKind::Pending { .. }), "{fault}");
    }
    // Another lane sees the data only after the warp has synchronised.
    let across = "xor.b32 %r12, %r11, 16;\nld.shared.b32 %r1, [%r12];\nret;";
    let fault = case.fault(&format!("{issue}cp.async.wait_group 0;\n{across}"));
    assert!(matches!(fault.kind, FaultKind::Race { first_writes: true, second_writes: false, .. }), "{fault}");
    case.run(&format!("{issue}cp.async.wait_group 0;\nbar.warp.sync 0xffffffff;\n{across}")).unwrap();
}

#[test]
fn races() {
    let case = Small { threads: 64, output: 64, ..Small::default() };
    let write =
        "mov.u32 %r10, smem; mad.lo.u32 %r11, %r0, 4, %r10; xor.b32 %r12, %r11, 128;\nst.shared.b32 [%r11], %r0;\n";
    let fault = case.fault(&format!("{write}// from kernels/src/nsa.rs:40:9 step\nld.shared.b32 %r1, [%r12];\nret;"));
    // Warp 0 reads first, and finds nothing.
    assert!(matches!(fault.kind, FaultKind::UnwrittenMemory { .. }), "{fault}");
    let init = "mov.u32 %r10, smem; mad.lo.u32 %r11, %r0, 4, %r10; xor.b32 %r12, %r11, 128; st.shared.b32 [%r11], 0;\nbar.sync 0;\n";
    let fault = case.fault(&format!(
        "{init}st.shared.b32 [%r11], %r0;\n// from kernels/src/nsa.rs:40:9 step\nld.shared.b32 %r1, [%r12];\nret;"
    ));
    let lane = fault.sites[1].lane.unwrap();
    assert_eq!(
        report(&fault),
        format!(
            "race: shared memory at 0x0 is written by warp 0 after it was read by warp 1, and no barrier orders them\n  --> k.ptx:13   \
             st.shared.b32 [%r11], %r0;   CTA 0,0,0 warp 0 lane 0\n      k.ptx:15   ld.shared.b32 %r1, [%r12];   CTA 0,0,0 warp 1 lane {lane}\n      \
             from kernels/src/nsa.rs:40:9 step"
        )
    );
    let fault = case.fault(&format!(
        "{init}setp.ge.u32 %p0, %r0, 32; @%p0 st.shared.b32 [%r11], %r0; @!%p0 ld.shared.b32 %r1, [%r12]; ret;"
    ));
    assert!(
        report(&fault).starts_with("race: shared memory at 0x80 is read by warp 0 after it was written by warp 1"),
        "{fault}"
    );
    let fault = case.fault(&format!("{init}st.shared.b32 [%r10], %r0; ret;"));
    assert!(
        report(&fault).starts_with("race: shared memory at 0x0 is written by warp 0 after it was written by warp 1"),
        "{fault}"
    );
    // A barrier between them is enough; so is one that only the two have met at.
    case.run(&format!("{init}st.shared.b32 [%r11], %r0; bar.sync 1, 64; ld.shared.b32 %r1, [%r12]; ret;")).unwrap();
    // A barrier for others is not.
    let fault = case.fault(&format!(
        "{init}setp.lt.u32 %p0, %r0, 32; @%p0 st.shared.b32 [%r11], %r0; bar.sync 2, 32; @!%p0 ld.shared.b32 %r1, [%r12]; ret;"
    ));
    assert!(matches!(fault.kind, FaultKind::Race { .. }), "{fault}");
    // bar.arrive hands over what was written before it.
    case.run(&format!(
        "{init}setp.lt.u32 %p0, %r0, 32; @%p0 bra FIRST; bar.sync 2, 64; ld.shared.b32 %r1, [%r12]; ret;
         FIRST: st.shared.b32 [%r11], %r0; bar.arrive 2, 64; ret;"
    ))
    .unwrap_or_else(|fault| panic!("{fault}"));
}

#[test]
fn lanes_of_one_warp_race_too() {
    let fault = one_warp(
        "mov.u32 %r10, smem; mad.lo.u32 %r11, %r0, 4, %r10; st.shared.b32 [%r11], 0; xor.b32 %r12, %r11, 4;\nld.shared.b32 %r1, [%r12]; ret;",
    );
    assert!(
        report(&fault).starts_with(
            "race: shared memory at 0x4 is read by one lane of warp 0 after it was written by another, and no bar.warp.sync or barrier"
        ),
        "{fault}"
    );
}

#[test]
fn deadlock() {
    let case = Small { threads: 96, output: 96, ..Small::default() };
    let fault = case.fault(
        "setp.lt.u32 %p0, %r0, 64;
         @%p0 bra MANY;
         // from kernels/src/merge.rs:8:5 sync
         bar.sync 3, 64;
         ret;
         MANY:
         bar.sync 2, 96;
         ret;",
    );
    assert_eq!(
        report(&fault),
        "deadlock: no warp of the CTA can go on; barrier 2 has 64 of 96 threads; barrier 3 has 32 of 64 threads\n  \
         --> k.ptx:17   bar.sync 2, 96;   CTA 0,0,0 warp 0, waits for barrier 2\n      from kernels/src/merge.rs:8:5 sync\n      \
         k.ptx:17   bar.sync 2, 96;   CTA 0,0,0 warp 1, waits for barrier 2\n      \
         k.ptx:14   bar.sync 3, 64;   CTA 0,0,0 warp 2, waits for barrier 3\n  \
         barrier 2 misses 32 threads: other warps must arrive at it, or it must be for 64; barrier 3 misses 32 threads: other warps must \
         arrive at it, or it must be for 32"
    );
}

#[test]
fn the_ended_are_not_waited_for() {
    let case = Small { threads: 64, output: 64, ..Small::default() };
    let body = |barrier: &str| format!("setp.lt.u32 %p0, %r0, 32;\n@%p0 bra OUT;\n{barrier}\nOUT: ret;");
    case.run(&body("bar.sync 0;")).unwrap();
    let fault = case.fault(&body("bar.sync 0, 64;"));
    assert!(
        report(&fault).starts_with("deadlock: no warp of the CTA can go on; barrier 0 has 32 of 64 threads"),
        "{fault}"
    );
}

#[test]
fn barriers_that_disagree() {
    let case = Small { threads: 64, output: 64, ..Small::default() };
    let fault = case.fault("setp.lt.u32 %p0, %r0, 32; selp.u32 %r2, 64, 96, %p0;\nbar.sync 1, %r2; ret;");
    assert_eq!(
        report(&fault),
        "barrier: barrier 1 is for 64 threads by those who came first, and for 96 here\n  --> k.ptx:12   bar.sync 1, %r2;   CTA 0,0,0 warp 1"
    );
    let fault = case.fault("mov.u32 %r2, 40; bar.sync 1, %r2; ret;");
    assert!(matches!(fault.kind, FaultKind::Operand(_)), "{fault}");
    let fault = case.fault("and.b32 %r2, %r0, 1; bar.sync %r2; ret;");
    assert!(
        report(&fault).starts_with(
            "operand: a barrier's number must be the same in every lane, and is 0 in lane 0 and 1 in lane 1"
        ),
        "{fault}"
    );
}

#[test]
fn divergence_where_the_warp_must_be_together() {
    let fault = one_warp("setp.lt.u32 %p0, %r0, 16;\n@%p0 shfl.sync.bfly.b32 %r1, %r0, 1, 31, 0xffffffff; ret;");
    assert_eq!(
        report(&fault),
        "divergence: an instruction for the whole warp is reached by lanes 0x0000ffff of 0xffffffff: the others took another path\n  \
         --> k.ptx:12   @%p0 shfl.sync.bfly.b32 %r1, %r0, 1, 31, 4294967295;   CTA 0,0,0 warp 0"
    );
    for body in [
        "mov.u32 %r10, smem; setp.lt.u32 %p0, %r0, 8; @%p0 ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r1}, [%r10]; ret;",
        "setp.lt.u32 %p0, %r0, 8; @%p0 match.any.sync.b32 %r1, %r0, 0x1ff; ret;",
        "setp.lt.u32 %p0, %r0, 8; @%p0 bar.sync 0; ret;",
        "setp.lt.u32 %p0, %r0, 8; @%p0 bar.warp.sync 0x1ff; ret;",
    ] {
        let fault = one_warp(body);
        assert!(matches!(fault.kind, FaultKind::Diverged { .. }), "{body}\n{fault}");
    }
    let fault = one_warp("vote.sync.ballot.b32 %r1, %p0, 0xff; ret;".replace("%p0", "%p1").as_str());
    assert!(matches!(fault.kind, FaultKind::UnwrittenRegister { .. }), "{fault}");
    let fault = one_warp("setp.lt.u32 %p0, %r0, 9; vote.sync.ballot.b32 %r1, %p0, 0xff; ret;");
    assert!(report(&fault).starts_with("operand: lane 8 is not among the members 0x000000ff"), "{fault}");
    let fault = one_warp("setp.lt.u32 %p0, %r0, 8; @%p0 shfl.sync.idx.b32 %r1, %r0, 20, 31, 0xff; ret;");
    assert!(report(&fault).starts_with("operand: lane 0 reads from a lane that is not here"), "{fault}");
}

#[test]
fn trap_and_endless_loops() {
    let fault = one_warp("setp.eq.u32 %p0, %r0, 5; @%p0 trap; ret;");
    assert_eq!(report(&fault), "trap: the kernel gave up\n  --> k.ptx:11   @%p0 trap;   CTA 0,0,0 warp 0 lane 5");
    let fault = one_warp("LOOP: bra LOOP;");
    assert!(
        report(&fault).starts_with("endless: more than 1000000 warp instructions\n  --> k.ptx:11   bra LOOP;"),
        "{fault}"
    );
}

#[test]
fn operands_that_an_instruction_does_not_take() {
    let fault = one_warp("mov.u32 %r10, smem; mov.u32 %r2, 17; cp.async.cg.shared.global [%r10], [%d1], 16, %r2; ret;");
    assert!(report(&fault).starts_with("operand: cp.async of 16 bytes cannot read 17"), "{fault}");
}

fn launch_error(text: &str, change: impl FnOnce(&mut Launch<'_>)) -> String {
    let program = Program::from_text(text).unwrap_or_else(|error| panic!("{error}"));
    let args = [Arg::U64(0), Arg::U64(0)];
    let mut launch = Launch { entry: "k", grid: [1, 1, 1], block: [32, 1, 1], shared: 0, args: &args };
    change(&mut launch);
    run(&program, &launch, &Memory::new(), &Options::default()).unwrap_err().to_string()
}

#[test]
fn launches_that_the_driver_would_refuse() {
    let text = module("ret;");
    assert_eq!(launch_error(&text, |launch| launch.entry = "j"), "launch: the module has no kernel `j`; it has k");
    assert_eq!(
        launch_error(&text, |launch| launch.args = &[]),
        "launch: the kernel has 2 parameters, and the launch 0 arguments"
    );
    assert_eq!(
        launch_error(&text, |launch| launch.args = &[Arg::U64(1), Arg::F32(1.0)]),
        "launch: parameter `output` is .u64, and the argument is an F32"
    );
    assert_eq!(
        launch_error(&text, |launch| launch.grid = [4, 0, 1]),
        "launch: a grid of [4, 0, 1] CTAs of [32, 1, 1] threads has nothing to run"
    );
    assert_eq!(
        launch_error(&text, |launch| launch.shared = 233_472),
        "launch: 233472 bytes of shared memory (0 fixed, 233472 at launch) are more than the 232448 that a CTA may have on sm_90"
    );
    assert!(launch_error(&text, |launch| launch.block = [1025, 1, 1]).contains("1024 threads"));
    assert!(launch_error(&text, |launch| launch.grid = [1, 70_000, 1]).contains("65535 CTAs along y"));
    for (limit, block, refused) in [
        (".maxntid 64, 1, 1", [96, 1, 1], true),
        (".maxntid 64, 1, 1", [32, 2, 1], false),
        (".reqntid 64, 1, 1", [32, 2, 1], true),
        (".reqntid 64, 1, 1", [64, 1, 1], false),
    ] {
        let text = text.replace("output)\n", &format!("output)\n{limit}\n"));
        let program = Program::from_text(&text).unwrap_or_else(|error| panic!("{error}"));
        let launch = Launch { entry: "k", grid: [1, 1, 1], block, shared: 0, args: &[Arg::U64(0), Arg::U64(0)] };
        let result = run(&program, &launch, &Memory::new(), &Options::default());
        assert_eq!(result.is_err_and(|fault| fault.to_string().contains(&limit[..8])), refused, "{limit} {block:?}");
    }
}

#[test]
fn text_that_is_no_program() {
    assert!(Program::from_text("nonsense").unwrap_err().to_string().starts_with("PTX that cannot be read: "));
    let error = Program::from_text(&module("add.u32 %f0, %r0, 1; ret;")).unwrap_err().to_string();
    assert!(error.starts_with("PTX that is not well formed: k: statement"), "{error}");
    let error = Program::from_text(&module("ld.param.u64 %d0, [input+8]; ret;")).unwrap_err().to_string();
    assert!(error.contains("reads outside"), "{error}");
}
