//! The PTX language: one ISA table, and the module types, reader, printer and verifier that come from it.
//!
//! ```text
//!            text ── read ──▶ Module ── print ──▶ text          print, then read, is the identity
//!                               │
//!                            verify: types, classes, counts, undeclared names, target too low
//!                               │
//!      every Inst names a Form ─┴─▶ isa: one row a family of forms (operands, lowest target, PTX version)
//! ```
//!
//! ```
//! use lacuna_ptx::{Class, Entry, Inst, Limits, Module, Reg, Special, Stmt, Target, Version};
//!
//! let r = |index| Reg { class: Class::B32, index };
//! let thread = Inst::new("mov.u32", [r(0).into(), Special::Tid(0).into()]);
//! let kernel = Entry {
//!     name: "idle".to_owned(),
//!     params: vec![],
//!     limits: Limits { max_threads: Some([128, 1, 1]), ..Limits::default() },
//!     regs: [0, 0, 1, 0, 0],
//!     shared: vec![],
//!     body: vec![Stmt::Inst(thread), Stmt::Inst(Inst::new("ret", []))],
//! };
//! let module = Module { version: Version::new(7, 0), target: Target::SM_80, shared: vec![], entries: vec![kernel] };
//! lacuna_ptx::verify(&module).unwrap();
//!
//! let text = module.to_string();
//! assert!(text.ends_with("{\n  .reg .b32 %r<1>;\n  mov.u32 %r0, %tid.x;\n  ret;\n}\n"));
//! assert_eq!(lacuna_ptx::read(&text), Ok(module));
//! ```
//! [`tools`] asks ptxas to assemble the text, and nvdisasm what came of it, where they are installed. Nothing here knows how
//! PTX is made (`lacuna-codegen`) or run (`lacuna-emulator`).

pub mod isa;
mod module;
mod pressure;
mod print;
mod read;
mod target;
pub mod tidy;
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
