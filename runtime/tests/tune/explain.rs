//! Why a pick won.

use lacuna_runtime::tune::{Explanation, Options};

use super::simulated::{Kind, Landscape, Simulated, found, options, records};

#[test]
fn an_explanation_names_the_winner_the_runner_up_and_the_models_choice() {
    let dir = tempfile::tempdir().unwrap();
    let mut landscape = Landscape::small(21);
    let fastest = landscape.fastest();
    landscape.picks.get_mut(&fastest[3]).unwrap().1 = Kind::Wrong;
    // The model takes the slowest for the fastest.
    landscape.picks.get_mut(&fastest[23]).unwrap().2 = 1e-6;
    found(&landscape, &Simulated::of(&landscape, 3), &records(dir.path()), &Options { exhaustive: true, ..options() });
    let all = records(dir.path()).load("NVIDIA H200", "drawn");
    let why = Explanation::of(&all).unwrap();
    let name = |rank: usize| format!("drawn {}", lacuna_runtime::tune::pick_text(&fastest[rank]));
    assert_eq!((why.timed, why.invalid.len()), (23, 1));
    assert_eq!(why.models.name, name(23));
    let second = why.second.clone().unwrap();
    assert!(why.winner.time.median_ms <= second.time.median_ms && second.name != why.winner.name);
    assert!(why.expected_at > 1 && why.correlation.is_some());
    let text = why.to_string();
    for part in ["winner     drawn ", "runner-up  drawn ", "% more", "its own choice: ", "rank correlation "] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(text.contains(&format!("invalid    {}: wrong: o is off", name(3))), "{text}");
    assert!(Explanation::of(&[]).is_none());
}
