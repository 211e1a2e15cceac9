//! Every family of instructions on a few values worked out by hand.

#[path = "common/small.rs"]
mod small;

use lacuna_emulator::{Launch, Memory, Options, Program, run};
use small::{Small, float, word, words};

fn lanes(f: impl Fn(u32) -> u32) -> Vec<u32> {
    (0..32).map(f).collect()
}

#[test]
fn integers() {
    assert_eq!(words("add.u32 %r1, %r0, 5;"), lanes(|lane| lane + 5));
    assert_eq!(word("mov.u32 %r2, 7; sub.s32 %r1, %r2, 9;"), -2i32 as u32);
    assert_eq!(word("mov.u32 %r2, 0x10001; mul.lo.u32 %r1, %r2, 0x10001;"), 0x20001);
    assert_eq!(word("mov.u32 %r2, 0x10001; mul.hi.u32 %r1, %r2, 0x10001;"), 1);
    assert_eq!(word("mov.u32 %r2, -2; mul.hi.s32 %r1, %r2, 3;"), u32::MAX);
    assert_eq!(words("mad.lo.u32 %r1, %r0, 3, 100;"), lanes(|lane| 3 * lane + 100));
    assert_eq!(word("mov.u32 %r2, -7; div.s32 %r1, %r2, 2;"), -3i32 as u32);
    assert_eq!(word("mov.u32 %r2, -7; rem.s32 %r1, %r2, 2;"), -1i32 as u32);
    assert_eq!(word("mov.u32 %r2, -7; div.u32 %r1, %r2, 2;"), 0x7fff_fffc);
    assert_eq!(word("mov.u32 %r2, 7; mov.u32 %r3, 0; div.s32 %r1, %r2, %r3;"), u32::MAX);
    assert_eq!(word("mov.u32 %r2, 7; mov.u32 %r3, 0; rem.u32 %r1, %r2, %r3;"), u32::MAX);
    assert_eq!(word("mov.u32 %r2, -7; max.s32 %r1, %r2, 2;"), 2);
    assert_eq!(word("mov.u32 %r2, -7; max.u32 %r1, %r2, 2;"), -7i32 as u32);
    assert_eq!(word("mov.u32 %r2, -7; abs.s32 %r2, %r2; neg.s32 %r1, %r2;"), -7i32 as u32);
    assert_eq!(word("mov.u32 %r2, 0xf0; popc.b32 %r3, %r2; clz.b32 %r2, %r2; mad.lo.u32 %r1, %r2, 100, %r3;"), 2404);
    assert_eq!(word("mov.u32 %r2, 0xabcd; bfe.u32 %r3, %r2, 4, 8; bfi.b32 %r1, %r3, %r2, 16, 8;"), 0x00bc_abcd);
    assert_eq!(word("mov.u32 %r2, 0x33221100; mov.u32 %r3, 0x77665544; prmt.b32 %r1, %r2, %r3, 0x5410;"), 0x5544_1100);
    assert_eq!(
        word("mov.u32 %r2, 12; and.b32 %r3, %r2, 10; xor.b32 %r3, %r3, 1; or.b32 %r3, %r3, 64; not.b32 %r1, %r3;"),
        !73
    );
    assert_eq!(
        word(
            "mov.u32 %r2, -16; shr.s32 %r3, %r2, 2; shr.u32 %r2, %r2, 28; shl.b32 %r2, %r2, 4; add.u32 %r1, %r2, %r3;"
        ),
        236
    );
}

