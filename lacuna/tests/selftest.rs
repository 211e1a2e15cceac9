//! `lacuna selftest`: a row for every kernel, width and group, each held to f64.

mod common;

use std::collections::BTreeSet;

use common::lacuna;
use lacuna::kernels::registry;

#[test]
fn every_kernel_is_right_at_every_width_for_every_group() {
    let done = lacuna(&["selftest", "--device", "emulator", "--json"]).ends(0);
    assert_eq!(done.stderr, "", "no bar where there is no terminal");
    let all = done.json();
    assert_eq!((&all["ok"], &all["target"]), (&true.into(), &"sm_80".into()));
    let mut seen = BTreeSet::new();
    for row in all["rows"].as_array().unwrap() {
        let number = |name: &str| row[name].as_f64().unwrap();
        assert!(row["ok"] == true && row["trouble"].is_null(), "{row}");
        // Products of 16 bits are never exact: an error of 0 would be that of a result compared with itself.
        assert!(0.0 < number("error") && number("error") <= number("allowed") && number("allowed") < 0.5, "{row}");
        assert!(number("lse_error") <= number("lse_allowed"), "{row}");
        seen.insert((row["kernel"].as_str().unwrap().to_owned(), number("width") as u32, number("group") as u32));
    }
    let widths = lacuna::kernels::validate::WIDTHS.into_iter().flat_map(|width| [1, 4, 16].map(|group| (width, group)));
    let want = registry::KERNELS.iter().flat_map(|kernel| widths.clone().map(|(w, g)| (kernel.name.to_owned(), w, g)));
    assert_eq!(seen, want.collect());
}

#[test]
fn what_cannot_be_tested_on_is_refused() {
    lacuna(&["selftest", "--device", "toaster"]).refuses(
        2,
        "error: invalid value 'toaster' for '--device <DEVICE>': a device is `best`, `emulator`, `cuda`, or `cuda:` and a number",
    );
    let done = lacuna(&["selftest", "--device", "cuda:99", "--json"]).ends(3);
    assert_eq!(done.json()["error"]["kind"], "device");
}
