//! Operand slots, and the small language in which the table writes them.
//!
//! | in the table | means |
//! |---|---|
//! | `=u32` | a register that is written |
//! | `=f32x4` | a vector of four registers that are written |
//! | `%u32` | a register that is read |
//! | `b32x2` | a vector of two registers that are read |
//! | `u32` | a register or an immediate |
//! | `u32#0..31` | the same, the immediate in a range; `#32..1024/32`: in steps of 32; `#4\|8\|16`: one of |
//! | `mask` | the member mask of a warp-wide instruction: `u32`, and not 0 |
//! | `#16` | an immediate that must be this; ranges and lists as above |
//! | `u32!` | what a `mov` reads: a register, an immediate, a special register, the address of a symbol |
//! | `=b64\|b32x2`, `b64!\|b32x2` | a whole register or its parts |
//! | `=b32\|pred` | a register that is written, or `_`, and a predicate that is: `%r0\|%p0` |
//! | `+f32x4` | an accumulator: a vector of registers that are added to |
//! | `%b64\|b32x4` | a register that is read, or a vector of others |
//! | `_` | a result that nobody wants, written `_` |
//! | `[shared]` | an address in a state space |
//! | `[tensor2]` | a tensor map's address and two coordinates: `[%d0, {%r0, %r1}]` |
//! | `label` | a branch target |
//! | `~b32` | `b32` that takes `%f` registers too: data movement does not care; other types are as without the `~` |
//! | `T?` | may be left out, with everything after it |

use std::fmt;

use crate::Class;

/// The type of a register operand or an immediate, as the instruction reads it.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub enum Type {
    /// A predicate.
    Pred,
    /// 16 bits.
    B16,
    /// 16 bits, unsigned.
    U16,
    /// 32 bits in a `%r` register.
    B32,
    /// 32 bits in an `%r` or an `%f` register: `.b32` where an instruction only moves data.
    Word,
    /// 32 bits, unsigned.
    U32,
    /// 32 bits, signed.
    S32,
    /// Single precision.
    F32,
    /// 64 bits.
    B64,
    /// 64 bits, unsigned.
    U64,
    /// 64 bits, signed.
    S64,
}

impl Type {
    /// The register class that holds it; [`Type::Word`] may also stand in [`Class::F32`].
    pub const fn class(self) -> Class {
        match self {
            Type::Pred => Class::Pred,
            Type::B16 | Type::U16 => Class::B16,
            Type::B32 | Type::Word | Type::U32 | Type::S32 => Class::B32,
            Type::F32 => Class::F32,
            Type::B64 | Type::U64 | Type::S64 => Class::B64,
        }
    }

    /// Whether a register of this class may stand in a slot of this type.
    pub const fn takes(self, class: Class) -> bool {
        matches!((self, class), (Type::Word, Class::F32)) || self.class().index() == class.index()
    }

    /// Width in bits; a predicate has one.
    pub const fn bits(self) -> u32 {
        match self.class() {
            Class::Pred => 1,
            Class::B16 => 16,
            Class::B32 | Class::F32 => 32,
            Class::B64 => 64,
        }
    }

    /// Whether it is read as signed.
    pub const fn signed(self) -> bool {
        matches!(self, Type::S32 | Type::S64)
    }

    /// Its name in the text, without the dot.
    pub const fn name(self) -> &'static str {
        match self {
            Type::Pred => "pred",
            Type::B16 => "b16",
            Type::U16 => "u16",
            Type::B32 | Type::Word => "b32",
            Type::U32 => "u32",
            Type::S32 => "s32",
            Type::F32 => "f32",
            Type::B64 => "b64",
            Type::U64 => "u64",
            Type::S64 => "s64",
        }
    }
}

/// A state space that an address points into.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub enum Space {
    /// Kernel parameters: the base is a parameter's name.
    Param,
    /// Shared memory: the base is a 32-bit register or the name of a shared array.
    Shared,
    /// Shared memory of any CTA of the cluster: as [`Space::Shared`], whose addresses are the CTA's own here.
    Cluster,
    /// Global memory: the base is a 64-bit register.
    Global,
    /// Any memory, by its generic address: the base is a 64-bit register.
    Generic,
}

