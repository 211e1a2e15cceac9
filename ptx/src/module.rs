//! What a PTX file holds: a module, its entries, and their statements.

use crate::{Form, Target, Version};

/// One PTX file.
#[derive(Clone, Debug, PartialEq)]
pub struct Module {
    /// `.version`.
    pub version: Version,
    /// `.target`. The address size is always 64.
    pub target: Target,
    /// Module-scope shared arrays, in order: `.extern .shared .align 128 .b8 smem[];` and the like.
    pub shared: Vec<SharedArray>,
    /// `.visible .entry` kernels, in order.
    pub entries: Vec<Entry>,
}

/// A shared-memory array: dynamic (`bytes: None`, `.extern`) or of a fixed size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedArray {
    /// Its symbol.
    pub name: String,
    /// Alignment in bytes.
    pub align: u32,
    /// Size in bytes; `None` for `.extern .shared .. name[]`, sized at launch.
    pub bytes: Option<u32>,
}

/// A kernel.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Its symbol.
    pub name: String,
    /// Parameters, in order.
    pub params: Vec<Param>,
    /// Performance directives.
    pub limits: Limits,
    /// How many registers of each class are declared, indexed by [`Class::index`]: `%r0..%r(n-1)`.
    pub regs: [u32; Class::COUNT],
    /// Shared arrays declared in the body.
    pub shared: Vec<SharedArray>,
    /// The body after the declarations.
    pub body: Vec<Stmt>,
}

/// A kernel parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Param {
    /// Its symbol.
    pub name: String,
    /// Its type.
    pub ty: ParamType,
}

/// The type of a kernel parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParamType {
    /// `.u32` (also `.s32` and `.b32`, which the reader folds into it).
    U32,
    /// `.u64` (also `.s64` and `.b64`).
    U64,
    /// `.f32`.
    F32,
    /// `.align A .b8 name[N]`: an opaque block, for instance a tensor map.
    Bytes {
        /// Alignment in bytes.
        align: u32,
        /// Size in bytes.
        bytes: u32,
    },
}

impl ParamType {
    /// Size in bytes.
    pub const fn bytes(self) -> u32 {
        match self {
            ParamType::U32 | ParamType::F32 => 4,
            ParamType::U64 => 8,
            ParamType::Bytes { bytes, .. } => bytes,
        }
    }
}

/// Performance directives of an entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// `.maxntid x, y, z`.
    pub max_threads: Option<[u32; 3]>,
    /// `.reqntid x, y, z`.
    pub required_threads: Option<[u32; 3]>,
    /// `.minnctapersm n`.
    pub min_ctas: Option<u32>,
    /// `.maxnreg n`.
    pub max_regs: Option<u32>,
    /// `.explicitcluster`: it runs in clusters only.
    pub explicit_cluster: bool,
    /// `.reqnctapercluster x, y, z`.
    pub required_cluster: Option<[u32; 3]>,
}

/// A statement of a body.
#[derive(Clone, Debug, PartialEq)]
pub enum Stmt {
    /// `name:`.
    Label(String),
    /// One instruction.
    Inst(Inst),
    /// A whole-line comment, without the slashes; no line break. A comment that begins with `from ` names the author's
    /// source line that the statements up to the next such comment come from (`from kernels/src/nsa.rs:31:17 dot`).
    Comment(String),
    /// `.pragma "text";`.
    Pragma(String),
}

/// One instruction: a form from the table, its operands, an optional guard.
#[derive(Clone, Debug, PartialEq)]
pub struct Inst {
    /// `@%p0` or `@!%p0`.
    pub guard: Option<Guard>,
    /// Which instruction this is.
    pub form: Form,
    /// Operands in the order of the text.
    pub operands: Vec<Operand>,
}

/// A guard predicate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guard {
    /// The predicate register.
    pub reg: Reg,
    /// `@!p`.
    pub negated: bool,
}

/// A register class, which is also its name in the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// `%p`, `.pred`.
    Pred,
    /// `%h`, `.b16`.
    B16,
    /// `%r`, `.b32`.
    B32,
    /// `%d`, `.b64`.
    B64,
    /// `%f`, `.f32`.
    F32,
}

impl Class {
    /// How many classes there are.
    pub const COUNT: usize = 5;
    /// Every class, in the order of [`Class::index`].
    pub const ALL: [Class; Self::COUNT] = [Class::Pred, Class::B16, Class::B32, Class::B64, Class::F32];

