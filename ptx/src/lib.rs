//! The PTX language: one ISA table, and the module types, reader, printer and verifier that come from it.
//!
//! ```text
//!            text ── read ──▶ Module ── print ──▶ text          print, then read, is the identity
//!                               │
//!                            verify: types, classes, counts, undeclared names, target too low
//!                               │
//!      every Inst names a Form ─┴─▶ isa: one row a family of forms (operands, lowest target, PTX version)
//! ```
//! Nothing here knows how PTX is made (`lacuna-codegen`) or run (`lacuna-emulator`).

pub mod isa;
mod module;
mod print;
mod read;
mod target;
pub mod tools;
mod verify;

pub use isa::{Form, Op};
pub use module::{
    Address, Base, Class, Entry, Guard, Inst, Limits, Module, Operand, Param, ParamType, Reg, SharedArray, Special,
    Stmt,
};
pub use read::{Lines, ReadError, read, read_bytes, read_with_lines};
pub use target::{Target, Version};
pub use verify::{VerifyError, verify};
