//! What tuning came to, as text and as JSON.

use lacuna::ptx::Target;
use lacuna::runtime::tune::{Ended, Profile, Staged, State};
use serde_json::{Value, json};

use super::setup::Setup;
use super::{Done, Sitting, Tune};
use crate::cli::bench::report::{millis, table};
use crate::cli::output::count;

/// What the model expects of a shape.
pub(super) struct Expected {
    pub(super) setup: Setup,
    pub(super) class: String,
    pub(super) staged: Vec<Staged>,
    pub(super) chosen: Option<String>,
    /// Candidates that were held to f64, and what is wrong with them.
    pub(super) checked: Vec<(String, Option<String>)>,
}

/// `1 pick does`, `7 picks do`.
fn picks(n: usize) -> String {
    format!("{} {}", count(n, "pick"), if n == 1 { "does" } else { "do" })
}

/// How many candidates are listed.
const SHOWN: usize = 24;

/// The shapes, for people.
pub(super) fn expected_text(rows: &[Expected], target: Target, profile: &Profile) -> String {
    let mut text = String::new();
    for row in rows {
        text.push_str(&format!("{}: {target}, by the static model of the {}\n", row.setup.kernel, profile.name));
        text.push_str(&format!("  class     {}\n", row.class));
        if let Some(chosen) = &row.chosen {
            text.push_str(&format!("  choice    {chosen}\n"));
        }
        text.push('\n');
        let mut cells =
            vec![["pick", "expected ms", "bound", "warps", "registers", "checked"].map(str::to_owned).to_vec()];
        let candidates = || row.staged.iter().filter_map(|staged| staged.as_ref().ok());
        for candidate in candidates().take(SHOWN) {
            let seen = row.checked.iter().find(|(name, _)| *name == candidate.name());
            let checked = seen.map_or("-", |(_, wrong)| if wrong.is_some() { "WRONG" } else { "right" });
            let p = &candidate.prediction;
            let (warps, registers) = (p.warps.to_string(), p.registers.to_string());
            cells.push(vec![candidate.name(), millis(p.ms), p.bound.to_owned(), warps, registers, checked.to_owned()]);
        }
        text.push_str(&table(&cells));
        if candidates().count() > SHOWN {
            text.push_str(&format!("  and {} more\n", candidates().count() - SHOWN));
        }
        let dropped = row.staged.len() - candidates().count();
        if dropped > 0 {
            text.push_str(&format!("  {} not fit\n", picks(dropped)));
        }
        text.push('\n');
    }
    text.push_str("nothing was timed: there is no GPU here\n");
    text
}

/// The shapes as JSON.
pub(super) fn expected_json(rows: &[Expected], target: Target, profile: &Profile) -> Value {
    let row = |row: &Expected| {
        let one = |staged: &Staged| match staged {
            Ok(c) => {
                let seen = row.checked.iter().find(|(name, _)| *name == c.name());
                json!({
                    "schedule": c.schedule,
                    "pick": c.pick,
                    "expected_milliseconds": c.prediction.ms,
                    "bound": c.prediction.bound,
                    "warps": c.prediction.warps,
                    "registers": c.prediction.registers,
                    "checked": seen.map(|(_, wrong)| wrong.is_none()),
                    "wrong": seen.and_then(|(_, wrong)| wrong.clone()),
                })
            }
            Err(d) => json!({ "schedule": d.schedule, "pick": d.pick, "does_not_fit": d.why.to_string() }),
        };
        json!({
            "kernel": row.setup.kernel,
            "class": row.class,
            "choice": row.chosen,
            "candidates": row.staged.iter().map(one).collect::<Vec<_>>(),
        })
    };
    let ok = rows.iter().all(|row| row.checked.iter().all(|(_, wrong)| wrong.is_none()));
    let rows: Vec<Value> = rows.iter().map(row).collect();
    json!({ "ok": ok, "target": target.to_string(), "gpu": profile.name, "timed": false, "rows": rows })
}

impl Done {
    /// `24 candidates: 18 timed now, 4 known, 1 invalid, 1 left out, 0 not reached; 2 picks do not fit`.
    fn tally(&self) -> String {
        let of = |is: &dyn Fn(&State) -> bool| self.found.trials.iter().filter(|trial| is(&trial.state)).count();
        let known = of(&|s| matches!(s, State::Timed(_, true) | State::Invalid(_, true)));
        format!(
            "{}: {} timed now, {known} known, {} invalid, {} left out, {} not reached; {} not fit",
            count(self.found.trials.len(), "candidate"),
            of(&|s| matches!(s, State::Timed(_, false))),
            of(&|s| matches!(s, State::Invalid(_, false))),
            of(&|s| *s == State::LeftOut),
            of(&|s| *s == State::Waiting),
            picks(self.found.dropped.len()),
        )
    }

