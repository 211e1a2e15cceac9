//! Registers that are live at once, counted by hand.

fn pressure(body: &str) -> u32 {
    let text = format!(
        ".version 7.0\n.target sm_80\n.address_size 64\n.visible .entry k(\n  .param .u64 p,\n  .param .u32 n\n)\n{{\n  \
         .reg .pred %p<4>;\n  .reg .b32 %r<9>;\n  .reg .b64 %d<4>;\n  .reg .f32 %f<9>;\n{body}\n  ret;\n}}\n"
    );
    let module = lacuna_ptx::read(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    lacuna_ptx::verify(&module).unwrap_or_else(|errors| panic!("{}\n{text}", errors[0]));
    module.entries[0].pressure()
}

#[test]
fn a_register_lives_from_where_it_is_made_to_its_last_use() {
    assert_eq!(pressure(""), 0);
    let thread = "mov.u32 %r0, %tid.x;";
    // Thread; then both; then the sum in place of either.
    assert_eq!(pressure(&format!("{thread} add.s32 %r1, %r0, 1; add.s32 %r2, %r0, %r1; add.s32 %r3, %r2, 1;")), 2);
    let three =
        "add.s32 %r1, %r0, 1; add.s32 %r2, %r0, 2; add.s32 %r3, %r0, 3; add.s32 %r4, %r1, %r2; add.s32 %r5, %r4, %r3;";
    assert_eq!(pressure(&format!("{thread} {three}")), 3);
}

#[test]
fn addresses_take_two_and_what_can_be_named_none() {
    let load = "ld.param.u64 %d0, [p]; cvta.to.global.u64 %d1, %d0; ld.global.nc.f32 %f0, [%d1];";
    assert_eq!(pressure(&format!("{load} st.global.f32 [%d1], %f0;")), 3);
    assert_eq!(
        pressure("mov.f32 %f0, 0f3F800000; mov.u32 %r0, %ctaid.x; ld.param.b32 %r1, [n]; add.s32 %r2, %r0, %r1;"),
        0
    );
    // Written twice, it is no constant.
    assert_eq!(pressure("mov.u32 %r0, %tid.x; mov.b32 %r1, 0; add.s32 %r1, %r1, %r0; add.s32 %r2, %r1, %r0;"), 2);
}

#[test]
fn what_a_loop_reads_lives_through_it() {
    let around = |inside: &str| {
        format!(
            "mov.u32 %r0, %tid.x; add.s32 %r1, %r0, 1; mov.b32 %r2, 0;\nloop:\n{inside}\n  add.s32 %r2, %r2, 1;\n  \
             setp.lt.s32 %p0, %r2, 9;\n  @%p0 bra loop;"
        )
    };
    // The counter, and a temporary of it.
    assert_eq!(pressure(&around("add.s32 %r3, %r2, 5; add.s32 %r3, %r3, %r3;")), 2);
    // Read at the loop's head: live at its end as well, beside the counter and what the round has made.
    assert_eq!(pressure(&around("add.s32 %r4, %r0, %r1; add.s32 %r3, %r2, 5; add.s32 %r5, %r3, %r4;")), 5);
}

#[test]
fn a_guarded_write_keeps_what_was_there() {
    let before = "mov.u32 %r0, %tid.x; setp.lt.s32 %p0, %r0, 9; add.s32 %r1, %r0, 1;";
    let after = "add.s32 %r2, %r0, 2; add.s32 %r3, %r2, %r1;";
    assert_eq!(pressure(&format!("{before} {after}")), 2);
    let guarded = "mov.u32 %r0, %tid.x; setp.lt.s32 %p0, %r0, 9; add.s32 %r1, %r0, 1; add.s32 %r4, %r0, 3; @%p0 mov.b32 %r1, %r4; add.s32 %r2, %r0, %r1;";
    assert_eq!(pressure(guarded), 3);
}
