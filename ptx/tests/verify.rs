//! The verifier: one test an error, each with the whole message.

use lacuna_ptx::*;

const HEAD: &str = ".version 7.0 .target sm_80 .address_size 64 .extern .shared .align 16 .b8 smem[];";

/// A kernel with registers of every class around `body`.
fn kernel(body: &str) -> Module {
    let text = format!(
        "{HEAD} .visible .entry k(.param .u64 q, .param .u32 n) {{
           .reg .pred %p<2>; .reg .b16 %h<2>; .reg .b32 %r<8>; .reg .b64 %d<4>; .reg .f32 %f<8>;
           .shared .align 4 .b8 tile[64];
           {body}
           ret;
         }}"
    );
    read(&text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// What is wrong with a module.
fn messages(module: &Module) -> Vec<String> {
    verify(module).err().unwrap_or_default().into_iter().map(|error| error.to_string()).collect()
}

/// What is wrong with one instruction, without its place.
#[track_caller]
fn wrong(inst: &str) -> String {
    let errors = verify(&kernel(inst)).expect_err("the instruction is wrong");
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert_eq!((errors[0].entry.as_deref(), errors[0].statement), (Some("k"), Some(0)));
    errors[0].message.clone()
}

#[track_caller]
fn right(inst: &str) {
    assert_eq!(messages(&kernel(inst)), [""; 0], "{inst}");
}

#[test]
fn errors_name_the_entry_the_statement_and_the_instruction() {
    assert_eq!(
        messages(&kernel("// one\n add.f32 %f0, %f1, %r2;")),
        [
            "k: statement 1, `add.f32 %f0, %f1, %r2;`: operand 3 is %r2; expected a %f register (.f32) or a float such as \
         0f3F800000"
        ]
    );
}

#[test]
fn operand_counts() {
    assert_eq!(wrong("add.u32 %r0, %r1;"), "add.u32 takes 3 operands, and here are 2");
    assert_eq!(wrong("bar.sync 0, 32, 1;"), "bar.sync takes 1 to 2 operands, and here are 3");
    assert_eq!(wrong("trap 1;"), "trap takes 0 operands, and here are 1");
    right("bar.sync 0;");
    right("bar.sync %r0, 64;");
}

#[test]
fn register_classes() {
    assert_eq!(wrong("add.u32 %f0, %r1, 1;"), "operand 1 is %f0; expected a %r register (.u32)");
    assert_eq!(wrong("add.s64 %d0, %d1, %r1;"), "operand 3 is %r1; expected a %d register (.s64) or a number");
    assert_eq!(wrong("and.b32 %r0, %f1, 1;"), "operand 2 is %f1; expected a %r register (.b32) or a number");
    assert_eq!(wrong("add.f32 %r0, %f1, %f2;"), "operand 1 is %r0; expected a %f register (.f32)");
    assert_eq!(wrong("setp.lt.u32 %r0, %r1, 1;"), "operand 1 is %r0; expected a %p register (.pred)");
    assert_eq!(wrong("selp.f32 %f0, %f1, %f2, %r0;"), "operand 4 is %r0; expected a %p register (.pred)");
    assert_eq!(wrong("cvt.rn.bf16.f32 %r0, %f0;"), "operand 1 is %r0; expected a %h register (.b16)");
    assert_eq!(wrong("ld.shared.f32 %r0, [smem];"), "operand 1 is %r0; expected a %f register (.f32)");
    assert_eq!(
        wrong("shfl.sync.bfly.b32 %d0, %r0, 1, 31, -1;"),
        "operand 1 is %d0; expected a %r or %f register (.b32)"
    );
}

#[test]
fn data_movement_takes_both_classes_of_32_bits() {
    right("shfl.sync.bfly.b32 %f0, %r0, 1, 31, -1;");
    right("selp.b32 %r0, %f1, 0f3F800000, %p0;");
    right("mov.b32 %f0, %r1;");
    right("mov.b64 {%r0, %f1}, %d0;");
    right("st.global.b32 [%d0], %f0;");
    right("st.shared.v2.b32 [%r0], {%f0, %r1};");
}

#[test]
fn vectors() {
    assert_eq!(
        wrong("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%r0}, [%r1];"),
        "operand 1 is {%r0}; expected 2 registers, and here are 1"
    );
    assert_eq!(
        wrong("ldmatrix.sync.aligned.m8n8.x1.shared.b16 %r0, [%r1];"),
        "operand 1 is %r0; expected 1 %r registers (.b32) in braces"
    );
    assert_eq!(
        wrong("ld.global.v2.f32 {%f0, %r1}, [%d0];"),
        "operand 1 is {%f0, %r1}; expected 2 %f registers (.f32), and %r1 is none"
    );
    assert_eq!(wrong("ld.global.v2.f32 {%f0, %f0}, [%d0];"), "operand 1 is {%f0, %f0}; %f0 is written twice");
    right("st.global.v2.f32 [%d0], {%f0, %f0};");
    assert_eq!(wrong("mov.b64 {%r0, %r1}, {%r2, %r3};"), "a mov takes a register apart or puts one together, not both");
}

#[test]
fn immediates() {
    assert_eq!(wrong("add.u32 %r0, %r1, 4294967296;"), {
        "operand 3 is 4294967296; expected -2147483648 to 4294967295 (.u32)"
    });
    assert_eq!(wrong("mov.pred %p0, 2;"), "operand 2 is 2; expected 0 to 1 (.pred)");
    assert_eq!(wrong("mov.f32 %f0, 1;"), "operand 2 is 1; expected a float, written by its bits: 0f3F800000");
    assert_eq!(wrong("mov.u32 %r0, 0f3F800000;"), {
        "operand 2 is 0f3F800000; expected a %r register (.u32), a number, a special register, a shared array"
    });
    assert_eq!(wrong("cp.async.ca.shared.global [%r0], [%d0], 12;"), "operand 3 is 12; expected one of 4, 8, 16");
    assert_eq!(wrong("cp.async.cg.shared.global [%r0], [%d0], 8;"), "operand 3 is 8; expected 16");
    assert_eq!(wrong("cp.async.ca.shared.global [%r0], [%d0], 4, 8;"), {
        "operand 4 is 8; the bytes to read cannot exceed the 4 to write"
    });
    right("cp.async.ca.shared.global [%r0], [%d0], 4, %r1;");
    assert_eq!(wrong("cp.async.wait_group -1;"), "operand 1 is -1; expected 0 to 2147483647");
    assert_eq!(wrong("cp.async.wait_group %r0;"), "operand 1 is %r0; expected 0 to 2147483647");
    assert_eq!(wrong("shfl.sync.bfly.b32 %r0, %r1, 1, 31, 0;"), "operand 5 is 0; expected 1 to 4294967295");
    assert_eq!(wrong("shfl.sync.idx.b32 %r0, %r1, 32, 31, -1;"), "operand 3 is 32; expected 0 to 31");
    assert_eq!(wrong("bar.sync 16;"), "operand 1 is 16; expected 0 to 15");
    assert_eq!(wrong("bar.sync 1, 48;"), "operand 2 is 48; expected 32 to 1024 in steps of 32");
}

#[test]
fn registers_beyond_the_declared() {
    let mut module = kernel("add.f32 %f7, %f6, %f5;");
    module.entries[0].regs[Class::F32.index()] = 6;
    assert_eq!(
        messages(&module),
        [
            "k: statement 0, `add.f32 %f7, %f6, %f5;`: %f7 is not declared; the entry has %f0 to %f5",
            "k: statement 0, `add.f32 %f7, %f6, %f5;`: %f6 is not declared; the entry has %f0 to %f5",
        ]
    );
    let mut module = kernel("@%p0 prefetch.global.L2 [%d1];");
    module.entries[0].regs = [0; Class::COUNT];
    assert_eq!(
        messages(&module),
        [
            "k: statement 0, `@%p0 prefetch.global.L2 [%d1];`: %p0 is not declared; the entry has no %p registers",
            "k: statement 0, `@%p0 prefetch.global.L2 [%d1];`: %d1 is not declared; the entry has no %d registers",
        ]
    );
}

#[test]
fn guards() {
    assert_eq!(wrong("@%r0 bar.sync 0;"), "the guard is %r0; expected a %p register");
}

#[test]
fn undeclared_names() {
    assert_eq!(wrong("bra nowhere;"), "operand 1 is nowhere; there is no label `nowhere`");
    assert_eq!(wrong("mov.u32 %r0, nothing;"), "operand 2 is nothing; there is no shared array `nothing`");
    assert_eq!(wrong("mov.u64 %d0, m;"), "operand 2 is m; there is no shared array or parameter `m`");
    assert_eq!(wrong("mov.u32 %r0, q;"), "operand 2 is q; there is no shared array `q`");
    assert_eq!(wrong("ld.param.u32 %r0, [m];"), "operand 2 is [m]; there is no parameter `m`");
    assert_eq!(wrong("ld.shared.u32 %r0, [n];"), "operand 2 is [n]; there is no shared array `n`");
    right("mov.u32 %r0, smem;");
    right("mov.u32 %r0, tile;");
    right("mov.u64 %d0, q;");
    right("ld.shared.u32 %r0, [tile+60];");
}

#[test]
fn bases_of_addresses() {
    assert_eq!(
        wrong("ld.shared.u32 %r0, [%d0];"),
        "operand 2 is [%d0]; expected an address whose base is a %r register or a shared array"
    );
    assert_eq!(
        wrong("ld.global.u32 %r0, [%r1+4];"),
        "operand 2 is [%r1+4]; expected an address whose base is a %d register"
    );
    assert_eq!(
        wrong("ld.global.u32 %r0, [smem];"),
        "operand 2 is [smem]; expected an address whose base is a %d register"
    );
    assert_eq!(wrong("ld.param.u32 %r0, [%d0];"), "operand 2 is [%d0]; expected an address whose base is a parameter");
    assert_eq!(wrong("ld.global.u32 %r0, [%d0+2147483648];"), {
        "operand 2 is [%d0+2147483648]; its offset does not fit 32 bits"
    });
    assert_eq!(wrong("ld.global.u32 %r0, %d0;"), "operand 2 is %d0; expected an address whose base is a %d register");
}

/// [`kernel`] for the newest target that it may be for.
fn hopper(body: &str) -> Module {
    Module { target: Target::SM_90A, version: Version::new(8, 1), ..kernel(body) }
}

#[test]
fn operands_of_asynchronous_instructions() {
    let right = |text: &str| assert_eq!(messages(&hopper(text)), [""; 0], "{text}");
    let wrong = |text: &str| {
        let messages = messages(&hopper(text));
        assert_eq!(messages.len(), 1, "{messages:?}");
        messages[0].split_once("`: ").expect("a statement before the message").1.to_owned()
    };
    right("elect.sync %r0|%p0, -1;");
    right("elect.sync _|%p0, -1;");
    assert_eq!(wrong("elect.sync %p0, -1;"), {
        "operand 1 is %p0; expected a %r register (.b32) or `_`, then `|` and a %p register"
    });
    right("mbarrier.arrive.shared::cta.b64 _, [%r0+8];");
    assert_eq!(wrong("mbarrier.arrive.shared::cta.b64 %d0, [%r0];"), "operand 1 is %d0; expected `_`");
    assert_eq!(wrong("mbarrier.init.shared::cta.b64 [%r0], 0;"), "operand 2 is 0; expected 1 to 1048575");
    assert_eq!(wrong("setmaxnreg.inc.sync.aligned.u32 242;"), "operand 1 is 242; expected 24 to 256 in steps of 8");

    let load = "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes";
    right(&format!("{load} [%r0], [%d0, {{%r1, %r2}}], [%r3];"));
    let place = "the address of a tensor map in a %d register and 2 coordinates in braces";
    assert_eq!(wrong(&format!("{load} [%r0], [%d0], [%r3];")), format!("operand 2 is [%d0]; expected {place}"));
    assert_eq!(wrong(&format!("{load} [%r0], [%d0, {{%r1}}], [%r3];")), {
        "operand 2 is [%d0, {%r1}]; expected 2 registers, and here are 1"
    });
    assert_eq!(wrong(&format!("{load} [%r0], [%r4, {{%r1, %r2}}], [%r3];")), {
        "operand 2 is [%r4, {%r1, %r2}]; expected an address whose base is a %d register"
    });

    let product = "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%f0, %f1, %f2, %f3}";
    right(&format!("{product}, %d0, %d1, %p0, 1, -1, 0, 1;"));
    right(&format!("{product}, {{%r0, %r1, %r2, %r3}}, %d1, 0, 1, 1, 1;"));
    let operands = "with A in registers it takes 7 operands, the last of them B's transposition; else 8";
    assert_eq!(wrong(&format!("{product}, %d0, %d1, %p0, 1, 1, 0;")), operands);
    assert_eq!(wrong(&format!("{product}, {{%r0, %r1, %r2, %r3}}, %d1, 0, 1, 1, 0, 0;")), operands);
    assert_eq!(wrong(&format!("{product}, %d0, %d1, 2, 1, 1, 0, 0;")), "operand 4 is 2; expected 0 to 1 (.pred)");
}

#[test]
fn accumulators_are_read_unless_their_scale_is_zero() {
    let reads = |scale: &str| {
        let product = "wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16 {%f0, %f1, %f2, %f3}";
        let module = hopper(&format!("{product}, %d0, %d1, {scale}, 1, 1, 0, 0;"));
        let Stmt::Inst(inst) = &module.entries[0].body[0] else { panic!("the first statement is the product") };
        assert_eq!(inst.writes().count(), 4);
        inst.reads().map(|reg| reg.to_string()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(reads("0"), "%d0 %d1");
    assert_eq!(reads("1"), "%f0 %f1 %f2 %f3 %d0 %d1");
    assert_eq!(reads("%p0"), "%f0 %f1 %f2 %f3 %d0 %d1 %p0");
}

#[test]
fn special_registers() {
    assert_eq!(wrong("mov.u64 %d0, %tid.x;"), {
        "operand 2 is %tid.x; expected a %d register (.u64), a number, a shared array, a parameter"
    });
    assert_eq!(wrong("mov.u32 %r0, %cluster_ctarank;"), {
        "%cluster_ctarank needs .target sm_90 and .version 7.8 or later"
    });
    assert_eq!(messages(&hopper("mov.u32 %r0, %cluster_ctarank;")), [""; 0]);
    let mut module = kernel("mov.u32 %r0, %tid.x;");
    let Stmt::Inst(inst) = &mut module.entries[0].body[0] else { panic!("the first statement is the mov") };
    inst.operands[1] = Special::Tid(3).into();
    assert_eq!(
        messages(&module),
        ["k: statement 0, `mov.u32 %r0, %tid.?;`: operand 2 is %tid.?; expected the axis 0, 1 or 2, found 3"]
    );
}

#[test]
fn names_that_are_declared_twice_or_are_none() {
    assert_eq!(messages(&kernel("again: again:")), ["k: statement 1, `again:`: the label `again` is declared twice"]);
    assert_eq!(messages(&kernel("n: q: tile:")).len(), 3);
    let mut module = kernel("");
    module.entries[0].params[1].name = "q".to_owned();
    module.entries[0].shared[0].name = "2x".to_owned();
    module.entries.push(module.entries[0].clone());
    module.entries[1] = Entry {
        body: vec![Stmt::Inst(Inst::new("ret", []))],
        shared: vec![],
        params: vec![],
        ..kernel("").entries[0].clone()
    };
    assert_eq!(
        messages(&module),
        [
            "the kernel `k` is declared twice",
            "k: the parameter `q` is declared twice",
            "k: `2x` cannot be the name of a shared array: use letters, digits, `_` and `$`",
        ]
    );
}

#[test]
fn forms_that_are_too_new() {
    let l2 = "cp.async.cg.shared.global.L2::128B [%r0], [%d0], 16;";
    assert_eq!(wrong(l2), { "cp.async.cg.shared.global.L2::128B needs .version 7.4 or later; this module has 7.0" });
    let mut module = kernel(l2);
    module.version = Version::new(7, 4);
    assert_eq!(verify(&module), Ok(()));
    module.target = Target::SM_90A;
    assert_eq!(messages(&module), ["sm_90a needs .version 8.0 or later, and this is 7.4"]);
}

#[test]
fn bodies_that_run_off_their_end() {
    let end = |last: &str| {
        let mut module = kernel(&format!("top: {last}"));
        module.entries[0].body.pop();
        messages(&module)
    };
    let error = "k: the body runs off its end; its last instruction must be an unguarded ret, exit, trap or bra";
    for last in ["", "bar.sync 0;", "@%p0 ret;", "@!%p0 bra top;", "ret; end:"] {
        assert_eq!(end(last), [error], "{last}");
    }
    for last in ["ret;", "exit;", "trap;", "bra top;", "bra.uni top;", "ret; // over\n"] {
        assert_eq!(end(last), [""; 0], "{last}");
    }
}

#[test]
fn heads() {
    let change = |change: fn(&mut Module)| {
        let mut module = kernel("");
        change(&mut module);
        messages(&module)
    };
    assert_eq!(
        change(|module| module.shared[0].align = 24),
        ["the alignment of `smem` is 24; expected a power of two"]
    );
    assert_eq!(change(|module| module.entries[0].shared[0].bytes = Some(0)), ["k: the shared array `tile` is empty"]);
    assert_eq!(
        change(|module| module.entries[0].shared[0].bytes = None),
        ["k: `tile` is sized at launch, so it must be declared at module scope"]
    );
    assert_eq!(
        change(|module| module.entries[0].shared[0].bytes = Some(49153)),
        ["k: 49153 bytes of shared memory have a fixed size; above 49152, use `.extern`"]
    );
    assert_eq!(
        change(|module| module.entries[0].limits.max_threads = Some([32, 33, 1])),
        ["k: .maxntid says 1056 threads; a CTA has 1 to 1024"]
    );
    assert_eq!(
        change(|module| module.entries[0].limits.required_threads = Some([0, 1, 1])),
        ["k: .reqntid says 0 threads; a CTA has 1 to 1024"]
    );
    assert_eq!(
        change(|module| {
            let limits = &mut module.entries[0].limits;
            (limits.max_threads, limits.required_threads) = (Some([32, 1, 1]), Some([32, 1, 1]));
        }),
        ["k: .maxntid and .reqntid exclude each other"]
    );
    let clusters = "k: clusters need .target sm_90 and .version 7.8 or later";
    assert_eq!(change(|module| module.entries[0].limits.explicit_cluster = true), [clusters]);
    let cluster = |module: &mut Module| module.entries[0].limits.required_cluster = Some([4, 5, 1]);
    let count = "k: .reqnctapercluster says 20 CTAs; a cluster has 1 to 16";
    assert_eq!(change(cluster), [clusters, count]);
    assert_eq!(
        change(|module| module.entries[0].params[0].ty = ParamType::Bytes { align: 3, bytes: 4 }),
        ["k: the parameter `q` needs a size and an alignment, a power of two"]
    );
    assert_eq!(
        change(|module| module.entries[0].params[0].ty = ParamType::Bytes { align: 4, bytes: 4352 }),
        ["k: the parameters take 4356 bytes; .version 7.0 allows 4352"]
    );
}

#[test]
fn texts_that_would_break_the_line() {
    let end = |stmt: Stmt| {
        let mut module = kernel("");
        module.entries[0].body.insert(0, stmt);
        verify(&module).unwrap_err().remove(0).message
    };
    assert_eq!(end(Stmt::Comment("a\nb".to_owned())), "a comment holds no line break");
    assert_eq!(end(Stmt::Pragma("a\"b".to_owned())), "a pragma holds no quote and no line break");
    assert_eq!(end(Stmt::Label("a b".to_owned())), {
        "`a b` cannot be the name of a label: use letters, digits, `_` and `$`"
    });
}