#[test]
fn doubles() {
    let low = |body: &str| word(&format!("{body} cvt.u32.u64 %r1, %d3;"));
    let high = |body: &str| word(&format!("{body} shr.u64 %d3, %d3, 32; cvt.u32.u64 %r1, %d3;"));
    for (body, value) in [
        ("mov.u32 %r2, -1; mul.wide.u32 %d3, %r2, 16;", 0xf_ffff_fff0_u64),
        ("mov.u32 %r2, -1; mul.wide.s32 %d3, %r2, 16;", -16i64 as u64),
        (
            "mov.u64 %d4, 0x123456789abc; mov.u32 %r2, 3; mad.wide.u32 %d3, %r2, 0x40000000, %d4;",
            0x1234_5678_9abc + (3 << 30),
        ),
        ("mov.u64 %d4, 0x100000000; mul.lo.u64 %d3, %d4, 5; sub.u64 %d3, %d3, 1;", 0x4_ffff_ffff),
        ("mov.u64 %d4, 3; mad.lo.u64 %d3, %d4, 0x100000000, 9;", 0x3_0000_0009),
        ("mov.u32 %r2, -5; cvt.s64.s32 %d3, %r2;", -5i64 as u64),
        ("mov.u32 %r2, -5; cvt.u64.u32 %d3, %r2;", 0xffff_fffb),
        ("mov.u64 %d4, -8; shr.s64 %d3, %d4, 1; and.b64 %d3, %d3, 0xff; shl.b64 %d3, %d3, 33;", 0xfc << 33),
        ("mov.u64 %d4, -8; mov.u64 %d5, 8; min.s64 %d3, %d4, %d5;", -8i64 as u64),
        ("mov.u64 %d4, -8; mov.u64 %d5, 8; min.u64 %d3, %d4, %d5;", 8),
        ("mov.u32 %r2, 7; mov.u32 %r3, 9; mov.b64 %d3, {%r2, %r3};", 9 << 32 | 7),
    ] {
        assert_eq!(u64::from(low(body)) | u64::from(high(body)) << 32, value, "{body}");
    }
    assert_eq!(word("mov.u64 %d3, 0x500000003; mov.b64 {%r2, %r3}, %d3; mad.lo.u32 %r1, %r3, 10, %r2;"), 53);
    assert_eq!(word("mov.b32 %r2, 0x40003; mov.b32 {%h0, %h1}, %r2; mov.b32 %r1, {%h1, %h0};"), 0x30004);
}

#[test]
fn predicates() {
    assert_eq!(words("setp.lt.u32 %p0, %r0, 8; selp.u32 %r1, 1, 2, %p0;"), lanes(|lane| if lane < 8 { 1 } else { 2 }));
    assert_eq!(
        words(
            "setp.ge.s32 %p0, %r0, 4; setp.ne.b32 %p1, %r0, 6; and.pred %p2, %p0, %p1; not.pred %p2, %p2; mov.u32 %r1, 0; @!%p2 mov.u32 %r1, 1;"
        ),
        lanes(|lane| u32::from(lane >= 4 && lane != 6))
    );
    assert_eq!(
        word(
            "mov.u64 %d3, -1; setp.lt.s64 %p0, %d3, 0; setp.lt.u64 %p1, %d3, 0; selp.u32 %r2, 10, 0, %p0; selp.u32 %r3, 1, 0, %p1; add.u32 %r1, %r2, %r3;"
        ),
        10
    );
    // Comparisons with a NaN are false, `ne` too.
    for comparison in ["eq", "ne", "lt", "le", "gt", "ge"] {
        let body =
            format!("mov.f32 %f0, 0f7FC00000; setp.{comparison}.f32 %p0, %f0, 0f3F800000; selp.u32 %r1, 1, 0, %p0;");
        assert_eq!(word(&body), 0, "{comparison}");
    }
}

