//! The CUDA path over a driver library with no GPU behind it, and every way in which a driver cannot be used. Each case
//! is a child process that finds that library before any other.
#![cfg(target_os = "linux")]
#![allow(clippy::print_stdout)]

mod common;

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use common::{axpy, axpy_twice, ramp};
use lacuna_ptx::Target;
use lacuna_runtime::{BenchOptions, Bindings, Device, Elem, Tensor};

const CHILD: &str = "LACUNA_TEST_DRIVER_CHILD";

/// The folder of the library with these functions, built once.
fn library(lacks: &str) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/fake_driver.rs");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("driver-{lacks}"));
    std::fs::create_dir_all(&folder).unwrap();
    let text = std::fs::read_to_string(source).unwrap();
    let copy = folder.join("fake_driver.rs");
    std::fs::write(&copy, text.replace(&format!("fn {lacks}("), &format!("fn no_{lacks}("))).unwrap();
    let rustc = std::env::var_os("RUSTC").unwrap_or("rustc".into());
    let mut command = Command::new(rustc);
    command.args(["--edition", "2024", "-Cdebug-assertions=on", "-o"]).arg(folder.join("libcuda.so")).arg(copy);
    let out = command.output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    folder
}

fn whole() -> &'static Path {
    static WHOLE: OnceLock<PathBuf> = OnceLock::new();
    WHOLE.get_or_init(|| library("nothing"))
}

/// What this test prints as a child, over a library, with these variables.
fn child(test: &str, library: &Path, variables: &[(&str, &str)]) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]).env(CHILD, "1").env("LD_LIBRARY_PATH", library);
    let out = command.env("LACUNA_CACHE", "off").envs(variables.iter().copied()).output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{text}");
    text
}

fn is_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

fn bindings(device: &Device, n: u64) -> (Bindings, Tensor) {
    let out = Tensor::poisoned(device, Elem::F32, &[n]).unwrap();
    let vector = |data: &[f32]| Tensor::from_slice(device, &[n], data).unwrap();
    let bindings = Bindings::new().tensor("x", &vector(&ramp(n))).tensor("y", &vector(&vec![1.0; n as usize]));
    (bindings.tensor("out", &out).float("a", 2.0), out)
}

#[test]
fn drivers_that_cannot_be_used() {
    if is_child() {
        println!("[{}]", Device::no_cuda().unwrap());
        assert!(Device::best() == Device::emulator());
        for info in Device::list() {
            println!("<{} {:?} {}>", info.name, info.capability, info.trouble.is_some());
        }
        return;
    }
    let why = |library: &Path, variables: &[_]| child("drivers_that_cannot_be_used", library, variables);
    let nowhere = tempfile::tempdir().unwrap();
    if Device::cuda(0).is_err() {
        let text = why(nowhere.path(), &[]);
        assert!(text.contains("[no NVIDIA driver found (libcuda.so.1 is not on the library path)]"), "{text}");
    }
    let text = why(&library("cuLaunchKernelEx"), &[]);
    assert!(
        text.contains(
            "[the NVIDIA driver is too old: it has no cuLaunchKernelEx; install a driver for CUDA 12.0 or later]"
        ),
        "{text}"
    );
    let text = why(whole(), &[("FAKE_INIT", "100")]);
    assert!(text.contains("[the NVIDIA driver did not start: CUDA_ERROR_FAKE (100): a fake error]"), "{text}");
    assert!(!text.contains("<Fake"), "{text}");
    let text = why(whole(), &[("FAKE_CAPABILITY", "75")]);
    assert!(text.contains("[CUDA device 0 (Fake) has compute capability 7.5; 8.0 or later is needed]"), "{text}");
    assert!(text.contains("<Fake Some(75) true>\n<emulator None false>"), "{text}");
}

#[test]
fn plans_run() {
    if !is_child() {
        child("plans_run", whole(), &[]);
        return;
    }
    let device = Device::best();
    assert_eq!(device.name(), "cuda:0 (Fake)");
    assert!(device == Device::cuda(0).unwrap());
    let info = device.info();
    assert!(info.driver.unwrap().starts_with("CUDA 12.8") && info.sms == Some(108) && info.memory == Some(1 << 30));
    assert_eq!(Device::cuda(1).unwrap_err().to_string(), "there is no CUDA device 1: the driver shows 1");
    assert_eq!(device.targets(), [Target::SM_80]);
    for (plan, expected) in [(axpy(), [-5.0f32, -4.0, -3.0]), (axpy_twice(), [-9.0, -7.0, -5.0])] {
        let (bindings, out) = bindings(&device, 300);
        let report = device.run(&plan, &bindings.clone().checked()).unwrap();
        assert_eq!((report.launches, report.stats.len()), (plan.launches.len(), 0));
        assert_eq!(out.to_vec::<f32>().unwrap()[..3], expected);
        device.enqueue(&plan, &bindings.stream(&lacuna_runtime::Stream::new(&device).unwrap())).unwrap();
        assert_eq!(out.slice(0, 1..2).unwrap().to_vec::<f32>().unwrap(), expected[1..2]);
        let odd = out.strided(0, &[2, 1], &[2, 1]).unwrap();
        assert_eq!(odd.to_vec::<f32>().unwrap(), [expected[0], expected[2]]);
        odd.copy_from_slice(&[7.0f32, 8.0]).unwrap();
        assert_eq!(out.to_vec::<f32>().unwrap()[..3], [7.0, expected[1], 8.0]);
    }
    let (bindings, _) = bindings(&device, 1000);
    let timing = device.bench(&axpy(), &bindings, &BenchOptions { warmup: 1, reps: 4, flush_l2: true }).unwrap();
    assert!(timing.reps == 4 && timing.max_ms > 0.0);
    let options = BenchOptions { warmup: 1, reps: 4, flush_l2: true };
    let each = device.bench_launches(&axpy_twice(), &bindings, &options).unwrap();
    assert!(each.len() == 2 && each.iter().all(|timing| timing.reps == 4 && timing.min_ms > 0.0), "{each:?}");
    let compiled = &device.compile(&axpy()).unwrap()[0];
    assert_eq!(compiled.ctas, Some(21));
    let uses = compiled.resources.unwrap();
    assert_eq!((uses.registers, uses.local_bytes, uses.static_shared, uses.max_threads), (12, 8, 0, 1024));
    assert_eq!(compiled.log, "ptxas info : Used 12 registers");
    assert_eq!(
        Tensor::uninit(&device, Elem::F32, &[1 << 40]).unwrap_err().to_string(),
        "cuda:0 (Fake): no room for 4398046511104 bytes: 536870912 of 1073741824 bytes are free"
    );
    let mut plan = axpy();
    plan.target = Target::SM_90A;
    assert_eq!(
        device.run(&plan, &bindings).unwrap_err().to_string(),
        "cuda:0 (Fake) cannot run `axpy`, which is compiled for sm_90a: compile it for sm_80"
    );
    let here = Tensor::zeros(&Device::emulator(), Elem::F32, &[1000]).unwrap();
    assert_eq!(
        device.run(&axpy(), &bindings.tensor("x", &here)).unwrap_err().to_string(),
        "`axpy`: tensor `x` is on emulator, and the run is on cuda:0 (Fake): copy it with `Tensor::to_device`"
    );
    assert_eq!(device.warnings(), Vec::<String>::new());
}

