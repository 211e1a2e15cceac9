//! [`Module`] to text, as `Display`.
//!
//! Everything is pushed onto one `String` and handed to the formatter at the end: a kernel of 3000 instructions is
//! printed in a fraction of a millisecond, and no operand allocates.

use std::fmt;

use crate::{
    Address, Base, Class, Entry, Guard, Inst, Limits, Module, Operand, Param, ParamType, Reg, SharedArray, Special,
    Stmt,
};

/// Bytes that a statement takes on average, to allocate the text once.
const STATEMENT_BYTES: usize = 40;

macro_rules! display {
    ($($ty:ty => $print:expr),* $(,)?) => {
        $(impl fmt::Display for $ty {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut out = String::new();
                $print(&mut out, self);
                f.write_str(&out)
            }
        })*
    };
}

display! {
    Module => module,
    Inst => inst,
    Stmt => stmt,
    Operand => operand,
    Address => address,
    Reg => |out: &mut String, reg: &Reg| self::reg(out, *reg),
    Special => |out: &mut String, special: &Special| self::special(out, *special),
}

fn module(out: &mut String, module: &Module) {
    let statements: usize = module.entries.iter().map(|entry| entry.body.len()).sum();
    out.reserve(1024 + statements * STATEMENT_BYTES);
    out.push_str(".version ");
    decimal(out, u64::from(module.version.major));
    out.push('.');
    decimal(out, u64::from(module.version.minor));
    out.push_str("\n.target ");
    out.push_str(&module.target.to_string());
    out.push_str("\n.address_size 64\n");
    if !module.shared.is_empty() {
        out.push('\n');
    }
    for array in &module.shared {
        shared(out, array);
    }
    for entry in &module.entries {
        self::entry(out, entry);
    }
}

fn entry(out: &mut String, entry: &Entry) {
    out.push_str("\n.visible .entry ");
    out.push_str(&entry.name);
    out.push('(');
    for (i, param) in entry.params.iter().enumerate() {
        out.push_str(if i == 0 { "\n  " } else { ",\n  " });
        self::param(out, param);
    }
    out.push_str(if entry.params.is_empty() { ")\n" } else { "\n)\n" });
    limits(out, &entry.limits);
    out.push_str("{\n");
    for class in Class::ALL {
        let count = entry.regs[class.index()];
        if count > 0 {
            out.push_str("  .reg .");
            out.push_str(class.type_name());
            out.push_str(" %");
            out.push(class.letter());
            out.push('<');
            decimal(out, u64::from(count));
            out.push_str(">;\n");
        }
    }
    for array in &entry.shared {
        out.push_str("  ");
        shared(out, array);
    }
    for stmt in &entry.body {
        if !matches!(stmt, Stmt::Label(_)) {
            out.push_str("  ");
        }
        self::stmt(out, stmt);
        out.push('\n');
    }
    out.push_str("}\n");
}

fn param(out: &mut String, param: &Param) {
    match param.ty {
        ParamType::U32 => out.push_str(".param .u32 "),
        ParamType::U64 => out.push_str(".param .u64 "),
        ParamType::F32 => out.push_str(".param .f32 "),
        ParamType::Bytes { align, .. } => {
            out.push_str(".param .align ");
            decimal(out, u64::from(align));
            out.push_str(" .b8 ");
        }
    }
    out.push_str(&param.name);
    if let ParamType::Bytes { bytes, .. } = param.ty {
        out.push('[');
        decimal(out, u64::from(bytes));
        out.push(']');
    }
}

fn limits(out: &mut String, limits: &Limits) {
    if limits.explicit_cluster {
        out.push_str(".explicitcluster\n");
    }
    for (name, extents) in [
        (".reqnctapercluster ", limits.required_cluster),
        (".maxntid ", limits.max_threads),
        (".reqntid ", limits.required_threads),
    ] {
        if let Some([x, y, z]) = extents {
            out.push_str(name);
            decimal(out, u64::from(x));
            out.push_str(", ");
            decimal(out, u64::from(y));
            out.push_str(", ");
            decimal(out, u64::from(z));
            out.push('\n');
        }
    }
    for (name, count) in [(".minnctapersm ", limits.min_ctas), (".maxnreg ", limits.max_regs)] {
        if let Some(count) = count {
            out.push_str(name);
            decimal(out, u64::from(count));
            out.push('\n');
        }
    }
}

fn shared(out: &mut String, array: &SharedArray) {
    out.push_str(if array.bytes.is_none() { ".extern .shared .align " } else { ".shared .align " });
    decimal(out, u64::from(array.align));
    out.push_str(" .b8 ");
    out.push_str(&array.name);
    out.push('[');
    if let Some(bytes) = array.bytes {
        decimal(out, u64::from(bytes));
    }
    out.push_str("];\n");
}