#[test]
fn floats() {
    let two = "mov.f32 %f2, 0f40000000; mov.f32 %f3, 0f40400000;";
    assert_eq!(float(&format!("{two} add.f32 %f1, %f2, %f3;")), 5.0);
    assert_eq!(float(&format!("{two} sub.f32 %f1, %f2, %f3;")), -1.0);
    assert_eq!(float(&format!("{two} mul.f32 %f1, %f2, %f3;")), 6.0);
    assert_eq!(float(&format!("{two} div.full.f32 %f1, %f3, %f2;")), 1.5);
    assert_eq!(float(&format!("{two} rcp.approx.ftz.f32 %f1, %f2;")), 0.5);
    assert_eq!(float(&format!("{two} ex2.approx.ftz.f32 %f1, %f3;")), 8.0);
    assert_eq!(float("mov.f32 %f2, 0f41000000; lg2.approx.ftz.f32 %f1, %f2;"), 3.0);
    assert_eq!(float("mov.f32 %f2, 0f40800000; rsqrt.approx.ftz.f32 %f1, %f2;"), 0.5);
    assert_eq!(float("mov.f32 %f2, 0f3F800000; tanh.approx.f32 %f1, %f2;"), 1.0f32.tanh());
    // (1 + e)(1 - e) - 1 is -e^2 when the product is not rounded, and 0 when it is.
    let e = "mov.f32 %f2, 0f3F800001; mov.f32 %f3, 0f3F7FFFFE;";
    assert_eq!(float(&format!("{e} fma.rn.f32 %f1, %f2, %f3, 0fBF800000;")), -(2.0f32.powi(-46)));
    // A NaN is the hardware's.
    assert_eq!(float("mov.f32 %f2, 0f7F800000; sub.f32 %f1, %f2, %f2;").to_bits(), 0x7fff_ffff);
    assert_eq!(float("mov.f32 %f2, 0f7FC00000; max.f32 %f1, %f2, 0fC0400000;"), -3.0);
    assert_eq!(float("mov.f32 %f2, 0fC0400000; abs.f32 %f1, %f2; neg.f32 %f1, %f1;"), -3.0);
    // A divisor past 2^126 is taken for infinite.
    let far = "mov.f32 %f2, 0f7F000000; mov.f32 %f3, 0fFF000000; mov.f32 %f4, 0f7F800000;";
    assert_eq!(float(&format!("{far} div.approx.ftz.f32 %f1, %f2, %f3;")).to_bits(), 0x8000_0000);
    assert!(float(&format!("{far} div.approx.ftz.f32 %f1, %f4, %f3;")).is_nan());
    assert_eq!(float(&format!("{far} div.full.f32 %f1, %f2, %f3;")), -1.0);
    // Subnormals stay in arithmetic and go in `.ftz`.
    assert_eq!(float("mov.f32 %f2, 0f00000003; add.f32 %f1, %f2, %f2;").to_bits(), 6);
    assert_eq!(float("mov.f32 %f2, 0fC3000000; ex2.approx.ftz.f32 %f1, %f2;"), 0.0);
}

#[test]
fn conversions() {
    assert_eq!(float("mov.u32 %r2, -3; cvt.rn.f32.s32 %f1, %r2;"), -3.0);
    assert_eq!(float("mov.u32 %r2, -3; cvt.rn.f32.u32 %f1, %r2;"), 4_294_967_300.0);
    assert_eq!(word("mov.f32 %f2, 0fC0200000; cvt.rzi.s32.f32 %r1, %f2;"), -2i32 as u32);
    assert_eq!(word("mov.f32 %f2, 0fC0200000; cvt.rzi.u32.f32 %r1, %f2;"), 0);
    // The first source is the upper half; 1 + 2^-8 lies between two bf16 and goes to the even one.
    assert_eq!(word("mov.f32 %f2, 0f40000000; mov.f32 %f3, 0f3F808000; cvt.rn.bf16x2.f32 %r1, %f2, %f3;"), 0x4000_3f80);
    assert_eq!(word("mov.f32 %f2, 0f40000000; mov.f32 %f3, 0f3F818000; cvt.rn.bf16x2.f32 %r1, %f2, %f3;"), 0x4000_3f82);
    assert_eq!(word("mov.f32 %f2, 0f40000000; mov.f32 %f3, 0f3F800000; cvt.rn.f16x2.f32 %r1, %f2, %f3;"), 0x4000_3c00);
    assert_eq!(float("mov.f32 %f2, 0fC0490FDB; cvt.rn.bf16.f32 %h0, %f2; cvt.f32.bf16 %f1, %h0;"), -3.140_625);
    assert_eq!(float("mov.f32 %f2, 0fC0490FDB; cvt.rn.f16.f32 %h0, %f2; cvt.f32.f16 %f1, %h0;"), -3.140_625);
}

