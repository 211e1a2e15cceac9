//! The instruction set as a table.
//!
//! A row of `table.rs` is a family of forms: its text has `{a,b,c}` choices, or `{8..256/8}` for numbers in steps, and every
//! combination is one [`Form`].
//! The printer, the reader, the verifier and the emulator's decoder all come from these rows; a test asks ptxas whether
//! each row's lowest target and PTX version are true. Adding an instruction is adding a row.
//!
//! ```
//! use lacuna_ptx::{Form, Op, Target};
//! use lacuna_ptx::isa::{Slot, Space, Type};
//!
//! let form = Form::find("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16").unwrap();
//! assert_eq!(form.op(), Op::Ldmatrix);
//! assert_eq!(form.choices(), ["x4", ".trans"]);
//! assert_eq!(form.slots(), [Slot::OutVector(Type::B32, 4), Slot::Address(Space::Shared)]);
//! assert_eq!(form.lowest(), Target::SM_80);
//! ```

mod inst;
mod slot;
mod table;

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::LazyLock;

pub use slot::{Ints, Slot, Space, Type};
pub use table::Op;

use crate::{Target, Version};

/// One row of the table, as written there.
struct Row {
    op: Op,
    /// The text with its choices, `ld.global{,.nc}.v{2,4}.{b32,u32,f32}`.
    pattern: &'static str,
    /// The operands in the language of [`slot`]; `$0` stands for the first choice taken, `f32x$0/2` for half as many.
    signature: &'static str,
    lowest: &'static str,
    since: &'static str,
}

/// One instruction form: a row of the table with every choice taken, `add.u32`.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Form(u16);

/// What the table says about a form.
struct Info {
    name: String,
    op: Op,
    choices: Vec<&'static str>,
    slots: Vec<Slot>,
    required: usize,
    lowest: Target,
    since: Version,
}

static FORMS: LazyLock<Vec<Info>> = LazyLock::new(|| table::ROWS.iter().flat_map(expand).collect());

static BY_NAME: LazyLock<HashMap<&'static str, Form, BuildHasherDefault<NameHasher>>> = LazyLock::new(|| {
    assert!(FORMS.len() <= usize::from(u16::MAX), "the instruction table has too many forms for a u16");
    let mut by_name = HashMap::default();
    for form in Form::all() {
        let clash = by_name.insert(form.name(), form);
        assert!(clash.is_none(), "two rows of the instruction table make the form `{form}`");
    }
    by_name
});

impl Form {
    /// The form with this text, `"add.u32"`.
    pub fn find(text: &str) -> Option<Form> {
        BY_NAME.get(text).copied()
    }

    /// The form with this text, which must be in the table.
    ///
    /// # Panics
    /// When it is not: the caller's code names an instruction that does not exist.
    #[track_caller]
    pub fn named(text: &'static str) -> Form {
        match Form::find(text) {
            Some(form) => form,
            None => panic!("the instruction table has no form `{text}`"),
        }
    }

    /// Its text.
    pub fn name(self) -> &'static str {
        &self.info().name
    }

    /// The row that it comes from.
    pub fn op(self) -> Op {
        self.info().op
    }

    /// The alternatives taken in the row's text, left to right. An empty alternative is the empty string.
    pub fn choices(self) -> &'static [&'static str] {
        &self.info().choices
    }

    /// Its operands in order, optional trailing ones included: the first [`Form::required`] must be there.
    pub fn slots(self) -> &'static [Slot] {
        &self.info().slots
    }

    /// How many operands it must have at least.
    pub fn required(self) -> usize {
        self.info().required
    }

    /// The lowest target that has it.
    pub fn lowest(self) -> Target {
        self.info().lowest
    }

    /// The lowest PTX version that has it.
    pub fn since(self) -> Version {
        self.info().since
    }

    /// Every form, in the order of the table.
    pub fn all() -> impl ExactSizeIterator<Item = Form> {
        (0..FORMS.len()).map(|i| Form(i as u16))
    }

    fn info(self) -> &'static Info {
        &FORMS[usize::from(self.0)]
    }
}

impl fmt::Debug for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Every form of a row.
fn expand(row: &Row) -> Vec<Info> {
    let broken = |what: &str| -> ! { panic!("row `{}` of the instruction table: {what}", row.pattern) };
    let mut taken = vec![(String::new(), Vec::new())];
    let mut rest = row.pattern;
    while let Some((text, tail)) = rest.split_once('{') {
        let Some((choices, tail)) = tail.split_once('}') else { broken("a `{` has no `}`") };
        let choices = alternatives(choices).unwrap_or_else(|| broken("a range is `first..last/step`"));
        taken = taken
            .into_iter()
            .flat_map(|(name, path): (String, Vec<&'static str>)| {
                choices.iter().map(move |&choice| {
                    let mut path = path.clone();
                    path.push(choice);
                    (format!("{name}{text}{choice}"), path)
                })
            })
            .collect();
        rest = tail;
    }
    let lowest = row.lowest.parse::<Target>().unwrap_or_else(|error| broken(&error.to_string()));
    let since = row.since.parse::<Version>().unwrap_or_else(|error| broken(&error.to_string()));
    taken
        .into_iter()
        .map(|(name, choices)| {
            let mut signature = row.signature.to_owned();
            for (i, choice) in choices.iter().enumerate() {
                signature = signature.replace(&format!("${i}"), choice);
            }
            let (slots, required) = slot::parse(&signature).unwrap_or_else(|what| broken(&what));
            Info { name: name + rest, op: row.op, choices, slots, required, lowest, since }
        })
        .collect()
}

/// What stands between braces: `a,b,c`, or the numbers of `8..256/8`.
fn alternatives(text: &'static str) -> Option<Vec<&'static str>> {
    let Some((first, rest)) = text.split_once("..") else { return Some(text.split(',').collect()) };
    let (last, step) = rest.split_once('/')?;
    let (first, last): (u16, u16) = (first.parse().ok()?, last.parse().ok()?);
    let step = step.parse().ok().filter(|step| *step > 0)?;
    // The table lives as long as the program, and so do its names.
    Some((first..=last).step_by(step).map(|number| &*number.to_string().leak()).collect())
}

/// A multiply and a rotate for eight bytes at a time: names are short and ours, and codegen looks up thousands of them in a millisecond.
#[derive(Default)]
struct NameHasher(u64);

impl Hasher for NameHasher {
    fn write(&mut self, bytes: &[u8]) {
        let mut chunks = bytes.chunks_exact(8);
        for chunk in &mut chunks {
            self.mix(u64::from_le_bytes(chunk.try_into().expect("eight bytes")));
        }
        let tail = chunks.remainder().iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
        self.mix(tail);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl NameHasher {
    fn mix(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
    }
}
