//! The registers that a body declares, and what they are called here.
//!
//! A declaration `name<n>` takes the next `n` indices of its class and costs the same for any `n`. The printer writes
//! one declaration a class, from index 0, so printed text keeps its numbers when it is read.

use std::collections::HashMap;

use crate::{Class, Reg};

#[derive(Default)]
pub(super) struct Registers<'t> {
    named: HashMap<&'t str, Reg>,
    ranges: HashMap<&'t str, Range>,
    /// How many there are of each class.
    pub(super) counts: [u32; Class::COUNT],
}

#[derive(Clone, Copy)]
struct Range {
    first: Reg,
    count: u32,
}

impl<'t> Registers<'t> {
    /// Declares `name`, or `name0` to `name(n-1)`. What is wrong with that, where something is.
    pub(super) fn declare(&mut self, name: &'t str, class: Class, range: Option<u32>) -> Result<(), String> {
        let next = &mut self.counts[class.index()];
        let first = Reg { class, index: *next };
        *next = next
            .checked_add(range.unwrap_or(1))
            .ok_or_else(|| format!("there are more than 4294967295 .{} registers", class.type_name()))?;
        let twice = match range {
            Some(count) => self.ranges.insert(name, Range { first, count }).is_some(),
            None => self.find(name).is_some() || self.named.insert(name, first).is_some(),
        };
        if twice { Err(format!("`{name}` is declared twice")) } else { Ok(()) }
    }

    pub(super) fn find(&self, name: &str) -> Option<Reg> {
        if let Some(reg) = self.named.get(name) {
            return Some(*reg);
        }
        // `r12` may be 12 of `r<..>` or 2 of `r1<..>`. An index has no leading zero and at most ten digits.
        (1..=10).take_while(|digits| *digits < name.len()).find_map(|digits| {
            let (prefix, index) = name.split_at_checked(name.len() - digits)?;
            if !index.bytes().all(|byte| byte.is_ascii_digit()) || (index.starts_with('0') && digits > 1) {
                return None;
            }
            let range = self.ranges.get(prefix)?;
            let index = index.parse::<u32>().ok().filter(|index| *index < range.count)?;
            Some(Reg { index: range.first.index + index, ..range.first })
        })
    }
}

/// The class that holds a declared type.
pub(super) fn class(ty: &str) -> Option<Class> {
    match ty {
        ".pred" => Some(Class::Pred),
        ".b16" | ".u16" | ".s16" | ".f16" | ".bf16" => Some(Class::B16),
        ".b32" | ".u32" | ".s32" | ".f16x2" | ".bf16x2" => Some(Class::B32),
        ".b64" | ".u64" | ".s64" => Some(Class::B64),
        ".f32" => Some(Class::F32),
        _ => None,
    }
}
