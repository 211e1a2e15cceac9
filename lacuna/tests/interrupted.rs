//! Ctrl-C and full disks: every file is as it was, or whole, and nothing else is left. Progress is for terminals alone.
#![cfg(target_os = "linux")]

mod common;

use std::fs::{self, File};
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::files_of;
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lacuna"));
    command
        .args(args)
        .env("LACUNA_DEVICE", "emulator")
        .env("LACUNA_CACHE", "off")
        .env("LACUNA_TUNED", "off")
        .stdin(Stdio::null());
    command
}

/// Interrupts it after a while; its exit code.
fn interrupted(child: &mut Child, signal: Signal, after: Duration) -> Option<i32> {
    std::thread::sleep(after);
    let pid = Pid::from_child(child);
    // One that has ended already is not waited for yet, so the number is still its own.
    kill_process(pid, signal).unwrap();
    child.wait().unwrap().code()
}

#[test]
fn an_interrupted_command_leaves_the_old_files_or_new_ones() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (out, map, pages) = (path("out.safetensors"), path("map.png"), path("pages"));
    fs::write(&out, "old").unwrap();
    fs::write(&map, "old").unwrap();
    fs::create_dir(&pages).unwrap();
    let run = ["run", "causal", "--tokens", "2000", "--heads", "1", "--no-check", "-o", &out];
    let draw = ["draw", "causal", "--tokens", "3000", "-o", &map];
    let man = ["man", "--output", &pages];
    let quiet = |args: &[&str]| command(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let commands = [&run[..], &draw, &man].map(|args| {
        let start = Instant::now();
        assert_eq!(quiet(args).wait().unwrap().code(), Some(0), "{args:?}");
        (args, start.elapsed())
    });
    let (mut ended, mut stopped) = (0, 0);
    for (i, (args, takes)) in commands.repeat(8).into_iter().enumerate() {
        let signal = if i % 2 == 0 { Signal::INT } else { Signal::TERM };
        let start = Instant::now();
        // Moments spread over what the command takes.
        let after = takes.mul_f64(0.1 + 0.9 * ((i / 3) as f64 / 8.0));
        let mut child = quiet(args);
        match interrupted(&mut child, signal, after) {
            Some(130) => stopped += 1,
            Some(0) => ended += 1,
            // Before it began to catch signals.
            None => {}
            other => panic!("{args:?} ended with {other:?} after {:?}", start.elapsed()),
        }
        assert_eq!(files_of(dir.path()), ["map.png", "out.safetensors", "pages"], "{args:?}");
        let whole = |path: &str, is: &dyn Fn(&[u8]) -> bool| {
            let bytes = fs::read(path).unwrap();
            assert!(bytes == b"old" || is(&bytes), "{path} is half written: {} bytes", bytes.len());
        };
        whole(&map, &|bytes| image::load_from_memory(bytes).is_ok());
        whole(&out, &|bytes| safetensors::SafeTensors::deserialize(bytes).is_ok());
        for page in files_of(Path::new(&pages)) {
            assert!(page.starts_with("lacuna") && page.ends_with(".1"), "{page}");
            assert!(fs::read_to_string(Path::new(&pages).join(&page)).unwrap().contains(".SH NAME"), "{page}");
        }
    }
    assert!(stopped > 0, "{stopped} were interrupted, {ended} ended before");
}

#[test]
fn interrupted_while_ptxas_runs_it_leaves_no_folder() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let ptxas = dir.path().join("ptxas");
    fs::write(&ptxas, "#!/bin/sh\nexec sleep 5\n").unwrap();
    fs::set_permissions(&ptxas, fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = command(&["inspect", "causal", "--dim", "32"]);
    command.env("LACUNA_PTXAS", &ptxas).env("TMPDIR", dir.path());
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let begin = Instant::now();
    while files_of(dir.path()).len() < 2 {
        assert!(begin.elapsed() < Duration::from_secs(60), "ptxas never began");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(interrupted(&mut child, Signal::INT, Duration::from_millis(50)), Some(130));
    assert_eq!(files_of(dir.path()), ["ptxas"]);
}

/// A command whose files may be at most so many blocks of 512 bytes, which fails as a full disk does.
fn limited(blocks: u32, args: &[&str]) -> (Option<i32>, String) {
    let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"");
    let mut shell = Command::new("sh");
    shell.args(["-c", &script, env!("CARGO_BIN_EXE_lacuna")]).args(args);
    let done =
        shell.env("LACUNA_DEVICE", "emulator").env("LACUNA_CACHE", "off").env("LACUNA_TUNED", "off").output().unwrap();
    (done.status.code(), String::from_utf8(done.stderr).unwrap())
}

