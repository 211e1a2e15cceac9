//! Who goes first: a driver compiles one text after the other, and what runs waits for it.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Texts that are compiled at once: those that are under way are waited for before a step begins.
const AT_ONCE: usize = 4;

/// Compilers in, unless a step is there or comes: a step's time is its own.
#[derive(Default)]
pub(super) struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    compiling: usize,
    steps: usize,
}

impl Gate {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Compiles, once no step is there and few others compile.
    pub(super) fn compiling<T>(&self, what: impl FnOnce() -> T) -> T {
        let full = |state: &mut State| state.steps > 0 || state.compiling >= AT_ONCE;
        let mut state = self.changed.wait_while(self.state(), full).unwrap_or_else(PoisonError::into_inner);
        state.compiling += 1;
        drop(state);
        let _left = Left(self, |state| state.compiling -= 1);
        what()
    }

    /// Does a step, once nothing is compiled any more; nothing begins to be meanwhile.
    pub(super) fn step<T>(&self, what: impl FnOnce() -> T) -> T {
        let mut state = self.state();
        state.steps += 1;
        let _left = Left(self, |state| state.steps -= 1);
        drop(self.changed.wait_while(state, |state| state.compiling > 0).unwrap_or_else(PoisonError::into_inner));
        what()
    }
}

/// Says that something has ended, also where it panicked.
struct Left<'a>(&'a Gate, fn(&mut State));

impl Drop for Left<'_> {
    fn drop(&mut self) {
        (self.1)(&mut self.0.state());
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    #[test]
    fn nothing_compiles_beside_a_step() {
        let (gate, compiling) = (Gate::default(), AtomicUsize::new(0));
        let most = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..12 {
                scope.spawn(|| {
                    gate.compiling(|| {
                        most.fetch_max(compiling.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        std::thread::sleep(Duration::from_millis(2));
                        compiling.fetch_sub(1, Ordering::SeqCst);
                    });
                });
            }
            for _ in 0..5 {
                gate.step(|| {
                    for _ in 0..3 {
                        assert_eq!(compiling.load(Ordering::SeqCst), 0);
                        std::thread::sleep(Duration::from_millis(1));
                    }
                });
            }
        });
        assert!(most.into_inner() <= AT_ONCE);
    }
}
