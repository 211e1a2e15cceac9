//! `lacuna selftest`: every shipped kernel at every width, on small ragged inputs, against f64.

use clap::Args;
use lacuna::codegen::plan::Pick;
use lacuna::kernels::registry::{self, Allowed, Kernel, Options, Setting};
use lacuna::kernels::tolerance::{Verdict, Verdicts};
use lacuna::kernels::validate::WIDTHS;
use lacuna::ptx::Target;
use lacuna::runtime::{Device, Elem};
use serde_json::{Value, json};

use super::args::{self, Place};
use super::attend::Job;
use super::failure::{Failure, Result};
use super::input::{Draw, Input};
use super::output::{self, count, measure};

/// What `lacuna selftest` takes.
#[derive(Debug, Args)]
pub(crate) struct Selftest {
    /// best, emulator, cuda, or cuda:1 [default: best]
    #[arg(long)]
    device: Option<Place>,
    /// Compile for this GPU [default: the highest of sm_80, sm_86, sm_89, sm_90, sm_90a and sm_120 that the device runs]
    #[arg(long)]
    target: Option<Target>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Query heads of a KV head.
const GROUPS: [usize; 3] = [1, 4, 16];

/// The documents: some blocks and a tail, none, one token, less than a block.
const DOCS: [usize; 4] = [141, 0, 1, 30];

/// What an option is at most, where it may be so small: the defaults are for longer documents than these.
const SMALL: u32 = 7;

/// A kernel at a shape.
struct Case {
    kernel: &'static Kernel,
    width: usize,
    group: usize,
}

/// What came of it.
struct Row {
    case: Case,
    verdicts: Result<Verdicts>,
}

impl Selftest {
    /// Tests it.
    ///
    /// # Errors
    /// What `--help` says of exit codes.
    pub(crate) fn test(&self) -> Result {
        let device = args::device(self.device)?;
        let target = args::target(&device, self.target)?;
        let print = |text: String| if self.json { Ok(()) } else { output::print(&text) };
        print(format!("lacuna {}   device: {device}   target: {target}\n", env!("CARGO_PKG_VERSION")))?;
        print(head())?;
        let cases = cases();
        let progress = output::bar(self.json, cases.len() as u64);
        let mut rows = Vec::new();
        for case in cases {
            progress.set_message(format!("{}, width {}, group {}", case.kernel.name, case.width, case.group));
            let verdicts = case.run(&device, target);
            let row = Row { case, verdicts };
            progress.suspend(|| print(row.as_text()))?;
            progress.inc(1);
            rows.push(row);
        }
        progress.finish_and_clear();
        output::warn(&device.warnings());
        let wrong = rows.iter().filter(|row| !row.ok()).count();
        if self.json {
            let of: Vec<Value> = rows.iter().map(Row::as_json).collect();
            let all = json!({ "ok": wrong == 0, "device": device.name(), "target": target.to_string(), "rows": of });
            output::print(&format!("{all:#}\n"))?;
        }
        if wrong == 0 {
            return print(format!("all {} are right\n", rows.len()));
        }
        Err(Failure::Wrong(format!("{} of {} on {device}", count(wrong, "failure"), rows.len())))
    }
}

/// Every kernel, at every width, for every group.
fn cases() -> Vec<Case> {
    let of = |kernel| {
        let widths = WIDTHS.into_iter().map(|width| width as usize);
        widths.flat_map(move |width| GROUPS.into_iter().map(move |group| Case { kernel, width, group }))
    };
    registry::KERNELS.iter().flat_map(of).collect()
}

/// An option that shows on documents of some hundred tokens.
fn small(setting: &Setting) -> (&'static str, u32) {
    let value = match setting.allowed {
        // More blocks would be all that there are, and nothing would be chosen.
        _ if setting.name == "top-k" => 3,
        Allowed::Range(low, _) => setting.default.min(SMALL).max(low),
        Allowed::OneOf(values) => values.iter().copied().min().unwrap_or(setting.default),
        Allowed::Steps(_, low) => low,
    };
    (setting.name, value)
}

impl Case {
    fn options(&self) -> Result<Options> {
        Ok(self.kernel.options(self.kernel.settings.iter().map(small))?)
    }

