//! The winners that come with lacuna: files that `lacuna tuned --export` wrote, one for each GPU model, in `kernels/tuned/`.
//!
//! A file ships with the measurements behind it, or not at all: each winner has its time, its interval, and the text that was
//! timed. `cargo xtask tuned` makes one where there is a GPU. The H200's has five shapes so far; all others get the model's choice.

/// The text of each file, as JSON.
pub const TUNED: &[&str] = &[include_str!("../tuned/nvidia-h200.json")];

#[cfg(test)]
mod tests {
    /// A file that is not named above would ship and serve nobody.
    #[test]
    fn every_file_of_winners_is_named() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tuned");
        let files = std::fs::read_dir(folder).map_or(0, |files| files.count());
        assert_eq!(files, super::TUNED.len(), "TUNED has `include_str!` of each file of {folder}");
        for text in super::TUNED {
            assert!(text.contains("\"gpu\":") && text.contains("\"winners\":"), "{}", &text[..text.len().min(200)]);
        }
    }
}