#[test]
fn global_memory() {
    let case = Small { input: (0..128).map(|i| 1000 + i).collect(), ..Small::default() };
    let at = |bytes: u32| format!("mul.wide.u32 %d3, %r0, {bytes}; add.u64 %d3, %d0, %d3;");
    assert_eq!(case.words(&format!("{} ld.global.nc.u32 %r1, [%d3+8];", at(4))), lanes(|lane| 1002 + lane));
    assert_eq!(
        case.words(&format!("{} ld.global.v4.u32 {{%r2, %r3, %r4, %r5}}, [%d3]; sub.u32 %r2, %r5, %r2; mad.lo.u32 %r1, %r2, 10000, %r3;", at(16))),
        lanes(|lane| 30_000 + 1001 + 4 * lane)
    );
    assert_eq!(
        case.words(&format!("{} ld.global.b64 %d4, [%d3]; shr.u64 %d4, %d4, 32; cvt.u32.u64 %r1, %d4;", at(8))),
        lanes(|lane| 1001 + 2 * lane)
    );
    assert_eq!(
        case.words(&format!("{} ld.global.b16 %h0, [%d3+4]; mov.b32 %r1, {{%h0, %h0}};", at(4))),
        lanes(|lane| (1001 + lane) * 0x10001)
    );
    // All lanes of four warps count to the same place; each gets a different ticket.
    let many = Small { threads: 128, output: 129, ..Small::default() };
    let mut tickets: Vec<u32> = many
        .run(
            "setp.eq.u32 %p0, %r0, 0;
             @%p0 st.global.u32 [%d1+512], 0;
             bar.sync 0;
             atom.global.add.u32 %r1, [%d1+512], 1;
             bar.sync 0;
             red.global.add.u32 [%d1+512], 2;
             st.global.u32 [%d2], %r1;
             ret;",
        )
        .unwrap_or_else(|fault| panic!("{fault}"))
        .into_iter()
        .flatten()
        .collect();
    assert_eq!(tickets.pop(), Some(384));
    tickets.sort_unstable();
    assert_eq!(tickets, (0..128).collect::<Vec<u32>>());
    let sum = "st.global.f32 [%d2], 0f3F000000; setp.eq.u32 %p0, %r0, 0; bar.warp.sync 0xffffffff;
               atom.global.add.f32 %f1, [%d1], 0f3F800000; bar.warp.sync 0xffffffff; ret;";
    assert_eq!(Small::default().run(sum).unwrap()[0], Some(32.5f32.to_bits()));
    let least = "st.global.u32 [%d2], 9; bar.warp.sync 0xffffffff; sub.u32 %r2, %r0, 5; atom.global.min.s32 %r1, [%d1], %r2; ret;";
    assert_eq!(Small::default().run(least).unwrap()[0], Some(-5i32 as u32));
}