/// Which integers an immediate may be.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Ints {
    /// Whatever the slot's type holds.
    Any,
    /// One of these.
    OneOf(&'static [i64]),
    /// From `first` to `last`, both included, in steps.
    Range {
        /// The least.
        first: i64,
        /// The greatest.
        last: i64,
        /// The distance between two of them.
        step: i64,
    },
}

impl Ints {
    /// Whether `value` is one of them.
    pub fn contains(self, value: i64) -> bool {
        match self {
            Ints::Any => true,
            Ints::OneOf(values) => values.contains(&value),
            Ints::Range { first, last, step } => (first..=last).contains(&value) && (value - first) % step == 0,
        }
    }
}

impl fmt::Display for Ints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Ints::Any => f.write_str("any integer"),
            Ints::OneOf([only]) => write!(f, "{only}"),
            Ints::OneOf(values) => {
                let values: Vec<String> = values.iter().map(i64::to_string).collect();
                write!(f, "one of {}", values.join(", "))
            }
            Ints::Range { first, last, step: 1 } => write!(f, "{first} to {last}"),
            Ints::Range { first, last, step } => write!(f, "{first} to {last} in steps of {step}"),
        }
    }
}

/// What may stand at one place in an instruction.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Slot {
    /// A register that is written.
    Out(Type),
    /// A vector of registers that are written.
    OutVector(Type, u16),
    /// A register that is written, or the `bits(whole) / bits(part)` registers that it is taken apart into.
    OutOrParts(Type, Type),
    /// A register that is written, or nothing (`_`), and behind a `|` a predicate that is written.
    OutWithPred(Type),
    /// A vector of registers that are added to. Where the instruction's scale of what they hold is the immediate 0, they are
    /// not read.
    Accumulator(Type, u16),
    /// `_` in the place of a result.
    Sink,
    /// A register that is read.
    In(Type),
    /// A register that is read, or a vector of registers of another type.
    InOrVector(Type, Type, u16),
    /// A vector of registers that are read.
    InVector(Type, u16),
    /// A register or an immediate.
    Source(Type, Ints),
    /// What a `mov` reads: a register, an immediate, a special register, the address of a symbol.
    Value(Type),
    /// What a `mov` reads, or the registers that it is put together from, lowest bits first.
    ValueOrParts(Type, Type),
    /// An immediate.
    Imm(Ints),
    /// An address.
    Address(Space),
    /// A place in a tensor: the generic address of its map, and a coordinate for each of so many dimensions, innermost first.
    Tensor(u8),
    /// A branch target.
    Label,
}

impl Slot {
    /// Whether the instruction writes the registers here. (An address's base is read.)
    pub const fn is_written(self) -> bool {
        matches!(
            self,
            Slot::Out(_) | Slot::OutVector(..) | Slot::OutOrParts(..) | Slot::OutWithPred(_) | Slot::Accumulator(..)
        )
    }
}

/// A row's operands, and how many of them must be there.
pub(super) fn parse(signature: &str) -> Result<(Vec<Slot>, usize), String> {
    let signature: String = signature.chars().filter(|c| !c.is_whitespace()).collect();
    let mut slots = Vec::new();
    let mut optional = 0;
    for text in signature.split(',').filter(|text| !text.is_empty()) {
        let (text, may_miss) = text.strip_suffix('?').map_or((text, false), |text| (text, true));
        if may_miss {
            optional += 1;
        } else if optional > 0 {
            return Err(format!("`{text}` follows an operand that may be left out"));
        }
        slots.push(slot(text).ok_or_else(|| format!("`{text}` is not an operand"))?);
    }
    let required = slots.len() - optional;
    Ok((slots, required))
}