fn stmt(out: &mut String, stmt: &Stmt) {
    match stmt {
        Stmt::Label(name) => {
            out.push_str(name);
            out.push(':');
        }
        Stmt::Inst(inst) => self::inst(out, inst),
        Stmt::Comment(text) => {
            // A comment holds no line break; should one get in, the rest of it must not become an instruction.
            for (i, line) in text.split('\n').enumerate() {
                out.push_str(if i == 0 { "//" } else { "\n  //" });
                if !line.is_empty() {
                    out.push(' ');
                    out.push_str(line);
                }
            }
        }
        Stmt::Pragma(text) => {
            out.push_str(".pragma \"");
            out.push_str(text);
            out.push_str("\";");
        }
    }
}

fn inst(out: &mut String, inst: &Inst) {
    if let Some(Guard { reg, negated }) = inst.guard {
        out.push_str(if negated { "@!" } else { "@" });
        self::reg(out, reg);
        out.push(' ');
    }
    out.push_str(inst.form.name());
    for (i, operand) in inst.operands.iter().enumerate() {
        out.push_str(if i == 0 { " " } else { ", " });
        self::operand(out, operand);
    }
    out.push(';');
}

fn operand(out: &mut String, operand: &Operand) {
    match operand {
        Operand::Reg(reg) => self::reg(out, *reg),
        Operand::Vector(regs) => vector(out, regs),
        Operand::WithPred(value, pred) => {
            match value {
                Some(reg) => self::reg(out, *reg),
                None => out.push('_'),
            }
            out.push('|');
            self::reg(out, *pred);
        }
        Operand::Sink => out.push('_'),
        Operand::Int(value) => signed(out, *value),
        Operand::Float(bits) => {
            out.push_str("0f");
            for shift in (0..8).rev() {
                let digit = bits >> (4 * shift) & 15;
                out.push(char::from_digit(digit, 16).expect("four bits").to_ascii_uppercase());
            }
        }
        Operand::Address(at) => address(out, at),
        Operand::Tensor { map, coords } => {
            out.push('[');
            place(out, map);
            out.push_str(", ");
            vector(out, coords);
            out.push(']');
        }
        Operand::Symbol(name) | Operand::Label(name) => out.push_str(name),
        Operand::Special(special) => self::special(out, *special),
    }
}

fn vector(out: &mut String, regs: &[Reg]) {
    out.push('{');
    for (i, reg) in regs.iter().enumerate() {
        if i > 0 {
            out.push_str(", ");
        }
        self::reg(out, *reg);
    }
    out.push('}');
}

fn address(out: &mut String, address: &Address) {
    out.push('[');
    place(out, address);
    out.push(']');
}

/// `base+offset`.
fn place(out: &mut String, address: &Address) {
    match &address.base {
        Base::Reg(reg) => self::reg(out, *reg),
        Base::Symbol(name) => out.push_str(name),
    }
    if address.offset != 0 {
        // The grammar wants the plus: `[%r1+-16]`, not `[%r1-16]`.
        out.push('+');
        signed(out, address.offset);
    }
}

fn reg(out: &mut String, reg: Reg) {
    out.push('%');
    out.push(reg.class.letter());
    decimal(out, u64::from(reg.index));
}

fn special(out: &mut String, special: Special) {
    let (name, axis) = match special {
        Special::Tid(axis) => ("%tid.", axis),
        Special::Ntid(axis) => ("%ntid.", axis),
        Special::Ctaid(axis) => ("%ctaid.", axis),
        Special::Nctaid(axis) => ("%nctaid.", axis),
        Special::Laneid => return out.push_str("%laneid"),
        Special::Warpid => return out.push_str("%warpid"),
        Special::ClusterCtarank => return out.push_str("%cluster_ctarank"),
        Special::ClusterNctarank => return out.push_str("%cluster_nctarank"),
    };
    out.push_str(name);
    out.push(match axis {
        0 => 'x',
        1 => 'y',
        2 => 'z',
        // Not PTX, and neither the reader nor ptxas takes it.
        _ => '?',
    });
}

fn signed(out: &mut String, value: i64) {
    if value < 0 {
        out.push('-');
    }
    decimal(out, value.unsigned_abs());
}

/// `write!` goes through the formatting machinery; kernels are mostly numbers.
fn decimal(out: &mut String, mut value: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    for digit in &digits[at..] {
        out.push(char::from(*digit));
    }
}
