//! What the instruction table says, put to ptxas: every form assembles at its lowest target and version with every kind
//! of operand that its slots take, and is refused one step below.

mod common;

use std::collections::{BTreeMap, HashSet};

use common::{entry, lowest, module, variants};
use lacuna_ptx::tools::{ToolError, assemble};
use lacuna_ptx::*;

/// Every PTX version from the floor of this crate.
const VERSIONS: [(u8, u8); 20] = [
    (7, 0),
    (7, 1),
    (7, 2),
    (7, 3),
    (7, 4),
    (7, 5),
    (7, 6),
    (7, 7),
    (7, 8),
    (8, 0),
    (8, 1),
    (8, 2),
    (8, 3),
    (8, 4),
    (8, 5),
    (8, 6),
    (8, 7),
    (8, 8),
    (9, 0),
    (9, 1),
];

/// The forms that are asked about together.
type Groups = BTreeMap<(Target, Version), Vec<Form>>;

fn grouped(place: impl Fn(Form) -> Option<(Target, Version)>) -> Groups {
    let mut groups = Groups::new();
    for form in Form::all() {
        if let Some(place) = place(form) {
            groups.entry(place).or_default().push(form);
        }
    }
    groups
}

/// Asks ptxas about every form of a group; which of them it refuses, and its log.
fn refused(target: Target, version: Version, forms: &[Form]) -> (Vec<Form>, String) {
    let body = |form: &Form| variants(*form).into_iter().map(Stmt::Inst);
    let entries = forms.iter().enumerate().map(|(i, form)| entry(format!("k{i}"), body(form))).collect();
    let text = module(target, version, entries).to_string();
    let log = match assemble(&text, target) {
        Ok(assembled) => return (Vec::new(), assembled.log),
        Err(ToolError::Refused { log, .. }) => log,
        Err(error) => panic!("{error}"),
    };
    // `ptxas module.ptx, line 12; error   : ..`
    let lines: HashSet<usize> = log
        .lines()
        .filter(|line| line.contains("error") || line.contains("fatal"))
        .filter_map(|line| line.split_once(", line ")?.1.split(';').next()?.parse().ok())
        .collect();
    let (_, entries) = read_with_lines(&text).expect("what is printed is read");
    let hit = |i: &usize| entries[*i].iter().any(|line| lines.contains(line));
    let refused: Vec<Form> = (0..forms.len()).filter(hit).map(|i| forms[i]).collect();
    assert!(!refused.is_empty(), "ptxas refuses the module and names no instruction:\n{log}");
    (refused, log)
}

#[test]
fn every_form_assembles_at_its_lowest_target_and_version() {
    for ((target, version), forms) in grouped(|form| Some(lowest(form))) {
        let entries = forms
            .iter()
            .enumerate()
            .map(|(i, form)| entry(format!("k{i}"), variants(*form).into_iter().map(Stmt::Inst)));
        verify(&module(target, version, entries.collect())).expect("the variants are well formed");
        let (refused, log) = refused(target, version, &forms);
        assert!(refused.is_empty(), "{target}, PTX {version}: ptxas refuses {refused:?}:\n{log}");
    }
}

#[test]
fn every_form_is_refused_below_its_version() {
    let below = |form: Form| {
        let known = VERSIONS.map(|(major, minor)| Version::new(major, minor));
        let version = known.into_iter().rfind(|version| *version < form.since())?;
        (version >= form.lowest().since()).then_some((form.lowest(), version))
    };
    let groups = grouped(below);
    assert!(!groups.is_empty());
    for ((target, version), forms) in groups {
        let (refused, log) = refused(target, version, &forms);
        assert_eq!(refused, forms, "{target}, PTX {version}: ptxas assembles what the table calls newer\n{log}");
    }
}

#[test]
fn every_form_is_refused_below_its_target() {
    let below = |form: Form| {
        let known = Target::ALL.into_iter().filter(|target| !target.specific);
        let specific = form.lowest().specific;
        let capability = form.lowest().capability;
        let target = known
            .filter(|target| target.capability < capability || (specific && target.capability == capability))
            .max_by_key(|target| target.capability)?;
        Some((target, form.since().max(target.since())))
    };
    // Forms of the floor, sm_80, have no target below; there may be no others.
    for ((target, version), forms) in grouped(below) {
        let (refused, log) = refused(target, version, &forms);
        assert_eq!(
            refused, forms,
            "{target}, PTX {version}: ptxas assembles what the table keeps for later GPUs\n{log}"
        );
    }
}

#[test]
fn what_an_entry_uses_is_read_from_the_log() {
    let text = ".version 7.0 .target sm_80 .address_size 64
        .visible .entry small() { ret; }
        .visible .entry large(.param .u64 out) {
          .shared .align 16 .b8 tile[2048];
          .reg .b32 %r<2>; .reg .b64 %d<1>;
          ld.param.u64 %d0, [out];
          mov.u32 %r0, %tid.x;
          st.shared.u32 [tile], %r0;
          bar.sync 0;
          ld.shared.u32 %r1, [tile+16];
          st.global.u32 [%d0], %r1;
          ret;
        }";
    let assembled = assemble(text, Target::SM_80).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(assembled.entries.len(), 2);
    let large = assembled.usage("large").expect("large is reported");
    assert_eq!((large.shared_static, large.spill_stores, large.spill_loads, large.stack), (2048, 0, 0, 0));
    assert!(large.registers > 0 && large.registers <= 32, "{large:?}");
    assert_eq!(assembled.usage("small").expect("small is reported").shared_static, 0);
    assert_eq!(&assembled.cubin[..4], b"\x7fELF");
    let error = assemble("nonsense", Target::SM_80).unwrap_err();
    assert!(matches!(error, ToolError::Refused { .. }), "{error}");
}