    /// Dense index.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The letter of its registers: `%r7`.
    pub const fn letter(self) -> char {
        match self {
            Class::Pred => 'p',
            Class::B16 => 'h',
            Class::B32 => 'r',
            Class::B64 => 'd',
            Class::F32 => 'f',
        }
    }

    /// Its declared type, without the dot.
    pub const fn type_name(self) -> &'static str {
        match self {
            Class::Pred => "pred",
            Class::B16 => "b16",
            Class::B32 => "b32",
            Class::B64 => "b64",
            Class::F32 => "f32",
        }
    }
}

/// A virtual register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reg {
    /// Its class.
    pub class: Class,
    /// Its number in the class.
    pub index: u32,
}

/// An operand.
#[derive(Clone, Debug, PartialEq)]
pub enum Operand {
    /// `%r3`.
    Reg(Reg),
    /// `{%r0, %r1}`.
    Vector(Vec<Reg>),
    /// An integer immediate, decimal or hexadecimal in the text, printed in decimal.
    Int(i64),
    /// A single-precision immediate by its bits: `0f3F800000`.
    Float(u32),
    /// `[base+offset]`.
    Address(Address),
    /// A place in a tensor: `[%d0, {%r0, %r1}]`.
    Tensor {
        /// Where its tensor map is: a generic address.
        map: Address,
        /// Elements from the start of each dimension, innermost first.
        coords: Vec<Reg>,
    },
    /// Two results, of which the first may be unwanted: `%r0|%p0`, `_|%p0`.
    WithPred(Option<Reg>, Reg),
    /// A result that nobody wants: `_`.
    Sink,
    /// A symbol used as a value: `mov.u32 %r0, smem;`, `mov.b64 %d0, map;`.
    Symbol(String),
    /// A branch target.
    Label(String),
    /// `%tid.x` and its kin.
    Special(Special),
}

/// A memory operand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// What the offset counts from.
    pub base: Base,
    /// Bytes.
    pub offset: i64,
}

/// The base of a memory operand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Base {
    /// A register: 32-bit for shared memory, 64-bit for global memory.
    Reg(Reg),
    /// A parameter or a shared array.
    Symbol(String),
}

/// A special register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Special {
    /// `%tid.{x,y,z}`.
    Tid(u8),
    /// `%ntid.{x,y,z}`.
    Ntid(u8),
    /// `%ctaid.{x,y,z}`.
    Ctaid(u8),
    /// `%nctaid.{x,y,z}`.
    Nctaid(u8),
    /// `%laneid`.
    Laneid,
    /// `%warpid`.
    Warpid,
    /// `%cluster_ctarank`: the number of the CTA in its cluster.
    ClusterCtarank,
    /// `%cluster_nctarank`: CTAs of the cluster.
    ClusterNctarank,
}

impl Special {
    /// The lowest target and PTX version that have it.
    pub const fn from(self) -> (Target, Version) {
        match self {
            Special::ClusterCtarank | Special::ClusterNctarank => (Target::SM_90, Version::new(7, 8)),
            _ => (Target::SM_80, Version::new(7, 0)),
        }
    }
}

impl From<Reg> for Operand {
    fn from(reg: Reg) -> Self {
        Operand::Reg(reg)
    }
}

impl From<i64> for Operand {
    fn from(value: i64) -> Self {
        Operand::Int(value)
    }
}

impl From<f32> for Operand {
    fn from(value: f32) -> Self {
        Operand::Float(value.to_bits())
    }
}

impl From<Address> for Operand {
    fn from(address: Address) -> Self {
        Operand::Address(address)
    }
}

impl From<Vec<Reg>> for Operand {
    fn from(regs: Vec<Reg>) -> Self {
        Operand::Vector(regs)
    }
}

impl From<Special> for Operand {
    fn from(special: Special) -> Self {
        Operand::Special(special)
    }
}

impl From<Reg> for Address {
    fn from(reg: Reg) -> Self {
        Address { base: Base::Reg(reg), offset: 0 }
    }
}

impl Address {
    /// `[reg+offset]`.
    pub const fn at(reg: Reg, offset: i64) -> Self {
        Address { base: Base::Reg(reg), offset }
    }

    /// `[symbol+offset]`.
    pub fn symbol(name: impl Into<String>, offset: i64) -> Self {
        Address { base: Base::Symbol(name.into()), offset }
    }
}