    /// Draws the input, runs, compares every row.
    fn run(&self, device: &Device, target: Target) -> Result<Verdicts> {
        let options = self.options()?;
        let input = Input::draw(&Draw {
            tokens: None,
            docs: DOCS.to_vec(),
            keys: Vec::new(),
            heads: self.group,
            kv_heads: 1,
            dim: self.width,
            dv: self.width,
            seed: 0,
            elem: Elem::Bf16,
            repeats: false,
        })?;
        let picks = input.picks_for(self.kernel, &options, false)?;
        let job = Job {
            device,
            target,
            kernel: self.kernel,
            options: &options,
            wanted: &Pick::new(),
            input: &input,
            picks: picks.as_ref().map(|(picks, _)| picks),
            scale: 1.0 / (self.width as f32).sqrt(),
            checked: true,
            compare: true,
        };
        let compared = job.run(|_| ())?.compared;
        compared.map(|compared| compared.verdicts).ok_or_else(|| Failure::Wrong("nothing was compared".to_owned()))
    }
}

impl Row {
    fn ok(&self) -> bool {
        self.verdicts.as_ref().is_ok_and(Verdicts::ok)
    }

    fn as_text(&self) -> String {
        let Case { kernel, width, group } = self.case;
        let start = format!("  {:<16}  {width:>5}  {group:>5}", kernel.name);
        match &self.verdicts {
            Ok(Verdicts { o, lse }) => {
                let columns = |v: &Verdict| format!("{:>8}  {:>8}", measure(v.error), measure(v.allowed));
                let end = if self.ok() { "yes" } else { "NO" };
                format!("{start}  {}  {}  {end}\n", columns(o), columns(lse))
            }
            Err(error) => format!("{start}  NO: {}\n", error.message()),
        }
    }

    fn as_json(&self) -> Value {
        let Case { kernel, width, group } = self.case;
        let verdicts = self.verdicts.as_ref().ok();
        json!({
            "kernel": kernel.name,
            "width": width,
            "group": group,
            "ok": self.ok(),
            "error": verdicts.map(|v| v.o.error),
            "allowed": verdicts.map(|v| v.o.allowed),
            "lse_error": verdicts.map(|v| v.lse.error),
            "lse_allowed": verdicts.map(|v| v.lse.allowed),
            "trouble": self.verdicts.as_ref().err().map(Failure::message),
        })
    }
}

fn head() -> String {
    format!(
        "  {:<16}  {:>5}  {:>5}  {:>8}  {:>8}  {:>8}  {:>8}  {}\n",
        "kernel", "width", "group", "error", "allowed", "lse", "allowed", "ok"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_allowed_and_small_where_they_may_be() {
        for case in cases() {
            case.options().unwrap();
            for setting in case.kernel.settings {
                let (_, value) = small(setting);
                assert!(value <= 64, "`{}` of `{}` is {value}", setting.name, case.kernel.name);
            }
        }
    }

    #[test]
    fn a_wrong_row_and_a_broken_one_say_no() {
        let row = |verdicts| Row { case: Case { kernel: &registry::KERNELS[0], width: 32, group: 4 }, verdicts };
        let verdict = |ok| Verdict { ok, error: 0.25, allowed: 0.5, worst: 3, got: 1.0, want: 2.0 };
        let right = row(Ok(Verdicts { o: verdict(true), lse: verdict(true) }));
        assert!(
            right.ok() && right.as_text().ends_with("2.5e-1    5.0e-1    2.5e-1    5.0e-1  yes\n"),
            "{}",
            right.as_text()
        );
        let wrong = row(Ok(Verdicts { o: verdict(true), lse: verdict(false) }));
        assert!(!wrong.ok() && wrong.as_text().ends_with("  NO\n") && wrong.as_json()["ok"] == false);
        let broken = row(Err(Failure::usage("no room")));
        assert!(!broken.ok() && broken.as_text().ends_with("  NO: no room\n"));
        assert_eq!(broken.as_json()["trouble"], "no room");
    }
}