#[test]
fn a_full_disk_is_told_with_the_path_and_the_old_file_stays() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (ptx, map, out) = (path("k.ptx"), path("map.svg"), path("out.safetensors"));
    let calls: [&[&str]; 5] = [
        &["emit", "causal", "-o", &ptx],
        &["draw", "causal", "--tokens", "2000", "-o", &map],
        &["run", "causal", "--tokens", "64", "--heads", "1", "-o", &out],
        &["completions", "bash", "-o", &ptx],
        &["emit", "causal", "--space", "-o", &ptx],
    ];
    for args in calls {
        let file = args[args.len() - 1];
        fs::write(file, "old").unwrap();
        let before = files_of(dir.path());
        let (code, stderr) = limited(1, args);
        assert_eq!(code, Some(2), "{args:?}: {stderr}");
        assert!(stderr.starts_with("error: ") && stderr.contains(file) && stderr.contains("cannot write"), "{stderr}");
        assert!(stderr.to_lowercase().contains("file too large"), "{stderr}");
        assert_eq!((fs::read(file).unwrap(), files_of(dir.path())), (b"old".to_vec(), before));
    }
}

#[test]
fn devices_pipes_and_links_are_written_to_and_not_replaced() {
    let full = common::lacuna(&["emit", "causal", "-o", "/dev/full"]);
    full.refuses(2, "error: cannot write /dev/full: no storage space");
    common::lacuna(&["emit", "causal", "-o", "/dev/null"]).ends(0);
    let printed = common::lacuna(&["emit", "causal", "-o", "/dev/stdout"]).ends(0).stdout;
    assert_eq!(printed, common::lacuna(&["emit", "causal"]).ends(0).stdout);
    let dir = tempfile::tempdir().unwrap();
    let (file, link) = (dir.path().join("file"), dir.path().join("link"));
    fs::write(&file, "old").unwrap();
    std::os::unix::fs::symlink("file", &link).unwrap();
    common::lacuna(&["emit", "causal", "-o", link.to_str().unwrap()]).ends(0);
    assert!(link.is_symlink() && fs::read_to_string(&file).unwrap() == printed);
    let folder = dir.path().to_str().unwrap();
    let want = format!("error: cannot write {folder}: is a directory");
    common::lacuna(&["emit", "causal", "-o", folder]).refuses(2, &want);
}

/// A terminal: the end that a program writes to, and the one that shows what it wrote.
fn terminal() -> (OwnedFd, File) {
    let shows = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&shows).unwrap();
    unlockpt(&shows).unwrap();
    let name = ptsname(&shows, Vec::new()).unwrap().into_string().unwrap();
    let writes = File::options().read(true).write(true).open(name).unwrap();
    (writes.into(), shows.into())
}

/// What a command shows on a terminal until it is interrupted.
fn shown(args: &[&str]) -> String {
    let (writes, mut shows) = terminal();
    let mut child = command(args).stdout(Stdio::null()).stderr(writes).spawn().unwrap();
    let reader = std::thread::spawn(move || {
        let mut all = Vec::new();
        // It ends with an error, once nobody writes any more.
        let _ = shows.read_to_end(&mut all);
        String::from_utf8_lossy(&all).into_owned()
    });
    assert_eq!(interrupted(&mut child, Signal::INT, Duration::from_secs(3)), Some(130));
    reader.join().unwrap()
}

#[test]
fn long_work_shows_progress_on_a_terminal_and_nowhere_else() {
    let run = ["run", "causal", "--tokens", "4000", "--heads", "16", "--dim", "128"];
    let (bar, spinner) = (shown(&["selftest"]), shown(&run));
    // Every kernel at every width, for three groups.
    let cases = lacuna::kernels::validate::WIDTHS.len() * 3 * lacuna::kernels::registry::KERNELS.len();
    let of = format!("/{cases}");
    assert!(bar.contains(", width 32, group 1") && bar.contains(&of), "{bar:?}");
    assert!(spinner.contains("causal on emulator") || spinner.contains("reading the input"), "{spinner:?}");
    // JSON on stdout: nothing but the last word on stderr.
    for args in [&["selftest", "--json"][..], &[&run[..], &["--json"]].concat()] {
        assert_eq!(shown(args).trim(), "interrupted", "{args:?}");
    }
    let mut piped = command(&["selftest"]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = piped.stderr.take().unwrap();
    assert_eq!(interrupted(&mut piped, Signal::INT, Duration::from_secs(2)), Some(130));
    let mut all = String::new();
    stderr.read_to_string(&mut all).unwrap();
    assert_eq!(all, "interrupted\n");
}
