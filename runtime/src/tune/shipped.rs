//! Winners that come with lacuna: `kernels/tuned/<gpu>.json`.
//!
//! They serve a GPU of that model until something better was measured on it.

use serde::{Deserialize, Serialize};

use super::record::Record;

/// A file of winners: one record for each kernel and class, and what was found out about the search that made them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Shipped {
    /// The GPU, as its driver calls it.
    pub gpu: String,
    /// The winners.
    pub winners: Vec<Winner>,
}

/// The winner of one class.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Winner {
    /// The kernel.
    pub kernel: String,
    /// Its record.
    #[serde(flatten)]
    pub record: Record,
}

impl Shipped {
    /// Reads a file's text.
    ///
    /// # Errors
    /// Where it is none.
    pub fn read(text: &str) -> Result<Self, String> {
        serde_json::from_str(text).map_err(|error| format!("no file of tuned winners: {error}"))
    }

    /// The file's text: one winner a line, in the order of kernels and classes, so that a change of one shows as one.
    ///
    /// # Panics
    /// Never: records are JSON.
    pub fn text(&self) -> String {
        let mut winners = self.winners.clone();
        winners.sort_by(|a, b| (&a.kernel, &a.record.class).cmp(&(&b.kernel, &b.record.class)));
        let json = |value: &Winner| serde_json::to_string(value).expect("a record is JSON");
        let lines: Vec<String> = winners.iter().map(|winner| format!("    {}", json(winner))).collect();
        let gpu = serde_json::to_string(&self.gpu).expect("a name is JSON");
        format!("{{\n  \"gpu\": {gpu},\n  \"winners\": [\n{}\n  ]\n}}\n", lines.join(",\n"))
    }

    /// The winners of a kernel on a GPU.
    pub fn of<'a>(&'a self, gpu: &str, kernel: &'a str) -> impl Iterator<Item = &'a Record> {
        let this = self.gpu == gpu;
        self.winners.iter().filter(move |winner| this && winner.kernel == kernel).map(|winner| &winner.record)
    }
}

/// The records of a class from which its winner is taken: local ones, and shipped ones of picks that nothing local is of.
pub fn merged<'a>(
    class: &str,
    local: &'a [Record],
    shipped: impl IntoIterator<Item = &'a Record>,
) -> Vec<(&'a Record, bool)> {
    let of_class = |record: &&Record| record.class == class;
    let mut all: Vec<(&Record, bool)> = local.iter().filter(of_class).map(|record| (record, false)).collect();
    for record in shipped.into_iter().filter(of_class) {
        if !local.iter().any(|known| known.same(record) && known.ptx == record.ptx) {
            all.push((record, true));
        }
    }
    all
}
