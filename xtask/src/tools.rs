//! ptxas, from the wheel in which NVIDIA publishes it: no CUDA toolkit is installed.

use std::env;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};

const PACKAGE: &str = "nvidia-cuda-nvcc==13.0.88";
const PLATFORM: &str = "manylinux2014_x86_64";
const WHEEL: &str = "nvidia_cuda_nvcc-13.0.88-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl";
const WHEEL_SHA256: &str = "56fe502eb77625a12f25172caa3cdddb4e4c8ba2c8c17dba44b164761b380f03";
const MEMBER: &str = "nvidia/cu13/bin/ptxas";
const PTXAS_SHA256: &str = "daba837a68265cae38c832d13399b61dab811891de9b8914defddef143b849f2";

/// Puts ptxas where the tests look for it, unless it is there.
pub(crate) fn fetch(root: &Path) -> Result<()> {
    if let Some(path) = env::var_os("LACUNA_PTXAS").filter(|path| !path.is_empty()) {
        eprintln!("xtask: ptxas is {}, as LACUNA_PTXAS says", Path::new(&path).display());
        return Ok(());
    }
    let folder = root.join("target").join("tools");
    let ptxas = folder.join("ptxas");
    if sha256(&ptxas).is_ok_and(|hash| hash == PTXAS_SHA256) {
        return Ok(());
    }
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        bail!(
            "there is no ptxas of this version for this machine's system; set LACUNA_PTXAS to the path of one that runs"
        );
    }
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    // A wheel from an earlier run that was cut short is as good as a new one.
    let wheel = folder.join(WHEEL);
    if !sha256(&wheel).is_ok_and(|hash| hash == WHEEL_SHA256) {
        download(&folder)?;
        let hash = sha256(&wheel)?;
        ensure!(hash == WHEEL_SHA256, "{} has SHA-256 {hash}; expected {WHEEL_SHA256}", wheel.display());
    }
    unpack(&wheel, &ptxas)?;
    let hash = sha256(&ptxas)?;
    ensure!(hash == PTXAS_SHA256, "{} has SHA-256 {hash}; expected {PTXAS_SHA256}", ptxas.display());
    fs::remove_file(&wheel).with_context(|| format!("cannot remove {}", wheel.display()))?;
    eprintln!("xtask: ptxas is {}", ptxas.display());
    Ok(())
}

fn download(folder: &Path) -> Result<()> {
    let (program, module) = pip()?;
    eprintln!("xtask: downloading {PACKAGE} (37 MB) with {program}");
    let output = Command::new(program)
        .args(module)
        .args(["download", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:"])
        .args(["--platform", PLATFORM, "--dest"])
        .arg(folder)
        .arg(PACKAGE)
        .output()
        .with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        bail!("pip cannot download {PACKAGE}:\n{}", String::from_utf8_lossy(&output.stderr).trim_end());
    }
    Ok(())
}

/// How pip is called here.
fn pip() -> Result<(&'static str, &'static [&'static str])> {
    let ways: [(&str, &[&str]); 4] =
        [("python3", &["-m", "pip"]), ("pip3", &[]), ("pip", &[]), ("python", &["-m", "pip"])];
    let answers = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).arg("--version").output();
        output.is_ok_and(|output| output.status.success())
    };
    if let Some(way) = ways.into_iter().find(|(program, module)| answers(program, module)) {
        return Ok(way);
    }
    let hint = "or set LACUNA_PTXAS to the path of a ptxas that you have";
    if answers("python3", &[]) {
        bail!(
            "python3 has no pip: install it (`apt install python3-pip`, `dnf install python3-pip`, or `python3 -m ensurepip`), \
             {hint}"
        );
    }
    bail!("ptxas is downloaded with pip, and there is no Python: install python3 and its pip, {hint}")
}

/// Takes ptxas out of the wheel. It appears under its name only when it is whole.
fn unpack(wheel: &Path, ptxas: &Path) -> Result<()> {
    let file = File::open(wheel).with_context(|| format!("cannot open {}", wheel.display()))?;
    let mut archive = zip::ZipArchive::new(file).with_context(|| format!("cannot read {}", wheel.display()))?;
    let mut member = archive.by_name(MEMBER).with_context(|| format!("{} holds no {MEMBER}", wheel.display()))?;
    let part: PathBuf = ptxas.with_extension("part");
    let mut out = File::create(&part).with_context(|| format!("cannot write {}", part.display()))?;
    io::copy(&mut member, &mut out).with_context(|| format!("cannot write {}", part.display()))?;
    drop(out);
    executable(&part).with_context(|| format!("cannot make {} executable", part.display()))?;
    fs::rename(&part, ptxas).with_context(|| format!("cannot write {}", ptxas.display()))
}

#[cfg(unix)]
fn executable(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
}

#[cfg(not(unix))]
fn executable(_: &Path) -> io::Result<()> {
    Ok(())
}

fn sha256(path: &Path) -> Result<String> {
    let mut file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut hash = Sha256::new();
    let mut block = vec![0; 1 << 20];
    loop {
        match file.read(&mut block).with_context(|| format!("cannot read {}", path.display()))? {
            0 => return Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()),
            length => hash.update(&block[..length]),
        }
    }
}
