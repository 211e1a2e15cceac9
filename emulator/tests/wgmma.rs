//! `wgmma` gives what its operands' layouts say, and what is wrong about it is named.

#[path = "common/warpgroup.rs"]
mod warpgroup;

use warpgroup::{READY, Swizzle, Tile, Warpgroup, accumulator, element_of, value};

const SWIZZLES: [Swizzle; 4] = [Swizzle::None, Swizzle::B32, Swizzle::B64, Swizzle::B128];

/// B's elements are others than A's.
fn other(row: usize, column: usize) -> f32 {
    value(row + 5, column + 2)
}

const fn aligned(bytes: usize) -> usize {
    bytes.next_multiple_of(1024)
}

/// One product of 64 by N by K from shared memory. A and B lie with k along their rows, or transposed.
fn shared_by_shared(element: &str, columns: usize, k: usize, transposed: [bool; 2], swizzles: [Swizzle; 2]) {
    let tile = |at: usize, extent: usize, transposed: bool, swizzle: Swizzle| {
        let (rows, columns) = if transposed { (k, extent) } else { (extent, k) };
        Tile { at, rows, columns: columns.next_multiple_of(swizzle.width() / 2), swizzle }
    };
    let a = tile(0, 64, transposed[0], swizzles[0]);
    let b = tile(aligned(a.bytes()), columns, transposed[1], swizzles[1]);
    let step = |tile: Tile, transposed: bool, step| if transposed { tile.mn_major(step) } else { tile.k_major(step) };
    let turn = |transposed: bool, at: fn(usize, usize) -> f32| move |r, c| if transposed { at(c, r) } else { at(r, c) };
    let case = Warpgroup { registers: columns / 2, ..Warpgroup::default() }
        .tile(a, element, turn(transposed[0], value))
        .tile(b, element, turn(transposed[1], other));
    let mut body = format!("{READY}wgmma.fence.sync.aligned;\n");
    for s in 0..k / 16 {
        body += &format!(
            "mov.b64 %d8, {:#x};\nmov.b64 %d9, {:#x};\n\
             wgmma.mma_async.sync.aligned.m64n{columns}k16.f32.{element}.{element} {}, %d8, %d9, {}, 1, 1, {}, {};\n",
            step(a, transposed[0], s),
            step(b, transposed[1], s),
            accumulator(columns),
            u8::from(s > 0),
            u8::from(transposed[0]),
            u8::from(transposed[1]),
        );
    }
    body += "wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;\n";
    let out = case.run(&body).unwrap_or_else(|fault| panic!("{fault}"));
    for (thread, registers) in out.iter().enumerate() {
        for (i, sum) in registers.iter().enumerate() {
            let (row, column) = element_of(thread, i);
            let exact: f32 = (0..k).map(|k| value(row, k) * other(column, k)).sum();
            assert_eq!(*sum, exact, "{element} N {columns} K {k} {transposed:?} {swizzles:?} at {row}, {column}");
        }
    }
}

#[test]
fn every_layout_of_operands_in_shared_memory() {
    for a in SWIZZLES {
        for b in SWIZZLES {
            for transposed in [[false, false], [true, false], [false, true], [true, true]] {
                shared_by_shared("bf16", 64, 64, transposed, [a, b]);
            }
        }
    }
}

#[test]
fn every_width_of_the_accumulator() {
    for columns in (8..=256).step_by(8) {
        for transposed in [false, true] {
            shared_by_shared("f16", columns, 32, [false, transposed], [Swizzle::B64, Swizzle::B32]);
        }
    }
    for columns in [80, 128, 176, 256] {
        shared_by_shared("bf16", columns, 128, [false, false], [Swizzle::B128; 2]);
        shared_by_shared("bf16", columns, 64, [true, true], [Swizzle::B128; 2]);
    }
}

/// A of 64 by 16 and B of 8 by 16, both K-major with rows of 32 bytes.
const A: Tile = Tile { at: 0, rows: 64, columns: 16, swizzle: Swizzle::B32 };
const B: Tile = Tile { at: 2048, rows: 8, columns: 16, swizzle: Swizzle::B32 };

