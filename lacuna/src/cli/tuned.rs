//! `lacuna tuned`: what was tuned, why it won, and the winners as a file that can be shipped.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use lacuna::kernels::tuned::TUNED;
use lacuna::runtime::Device;
use lacuna::runtime::tune::{Explanation, Record, Records, Shipped, Stamp, Time, Winner, pick_text};
use serde_json::{Value, json};

use super::args;
use super::bench::report::{millis, table};
use super::failure::{Failure, Result};
use super::output;
use super::tune::landscape;

/// What `lacuna tuned` takes.
#[derive(Debug, Args)]
pub(crate) struct Tuned {
    /// Of this kernel, or schedule, alone
    kernel: Option<String>,
    /// Of this GPU, as its driver calls it [default: the one that is there, else those that records are of]
    #[arg(long, value_name = "NAME")]
    gpu: Option<String>,
    /// Of classes that have this in their name: `tokens 32k`
    #[arg(long, value_name = "TEXT")]
    class: Option<String>,
    /// Say of each class why its winner won: against the runner-up and the model
    #[arg(long)]
    why: bool,
    /// Write the winners to this file, as they ship with lacuna
    #[arg(long, value_name = "FILE")]
    export: Option<PathBuf>,
    /// Draw the candidates of a class, which must be the only one: a .png or an .svg
    #[arg(long, value_name = "FILE")]
    picture: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// A class with its records.
struct Class {
    gpu: String,
    kernel: String,
    class: String,
    records: Vec<Record>,
    /// Whether it came with lacuna.
    shipped: bool,
}

impl Class {
    /// The fastest.
    fn winner(&self) -> Option<(&Record, &Time)> {
        let timed = self.records.iter().filter_map(|record| Some((record, record.time()?)));
        timed.min_by(|a, b| a.1.median_ms.total_cmp(&b.1.median_ms))
    }
}

impl Tuned {
    /// Shows it.
    ///
    /// # Errors
    /// A file that cannot be written; a picture of several classes.
    pub(crate) fn show(&self) -> Result {
        let records = Records::user();
        let classes = self.classes(&records)?;
        output::warn(&records.warnings());
        if let Some(path) = &self.export {
            self.export(path, &classes)?;
        }
        if let Some(path) = &self.picture {
            let [class] = &classes[..] else {
                let message = format!("a picture is of one class, and there are {}", classes.len());
                return Err(Failure::usage(message).hint("a kernel and --class choose one: `lacuna tuned` lists them"));
            };
            landscape::draw(path, &landscape::of_records(&class.records.iter().collect::<Vec<_>>()))?;
        }
        output::print(&match self.json {
            true => format!("{:#}\n", self.as_json(&classes)),
            false => self.as_text(&classes),
        })
    }

    /// The classes that are meant, in order.
    fn classes(&self, records: &Records) -> Result<Vec<Class>> {
        let device = args::device(None)?;
        let here = self.gpu.clone().or_else(|| device.is_cuda().then(|| Stamp::of(&device.info()).gpu));
        let gpus = here.map_or_else(|| records.gpus(), |gpu| vec![gpu]);
        let mut all: BTreeMap<(String, String, String, bool), Vec<Record>> = BTreeMap::new();
        for gpu in &gpus {
            for kernel in records.kernels(gpu) {
                for record in records.load(gpu, &kernel) {
                    let key = (record.stamp.gpu.clone(), kernel.clone(), record.class.clone(), false);
                    all.entry(key).or_default().push(record);
                }
            }
        }
        for file in TUNED.iter().filter_map(|text| Shipped::read(text).ok()).filter(|file| gpus.contains(&file.gpu)) {
            for Winner { kernel, record } in file.winners {
                all.entry((file.gpu.clone(), kernel, record.class.clone(), true)).or_default().push(record);
            }
        }
        let meant = |class: &Class| {
            self.kernel.as_ref().is_none_or(|kernel| *kernel == class.kernel)
                && self.class.as_ref().is_none_or(|text| class.class.contains(text))
        };
        let class = |((gpu, kernel, class, shipped), records)| Class { gpu, kernel, class, records, shipped };
        Ok(all.into_iter().map(class).filter(meant).collect())
    }

    fn export(&self, path: &std::path::Path, classes: &[Class]) -> Result {
        let mut gpus: Vec<&str> = classes.iter().map(|class| class.gpu.as_str()).collect();
        gpus.dedup();
        let [gpu] = gpus[..] else {
            let message = format!("a file is of one GPU, and records are of {}", gpus.len());
            return Err(Failure::usage(message).hint("--gpu says which"));
        };
        let winner = |class: &Class| Some(Winner { kernel: class.kernel.clone(), record: class.winner()?.0.clone() });
        let winners = classes.iter().filter(|class| !class.shipped).filter_map(winner).collect();
        output::write(path, Shipped { gpu: gpu.to_owned(), winners }.text().as_bytes())
    }

    fn as_text(&self, classes: &[Class]) -> String {
        if classes.is_empty() {
            let why = Device::no_cuda().map_or(String::new(), |why| format!(" ({why})"));
            return format!("nothing is tuned{why}: `lacuna tune KERNEL` tunes on the GPU that is there\n");
        }
        let mut text = String::new();
        let mut cells = vec![["kernel", "ms", "±", "timed", "pick"].map(str::to_owned).to_vec()];
        for class in classes {
            if self.why {
                text.push_str(&format!("{}: {}, {}\n", class.kernel, class.gpu, class.class));
                match Explanation::of(&class.records) {
                    Some(why) => why.to_string().lines().for_each(|line| text.push_str(&format!("  {line}\n"))),
                    None => text.push_str("  nothing of it has a time\n"),
                }
                continue;
            }
            let timed = class.records.iter().filter(|record| record.time().is_some()).count();
            let Some((record, time)) = class.winner() else { continue };
            let shipped = if class.shipped { " (shipped)" } else { "" };
            cells.push(vec![
                class.kernel.clone(),
                millis(time.median_ms),
                format!("{:.1}%", 100.0 * time.error()),
                format!("{timed}{shipped}"),
                format!("{} {}", record.schedule, pick_text(&record.pick)),
            ]);
            cells.push(vec![format!("  {}", class.class)]);
        }
        if !self.why {
            text.push_str(&table(&cells));
            text.push_str("whether they hold, for the PTX and the driver of now, is asked where they are used\n");
        }
        if let Some(path) = &self.export {
            text.push_str(&format!("{}: the winners\n", path.display()));
        }
        text
    }

    fn as_json(&self, classes: &[Class]) -> Value {
        let class = |class: &Class| {
            let why = Explanation::of(&class.records);
            json!({
                "gpu": class.gpu,
                "kernel": class.kernel,
                "class": class.class,
                "shipped": class.shipped,
                "winner": class.winner().map(|(record, _)| record),
                "timed": why.as_ref().map_or(0, |why| why.timed),
                "invalid": why.as_ref().map_or(0, |why| why.invalid.len()),
                "runner_up": why.as_ref().and_then(|why| why.second.as_ref()).map(|second| {
                    json!({ "name": second.name, "time": second.time })
                }),
                "expected_at": why.as_ref().map(|why| why.expected_at),
                "rank_correlation": why.as_ref().and_then(|why| why.correlation),
                "records": self.why.then_some(&class.records),
            })
        };
        json!({ "ok": true, "classes": classes.iter().map(class).collect::<Vec<_>>() })
    }
}
