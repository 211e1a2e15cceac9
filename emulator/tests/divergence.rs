//! Lanes that part and meet.

#[path = "common/small.rs"]
mod small;

use lacuna_emulator::FaultKind;
use small::{Small, word, words};

fn lanes(f: impl Fn(u32) -> u32) -> Vec<u32> {
    (0..32).map(f).collect()
}

/// How many lanes are here: 32 only where all have met again.
const HERE: &str = "setp.eq.u32 %p9, %r0, %r0; vote.sync.ballot.b32 %r9, %p9, 0xffffffff;";

#[test]
fn nested_ifs() {
    let out = words(
        "mov.u32 %r1, 0;
         setp.ge.u32 %p0, %r0, 16;
         @%p0 bra ELSE;
         setp.ge.u32 %p1, %r0, 4;
         @%p1 bra INNER_ELSE;
         add.u32 %r1, %r1, 1;
         bra INNER_END;
         INNER_ELSE:
         add.u32 %r1, %r1, 10;
         INNER_END:
         vote.sync.ballot.b32 %r2, %p0, 0x0000ffff;
         add.u32 %r1, %r1, 100;
         bra END;
         ELSE:
         add.u32 %r1, %r1, 1000;
         END:
         vote.sync.ballot.b32 %r3, %p0, 0xffffffff;
         popc.b32 %r3, %r3;
         mad.lo.u32 %r1, %r3, 10000, %r1;",
    );
    assert_eq!(
        out,
        lanes(|lane| 160_000
            + match lane {
                0..4 => 101,
                4..16 => 110,
                _ => 1000,
            })
    );
}

#[test]
fn loops_with_as_many_trips_as_lanes() {
    let body = format!(
        "mov.u32 %r1, 0; mov.u32 %r2, 0; LOOP: add.u32 %r1, %r1, %r2; add.u32 %r2, %r2, 1; setp.le.u32 %p0, %r2, %r0; @%p0 bra LOOP; {HERE}"
    );
    assert_eq!(words(&body), lanes(|lane| lane * (lane + 1) / 2));
}

#[test]
fn loops_in_loops_with_a_way_out() {
    // Counts pairs i <= lane, j < 4 until i * j is 6.
    let body = format!(
        "mov.u32 %r1, 0; mov.u32 %r2, 0;
         OUTER:
         mov.u32 %r3, 0;
         INNER:
         mul.lo.u32 %r4, %r2, %r3;
         setp.eq.u32 %p0, %r4, 6;
         @%p0 bra DONE;
         add.u32 %r1, %r1, 1;
         add.u32 %r3, %r3, 1;
         setp.lt.u32 %p1, %r3, 4;
         @%p1 bra INNER;
         add.u32 %r2, %r2, 1;
         setp.le.u32 %p2, %r2, %r0;
         @%p2 bra OUTER;
         DONE:
         {HERE}"
    );
    let count = |lane: u32| {
        let mut count = 0;
        for i in 0..=lane {
            for j in 0..4 {
                if i * j == 6 {
                    return count;
                }
                count += 1;
            }
        }
        count
    };
    assert_eq!(words(&body), lanes(count));
}

#[test]
fn lanes_that_end_early_are_not_waited_for() {
    let out = Small::default().run(
        "setp.ge.u32 %p0, %r0, 20;
         @%p0 exit;
         setp.lt.u32 %p1, %r0, 5;
         @%p1 bra EARLY;
         mov.u32 %r1, 1;
         setp.eq.u32 %p2, %r0, %r0;
         vote.sync.ballot.b32 %r2, %p2, 0x000fffe0;
         bar.sync 0;
         st.global.u32 [%d2], %r2;
         ret;
         EARLY:
         st.global.u32 [%d2], 7;
         ret;",
    );
    // Lanes 0 to 4 end while the others are at the barrier.
    let expected = |lane: u32| match lane {
        0..5 => Some(7),
        5..20 => Some(0x000f_ffe0),
        _ => None,
    };
    assert_eq!(out.unwrap_or_else(|fault| panic!("{fault}")), (0..32).map(expected).collect::<Vec<_>>());
}

