//! The whole text, for sm_80 at the default pick. Reads best next to the schedule: `// from` comments name its lines.

use lacuna_dsl::Target;

use crate::kernels::{assembled, attention, default_pick, group, kernels, plan, text};

/// Snapshots lie in `tests/snapshots`, under the names given here.
pub(crate) fn settings() -> insta::Settings {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(concat!(env!("CARGO_MANIFEST_DIR"), "/snapshots"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings
}

#[test]
fn the_text_of_every_kernel() {
    let mut changed = Vec::new();
    for (kernel, width) in kernels().flat_map(|kernel| [64, 128].map(|width| (kernel, width))) {
        let attention = attention(kernel, width, group(kernel));
        let pick = default_pick(&attention, Target::SM_80);
        let plan = plan(&attention, Target::SM_80, &pick).expect("the default pick fits");
        assembled(&plan);
        let name = format!("{}-d{width}-sm_80", kernel.name);
        let snapshot = || settings().bind(|| insta::assert_snapshot!(name.as_str(), text(&plan)));
        // Every one is looked at before the first that differs is reported.
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(snapshot)).is_err() {
            changed.push(name.clone());
        }
    }
    assert!(changed.is_empty(), "the PTX of {} is not what it was", changed.join(", "));
}