fn small() -> Warpgroup {
    Warpgroup { registers: 4, ..Warpgroup::default() }.tile(A, "bf16", value).tile(B, "bf16", other)
}

/// A's descriptor in `%d8`, B's in `%d9`.
fn descriptors() -> String {
    format!("mov.b64 %d8, {:#x};\nmov.b64 %d9, {:#x};\n", A.k_major(0), B.k_major(0))
}

/// The product of A and B into `%f0` to `%f3`.
fn product(adds: &str) -> String {
    format!("wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {}, %d8, %d9, {adds}, 1, 1, 0, 0;\n", accumulator(8))
}

const FENCE: &str = "wgmma.fence.sync.aligned;\n";
const COMMIT: &str = "wgmma.commit_group.sync.aligned;\n";
const WAIT: &str = "wgmma.wait_group.sync.aligned 0;\n";

fn exact(row: usize, column: usize) -> f32 {
    (0..16).map(|k| value(row, k) * other(column, k)).sum()
}

/// The accumulators are `f` of the exact product.
fn gives(body: &str, f: impl Fn(f32) -> f32) {
    let out = small().run(body).unwrap_or_else(|fault| panic!("{fault}"));
    for (thread, registers) in out.iter().enumerate() {
        for (i, sum) in registers.iter().enumerate() {
            let (row, column) = element_of(thread, i);
            assert_eq!(*sum, f(exact(row, column)), "{body}\nat {row}, {column}");
        }
    }
}

/// `%r20` to `%r23`: A's fragment, as `ldmatrix` would read it, from the K-major tile.
fn fragment() -> String {
    let mut body = String::new();
    for r in 0..4 {
        // Row 16 w + l / 4 + 8 (r & 1), columns 8 (r >> 1) + 2 (l & 3) and the next.
        body += &format!(
            "shr.u32 %r10, %r0, 2; and.b32 %r10, %r10, 7; shl.b32 %r11, %r1, 4; add.u32 %r10, %r10, %r11; add.u32 %r10, %r10, {};\n\
             shl.b32 %r11, %r10, 5; and.b32 %r12, %r0, 3; shl.b32 %r12, %r12, 2; add.u32 %r11, %r11, %r12; \
             shr.u32 %r12, %r10, 2; and.b32 %r12, %r12, 1; xor.b32 %r12, %r12, {}; shl.b32 %r12, %r12, 4; \
             add.u32 %r11, %r11, %r12; add.u32 %r11, %r11, %r2;\nld.shared.b32 %r{}, [%r11];\n",
            8 * (r & 1),
            r >> 1,
            20 + r
        );
    }
    body
}

#[test]
fn a_in_registers_signs_and_whether_to_add() {
    let start = format!("{READY}{}{FENCE}", descriptors());
    let end = format!("{COMMIT}{WAIT}");
    gives(&format!("{start}{}{}{end}", product("0"), product("1")), |sum| 2.0 * sum);
    let negated = product("1").replace("1, 1, 1, 0, 0", "1, -1, 1, 0, 0");
    gives(&format!("{start}{}{}{negated}{end}", product("0"), product("1")), |sum| sum);
    gives(&format!("{start}{}{}{end}", product("0"), negated.replace("1, -1, 1", "0, -1, -1")), |sum| sum);
    let by_predicate = "setp.eq.u32 %p3, %r2, 77;\nsetp.ne.u32 %p4, %r2, 77;\n";
    gives(&format!("{by_predicate}{start}{}{}{end}", product("%p3"), product("%p4")), |sum| 2.0 * sum);
    let registers = "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%f0, %f1, %f2, %f3}, {%r20, %r21, %r22, %r23}, %d9, 0, 1, 1, 0;\n";
    gives(&format!("{READY}{}{}{FENCE}{registers}{end}", descriptors(), fragment()), |sum| sum);
    // What was there before counts where it is added to.
    let before: String = (0..4).map(|i| format!("mov.f32 %f{i}, 0f40400000;\n")).collect();
    gives(&format!("{before}{start}{}{end}", product("1")), |sum| sum + 3.0);
}

