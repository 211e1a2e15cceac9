//! What can go wrong, as one line, hints, and an exit code.

use std::io::Write as _;
use std::process::ExitCode;

use lacuna::kernels::registry::BadOption;
use lacuna::kernels::validate::Invalid;
use lacuna::runtime::{self, CheckError, NoCuda};
use serde_json::json;

/// Why a command did not end well.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The numbers are wrong. What is wrong has been shown already.
    Wrong(String),
    /// Elements were not written.
    Unwritten(String),
    /// Bad usage or input: what it is, and hints.
    Usage(String, Vec<String>),
    /// Trouble with a device.
    Trouble(String, Vec<String>),
    /// Nobody reads what is printed.
    ReaderGone,
}

/// What a command gives.
pub(crate) type Result<T = (), E = Failure> = std::result::Result<T, E>;

impl Failure {
    /// Bad usage or input.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Failure::Usage(message.into(), Vec::new())
    }

    /// With a hint.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        if let Failure::Usage(_, hints) | Failure::Trouble(_, hints) = &mut self {
            hints.push(hint.into());
        }
        self
    }

    /// What it is, in one line.
    pub(crate) fn message(&self) -> &str {
        match self {
            Failure::Wrong(message) | Failure::Unwritten(message) => message,
            Failure::Usage(message, _) | Failure::Trouble(message, _) => message,
            Failure::ReaderGone => "nobody reads",
        }
    }

    fn code(&self) -> u8 {
        match self {
            Failure::Wrong(_) | Failure::Unwritten(_) => 1,
            Failure::Usage(..) => 2,
            Failure::Trouble(..) => 3,
            Failure::ReaderGone => 0,
        }
    }

    /// Says it on stderr, then as [`Failure::said`].
    pub(crate) fn report(&self, json: bool) -> ExitCode {
        let (message, hints) = match self {
            Failure::Wrong(message) | Failure::Unwritten(message) => (message, &[][..]),
            Failure::Usage(message, hints) | Failure::Trouble(message, hints) => (message, &hints[..]),
            Failure::ReaderGone => return ExitCode::SUCCESS,
        };
        // A reader that has gone away misses it; the code says it too.
        let mut lines = vec![format!("error: {message}")];
        lines.extend(hints.iter().map(|hint| format!("  {hint}")));
        let _ = writeln!(std::io::stderr(), "{}", lines.join("\n"));
        self.said(json)
    }

    /// The exit code; as JSON on stdout too, where JSON is wanted and no result stands there yet.
    pub(crate) fn said(&self, json: bool) -> ExitCode {
        let error = match self {
            Failure::Usage(message, hints) => json!({ "kind": "usage", "message": message, "hints": hints }),
            Failure::Trouble(message, hints) => json!({ "kind": "device", "message": message, "hints": hints }),
            Failure::Unwritten(message) => json!({ "kind": "unwritten", "message": message, "hints": [] }),
            Failure::Wrong(_) | Failure::ReaderGone => return ExitCode::from(self.code()),
        };
        if json {
            let text = format!("{:#}\n", json!({ "ok": false, "exit": self.code(), "error": error }));
            let _ = super::output::print(&text);
        }
        ExitCode::from(self.code())
    }
}

impl From<Invalid> for Failure {
    fn from(error: Invalid) -> Self {
        Failure::usage(error.to_string())
    }
}

impl From<BadOption> for Failure {
    fn from(error: BadOption) -> Self {
        let failure = Failure::usage(error.to_string());
        let BadOption::Unknown { name, .. } = &error else { return failure };
        let has = |k: &&lacuna::kernels::registry::Kernel| k.settings.iter().any(|s| s.name == name);
        let kernels = lacuna::kernels::registry::KERNELS.iter().filter(has).map(|k| k.name.to_owned());
        let of_score = |s: &&lacuna::kernels::registry::ScoreKind| s.settings.iter().any(|s| s.name == name);
        let scores = lacuna::kernels::registry::SCORES.iter().filter(of_score).map(|s| format!("--score {}", s.name));
        let kernels: Vec<String> = kernels.chain(scores).collect();
        if kernels.is_empty() {
            failure
        } else {
            failure.hint(format!("`--{name}` is an option of {}", kernels.join(", ")))
        }
    }
}

impl From<lacuna::codegen::Error> for Failure {
    fn from(error: lacuna::codegen::Error) -> Self {
        use lacuna::codegen::Error;
        match &error {
            Error::Unsupported(_) => Failure::usage(error.to_string()),
            Error::SharedMemory { .. } => Failure::usage(error.to_string())
                .hint("`lacuna emit KERNEL --space` lists the picks and what each needs"),
            _ => Failure::Trouble(
                error.to_string(),
                vec!["a shipped kernel should compile: this is a bug in lacuna".to_owned()],
            ),
        }
    }
}

impl From<NoCuda> for Failure {
    fn from(error: NoCuda) -> Self {
        Failure::Trouble(error.to_string(), vec!["without a GPU: `--device emulator`".to_owned()])
    }
}

impl From<runtime::Error> for Failure {
    fn from(error: runtime::Error) -> Self {
        use runtime::Error;
        let message = error.to_string();
        match error {
            Error::NoCuda(error) => error.into(),
            Error::Check(CheckError::NotWritten { .. } | CheckError::Unwritten { .. }) => Failure::Unwritten(message),
            Error::Check(_) | Error::Shape(_) | Error::File(_) | Error::Bind { .. } | Error::Target { .. } => {
                Failure::usage(message)
            }
            Error::OutOfMemory { .. } => Failure::Trouble(message, vec!["fewer tokens or heads need less".to_owned()]),
            _ => Failure::Trouble(message, Vec::new()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lacuna::runtime::Error;
    use lacuna::runtime::check::Index;

    #[test]
    fn each_trouble_has_its_code() {
        let tensor = || "o".to_owned();
        let unwritten = CheckError::NotWritten { plan: "p".to_owned(), tensor: tensor(), index: Index(vec![3]) };
        let nan = CheckError::NotFinite { tensor: tensor(), index: Index(vec![3]), value: f64::NAN };
        let full = Error::OutOfMemory { device: "cuda:0".to_owned(), bytes: 9, free: 1, total: 2 };
        for (failure, code) in [
            (Failure::from(Error::from(unwritten)), 1),
            (Failure::Wrong(String::new()), 1),
            (Failure::from(Error::from(nan)), 2),
            (Failure::usage("no"), 2),
            (Failure::from(full), 3),
            (Failure::from(Error::from(NoCuda::OldDriver { symbol: "cuInit" })), 3),
            (Failure::from(lacuna::codegen::Error::Internal { pass: "verify", message: String::new() }), 3),
        ] {
            assert_eq!(failure.code(), code, "{failure:?}");
        }
    }
}
