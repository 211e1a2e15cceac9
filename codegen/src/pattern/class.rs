//! What a pattern makes of a block, by intervals: whether some pair of it may count, and whether every pair surely does.
//!
//! A table stands in it with its least and largest value over the block of positions. One description serves integers and
//! the IR, so what a picture shows is what the device finds.

use std::ops::RangeInclusive;
use std::panic::Location;

use super::emit::{Emit, Shape};
use super::full::Ends;
use super::machine::Host;
use super::tree::{ELEMENT, POSITION, Read};
use super::{Class, Given, Pattern};
use crate::ir::{Builder, ValueId};

impl Pattern {
    /// What the pattern makes of every pair of `q` and `kv`. An empty box is `Empty`.
    ///
    /// # Panics
    /// If `given` has not as many arguments and tables as the pattern.
    pub fn class<'a>(&self, q: RangeInclusive<i64>, kv: RangeInclusive<i64>, given: impl Into<Given<'a>>) -> Class {
        let given = given.into();
        self.expect(&given);
        if q.is_empty() || kv.is_empty() {
            return Class::Empty;
        }
        let (mut host, args) = (Host, given.args);
        let mut ends = Ends::new(&self.tree, (*q.start(), *q.end()), Some((*kv.start(), *kv.end())), args);
        ends.closely = true;
        for read in self.reads() {
            let over = if read.key { &kv } else { &q };
            ends.elements.insert(read, given.ends(read.table, over));
        }
        match () {
            () if ends.holds(&mut host, true)[self.root as usize] => Class::Full,
            () if ends.holds(&mut host, false)[self.root as usize] => Class::Partial,
            () => Class::Empty,
        }
    }

    /// What [`class`](Self::class) says of blocks, as two bools: whether some pair of a block may count, and whether every
    /// pair of it surely does. `q` is the first and last position of the query tile, i32 scalars; `kv` those of the blocks
    /// of keys, i32 scalars or tiles of one axis, which the result has too; `args` the arguments, i32 scalars; `elements` the
    /// least and largest of what tables hold for each of [`reads`](Self::reads), of the axes of `q` or of `kv`.
    #[track_caller]
    pub fn emit_class(
        &self,
        b: &mut Builder,
        q: (ValueId, ValueId),
        kv: (ValueId, ValueId),
        args: &[ValueId],
        elements: &[(ValueId, ValueId)],
    ) -> (ValueId, ValueId) {
        b.at(Location::caller(), |b| {
            self.report(b, args.len());
            self.expect_elements(elements.len());
            let axes = b.ty(kv.0).axes.clone();
            if axes.len() > 1 {
                let found = b.show(b.ty(kv.0));
                b.fail("blocks are classed along one axis", format!("these are {found}"));
                let no = b.truth(false);
                return (no, no);
            }
            let lanes = if axes.is_empty() { Shape::Scalar } else { Shape::Col };
            let mut m = Emit::tiles(b, Vec::new(), axes);
            let pair = |m: &mut Emit<'_>, (first, last): (ValueId, ValueId), shape, range| {
                (m.given(first, shape, range), m.given(last, shape, range))
            };
            let (q, kv) = (pair(&mut m, q, Shape::Scalar, POSITION), pair(&mut m, kv, lanes, POSITION));
            let args = self.given_args(&mut m, args);
            let mut ends = Ends::new(&self.tree, q, Some(kv), &args);
            ends.closely = true;
            for (read, &least_and_largest) in self.reads().into_iter().zip(elements) {
                let shape = if read.key { lanes } else { Shape::Scalar };
                ends.elements.insert(read, pair(&mut m, least_and_largest, shape, ELEMENT));
            }
            let mut answer = |everywhere| {
                let holds = ends.holds(&mut m, everywhere)[self.root as usize];
                let value = m.truth_value(holds);
                m.spread(value, holds.shape, lanes)
            };
            (answer(false), answer(true))
        })
    }

    /// The elements of tables that it reads.
    pub fn reads(&self) -> Vec<Read> {
        self.tree.reads()
    }

    /// # Panics
    /// If there are not as many as the pattern reads.
    pub(super) fn expect_elements(&self, given: usize) {
        let reads = self.reads().len();
        assert!(given == reads, "pattern `{}` reads {reads} elements, {given} are given", self.name);
    }
}
