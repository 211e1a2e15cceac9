//! What can go wrong, as one line, hints, and an exit code.

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

    fn code(&self) -> u8 {
        match self {
            Failure::Wrong(_) => 1,
            Failure::Usage(..) => 2,
            Failure::Trouble(..) => 3,
            Failure::ReaderGone => 0,
        }
    }

    /// Says it on stderr, and as JSON on stdout where JSON is wanted and nothing stands there yet.
    pub(crate) fn report(&self, json: bool) -> ExitCode {
        let code = self.code();
        let (kind, message, hints) = match self {
            Failure::Wrong(message) => ("wrong", message, &[][..]),
            Failure::Usage(message, hints) => ("usage", message, &hints[..]),
            Failure::Trouble(message, hints) => ("device", message, &hints[..]),
            Failure::ReaderGone => return ExitCode::SUCCESS,
        };
        eprintln!("error: {message}");
        for hint in hints {
            eprintln!("  {hint}");
        }
        if json && code != 1 {
            let error = json!({ "kind": kind, "message": message, "hints": hints });
            // The code says it too, if nobody reads this.
            let _ = super::output::print(&format!("{:#}\n", json!({ "ok": false, "exit": code, "error": error })));
        }
        ExitCode::from(code)
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
        let kernels: Vec<&str> = lacuna::kernels::registry::KERNELS.iter().filter(has).map(|k| k.name).collect();
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
            Error::Check(CheckError::NotWritten { .. } | CheckError::Unwritten { .. }) => Failure::Wrong(message),
            Error::Check(_) | Error::Shape(_) | Error::File(_) | Error::Bind { .. } | Error::Target { .. } => {
                Failure::usage(message)
            }
            Error::OutOfMemory { .. } => Failure::Trouble(message, vec!["fewer tokens or heads need less".to_owned()]),
            _ => Failure::Trouble(message, Vec::new()),
        }
    }
}