#[test]
fn machine_code_is_kept_on_disk() {
    if is_child() {
        let device = Device::best();
        let compiled = &device.compile(&axpy()).unwrap()[0];
        println!("[cached: {}, log: {}, warnings: {}]", compiled.cached, compiled.log, device.warnings().len());
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    let run = |more: &[_]| {
        let common = [("LACUNA_CACHE", "on"), ("LACUNA_CACHE_DIR", path)];
        child("machine_code_is_kept_on_disk", whole(), &[&common, more].concat())
    };
    let expect = |text: String, cached: bool, warnings: usize| {
        let line = format!("[cached: {cached}, log: ptxas info : Used 12 registers, warnings: {warnings}]");
        assert!(text.contains(&line), "{text}");
    };
    expect(run(&[]), false, 0);
    expect(run(&[]), true, 0);
    expect(run(&[("FAKE_CUDA", "12090")]), false, 0);
    expect(run(&[("FAKE_CAPABILITY", "90")]), false, 0);
    expect(run(&[("LACUNA_CACHE", "off")]), false, 0);
    expect(run(&[("LACUNA_CACHE_DIR", "/proc/nowhere")]), false, 1);
    expect(run(&[("LACUNA_CACHE_DIR", ""), ("XDG_CACHE_HOME", path)]), false, 0);
    expect(run(&[("LACUNA_CACHE_DIR", ""), ("XDG_CACHE_HOME", path)]), true, 0);
    assert!(dir.path().join("lacuna/v1/cubin").is_dir());
    let shards = std::fs::read_dir(dir.path().join("v1/cubin")).unwrap();
    let entries: Vec<_> = shards.flat_map(|shard| std::fs::read_dir(shard.unwrap().path()).unwrap()).collect();
    assert_eq!(entries.len(), 3);
    for entry in entries {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    }
    expect(run(&[]), false, 1);
    expect(run(&[]), true, 0);
}

#[test]
fn errors_of_the_driver() {
    if is_child() {
        let device = Device::best();
        let (bindings, out) = bindings(&device, 10);
        println!("[{}]", device.run(&axpy(), &bindings).unwrap_err());
        println!("[[{:?}]]", out.to_vec::<f32>().map_err(|error| error.to_string()));
        return;
    }
    let error = |variables: &[_]| child("errors_of_the_driver", whole(), variables);
    let text = error(&[("FAKE_CUDA", "11000"), ("FAKE_FAULT", "700")]);
    let lost = "[cuda:0 (Fake): the CUDA context is lost: cuStreamSynchronize reported CUDA_ERROR_FAKE (700): a fake error; \
                every tensor on this device is gone, and this process cannot use the device again";
    assert!(text.contains(lost) && text.contains("[[Err(\"cuda:0 (Fake): the CUDA context is lost"), "{text}");
    let text = error(&[("FAKE_FAULT", "801")]);
    assert!(
        text.contains("[cuda:0 (Fake): cuStreamSynchronize failed: CUDA_ERROR_FAKE (801): a fake error]"),
        "{text}"
    );
    assert!(text.contains("[[Ok(["), "an error that is not sticky leaves the context: {text}");
    let text = error(&[("FAKE_JIT", "1")]);
    let refused = "[cuda:0 (Fake): the driver's PTX compiler refused `axpy` of `axpy` (CUDA_ERROR_FAKE (218): a fake error):\n\
                   ptxas lacuna.ptx, line 24; error : Fake]";
    assert!(text.contains(refused), "{text}");
    let text = error(&[("FAKE_CUDA", "10020")]);
    let old = "[cuda:0 (Fake): the PTX of `axpy` is version 7.0, and this driver (CUDA 10.2) reads up to 0.0: install a driver \
               for CUDA 11.0 or later]";
    assert!(text.contains(old), "{text}");
}
