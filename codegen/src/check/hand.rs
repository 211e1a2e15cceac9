//! The roles together: whether they all come to their end.

use super::role::Broken;
use super::state::{Meeting, Setting};
use crate::ir::{Func, Stmt};

/// What a role does of it, in order.
type Meetings<'f> = [(Meeting, &'f Stmt)];

/// Runs the producer and so many warpgroups of consumers beside each other, each as far as it gets.
pub(super) fn all_end<'f>(
    setting: &Setting<'_>,
    producer: &Meetings<'f>,
    consumer: &Meetings<'f>,
    warpgroups: usize,
) -> Result<(), Broken<'f>> {
    let slots = setting.buffers.len();
    let mut filled = vec![0u32; slots];
    let mut awaited = vec![vec![0u32; slots]; warpgroups];
    let mut released = vec![vec![0u32; slots]; warpgroups];
    let mut met = vec![0u32; warpgroups];
    // Whether a warpgroup stands at a barrier that it has arrived at.
    let mut arrived = vec![false; warpgroups];
    // Turns taken and passed; the first is passed by the last warpgroup before it does anything.
    let mut taken = vec![0u32; warpgroups];
    let mut passed = vec![0u32; warpgroups];
    passed[warpgroups - 1] = 1;
    let (mut fetched, mut done) = (0, vec![0; warpgroups]);
    loop {
        let mut moved = false;
        while let Some(&(meeting, _)) = producer.get(fetched) {
            match meeting {
                Meeting::Acquire(slot) if released.iter().any(|of| of[slot] < filled[slot]) => break,
                Meeting::Fill(slot) => filled[slot] += 1,
                _ => {}
            }
            fetched += 1;
            moved = true;
        }
        for group in 0..warpgroups {
            while let Some(&(meeting, _)) = consumer.get(done[group]) {
                match meeting {
                    Meeting::Await(slot) if filled[slot] <= awaited[group][slot] => break,
                    Meeting::Await(slot) => awaited[group][slot] += 1,
                    Meeting::Release(slot) => released[group][slot] += 1,
                    Meeting::Meet => {
                        if !std::mem::replace(&mut arrived[group], true) {
                            met[group] += 1;
                            moved = true;
                        }
                        if met.iter().any(|&others| others < met[group]) {
                            break;
                        }
                        arrived[group] = false;
                    }
                    Meeting::Turn if passed[(group + warpgroups - 1) % warpgroups] <= taken[group] => break,
                    Meeting::Turn => taken[group] += 1,
                    Meeting::Pass => passed[group] += 1,
                    Meeting::Acquire(_) | Meeting::Fill(_) => {}
                }
                done[group] += 1;
                moved = true;
            }
        }
        if !moved {
            break;
        }
    }
    let stuck = done.iter().find_map(|&done| consumer.get(done)).map(|meeting| meeting.1);
    match (producer.get(fetched), stuck) {
        (None, None) => Ok(()),
        (None, Some(stmt)) => Err(Broken { stmt, what: "consumers wait here for what never comes".to_owned() }),
        (Some(&(_, stmt)), None) => {
            Err(Broken { stmt, what: "the producer waits here for a release that never comes".to_owned() })
        }
        (Some(&(_, stmt)), Some(other)) => {
            let other = at(setting.func, other);
            Err(Broken { stmt, what: format!("the producer waits here for consumers, which wait for it at {other}") })
        }
    }
}

/// A statement, and the author's line.
pub(super) fn at(func: &Func, stmt: &Stmt) -> String {
    let shown = func.show_stmt(stmt);
    match stmt.loc {
        Some(loc) => format!("`{shown}` ({loc})"),
        None => format!("`{shown}`"),
    }
}