#[test]
fn shared_memory() {
    let fill = "mov.u32 %r10, smem; mad.lo.u32 %r11, %r0, 4, %r10; add.u32 %r12, %r0, 70; st.shared.u32 [%r11], %r12; bar.warp.sync 0xffffffff;";
    assert_eq!(
        words(&format!("{fill} xor.b32 %r2, %r0, 31; mad.lo.u32 %r2, %r2, 4, %r10; ld.shared.b32 %r1, [%r2];")),
        lanes(|lane| 101 - lane)
    );
    assert_eq!(
        words(&format!(
            "{fill} and.b32 %r2, %r0, 28; mad.lo.u32 %r2, %r2, 4, %r10; ld.shared.v4.b32 {{%r3, %r4, %r5, %r6}}, [%r2]; mad.lo.u32 %r1, %r6, 1000, %r3;"
        )),
        lanes(|lane| (73 + (lane & 28)) * 1000 + 70 + (lane & 28))
    );
    assert_eq!(
        words("mov.u32 %r10, smem; mad.lo.u32 %r11, %r0, 2, %r10; mov.b32 {%h0, %h1}, %r0; st.shared.b16 [%r11], %h0; bar.warp.sync 0xffffffff;
               and.b32 %r2, %r0, 30; mad.lo.u32 %r2, %r2, 2, %r10; ld.shared.b32 %r1, [%r2];"),
        lanes(|lane| (lane & 30) | ((lane & 30) + 1) << 16)
    );
    assert_eq!(
        words(
            "mov.u32 %r10, smem; mad.lo.u32 %r11, %r0, 8, %r10; mov.b64 %d3, {%r0, %r10}; st.shared.b64 [%r11], %d3; ld.shared.b64 %d4, [%r11]; cvt.u32.u64 %r1, %d4;"
        ),
        lanes(|lane| lane)
    );
}

#[test]
fn copies_fill_the_rest_with_zeros() {
    let case = Small { input: (0..128).map(|i| 1000 + i).collect(), ..Small::default() };
    let copy = "mov.u32 %r10, smem; mad.lo.u32 %r11, %r0, 16, %r10; mul.wide.u32 %d3, %r0, 16; add.u64 %d3, %d0, %d3;
                and.b32 %r12, %r0, 15;
                cp.async.ca.shared.global [%r11], [%d3], 16, %r12;
                cp.async.commit_group; cp.async.wait_group 0;
                ld.shared.v4.b32 {%r2, %r3, %r4, %r5}, [%r11];";
    let word = |lane: u32, word: u32| {
        let bytes = (lane & 15).saturating_sub(4 * word).min(4);
        (1000 + 4 * lane + word) & (((1u64 << (8 * bytes)) - 1) as u32)
    };
    for i in 0..4 {
        assert_eq!(case.words(&format!("{copy} mov.b32 %r1, %r{};", 2 + i)), lanes(|lane| word(lane, i)));
    }
    // A source of no bytes may be anywhere.
    let nowhere = "mov.u32 %r10, smem; mad.lo.u32 %r11, %r0, 16, %r10; mov.u64 %d3, 0;
                   cp.async.cg.shared.global [%r11], [%d3], 16, 0; cp.async.wait_all; ld.shared.b32 %r1, [%r11+12];";
    assert_eq!(case.words(nowhere), lanes(|_| 0));
}

#[test]
fn groups_are_waited_for_in_order() {
    let case = Small { input: vec![5; 64], ..Small::default() };
    let body = "mov.u32 %r10, smem; mad.lo.u32 %r11, %r0, 8, %r10; mul.wide.u32 %d3, %r0, 8; add.u64 %d3, %d0, %d3;
                cp.async.ca.shared.global [%r11], [%d3], 4; cp.async.commit_group;
                cp.async.ca.shared.global [%r11+4], [%d3], 4; cp.async.commit_group;
                cp.async.wait_group 1;
                ld.shared.b32 %r1, [%r11";
    assert_eq!(case.words(&format!("{body}];")), lanes(|_| 5));
    let fault = case.fault(&format!("{body}+4]; ret;"));
    assert!(fault.to_string().starts_with("missing wait"), "{fault}");
}

#[test]
fn across_a_warp() {
    let value = "mad.lo.u32 %r2, %r0, 3, 1;";
    let of = |lane: u32| 3 * lane + 1;
    assert_eq!(words(&format!("{value} shfl.sync.bfly.b32 %r1, %r2, 5, 31, 0xffffffff;")), lanes(|lane| of(lane ^ 5)));
    assert_eq!(words(&format!("{value} shfl.sync.idx.b32 %r1, %r2, 9, 31, 0xffffffff;")), lanes(|_| of(9)));
    assert_eq!(
        words(&format!("{value} shfl.sync.up.b32 %r1, %r2, 3, 0, 0xffffffff;")),
        lanes(|lane| of(if lane < 3 { lane } else { lane - 3 }))
    );
    assert_eq!(
        words(&format!("{value} shfl.sync.down.b32 %r1, %r2, 3, 31, 0xffffffff;")),
        lanes(|lane| of(if lane > 28 { lane } else { lane + 3 }))
    );
    // Segments of eight: the mask is 24 in bits 8 to 12.
    assert_eq!(
        words(&format!("{value} shfl.sync.idx.b32 %r1, %r2, 2, 0x181f, 0xffffffff;")),
        lanes(|lane| of(lane & 24 | 2))
    );
    assert_eq!(
        words(&format!("{value} shfl.sync.down.b32 %r1, %r2, 3, 0x181f, 0xffffffff;")),
        lanes(|lane| of(if lane & 7 > 4 { lane } else { lane + 3 }))
    );
    assert_eq!(words("setp.lt.u32 %p0, %r0, 5; vote.sync.ballot.b32 %r1, %p0, 0xffffffff;"), lanes(|_| 31));
    assert_eq!(
        word(
            "setp.lt.u32 %p0, %r0, 5; vote.sync.any.pred %p1, %p0, 0xffffffff; vote.sync.all.pred %p2, %p0, 0xffffffff; selp.u32 %r2, 10, 0, %p1; selp.u32 %r3, 1, 0, %p2; add.u32 %r1, %r2, %r3;"
        ),
        10
    );
    // Keys 0 to 4 in turn; then only the lanes that are here.
    assert_eq!(
        words("rem.u32 %r2, %r0, 5; match.any.sync.b32 %r1, %r2, 0xffffffff;"),
        lanes(|lane| (0..32).filter(|other| other % 5 == lane % 5).map(|other| 1 << other).sum())
    );
    assert_eq!(
        words("mov.u32 %r1, 0; and.b32 %r2, %r0, 1; setp.lt.u32 %p0, %r0, 6; @%p0 match.any.sync.b32 %r1, %r2, 0x3f;"),
        lanes(|lane| if lane < 6 { 0x15 << (lane & 1) } else { 0 })
    );
    assert_eq!(word("redux.sync.add.u32 %r1, %r0, 0xffffffff;"), 496);
    assert_eq!(word("sub.s32 %r2, %r0, 4; redux.sync.min.s32 %r1, %r2, 0xffffffff;"), -4i32 as u32);
    assert_eq!(word("sub.s32 %r2, %r0, 4; redux.sync.min.u32 %r1, %r2, 0xffffffff;"), 0);
    assert_eq!(word("sub.s32 %r2, %r0, 4; redux.sync.max.s32 %r1, %r2, 0xffffffff;"), 27);
}

/// Rows of 8 halves at 16 bytes each: element (row, column) of matrix q is `q * 64 + row * 8 + column`.
const MATRICES: &str = "mov.u32 %r10, smem; mad.lo.u32 %r11, %r0, 16, %r10; mul.lo.u32 %r12, %r0, 8;
    add.u32 %r13, %r12, 1; shl.b32 %r13, %r13, 16; or.b32 %r13, %r13, %r12;
    add.u32 %r14, %r13, 0x20002; add.u32 %r15, %r13, 0x40004; add.u32 %r16, %r13, 0x60006;
    st.shared.v4.b32 [%r11], {%r13, %r14, %r15, %r16}; bar.warp.sync 0xffffffff;";

#[test]
fn ldmatrix() {
    for q in 0..4 {
        let row_major = format!(
            "{MATRICES} ldmatrix.sync.aligned.m8n8.x4.shared.b16 {{%r20, %r21, %r22, %r23}}, [%r11]; mov.b32 %r1, %r2{q};"
        );
        let element = |row: u32, column: u32| q * 64 + row * 8 + column;
        assert_eq!(
            words(&row_major),
            lanes(|lane| element(lane / 4, 2 * (lane % 4)) | element(lane / 4, 2 * (lane % 4) + 1) << 16)
        );
        let transposed = format!(
            "{MATRICES} ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {{%r20, %r21, %r22, %r23}}, [%r11]; mov.b32 %r1, %r2{q};"
        );
        assert_eq!(
            words(&transposed),
            lanes(|lane| element(2 * (lane % 4), lane / 4) | element(2 * (lane % 4) + 1, lane / 4) << 16)
        );
    }
    let one = format!("{MATRICES} ldmatrix.sync.aligned.m8n8.x1.shared.b16 {{%r1}}, [%r11];");
    assert_eq!(words(&one)[5], (8 + 2) | ((8 + 3) << 16));
}

#[test]
fn rows_in_the_same_banks_are_counted() {
    let conflicts = |pitch: u32| {
        let text = format!(
            ".version 7.0\n.target sm_80\n.address_size 64\n.extern .shared .align 128 .b8 smem[];\n.visible .entry k()\n{{\n\
             .reg .b32 %r<8>;\nmov.u32 %r0, %tid.x;\nmov.u32 %r1, smem;\nmad.lo.u32 %r2, %r0, {pitch}, %r1;\n\
             st.shared.v4.b32 [%r2], {{%r0, %r0, %r0, %r0}};\nbar.sync 0;\n\
             ldmatrix.sync.aligned.m8n8.x4.shared.b16 {{%r3, %r4, %r5, %r6}}, [%r2];\nret;\n}}\n"
        );
        let program = Program::from_text(&text).unwrap_or_else(|error| panic!("{error}"));
        let launch = Launch { entry: "k", grid: [1; 3], block: [32, 1, 1], shared: 32 * pitch, args: &[] };
        run(&program, &launch, &Memory::new(), &Options::default()).unwrap_or_else(|f| panic!("{f}")).bank_conflicts
    };
    // Rows of 16 bytes side by side share nothing; at 128 bytes all eight of a matrix share one group of banks.
    assert_eq!([16, 32, 64, 128, 144].map(conflicts), [0, 4 * 4, 4 * 6, 4 * 7, 0]);
}

/// A, B and C in their fragments, from plain matrices; what the kernel leaves back in a plain matrix.
fn mma(
    k: usize,
    form: &str,
    a: impl Fn(usize, usize) -> f32,
    b: impl Fn(usize, usize) -> f32,
    c: impl Fn(usize, usize) -> f32,
) -> Vec<f32> {
    let half = |value: f32| {
        if form.contains("bf16") { half::bf16::from_f32(value).to_bits() } else { half::f16::from_f32(value).to_bits() }
    };
    let pair = |low: f32, high: f32| u32::from(half(low)) | u32::from(half(high)) << 16;
    let mut registers: Vec<Vec<u32>> = Vec::new();
    for r in 0..k / 4 {
        let at = |lane: usize| (lane / 4 + 8 * (r % 2), 8 * (r / 2) + 2 * (lane % 4));
        registers.push((0..32).map(|lane| pair(a(at(lane).0, at(lane).1), a(at(lane).0, at(lane).1 + 1))).collect());
    }
    for r in 0..k / 8 {
        let at = |lane: usize| (8 * r + 2 * (lane % 4), lane / 4);
        registers.push((0..32).map(|lane| pair(b(at(lane).0, at(lane).1), b(at(lane).0 + 1, at(lane).1))).collect());
    }
    for r in 0..4 {
        registers.push((0..32).map(|lane| c(lane / 4 + 8 * (r / 2), 2 * (lane % 4) + r % 2).to_bits()).collect());
    }
    let case = Small { input: registers.concat(), output: 128, ..Small::default() };
    let names = |prefix: &str, first: usize, count: usize| {
        (first..first + count).map(|i| format!("{prefix}{i}")).collect::<Vec<_>>().join(", ")
    };
    let mut body = String::from("mul.wide.u32 %d3, %r0, 4; add.u64 %d3, %d0, %d3;\n");
    let words = k / 4 + k / 8;
    (0..words).for_each(|i| body += &format!("ld.global.u32 %r{}, [%d3+{}];\n", 10 + i, 128 * i));
    (0..4).for_each(|i| body += &format!("ld.global.f32 %f{i}, [%d3+{}];\n", 128 * (words + i)));
    body += &format!(
        "{form} {{%f4, %f5, %f6, %f7}}, {{{}}}, {{{}}}, {{%f0, %f1, %f2, %f3}};\n",
        names("%r", 10, k / 4),
        names("%r", 10 + k / 4, k / 8)
    );
    (0..4).for_each(|i| body += &format!("st.global.f32 [%d2+{}], %f{};\n", 128 * i, 4 + i));
    let out = case.run(&format!("{body} ret;")).unwrap_or_else(|fault| panic!("{fault}"));
    let mut plain = vec![0.0; 128];
    for (i, word) in out.into_iter().enumerate() {
        let (r, lane) = (i / 32, i % 32);
        plain[(lane / 4 + 8 * (r / 2)) * 8 + 2 * (lane % 4) + r % 2] = f32::from_bits(word.expect("written"));
    }
    plain
}

#[test]
fn matrices_multiply() {
    // Small integers, so that every sum is exact in any order.
    let a = |row: usize, k: usize| ((row * 5 + k * 3) % 7) as f32 - 3.0;
    let b = |k: usize, column: usize| ((k * 2 + column * 11) % 5) as f32 - 2.0;
    let c = |row: usize, column: usize| (row * 8 + column) as f32 / 4.0;
    for (k, shape) in [(16, "m16n8k16"), (8, "m16n8k8")] {
        for ty in ["bf16.bf16", "f16.f16"] {
            let out = mma(k, &format!("mma.sync.aligned.{shape}.row.col.f32.{ty}.f32"), a, b, c);
            let expected: Vec<f32> =
                (0..128).map(|i| (0..k).map(|k| a(i / 8, k) * b(k, i % 8)).sum::<f32>() + c(i / 8, i % 8)).collect();
            assert_eq!(out, expected, "{shape} {ty}");
        }
    }
}

#[test]
fn special_registers_and_grids() {
    let case = Small { threads: 64, ctas: 3, output: 192, ..Small::default() };
    let out = case.run(
        "mov.u32 %r2, %ctaid.x; mov.u32 %r3, %ntid.x; mad.lo.u32 %r4, %r2, %r3, %r0;
         mul.wide.u32 %d3, %r4, 4; add.u64 %d3, %d1, %d3;
         mov.u32 %r5, %laneid; mov.u32 %r6, %warpid; mov.u32 %r7, %nctaid.x;
         mad.lo.u32 %r1, %r6, 100, %r5; mad.lo.u32 %r1, %r7, 1000, %r1; mad.lo.u32 %r1, %r2, 10000, %r1;
         st.global.u32 [%d3], %r1;
         ret;",
    );
    let expected = |i: u32| Some(i / 64 * 10_000 + 3000 + i % 64 / 32 * 100 + i % 32);
    assert_eq!(out.unwrap(), (0..192).map(expected).collect::<Vec<_>>());
}
