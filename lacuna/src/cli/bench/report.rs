//! What was timed, as a table and as JSON.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Bench, Launched, Measured, Sitting};
use crate::cli::args;
use crate::cli::output::count;

/// The entries that the launches of all shapes have, each once, in their order.
pub(super) fn steps(rows: &[Measured]) -> Vec<&str> {
    let mut all: Vec<&str> = Vec::new();
    for Launched { entry, .. } in rows.iter().flat_map(|row| &row.launches) {
        if !all.contains(&entry.as_str()) {
            all.push(entry);
        }
    }
    all
}

impl Launched {
    /// `merge`, `merge 2`.
    fn name(&self) -> String {
        if self.turn == 1 { self.entry.clone() } else { format!("{} {}", self.entry, self.turn) }
    }
}

impl Measured {
    /// Of the time, how much the floor is; nothing where there is no time.
    fn share(&self) -> f64 {
        if self.whole.median_ms > 0.0 { self.floor.bound().1 / self.whole.median_ms } else { 0.0 }
    }

    /// So many a millisecond, in units of 10^12 or 10^9 a second.
    fn rate(&self, amount: f64, unit: f64) -> f64 {
        if self.whole.median_ms > 0.0 { amount / self.whole.median_ms * 1e3 / unit } else { 0.0 }
    }

    /// The medians of an entry's launches, added up, in milliseconds, and how many they are; `None` where it has none.
    pub(super) fn step(&self, entry: &str) -> Option<(f64, usize)> {
        let medians = self.launches.iter().filter(|launch| launch.entry == entry).map(|launch| launch.timing.median_ms);
        Some(medians.fold((0.0, 0), |(sum, count), ms| (sum + ms, count + 1))).filter(|&(_, count)| count > 0)
    }
}

/// Four figures: `0.0123`, `1.234`, `12.34`, `1234`.
pub(crate) fn millis(ms: f64) -> String {
    match ms {
        ms if ms >= 1000.0 => format!("{ms:.0}"),
        ms if ms >= 100.0 => format!("{ms:.1}"),
        ms if ms >= 10.0 => format!("{ms:.2}"),
        ms if ms >= 1.0 => format!("{ms:.3}"),
        ms => format!("{ms:.4}"),
    }
}

/// `0`, `823 MB`, `1.7 GB`.
fn bytes(bytes: u64) -> String {
    match bytes as f64 {
        0.0 => "0".to_owned(),
        b if b >= 1e9 => format!("{:.1} GB", b / 1e9),
        b if b >= 1e6 => format!("{:.0} MB", b / 1e6),
        b => format!("{:.0} kB", (b / 1e3).ceil()),
    }
}