/// The fault of a body, and that its report has these words.
fn named(body: &str, title: &str, words: &[&str]) {
    let fault = small().fault(body);
    let report = fault.to_string();
    assert_eq!(fault.kind.title(), title, "{report}");
    for word in words {
        assert!(report.contains(word), "`{word}` is not in\n{report}");
    }
}

#[test]
fn operands_in_shared_memory_that_are_not_there_yet() {
    let rest = format!("{}{FENCE}{}{COMMIT}{WAIT}", descriptors(), product("0"));
    let fault = small().fault(&format!("bar.sync 0;\n// from kernels/src/hopper.rs:12:9 `dot`\n{rest}"));
    assert_eq!(
        fault.to_string(),
        "missing fence: shared memory at 0x0 was written through the generic proxy and is touched through the asynchronous one: its \
         writer must execute fence.proxy.async after the write, before the barrier that orders the two\n  \
         --> k.ptx:26   wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%f0, %f1, %f2, %f3}, %d8, %d9, 0, 1, 1, 0, 0;   CTA \
         0,0,0 warp 3\n      from kernels/src/hopper.rs:12:9 `dot`\n      \
         k.ptx:17   st.shared.v4.b32 [%r4], {%r5, %r6, %r7, %r8};                                      CTA 0,0,0 warp 0 lane 0"
    );
    // Too late: behind the barrier, it is not the writers' before the order.
    named(&format!("bar.sync 0;\nfence.proxy.async.shared::cta;\n{rest}"), "missing fence", &["st.shared.v4.b32"]);
    // One for global memory is none for shared memory.
    named(&format!("fence.proxy.async.global;\nbar.sync 0;\n{rest}"), "missing fence", &["st.shared.v4.b32"]);
    // Fenced, and not ordered: who comes late writes under the product of who came first.
    named(
        &format!("fence.proxy.async.shared::cta;\n{rest}"),
        "missing wait",
        &["is written while an asynchronous read", "st.shared.v4.b32"],
    );
    // Nobody wrote it.
    let past = rest.replace(&format!("{:#x}", B.k_major(0)), &format!("{:#x}", Tile { at: 2304, ..B }.k_major(0)));
    let fault = Warpgroup { room: 256, ..small() }.fault(&format!("{READY}{past}"));
    assert!(
        fault.to_string().starts_with("uninitialised: shared memory at 0x900 is read and was never written")
            && fault.to_string().contains("wgmma.mma_async"),
        "{fault}"
    );
    named(
        &format!(
            "{READY}{}",
            rest.replace(&format!("{:#x}", B.k_major(0)), &format!("{:#x}", Tile { at: 8192, ..B }.k_major(0)))
        ),
        "out of bounds",
        &["16 bytes of shared memory at 0x2000 are not all in the 2304 bytes", "wgmma.mma_async"],
    );
    named(
        &format!("{READY}{}", rest.replace(&format!("{:#x}", A.k_major(0)), &format!("{:#x}", A.k_major(0) | 1 << 49))),
        "operand",
        &["base offset of 1", "1024, 512 or 256"],
    );
}