    fn ended(&self) -> &str {
        match &self.found.ended {
            Ended::Done => "done",
            Ended::Budget => "the budget is spent",
            Ended::Lost(why) => why,
        }
    }
}

impl Tune {
    /// What is said of one shape, once it is done.
    pub(super) fn of_shape(&self, done: &Done, sitting: &Sitting) -> String {
        let mut text = String::new();
        text.push_str(&format!("{}: {}, {}\n", done.setup.kernel, sitting.target, sitting.device.name()));
        let mut line = |name: &str, value: &str| text.push_str(&format!("  {name:<9}  {value}\n"));
        line("class", &done.class);
        line("search", &done.tally());
        line(
            "took",
            &format!(
                "{:.1} s of {:.0} s: {}",
                done.found.elapsed.as_secs_f64(),
                self.budget.as_secs_f64(),
                done.ended()
            ),
        );
        if !sitting.device.is_cuda() {
            line("times", "the host's clock on the emulator: they say nothing of a GPU's");
        }
        match &done.explained {
            Some(explained) => explained.to_string().lines().for_each(|each| text.push_str(&format!("  {each}\n"))),
            // Nothing is kept, or nothing was timed.
            None => match done.found.winner().and_then(|winner| Some((winner.candidate.name(), *winner.time()?))) {
                Some((name, time)) => text.push_str(&format!("  winner     {name}: {:.4} ms\n", time.median_ms)),
                None => text.push_str("  winner     none: nothing was timed\n"),
            },
        }
        if let Some(figures) = &done.figures {
            figures.to_string().lines().for_each(|each| text.push_str(&format!("  {each}\n")));
        }
        match &done.file {
            Some(path) => text.push_str(&format!("  records    {}\n", path.display())),
            None => text.push_str("  records    not kept: LACUNA_TUNED is off\n"),
        }
        text
    }

    /// What is said of all of them together.
    pub(super) fn of_all(sitting: &Sitting) -> String {
        let figures: Vec<_> = sitting.rows.iter().filter_map(|done| done.figures.as_ref()).collect();
        super::figures::summary(&figures)
    }

    pub(super) fn as_json(&self, sitting: &Sitting) -> Value {
        let row = |done: &Done| {
            let winner = done.found.winner().map(|winner| {
                json!({
                    "schedule": winner.candidate.schedule,
                    "pick": winner.candidate.pick,
                    "time": winner.time(),
                    "expected_milliseconds": winner.candidate.prediction.ms,
                })
            });
            json!({
                "kernel": done.setup.kernel,
                "class": done.class,
                "winner": winner,
                "candidates": done.found.trials.len(),
                "measured": done.found.measured,
                "ended": done.ended(),
                "seconds": done.found.elapsed.as_secs_f64(),
                "rank_correlation": done.found.correlation(),
                "records": done.file.as_ref().map(|path| path.display().to_string()),
                "figures": done.figures.as_ref().map(super::figures::Figures::as_json),
                "trials": done.found.trials.iter().map(|trial| {
                    let (state, why) = match &trial.state {
                        State::Timed(..) => ("timed", None),
                        State::Invalid(why, _) => ("invalid", Some(why.to_string())),
                        State::LeftOut => ("left out", None),
                        State::Waiting => ("not reached", None),
                    };
                    json!({
                        "schedule": trial.candidate.schedule,
                        "pick": trial.candidate.pick,
                        "state": state,
                        "why": why,
                        "time": trial.time(),
                        "expected_milliseconds": trial.candidate.prediction.ms,
                    })
                }).collect::<Vec<_>>(),
            })
        };
        let ok = sitting.rows.iter().all(|done| done.found.best.is_some());
        json!({
            "ok": ok,
            "device": sitting.device.name(),
            "target": sitting.target.to_string(),
            "budget_seconds": self.budget.as_secs_f64(),
            "picture": self.picture.as_ref().map(|path| path.display().to_string()),
            "rows": sitting.rows.iter().map(row).collect::<Vec<_>>(),
        })
    }
}