/// Rows of cells, each column as wide as its widest cell: the first to the left, the others to the right.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let wide = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| wide(column).unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).enumerate().map(|(i, (cell, &width))| match i {
            0 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        format!("  {}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

/// A line for each step and a column for each shape, where there are several steps: its time there, and of how many launches
/// where they are more than one.
fn by_step(rows: &[Measured]) -> Option<String> {
    let steps = steps(rows);
    let times = |row: &Measured, step: &str| row.step(step).map_or(0, |(_, count)| count);
    let tail = |count: usize| if count > 1 { format!(" ({count})") } else { String::new() };
    // Numbers stand below one another, whatever follows them.
    let tails: Vec<usize> =
        rows.iter().map(|row| steps.iter().map(|step| tail(times(row, step)).len()).max().unwrap_or(0)).collect();
    let line = |what: &str, each: &dyn Fn(&Measured) -> (String, usize)| -> Vec<String> {
        let cell = |(row, &wide): (&Measured, &usize)| {
            let (text, count) = each(row);
            format!("{text}{:wide$}", tail(count))
        };
        [what.to_owned()].into_iter().chain(rows.iter().zip(&tails).map(cell)).collect()
    };
    let mut cells = vec![line("launch", &|row| (row.tokens.to_string(), 1))];
    cells.extend(
        steps.iter().map(|step| {
            line(step, &|row| row.step(step).map_or(("-".to_owned(), 1), |(ms, count)| (millis(ms), count)))
        }),
    );
    let sum = |row: &Measured| row.launches.iter().map(|launch| launch.timing.median_ms).sum();
    cells.push(line("sum", &|row| (millis(sum(row)), 1)));
    cells.push(line("whole", &|row| (millis(row.whole.median_ms), 1)));
    (steps.len() > 1).then(|| table(&cells))
}

impl Bench {
    pub(super) fn as_text(&self, sitting: &Sitting) -> String {
        let (kernel, rows) = (self.chosen.kernel, &sitting.rows);
        let schedules: Vec<&str> = rows.iter().map(|row| row.schedule).fold(Vec::new(), |mut all, name| {
            if !all.contains(&name) {
                all.push(name);
            }
            all
        });
        let mut text = format!("{}: {}, {}\n", kernel.name, schedules.join(", "), sitting.target);
        let mut line = |name: &str, value: String| text.push_str(&format!("  {name:<8}  {value}\n"));
        line("device", sitting.device.name());
        let mut options: Vec<String> = sitting.options.iter().map(|(name, value)| format!("{name}={value}")).collect();
        options.extend(sitting.options.score.map(|score| format!("score {}", score.name)));
        options.extend(sitting.options.sinks.then(|| "sink logits".to_owned()));
        if !options.is_empty() {
            line("options", options.join(","));
        }
        let shapes = &self.shapes;
        let kv_heads = shapes.kv_heads();
        let heads = match kv_heads == self.shapes.heads {
            true => count(self.shapes.heads, "head"),
            false => format!("{} over {}", count(self.shapes.heads, "query head"), count(kv_heads, "KV head")),
        };
        let dv = if shapes.dv() == shapes.head_dim { String::new() } else { format!(" (v {})", shapes.dv()) };
        let documents = count(self.shapes.batch, "document");
        line("shapes", format!("{documents}, {heads} x {}{dv}, {}", self.shapes.head_dim, self.shapes.dtype.name()));
        line(
            "times",
            match sitting.device.is_cuda() {
                true => "ms: medians of runs with L2 overwritten before each; ± half the distance of the quartiles"
                    .to_owned(),
                false => "ms: the host's clock, one run on the emulator: they say nothing of a GPU's".to_owned(),
            },
        );
        text.push('\n');
        let head = ["tokens", "runs", "time", "±", "TFLOP/s", "GB/s", "floor", "share", "bound", "workspace", "pick"];
        let mut cells = vec![head.map(str::to_owned).to_vec()];
        for row in rows {
            let (bound, floor) = row.floor.bound();
            cells.push(vec![
                row.tokens.to_string(),
                row.whole.reps.to_string(),
                millis(row.whole.median_ms),
                format!("{:.1}%", 100.0 * row.whole.spread()),
                format!("{:.1}", row.rate(row.floor.flops, 1e12)),
                format!("{:.0}", row.rate(row.floor.hbm_bytes, 1e9)),
                millis(floor),
                format!("{:.0}%", 100.0 * row.share()),
                bound.to_owned(),
                bytes(row.workspace),
                args::pick_text(&row.pick),
            ]);
        }
        text.push_str(&table(&cells));
        if let Some(steps) = by_step(rows) {
            text.push('\n');
            text.push_str(&steps);
        }
        let mut notes = vec!["floors and shares are those of an H200".to_owned()];
        if rows.iter().any(|row| row.launches.iter().any(|launch| launch.turn > 1)) {
            notes.push("(n): so many launches of one entry, added up".to_owned());
        }
        notes.extend(rows.iter().map(|row| format!("pick at {}: {}", row.tokens, row.why)));
        notes.extend(self.picture.as_ref().map(|path| format!("{}: time against tokens", path.display())));
        text.push_str(&format!("\n{}\n", notes.join("\n")));
        text
    }

    pub(super) fn as_json(&self, sitting: &Sitting) -> Value {
        let row = |row: &Measured| {
            let (bound, floor) = row.floor.bound();
            let launches: Vec<Value> = row
                .launches
                .iter()
                .map(|launch| {
                    let t = &launch.timing;
                    json!({
                        "launch": launch.name(),
                        "milliseconds": t.median_ms,
                        "least": t.min_ms,
                        "most": t.max_ms,
                        "spread": t.spread(),
                    })
                })
                .collect();
            json!({
                "tokens": row.tokens,
                "schedule": row.schedule,
                "pick": row.pick,
                "pick_why": row.why,
                "rounds": row.whole.reps,
                "milliseconds": row.whole.median_ms,
                "least": row.whole.min_ms,
                "most": row.whole.max_ms,
                "spread": row.whole.spread(),
                "samples": row.whole.samples_ms,
                "launches": launches,
                "workspace_bytes": row.workspace,
                "flops": row.floor.flops,
                "l2_bytes": row.floor.l2_bytes,
                "hbm_bytes": row.floor.hbm_bytes,
                "teraflops_a_second": row.rate(row.floor.flops, 1e12),
                "gigabytes_a_second": row.rate(row.floor.hbm_bytes, 1e9),
                "bound": bound,
                "floor_milliseconds": floor,
                "share_of_floor": row.share(),
            })
        };
        json!({
            "ok": true,
            "kernel": self.chosen.kernel.name,
            "device": sitting.device.name(),
            "target": sitting.target.to_string(),
            "options": sitting.options.iter().collect::<BTreeMap<_, _>>(),
            "score": sitting.options.score.map(|score| score.name),
            "sink_logits": sitting.options.sinks,
            "batch": self.shapes.batch,
            "heads": self.shapes.heads,
            "kv_heads": self.shapes.kv_heads(),
            "head_dim": self.shapes.head_dim,
            "dv": self.shapes.dv(),
            "dtype": self.shapes.dtype.name(),
            "rows": sitting.rows.iter().map(row).collect::<Vec<_>>(),
            "picture": self.picture.as_ref().map(|path| path.display().to_string()),
        })
    }
}

/// Rows for tests: their tokens, and the launches of each with their milliseconds.
#[cfg(test)]
pub(super) fn drawn(rows: &[(usize, &[(&str, f64)])]) -> Vec<Measured> {
    use super::{Floor, Timing, launched};
    let timing = |ms: f64| Timing { median_ms: ms, min_ms: ms, max_ms: ms, reps: 1, samples_ms: vec![ms] };
    let row = |&(tokens, launches): &(usize, &[(&str, f64)])| {
        let launches = launches.iter().map(|&(entry, ms)| (entry.to_owned(), timing(ms)));
        Measured {
            tokens,
            pick: [].into(),
            why: String::new(),
            schedule: "drawn",
            workspace: 0,
            whole: timing(launches.clone().map(|(_, timing)| timing.median_ms).sum()),
            launches: launched(launches),
            floor: Floor { flops: 1e9, l2_bytes: 0.0, hbm_bytes: 0.0, ceiling: 1e15, hbm: 1e12 },
        }
    };
    rows.iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_four_figures_and_sizes_a_unit() {
        assert_eq!(
            [0.01234, 1.2344, 12.344, 123.44, 1234.4].map(millis),
            ["0.0123", "1.234", "12.34", "123.4", "1234"]
        );
        assert_eq!([0, 300, 823_000_000, 1_740_000_000].map(bytes), ["0", "1 kB", "823 MB", "1.7 GB"]);
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [vec!["a".to_owned(), "time".to_owned()], vec!["long".to_owned(), "±1".to_owned()]];
        assert_eq!(table(&rows), "  a     time\n  long    ±1\n");
    }

    #[test]
    fn launches_that_come_again_are_one_line_with_their_number() {
        let once: &[(&str, f64)] = &[("route", 0.5), ("blocks", 0.25), ("parts", 0.125)];
        let thrice: &[(&str, f64)] =
            &[("route", 2.0), ("blocks", 1.0), ("parts", 0.25), ("blocks", 1.5), ("parts", 0.25), ("blocks", 2.0)];
        let rows = drawn(&[(8192, once), (32768, thrice)]);
        let text = [
            "  launch    8192   32768",
            "  route   0.5000   2.000",
            "  blocks  0.2500   4.500 (3)",
            "  parts   0.1250  0.5000 (2)",
            "  sum     0.8750   7.000",
            "  whole   0.8750   7.000",
            "",
        ];
        assert_eq!(by_step(&rows).unwrap(), text.join("\n"));
        let names: Vec<String> = rows[1].launches.iter().map(Launched::name).collect();
        assert_eq!(names, ["route", "blocks", "parts", "blocks 2", "parts 2", "blocks 3"]);
        assert_eq!(by_step(&drawn(&[(64, &[("alone", 1.0)])])), None);
        assert_eq!(rows[0].step("merge"), None);
    }
}