#[test]
fn registers_in_flight() {
    let start = format!("{READY}{}{}{FENCE}", descriptors(), fragment());
    let fault = small().fault(&format!(
        "{start}{}{COMMIT}\n// from kernels/src/hopper.rs:14:9 `softmax`\nadd.f32 %f9, %f1, %f1;",
        product("0")
    ));
    assert!(
        fault
            .to_string()
            .starts_with("missing wait: %f1 is touched while a wgmma that was not waited for uses it\n  --> k.ptx:"),
        "{fault}"
    );
    for word in
        ["add.f32 %f9, %f1, %f1;", "wgmma.mma_async", "hopper.rs:14:9", "a wgmma.wait_group 0 must stand between"]
    {
        assert!(fault.to_string().contains(word), "{word}\n{fault}");
    }
    let second = product("0").replace("{%f0, %f1, %f2, %f3}", "{%f4, %f5, %f6, %f7}");
    let both = format!("{start}{}{COMMIT}{second}{COMMIT}", product("0"));
    named(
        &format!("{both}wgmma.wait_group.sync.aligned 1;\nmov.f32 %f4, %f5;"),
        "missing wait",
        &["lets 1 groups pass", "wait_group 0"],
    );
    small()
        .run(&format!("{both}wgmma.wait_group.sync.aligned 1;\nmov.f32 %f0, %f1;{WAIT}"))
        .unwrap_or_else(|fault| panic!("{fault}"));
    named(&format!("{start}{}{WAIT}mov.f32 %f9, %f0;", product("0")), "missing wait", &["its group was not committed"]);
    let registers = "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%f0, %f1, %f2, %f3}, {%r20, %r21, %r22, %r23}, %d9, 0, 1, 1, 0;\n";
    named(
        &format!("{start}{registers}{COMMIT}mov.u32 %r22, 5;{WAIT}"),
        "missing wait",
        &["%r22 is touched", "mov.u32 %r22, 5;"],
    );
    small().run(&format!("{start}{registers}{COMMIT}{WAIT}mov.u32 %r22, 5;")).unwrap_or_else(|fault| panic!("{fault}"));
}

#[test]
fn a_missing_wgmma_fence() {
    let start = format!("{READY}{}", descriptors());
    let end = format!("{COMMIT}{WAIT}");
    named(
        &format!("{start}{}{end}", product("0")),
        "missing fence",
        &["a wgmma.fence must stand before the first wgmma"],
    );
    let touched = format!("{start}{FENCE}mov.f32 %f2, 0f00000000;\n{}{end}", product("0"));
    named(
        &touched,
        "missing fence",
        &["%f2, which was touched since the last wgmma.fence", "mov.f32 %f2, 0f00000000;"],
    );
    // A read too, and after a wait.
    let again = format!("{start}{FENCE}{}{end}mov.f32 %f9, %f3;\n{}{end}", product("0"), product("1"));
    named(&again, "missing fence", &["%f3, which was touched", "mov.f32 %f9, %f3;"]);
    small().run(&again.replace("%f3;\n", &format!("%f3;\n{FENCE}"))).unwrap_or_else(|fault| panic!("{fault}"));
    // Another shape in the same registers.
    let wide = "wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 {%f0, %f1, %f2, %f3, %f10, %f11, %f12, %f13}, %d8, %d9, 0, 1, 1, 0, 0;\n";
    let case = small().tile(Tile { rows: 16, ..B }, "bf16", other);
    let fault = case.fault(&format!("{start}{FENCE}{}{wide}{end}", product("0")));
    assert_eq!(fault.kind.title(), "missing wait", "{fault}");
    let fault = case.fault(&format!("{start}{FENCE}{}{end}{wide}{end}", product("0")));
    assert_eq!(fault.kind.title(), "missing fence", "{fault}");
    case.run(&format!("{start}{FENCE}{}{end}{FENCE}{wide}{end}", product("0")))
        .unwrap_or_else(|fault| panic!("{fault}"));
}

#[test]
fn accumulators_that_nobody_wrote() {
    let start = format!("{READY}{}{FENCE}", descriptors());
    named(&format!("{start}{}{COMMIT}{WAIT}", product("1")), "uninitialised", &["%f0 is read and was never written"]);
    let holds = format!("setp.ne.u32 %p4, %r2, 77;\n{start}{}{COMMIT}{WAIT}", product("%p4"));
    named(&holds, "uninitialised", &["%f0 is read and was never written", "wgmma.mma_async"]);
}

#[test]
fn operands_are_not_written_while_they_are_read() {
    let start = format!("{READY}{}{FENCE}{}{COMMIT}", descriptors(), product("0"));
    // By a warp that has not waited, in what all four read.
    let store = "st.shared.b32 [%r2+2052], %r0;\n";
    named(
        &format!("{start}{store}{WAIT}"),
        "missing wait",
        &["0x800 is written while an asynchronous read", store.trim(), "wgmma.mma_async"],
    );
    named(&format!("{start}wgmma.wait_group.sync.aligned 1;\n{store}{WAIT}"), "missing wait", &[]);
    let one = |line: &str| format!("setp.eq.u32 %p5, %r0, 32;\n@%p5 {line}");
    small().run(&format!("{start}{WAIT}bar.sync 0;\n{}", one(store))).unwrap_or_else(|fault| panic!("{fault}"));
}

