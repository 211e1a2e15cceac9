//! The reader: what is printed is read, layout is free, errors say where, and no bytes make it panic.

mod common;

use common::{STARTS, alternatives, entry, lowest, mend, module, reg, variants};
use lacuna_ptx::*;
use proptest::prelude::*;
use proptest::sample::Index;

#[test]
fn every_form_with_every_operand_is_read_as_it_was_printed() {
    for form in Form::all() {
        let (target, version) = lowest(form);
        let module = module(target, version, vec![entry("k", variants(form).into_iter().map(Stmt::Inst))]);
        let text = module.to_string();
        assert_eq!(read(&text).unwrap_or_else(|error| panic!("{error}\n{text}")), module);
        assert_eq!(verify(&module), Ok(()), "{text}");
    }
}

fn inst() -> impl Strategy<Value = Inst> {
    let forms = Form::all().len();
    let guard = prop::option::of((0..STARTS, any::<bool>()));
    let operand = (any::<Index>(), 0..STARTS, any::<u32>());
    (0..forms, guard, any::<Index>(), prop::collection::vec(operand, 8)).prop_map(|(form, guard, count, picks)| {
        let form = Form::all().nth(form).expect("below the number of forms");
        let slots = form.slots();
        let count = form.required() + count.index(slots.len() - form.required() + 1);
        let operands = slots[..count].iter().zip(picks).map(|(slot, (pick, at, salt))| {
            let mut choices = alternatives(*slot, at, salt);
            choices.swap_remove(pick.index(choices.len()))
        });
        let mut inst = Inst { guard: None, form, operands: operands.collect() };
        mend(&mut inst);
        match guard {
            Some((index, negated)) => inst.guarded(reg(Class::Pred, index), negated),
            None => inst,
        }
    })
}

fn stmt() -> impl Strategy<Value = Stmt> {
    prop_oneof![
        20 => inst().prop_map(Stmt::Inst),
        2 => "[ -~é→]{0,40}".prop_map(Stmt::Comment),
        1 => "[a-z_ =0-9\\\\]{0,20}".prop_map(Stmt::Pragma),
    ]
}

fn any_entry() -> impl Strategy<Value = Entry> {
    let size = || prop::option::of(1_u32..8);
    let clusters = (any::<bool>(), prop::option::of((1_u32..=4, 1_u32..=2, 1_u32..=2)));
    let limits = (prop::option::of((1_u32..=8, 1_u32..=8, 1_u32..=8)), any::<bool>(), size(), size(), clusters);
    let shared = prop::collection::vec((0_u32..8, 1_u32..4096), 0..3);
    let param = prop_oneof![
        Just(ParamType::U32),
        Just(ParamType::U64),
        Just(ParamType::F32),
        (0_u32..8, 1_u32..256).prop_map(|(log, bytes)| ParamType::Bytes { align: 1 << log, bytes }),
    ];
    (prop::collection::vec(stmt(), 0..40), limits, shared, prop::collection::vec(param, 0..5)).prop_map(
        |(body, (threads, required, min_ctas, max_regs, (explicit_cluster, cluster)), shared, params)| {
            let mut made = entry("k", body);
            let threads = threads.map(|(x, y, z)| [x, y, z]);
            made.limits = Limits {
                max_threads: threads.filter(|_| !required),
                required_threads: threads.filter(|_| required),
                min_ctas,
                max_regs,
                explicit_cluster,
                required_cluster: cluster.map(|(x, y, z)| [x, y, z]),
            };
            made.shared.extend(shared.into_iter().enumerate().map(|(i, (log, bytes))| SharedArray {
                name: format!("$tile_{i}"),
                align: 1 << log,
                bytes: Some(bytes),
            }));
            made.params.extend(params.into_iter().enumerate().map(|(i, ty)| Param { name: format!("_p{i}"), ty }));
            made
        },
    )
}