#[test]
fn the_meeting_point_may_lie_before_the_branch() {
    let body = format!(
        "bra START;
         MEET:
         {HERE}
         popc.b32 %r1, %r9;
         bra END;
         START:
         setp.lt.u32 %p0, %r0, 3;
         @%p0 bra OTHER;
         bra MEET;
         OTHER:
         bra MEET;
         END:"
    );
    assert_eq!(word(&body), 32);
}

#[test]
fn guards_keep_what_was_there() {
    assert_eq!(
        words("mov.u32 %r1, 5; setp.lt.u32 %p0, %r0, 9; @%p0 add.u32 %r1, %r0, 100; @!%p0 shl.b32 %r1, %r1, 1;"),
        lanes(|lane| if lane < 9 { lane + 100 } else { 10 })
    );
    // Each lane has written the register, by one of two guarded moves.
    assert_eq!(
        words("setp.lt.u32 %p0, %r0, 9; @%p0 mov.u32 %r1, 1; @!%p0 mov.u32 %r1, 2;"),
        lanes(|lane| if lane < 9 { 1 } else { 2 })
    );
}

#[test]
fn half_a_warp_at_a_barrier_is_a_fault() {
    let fault = Small::default().fault(
        "setp.lt.u32 %p0, %r0, 16;
         @%p0 bra HALF;
         ret;
         HALF:
         setp.lt.u32 %p0, %r0, 8;
         @!%p0 bra SKIP;
         bar.sync 0;
         SKIP:
         ret;",
    );
    assert_eq!(fault.kind, FaultKind::Diverged { here: 0xff, wanted: 0xffff });
}

#[test]
fn a_warp_may_wait_for_another_in_a_loop() {
    let case = Small {
        threads: 64,
        output: 66,
        options: lacuna_emulator::Options { max_instructions: Some(3_000_000), threads: 1, ..Default::default() },
        ..Small::default()
    };
    // Warp 0 spins until warp 1 has set a word.
    let out = case.run(
        "setp.ge.u32 %p0, %r0, 32;
         @%p0 bra SET;
         SPIN:
         atom.global.add.u32 %r2, [%d0], 0;
         setp.eq.u32 %p1, %r2, 0;
         @%p1 bra SPIN;
         bra DONE;
         SET:
         atom.global.add.u32 %r2, [%d0], 1;
         DONE:
         st.global.u32 [%d2], %r2;
         ret;",
    );
    // The word must be there first.
    assert!(matches!(out.unwrap_err().kind, FaultKind::UnwrittenMemory { .. } | FaultKind::OutOfBounds { .. }));
    let case = Small { input: vec![0], ..case };
    let out = case.run(
        "setp.ge.u32 %p0, %r0, 32;
         @%p0 bra SET;
         SPIN:
         atom.global.add.u32 %r2, [%d0], 0;
         setp.eq.u32 %p1, %r2, 0;
         @%p1 bra SPIN;
         bra DONE;
         SET:
         atom.global.add.u32 %r2, [%d0], 1;
         DONE:
         st.global.u32 [%d2], %r2;
         ret;",
    );
    assert_eq!(out.unwrap_or_else(|fault| panic!("{fault}"))[0], Some(32));
}

#[test]
fn ctas_may_wait_for_each_other() {
    // A grid barrier: each CTA counts itself, then spins until all have.
    let options = lacuna_emulator::Options { threads: 1, max_instructions: Some(10_000_000), ..Default::default() };
    let case = Small { ctas: 100, input: vec![0], output: 100, options, ..Small::default() };
    let out = case.run(
        "setp.ne.u32 %p0, %r0, 0;
         @%p0 bra WAIT;
         atom.global.add.u32 %r2, [%d0], 1;
         SPIN:
         atom.global.add.u32 %r2, [%d0], 0;
         setp.lt.u32 %p1, %r2, 100;
         @%p1 bra SPIN;
         mov.u32 %r3, %ctaid.x;
         mul.wide.u32 %d3, %r3, 4; add.u64 %d3, %d1, %d3;
         st.global.u32 [%d3], %r2;
         WAIT:
         bar.sync 0;
         ret;",
    );
    assert_eq!(out.unwrap_or_else(|fault| panic!("{fault}")), [Some(100); 100]);
}
