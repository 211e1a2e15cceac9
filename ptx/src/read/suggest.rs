//! The nearest instruction to one that does not exist.

use crate::Form;

/// How many letters may differ.
const FAR: usize = 3;

/// The form whose text differs least from `text`, where any is near.
pub(super) fn nearest(text: &str) -> Option<&'static str> {
    let near = |form: Form| form.name().len().abs_diff(text.len()) <= FAR;
    let distances = Form::all().filter(|form| near(*form)).map(|form| (distance(text, form.name()), form.name()));
    distances.min_by_key(|(distance, _)| *distance).filter(|(distance, _)| *distance <= FAR).map(|(_, name)| name)
}

/// Levenshtein's distance in bytes.
fn distance(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in to.bytes().enumerate() {
            let replace = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = replace.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[to.len()]
}
