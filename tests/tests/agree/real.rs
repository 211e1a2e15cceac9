//! Q, K and V of a real model over a real text.

use lacuna_tests::{Case, Numbers, Picks, Seen, Work};

use crate::harness::agree;

const LENGTHS: [usize; 3] = [512, 512, 317];

#[test]
fn a_real_layer() {
    let mut cases = Vec::new();
    for seen in [Seen::Full, Seen::Causal, Seen::Window(128), Seen::WindowSink(96, 4)] {
        cases.push(Case { hk: 6, ..Case::new(Work::QueryMajor(seen), 32, 1, &LENGTHS) });
    }
    // The model has a KV head for every query head; here its query heads share the first ones.
    for (group, hk, n) in [(12, 1, 4), (3, 2, 16)] {
        cases.push(Case { hk, ..Case::new(Work::GroupCentric(Picks::Scored, n), 32, group, &LENGTHS) });
    }
    cases.iter_mut().for_each(|case| case.numbers = Numbers::Real);
    agree("a real layer", &cases);
}