#[test]
fn warps_of_a_warpgroup_issue_the_same() {
    let start = format!("{READY}{}{FENCE}", descriptors());
    let end = format!("{COMMIT}{WAIT}");
    let third = "setp.eq.u32 %p5, %r1, 2;\n";
    named(
        &format!("{start}{third}@%p5 mov.b64 %d9, {:#x};\n{}{end}", A.k_major(0), product("0")),
        "warpgroup",
        &["the descriptor of B must be the same in the four warps of a warpgroup", "in warp 2"],
    );
    named(
        &format!("{start}setp.eq.u32 %p5, %r0, 70;\n@%p5 mov.b64 %d8, 0;\n{}{end}", product("0")),
        "operand",
        &["the descriptor of A must be the same in every lane", "in lane 6"],
    );
    // Warp 2 goes another way.
    named(
        &format!("{start}{third}@%p5 bra OTHER;\n{}bra BOTH;\nOTHER:\n{}BOTH:\n{end}", product("0"), product("0")),
        "warpgroup",
        &["must issue the same wgmmas in the same order, and warp 2 issues one where warp"],
    );
    named(
        &format!("{start}{third}@%p5 bra OTHER;\n{COMMIT}OTHER:\n{}{end}", product("0")),
        "warpgroup",
        &["must commit the same groups: warp 2 has committed 0 before this wgmma, and warp"],
    );
    // Or does not come at all.
    named(
        &format!("{start}{third}@%p5 bra DONE;\n{}{end}DONE:\nbar.sync 0;\n", product("0")),
        "deadlock",
        &[
            "warp 0, waits for its wgmmas",
            "was issued by warps 0 and 1 and 3 alone: all four warps of warpgroup 0 must issue it",
        ],
    );
    named(
        &format!("{start}{third}@%p5 ret;\n{}{COMMIT}ret;\n", product("0")),
        "warpgroup",
        &["a wgmma was not issued by all four warps of warpgroup 0", "warp 3"],
    );
    let fault = Warpgroup { threads: 96, ..small() }.fault(&format!("{start}{}{end}", product("0")));
    assert!(fault.to_string().contains("a warpgroup has four warps, and this one only 3"), "{fault}");
    let fault = Warpgroup { registers: 0, ..small() }
        .fault(&format!("{start}setp.lt.u32 %p5, %r0, 16;\n@%p5 {}{end}", product("0")));
    assert!(fault.kind.title() == "divergence" && fault.to_string().contains("0x0000ffff"), "{fault}");
}

#[test]
fn a_pool_of_registers_that_cannot_give_enough() {
    // 168 registers at entry: one warpgroup gives 128 of them, and two want 72 more each.
    let roles = |producer: u32, consumers: u32| {
        format!(
            "setp.ge.u32 %p5, %r1, 4;\n@%p5 bra MORE;\nsetmaxnreg.dec.sync.aligned.u32 {producer};\nret;\nMORE:\n\
             // from kernels/src/hopper.rs:9:9 `roles`\nsetmaxnreg.inc.sync.aligned.u32 {consumers};\nret;\n"
        )
    };
    let case = Warpgroup { threads: 384, registers: 0, ..Warpgroup::default() };
    case.run(&roles(24, 240)).unwrap_or_else(|fault| panic!("{fault}"));
    let report = case.fault(&roles(40, 240)).to_string();
    for word in [
        "deadlock: no warp of the CTA can go on; setmaxnreg wants 240 registers a thread where a warp has 168, which are 2304 more, and \
         the pool of the CTA has 256",
        "waits for 240 registers a thread",
        "from kernels/src/hopper.rs:9:9 `roles`",
        "warps 0 to 10 ended",
    ] {
        assert!(report.contains(word), "{word}\n{report}");
    }
    let case = Warpgroup { threads: 256, registers: 0, ..Warpgroup::default() };
    let split = "setp.ge.u32 %p5, %r1, 4;\n@%p5 bra MORE;\nsetmaxnreg.dec.sync.aligned.u32 24;\nret;\nMORE:\nsetmaxnreg.inc.sync.aligned.u32 256;\nret;\n";
    case.run(split).unwrap_or_else(|fault| panic!("{fault}"));
    let fault = case.fault("setp.eq.u32 %p5, %r1, 1;\n@%p5 bra MORE;\nsetmaxnreg.dec.sync.aligned.u32 24;\nret;\nMORE:\nsetmaxnreg.dec.sync.aligned.u32 32;\nret;\n");
    assert!(fault.to_string().contains("warp 1 wants 32 registers, and warp 0 24"), "{fault}");
    let fault = case.fault("setmaxnreg.dec.sync.aligned.u32 40;\nsetmaxnreg.inc.sync.aligned.u32 24;\nret;\n");
    assert!(fault.to_string().contains("setmaxnreg.inc to 24 registers, and the warp has 40"), "{fault}");
}

