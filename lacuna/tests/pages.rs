//! Completions and the manual: that they know what the command knows.

mod common;

use common::{files_of, lacuna};
use lacuna::kernels::registry;

const COMMANDS: [&str; 11] =
    ["run", "emit", "inspect", "bench", "tune", "tuned", "draw", "selftest", "devices", "completions", "man"];

#[test]
fn every_shell_completes_every_command_kernel_and_option() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = lacuna(&["completions", shell]).ends(0).stdout;
        for word in COMMANDS.into_iter().chain(registry::KERNELS.iter().map(|kernel| kernel.name)) {
            // clap_complete offers the values of an argument without a flag to these two only.
            let unknown = registry::find(word).is_some() && !["bash", "zsh"].contains(&shell);
            assert!(unknown || script.contains(word), "{shell} does not know {word}");
        }
        for setting in registry::settings() {
            assert!(script.contains(setting.name), "{shell} does not know --{}", setting.name);
        }
    }
}

#[test]
fn bash_takes_what_is_written_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lacuna.bash");
    assert_eq!(lacuna(&["completions", "bash", "-o", path.to_str().unwrap()]).ends(0).stdout, "");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), lacuna(&["completions", "bash"]).ends(0).stdout);
    let asks = format!(
        "source {}; COMP_WORDS=(lacuna emit nsa); COMP_CWORD=2; _lacuna lacuna nsa emit; echo ${{COMPREPLY[@]}}",
        path.display()
    );
    let Ok(done) = std::process::Command::new("bash").args(["-c", &asks]).output() else { return };
    assert!(String::from_utf8_lossy(&done.stdout).contains("nsa-selected"), "{done:?}");
}

#[test]
fn there_is_a_page_for_every_command() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("man1");
    lacuna(&["man", "--output", out.to_str().unwrap()]).ends(0);
    let files = files_of(&out);
    assert!(files.contains(&"lacuna.1".to_owned()), "{files:?}");
    for command in COMMANDS {
        let page = std::fs::read_to_string(out.join(format!("lacuna-{command}.1"))).unwrap();
        assert_eq!(page, lacuna(&["man", command]).ends(0).stdout, "{command}");
        assert!(page.contains(&format!(".TH lacuna-{command}")), "{page}");
    }
    assert!(!files.iter().any(|name| name.contains("help") || name.contains("worker")), "{files:?}");
    let main = lacuna(&["man"]).ends(0).stdout;
    assert_eq!(main, std::fs::read_to_string(out.join("lacuna.1")).unwrap());
    assert!(main.contains(".TH lacuna") && main.contains("Exit codes"), "{main}");
}

#[test]
fn a_page_names_every_kernel_and_option() {
    let page = lacuna(&["man", "run"]).ends(0).stdout.replace("\\-", "-").replace("\\*(Aq", "'");
    for kernel in registry::KERNELS {
        assert!(page.contains(kernel.name), "{}", kernel.name);
        assert!(kernel.settings.iter().all(|s| page.contains(&format!("--{}", s.name)) && page.contains(s.about)));
    }
}

#[test]
fn what_there_is_not_is_refused() {
    lacuna(&["completions", "tcsh"]).refuses(2, "error: invalid value 'tcsh' for '<SHELL>'");
    let done = lacuna(&["man", "fly"]).ends(2);
    assert!(done.stderr.starts_with("error: no command `fly`; there are run, emit,"), "{}", done.stderr);
    let nowhere = ["completions", "bash", "-o", "/nowhere/at/all"];
    lacuna(&nowhere).refuses(2, "error: cannot write /nowhere/at/all: there is no such directory");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let done = lacuna(&["man", "-o", file.to_str().unwrap()]).ends(2);
    assert!(done.stderr.starts_with(&format!("error: cannot write {}", file.display())), "{}", done.stderr);
}