fn any_module() -> impl Strategy<Value = Module> {
    prop::collection::vec(any_entry(), 1..3).prop_map(|mut entries| {
        for (i, entry) in entries.iter_mut().enumerate() {
            entry.name = format!("kernel_{i}");
        }
        module(Target::SM_90A, Version::new(9, 0), entries)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_printed_is_read(module in any_module()) {
        let text = module.to_string();
        let (again, lines) = read_with_lines(&text).map_err(|error| TestCaseError::fail(format!("{error}\n{text}")))?;
        prop_assert_eq!(&again, &module);
        prop_assert_eq!(verify(&again), Ok(()));
        let text: Vec<&str> = text.lines().collect();
        for (entry, lines) in again.entries.iter().zip(lines) {
            for (stmt, line) in entry.body.iter().zip(lines) {
                let printed = stmt.to_string();
                prop_assert_eq!(text[line - 1].trim_start(), printed.trim_start());
            }
        }
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = read_bytes(&bytes);
    }

    #[test]
    fn no_soup_of_tokens_makes_it_panic(tokens in prop::collection::vec(prop::sample::select(TOKENS), 0..80), gap in "[ \n]?") {
        let text = tokens.join(&gap);
        let _ = read(&text);
        let _ = read(&format!(".version 7.0 .target sm_80 .address_size 64 .entry k() {{ .reg .b32 %r<4>; {text}"));
    }

    #[test]
    fn no_damage_to_a_module_makes_it_panic(
        module in any_module(),
        end in any::<Index>(),
        flips in prop::collection::vec((any::<Index>(), any::<u8>()), 0..6),
    ) {
        let mut bytes = module.to_string().into_bytes();
        let _ = read_bytes(&bytes[..end.index(bytes.len())]);
        for (at, byte) in flips {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(module) = read_bytes(&bytes) {
            // What it makes of the damage, it keeps.
            let _ = verify(&module);
            let text = module.to_string();
            prop_assert_eq!(read(&text).map(|module| module.to_string()), Ok(text));
        }
    }
}

const TOKENS: &[&str] = &[
    ".version",
    "7.0",
    ".target",
    "sm_80",
    ".address_size",
    "64",
    ".visible",
    ".extern",
    ".entry",
    "k",
    "(",
    ")",
    "{",
    "}",
    ".param",
    ".u64",
    ".align",
    ".b8",
    "[",
    "]",
    ".shared",
    ".reg",
    ".b32",
    "%r",
    "<",
    ">",
    "4000000000",
    ",",
    ";",
    ":",
    "@",
    "!",
    "%p0",
    "%r0",
    "%tid.x",
    "add.u32",
    "mov.b64",
    "bra",
    "ld.global.b32",
    "+",
    "-",
    "-9223372036854775808",
    "0x",
    "0xffffffffffffffff",
    "0f3F800000",
    "0f+F800000",
    "18446744073709551616",
    "/*",
    "*/",
    "//",
    "\n",
    "\"",
    "é",
    ".pragma",
    ".loc",
    ".section",
    "::",
    "_",
    "%",
    ".maxntid",
    "007",
    "0b2",
    "1.5",
];

/// A body in a module; the body begins on line 2.
fn in_kernel(body: &str) -> String {
    format!(".version 7.0 .target sm_80 .address_size 64 .visible .entry k(.param .u64 p) {{\n{body}\n}}")
}

fn statements(body: &str) -> Vec<String> {
    let module = read(&in_kernel(body)).unwrap_or_else(|error| panic!("{error}\n{body}"));
    module.entries[0].body.iter().map(Stmt::to_string).collect()
}

fn error(body: &str) -> String {
    read(&in_kernel(body)).expect_err("the body has an error").to_string()
}

#[test]
fn layout_is_free() {
    let text = "
        /* a kernel */ .version 8.0 // trailing
        .target sm_90, debug
        .address_size 64
        .file 1 \"a.cu\"
        .extern .shared .align 128 .b8 smem[ ] ;
        .shared .f32 table[4][8], one;
        .weak .entry k ( .param .u64 .ptr .global .align 16 p, .param .align 64 .b8 map[0x80], .param .s32 n )
        .maxntid 128,1 .minnctapersm 2 .maxnreg 0xA8 .explicitcluster .reqnctapercluster 2
        {
            .reg .u32 a,b; .reg .pred ok; .reg .f32 %x<010>; .reg .f16x2 half;
            .loc 1 7 3
          L0: @ ! ok bra L0 ; ; // gone
            // kept
            add.u32 a , /* inside */
              b,1;
            ld.global.v2.f32 { %x0 , %x7 }, [ wide ];
            elect.sync a | ok, 1; elect.sync _| ok , 1;
            cp.async.bulk.tensor.1d.global.shared::cta.bulk_group [ wide , {a} ] , [b] ;
        }
        .section .debug_str { .b8 1, 2 }";
    let text = text.replace(".loc", ".reg .s64 wide; .loc");
    let module = read(&text).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(
        module.to_string(),
        "\
.version 8.0
.target sm_90
.address_size 64

.extern .shared .align 128 .b8 smem[];
.shared .align 4 .b8 table[128];
.shared .align 4 .b8 one[4];

.visible .entry k(
  .param .u64 p,
  .param .align 64 .b8 map[128],
  .param .u32 n
)
.explicitcluster
.reqnctapercluster 2, 1, 1
.maxntid 128, 1, 1
.minnctapersm 2
.maxnreg 168
{
  .reg .pred %p<1>;
  .reg .b32 %r<3>;
  .reg .b64 %d<1>;
  .reg .f32 %f<8>;
L0:
  @!%p0 bra L0;
  // kept
  add.u32 %r0, %r1, 1;
  ld.global.v2.f32 {%f0, %f7}, [%d0];
  elect.sync %r0|%p0, 1;
  elect.sync _|%p0, 1;
  cp.async.bulk.tensor.1d.global.shared::cta.bulk_group [%d0, {%r0}], [%r1];
}
"
    );
}

#[test]
fn the_lines_of_statements_are_known() {
    let (_, lines) =
        read_with_lines(&in_kernel(".reg .b32 %r<2>;\n// one\n\nadd.u32 %r0,\n  %r1, 1;\nL: ret;")).unwrap();
    assert_eq!(lines, [[3, 5, 7, 7]]);
}

#[test]
fn numbers_keep_their_bits() {
    let add = |number: &str| statements(&format!(".reg .b64 d; add.u64 d, d, {number};")).remove(0);
    assert_eq!(add("0x10"), "add.u64 %d0, %d0, 16;");
    assert_eq!(add("0b101U"), "add.u64 %d0, %d0, 5;");
    assert_eq!(add("017"), "add.u64 %d0, %d0, 15;");
    assert_eq!(add("0"), "add.u64 %d0, %d0, 0;");
    assert_eq!(add("-5"), "add.u64 %d0, %d0, -5;");
    assert_eq!(add("0xFFFFFFFFFFFFFFFF"), "add.u64 %d0, %d0, -1;");
    assert_eq!(add("-9223372036854775808"), "add.u64 %d0, %d0, -9223372036854775808;");
    let add = statements(".reg .f32 f; add.f32 f, f, 0ffF800000;").remove(0);
    assert_eq!(add, "add.f32 %f0, %f0, 0fFF800000;");
}

#[test]
fn registers_may_have_any_name() {
    let body = ".reg .b32 r<10>; .reg .b32 r1<7>; .reg .b32 r30; .reg .b32 %r<4000000000>;
        add.u32 r9, r16, r30; add.u32 r0, %r3999999999, r5;";
    assert_eq!(statements(body), ["add.u32 %r9, %r16, %r17;", "add.u32 %r0, %r4000000017, %r5;"]);
    assert_eq!(
        error(".reg .b32 r<2>;\nadd.u32 r0, r1, %r2;"),
        "3:17: `%r2` is no declared register and no special register"
    );
    assert_eq!(error(".reg .b32 a;\n.reg .pred a;"), "3:12: `a` is declared twice");
    assert_eq!(error(".reg .b32 a<4000000000>, b<4000000000>;"), "2:26: there are more than 4294967295 .b32 registers");
    assert_eq!(error(".reg .f64 a;"), "2:6: registers of type `.f64` are not supported");
}

#[test]
fn errors_say_where_and_what_would_be_right() {
    assert_eq!(error("ldmatrix.sync.aligned.m8n8.x3.shared.b16;"), {
        "2:1: unknown instruction `ldmatrix.sync.aligned.m8n8.x3.shared.b16`; did you mean `ldmatrix.sync.aligned.m8n8.x1.shared.b16`?"
    });
    assert_eq!(error("frobnicate.u32 a;"), "2:1: unknown instruction `frobnicate.u32`");
    assert_eq!(error("ret"), "3:1: expected an operand, found `}`");
    assert_eq!(error("bar.sync 0 1;"), "2:12: expected `,` or `;`, found `1`");
    assert_eq!(error("bar.sync 1.5;"), "2:10: `1.5`: write a float as `0f` and the eight hex digits of its bits");
    assert_eq!(error("bar.sync 0f12;"), "2:10: `0f12` is not a float: write `0f` and the eight hex digits of its bits");
    assert_eq!(error("bar.sync 99999999999999999999;"), "2:10: `99999999999999999999` does not fit 64 bits");
    assert_eq!(
        error(".reg .b64 d; prefetch.global.L2 [d-16];"),
        "2:35: PTX writes a negative offset with a plus, `+-16`"
    );
    assert_eq!(error("{ ret; }"), "2:1: nested scopes are not supported");
    assert_eq!(error("/* ret;"), "2:1: this comment has no end");
    assert_eq!(error("/* é */ L: é"), "2:12: expected an instruction, found `\\u{e9}`");
    assert_eq!(error("@q ret;"), "2:2: the register `q` is not declared before this");
    assert_eq!(error(".local .b8 x;"), "2:1: `.local` is not supported in a body");
    let head = |text: &str| read(text).unwrap_err().to_string();
    assert_eq!(head(".version 7.0 .target sm_80"), "1:1: the module has no `.address_size 64`");
    assert_eq!(head(".version 7 "), "1:10: `7` is not a PTX version such as 8.0");
    assert_eq!(head(".func f() { }"), "1:1: `.func` is not supported at module scope");
    assert!(head(".target sm_70").starts_with("1:9: unknown target `sm_70`; known: sm_80,"));
    assert_eq!(read_bytes(b"// \xc3\xa9\n a\xff").unwrap_err().to_string(), "2:3: the text is not UTF-8 from here on");
}

/// Kernels written by hand: as they are read, so they are printed and read again.
#[test]
fn kernels_written_by_hand_are_stable() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kernels");
    let mut seen = 0;
    for file in std::fs::read_dir(folder).expect("the folder of kernels is there") {
        let path = file.expect("the folder can be listed").path();
        let text = std::fs::read_to_string(&path).expect("a kernel can be read");
        let module = read(&text).unwrap_or_else(|error| panic!("{}:{error}", path.display()));
        verify(&module).unwrap_or_else(|errors| panic!("{}: {}", path.display(), errors[0]));
        let printed = module.to_string();
        assert_eq!(read(&printed).as_ref(), Ok(&module), "{}", path.display());
        let semicolons = |text: &str| text.matches(';').count();
        assert_eq!(semicolons(&printed), semicolons(&text), "{}", path.display());
        seen += 1;
    }
    assert!(seen > 0);
}