#[test]
fn a_barrier_for_more_threads_than_come() {
    let fault = Warpgroup { threads: 160, registers: 0, ..Warpgroup::default() }.fault(
        "setp.eq.u32 %p5, %r1, 4;\n@%p5 bra WRITER;\nbar.arrive 4, 192;\nbar.sync 5, 160;\nret;\nWRITER:\nbar.sync 4, 192;\nbar.arrive 5, 160;\nret;\n",
    );
    let report = fault.to_string();
    for word in [
        "deadlock: no warp of the CTA can go on; barrier 4 has 160 of 192 threads; barrier 5 has 128 of 160 threads",
        "warp 4, waits for barrier 4",
        "warps 0 to 3 arrived at barrier 4, at line 23, and went on",
        "barrier 4 misses 32 threads: other warps must arrive at it, or it must be for 160",
    ] {
        assert!(report.contains(word), "{word}\n{report}");
    }
}

#[test]
fn an_elected_lane_and_matrices_stored() {
    // Each warp stores its 16 by 16 piece, both ways, and the elected lane alone says so.
    let mut case = Warpgroup { threads: 32, registers: 1, ..Warpgroup::default() };
    case.image = vec![0; 1024];
    for (trans, at) in [("", "shl.b32 %r13, %r10, 1;"), (".trans", "mul.lo.u32 %r13, %r11, 2;")] {
        // Element (row, column) is 32 row + column; transposed it is found at (column, row).
        let body = format!(
            "bar.sync 0;\nshr.u32 %r10, %r0, 2; and.b32 %r11, %r0, 3; shl.b32 %r11, %r11, 1; shl.b32 %r12, %r10, 5; add.u32 %r12, %r12, %r11;\n\
             add.u32 %r14, %r12, 1; shl.b32 %r14, %r14, 16; or.b32 %r20, %r12, %r14;\n\
             and.b32 %r15, %r0, 7; shl.b32 %r15, %r15, 4; add.u32 %r15, %r15, %r2;\n\
             stmatrix.sync.aligned.m8n8.x1{trans}.shared.b16 [%r15], {{%r20}};\nbar.warp.sync 0xffffffff;\n{at}\n\
             shl.b32 %r16, %r0, 2; add.u32 %r16, %r16, %r2; ld.shared.b32 %r17, [%r16]; and.b32 %r17, %r17, 0xffff; cvt.rn.f32.u32 %f0, %r17;\n\
             elect.sync %r18|%p5, 0xffffffff;\n@!%p5 add.f32 %f0, %f0, 0f47800000;\ncvt.rn.f32.u32 %f1, %r18; add.f32 %f0, %f0, %f1;\n"
        );
        let out = case.run(&body).unwrap_or_else(|fault| panic!("{fault}"));
        for (lane, value) in out.iter().enumerate() {
            let (row, column) = (lane / 4, 2 * (lane % 4));
            let element = if trans.is_empty() { 32 * row + column } else { 32 * column + row };
            assert_eq!(value[0], element as f32 + if lane == 0 { 0.0 } else { 65536.0 }, "{trans} lane {lane}");
        }
    }
}
