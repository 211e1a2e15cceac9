//! What a schedule does with whole vectors: reductions, prefix sums, counts.
//!
//! A vector over an axis that no tile of the schedule has is spread over all threads of the CTA, element by element; these
//! operations are for such vectors. Arithmetic, [`Cx::iota`](crate::Cx::iota) and elements of [tables](crate::TableIn) are as
//! for any other.

use lacuna_codegen::ir::{Fold, TableId};

use crate::Cx;
use crate::axis::{Axis, Bool, I32, Number};
use crate::staging::{Home, current};
use crate::value::{Handle, Onto, Scalar, Shaped, Vector};

/// A prefix sum.
pub struct PrefixSum<A> {
    /// For each element, the sum of those before it.
    pub before: Vector<I32, A>,
    /// The sum of all.
    pub total: Scalar<I32>,
}

impl<A> Clone for PrefixSum<A> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<A> Copy for PrefixSum<A> {}

impl<A> std::fmt::Debug for PrefixSum<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PrefixSum").finish_non_exhaustive()
    }
}

#[track_caller]
fn fold<A: Handle, T: Handle>(op: Fold, x: A) -> T {
    let run = current();
    let mut state = run.borrow_mut();
    let x = state.take(x);
    let id = state.builder.fold(op, x);
    state.give(id)
}

#[track_caller]
fn scan<H: Handle, A: Axis>(x: H) -> PrefixSum<A> {
    let run = current();
    let mut state = run.borrow_mut();
    let x = state.take(x);
    let (before, total) = state.builder.scan(x);
    PrefixSum { before: state.give(before), total: state.give(total) }
}

impl<N: Number, A: Axis> Vector<N, A> {
    /// The sum of all elements. Integers wrap around; floats are added in an order that is always the same.
    #[track_caller]
    pub fn total(self) -> Scalar<N> {
        fold(Fold::Sum, self)
    }

    /// The least element. A float that is NaN counts for nothing beside others.
    #[track_caller]
    pub fn least(self) -> Scalar<N> {
        fold(Fold::Min, self)
    }

    /// The greatest element. A float that is NaN counts for nothing beside others.
    #[track_caller]
    pub fn greatest(self) -> Scalar<N> {
        fold(Fold::Max, self)
    }
}

impl<A: Axis> Vector<I32, A> {
    /// For each element the sum of those before it, and the sum of all. Integers wrap around.
    #[track_caller]
    pub fn prefix_sum(self) -> PrefixSum<A> {
        scan(self)
    }
}

impl<A: Axis> Vector<Bool, A> {
    /// Whether one element is true.
    #[track_caller]
    pub fn any(self) -> Scalar<Bool> {
        fold(Fold::Any, self)
    }

    /// For each element how many before it are true, and how many are in all: where each goes if those alone are kept.
    #[track_caller]
    pub fn prefix_sum(self) -> PrefixSum<A> {
        scan(self)
    }
}

/// A table in shared memory, which the threads of a CTA have in common: an i32 for each position along `A`.
/// [`Cx::shared_table`] makes one.
pub struct SharedTable<A> {
    id: TableId,
    home: Home,
    of: std::marker::PhantomData<*const A>,
}

impl<A> Clone for SharedTable<A> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<A> Copy for SharedTable<A> {}

impl<A> std::fmt::Debug for SharedTable<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SharedTable").finish_non_exhaustive()
    }
}

impl Cx {
    /// A table in shared memory for the whole schedule. It holds nothing until it is [set](SharedTable::set).
    #[track_caller]
    pub fn shared_table<A: Axis>(&self, name: &str) -> SharedTable<A> {
        let mut state = self.state.borrow_mut();
        let axis = state.axis::<A>();
        SharedTable { id: state.builder.table(name, axis), home: state.home(), of: std::marker::PhantomData }
    }
}

impl<A: Axis> SharedTable<A> {
    /// What it holds at each place; 0 where the place is outside of it.
    #[track_caller]
    pub fn get<I: Shaped<Element = I32>>(self, place: I) -> I {
        let run = current();
        let mut state = run.borrow_mut();
        let place = state.take(place);
        let id = if state.lives(self.home, "table") {
            state.builder.table_get(self.id, place)
        } else {
            state.stand_in::<I>()
        };
        state.give(id)
    }

    /// Sets it at each place where `keep` is true. A place outside of it is left alone; no place may be given twice.
    #[track_caller]
    pub fn set<I: Shaped<Element = I32>>(self, place: I, value: impl Onto<I>, keep: impl Onto<I::Of<Bool>>) {
        let (value, keep) = (value.handle(), keep.handle());
        let run = current();
        let mut state = run.borrow_mut();
        let (place, value, keep) = (state.take(place), state.take(value), state.take(keep));
        if state.lives(self.home, "table") {
            state.builder.table_set(self.id, place, value, keep);
        }
    }

    /// Adds to it at each place where `keep` is true. A place outside of it is left alone; one that is given several times gets
    /// all that is added, so that what it holds does not depend on their order.
    #[track_caller]
    pub fn add<I: Shaped<Element = I32>>(self, place: I, value: impl Onto<I>, keep: impl Onto<I::Of<Bool>>) {
        let (value, keep) = (value.handle(), keep.handle());
        let run = current();
        let mut state = run.borrow_mut();
        let (place, value, keep) = (state.take(place), state.take(value), state.take(keep));
        if state.lives(self.home, "table") {
            state.builder.table_add(self.id, place, value, keep);
        }
    }

    /// Counts each key where `keep` is true, in the order of the elements: the count of the key before it. A key outside of
    /// the table counts nowhere, and its count is 0. The CTA has one warp.
    #[track_caller]
    pub fn count_up<E: Axis>(self, key: Vector<I32, E>, keep: impl Onto<Vector<Bool, E>>) -> Vector<I32, E> {
        let keep = keep.handle();
        let run = current();
        let mut state = run.borrow_mut();
        let (key, keep) = (state.take(key), state.take(keep));
        let id = if state.lives(self.home, "table") {
            state.builder.count_up(self.id, key, keep)
        } else {
            state.stand_in::<Vector<I32, E>>()
        };
        state.give(id)
    }
}
