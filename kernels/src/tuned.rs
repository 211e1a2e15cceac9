//! The winners that come with lacuna: files that `lacuna tuned --export` wrote, one for each GPU model, in `kernels/tuned/`.
//!
//! There is none yet: a file ships with the measurements behind it, or not at all. `cargo xtask tuned` makes it where there
//! is a GPU.

/// The text of each file, as JSON.
pub const TUNED: &[&str] = &[];

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