fn slot(text: &str) -> Option<Slot> {
    if let Some(text) = text.strip_prefix('=') {
        return match (text.split_once('|'), vector(text)) {
            (Some((value, "pred")), _) => Some(Slot::OutWithPred(ty(value)?)),
            (Some((whole, part)), _) => {
                let (whole, (part, count)) = (ty(whole)?, vector(part)?);
                (whole.bits() == part.bits() * u32::from(count)).then_some(Slot::OutOrParts(whole, part))
            }
            (None, Some((ty, count))) => Some(Slot::OutVector(ty, count)),
            (None, None) => Some(Slot::Out(ty(text)?)),
        };
    }
    if let Some(text) = text.strip_prefix('+') {
        let (ty, count) = vector(text)?;
        return Some(Slot::Accumulator(ty, count));
    }
    if let Some(text) = text.strip_prefix('%') {
        return match text.split_once('|') {
            Some((register, others)) => {
                let (other, count) = vector(others)?;
                Some(Slot::InOrVector(ty(register)?, other, count))
            }
            None => Some(Slot::In(ty(text)?)),
        };
    }
    if let Some(dims) = text.strip_prefix("[tensor") {
        let dims = dims.strip_suffix(']')?.parse().ok()?;
        return (1..=5).contains(&dims).then_some(Slot::Tensor(dims));
    }
    if let Some(text) = text.strip_prefix('#') {
        return Some(Slot::Imm(ints(text)?));
    }
    if let Some((ty_text, rest)) = text.split_once('!') {
        let whole = ty(ty_text)?;
        return match rest.strip_prefix('|').map(vector) {
            None => Some(Slot::Value(whole)),
            Some(parts) => {
                let (part, count) = parts?;
                (whole.bits() == part.bits() * u32::from(count)).then_some(Slot::ValueOrParts(whole, part))
            }
        };
    }
    if let Some((ty_text, allowed)) = text.split_once('#') {
        return Some(Slot::Source(ty(ty_text)?, ints(allowed)?));
    }
    match text {
        "[param]" => Some(Slot::Address(Space::Param)),
        "[shared]" => Some(Slot::Address(Space::Shared)),
        "[cluster]" => Some(Slot::Address(Space::Cluster)),
        "[global]" => Some(Slot::Address(Space::Global)),
        "[generic]" => Some(Slot::Address(Space::Generic)),
        "_" => Some(Slot::Sink),
        "label" => Some(Slot::Label),
        "mask" => Some(Slot::Source(Type::U32, Ints::Range { first: 1, last: u32::MAX.into(), step: 1 })),
        _ => match vector(text) {
            Some((ty, count)) => Some(Slot::InVector(ty, count)),
            None => Some(Slot::Source(ty(text)?, Ints::Any)),
        },
    }
}

fn ty(text: &str) -> Option<Type> {
    const TYPES: [Type; 10] =
        [Type::Pred, Type::B16, Type::U16, Type::B32, Type::U32, Type::S32, Type::F32, Type::B64, Type::U64, Type::S64];
    let (text, loose) = text.strip_prefix('~').map_or((text, false), |text| (text, true));
    let ty = TYPES.into_iter().find(|ty| ty.name() == text)?;
    Some(if loose && ty == Type::B32 { Type::Word } else { ty })
}

/// `f32x4`, `f32x64/2`.
fn vector(text: &str) -> Option<(Type, u16)> {
    let (element, count) = text.split_once('x')?;
    let (count, by) = count.split_once('/').unwrap_or((count, "1"));
    let count = count.parse::<u16>().ok()?.checked_div(by.parse().ok()?)?;
    (count > 0).then_some((ty(element)?, count))
}

/// `16`, `4|8|16`, `0..31`, `32..1024/32`.
fn ints(text: &str) -> Option<Ints> {
    match text.split_once("..") {
        Some((first, last)) => {
            let (last, step) = last.split_once('/').unwrap_or((last, "1"));
            let step = step.parse().ok().filter(|step| *step > 0)?;
            Some(Ints::Range { first: first.parse().ok()?, last: last.parse().ok()?, step })
        }
        None => {
            let values: Option<Vec<i64>> = text.split('|').map(|value| value.parse().ok()).collect();
            // The table lives as long as the program, and so do its lists.
            Some(Ints::OneOf(values?.leak()))
        }
    }
}
