//! What only a GPU can show. Without one, each test says that it did nothing.
#![allow(clippy::print_stderr, unsafe_code)]

mod common;

use std::{process::Command, sync::Arc};

use common::{AXPY, axpy, axpy_twice, copy, ramp};
use lacuna_codegen::plan::{Arg, Plan};
use lacuna_ptx::Target;
use lacuna_runtime::{BenchOptions, Bindings, Device, Elem, Error, Stream, Tensor};

fn gpu() -> Option<Device> {
    match Device::cuda(0) {
        Ok(device) => Some(device),
        Err(why) => {
            eprintln!("nothing was tested: {why}");
            None
        }
    }
}

/// Runs one test of this file in another process, with this variable set.
fn child(test: &str, variables: &[(&str, &str)]) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]).envs(variables.iter().copied());
    let out = command.output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{text}");
    text
}

fn bindings(device: &Device, n: u64) -> (Bindings, Tensor) {
    let out = Tensor::poisoned(device, Elem::F32, &[n]).unwrap();
    let vector = |data: &[f32]| Tensor::from_slice(device, &[n], data).unwrap();
    let y: Vec<f32> = ramp(n).iter().map(|x| 1.0 / (x + 0.25)).collect();
    let bindings = Bindings::new().tensor("x", &vector(&ramp(n))).tensor("y", &vector(&y)).tensor("out", &out);
    (bindings.float("a", 1.7), out)
}

fn bits(tensor: &Tensor) -> Vec<u32> {
    tensor.to_vec::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
}

#[test]
fn it_agrees_with_the_emulator_bit_for_bit() {
    let Some(device) = gpu() else { return };
    for plan in [axpy(), axpy_twice()] {
        for n in [0, 1, 127, 128, 1000, 100_003] {
            let (there, out) = bindings(&device, n);
            let report = device.run(&plan, &there).unwrap();
            let (here, expected) = bindings(&Device::emulator(), n);
            Device::emulator().run(&plan, &here).unwrap();
            assert_eq!(bits(&out), bits(&expected), "{} of {n}", plan.name);
            assert!(report.stats.is_empty() && report.launches == if n == 0 { 0 } else { plan.launches.len() });
            assert!(n == 0 || (report.millis > 0.0 && report.millis < 1e3), "{}", report.millis);
        }
    }
}

#[test]
fn strides_views_and_copies() {
    let Some(device) = gpu() else { return };
    let data = ramp(5 * 3 * 2 * 4);
    let fused = Tensor::from_slice(&device, &[5, 3, 2, 4], &data).unwrap();
    let k = fused.select(1, 1).unwrap();
    let target = Tensor::zeros(&device, Elem::F32, &[5, 2, 3, 4]).unwrap();
    let middle = target.select(2, 1).unwrap();
    device.run(&copy(), &Bindings::new().tensor("from", &k).tensor("to", &middle).checked()).unwrap();
    assert_eq!(middle.to_vec::<f32>().unwrap(), k.to_vec::<f32>().unwrap());
    assert_eq!(target.select(2, 0).unwrap().to_vec::<f32>().unwrap(), [0.0; 40], "poison keeps to its view");
    assert_eq!(k.to_device(&Device::emulator()).unwrap().to_vec::<f32>().unwrap(), k.to_vec::<f32>().unwrap());
    assert_eq!(Tensor::zeros(&device, Elem::Bf16, &[1 << 20]).unwrap().to_f32_vec().unwrap(), vec![0.0; 1 << 20]);
    assert_eq!(Tensor::poisoned(&device, Elem::F16, &[3]).unwrap().first_poison().unwrap(), Some(0));
}

#[test]
fn checked_mode_works_here_too() {
    let Some(device) = gpu() else { return };
    let mut plan = axpy();
    plan.launches[0].args[4] = Arg::Computed(lacuna_codegen::plan::Expr::symbol("n") - 1.into());
    let (bindings, _) = bindings(&device, 300);
    assert_eq!(device.run(&plan, &bindings.checked()).unwrap_err().to_string(), "`axpy` did not write out[299]");
}

#[test]
fn streams_are_in_order_and_tensors_may_be_dropped() {
    let Some(device) = gpu() else { return };
    let n = 1 << 22;
    let stream = Stream::new(&device).unwrap();
    let (bound, out) = bindings(&device, n);
    device.run(&axpy_twice(), &bound).unwrap();
    let expected = bits(&out);
    for _ in 0..10 {
        let (bound, out) = bindings(&device, n);
        device.enqueue(&axpy_twice(), &bound.clone().stream(&stream)).unwrap();
        drop(bound);
        assert_eq!(bits(&out), expected, "a read waits for what was enqueued");
    }
    stream.synchronize().unwrap();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let stream = Stream::new(&device).unwrap();
                let (bound, out) = bindings(&device, 10_000);
                for _ in 0..20 {
                    device.run(&axpy_twice(), &bound.clone().stream(&stream)).unwrap();
                    device.run(&axpy_twice(), &bound).unwrap();
                }
                assert_eq!(bits(&out), expected[..10_000]);
            });
        }
    });
}

#[test]
fn foreign_memory_and_streams() {
    let Some(device) = gpu() else { return };
    let (bound, out) = bindings(&device, 100);
    device.run(&axpy(), &bound).unwrap();
    let expected = bits(&out);
    out.poison().unwrap();
    // SAFETY: `out` outlives the view and nothing else writes it; null is the legacy default stream.
    let (view, stream) = unsafe {
        let view = Tensor::foreign(&device, Elem::F32, &[100], &[1], out.address(), Some(Box::new(out.clone())));
        (view.unwrap(), Stream::borrow(&device, std::ptr::null_mut()).unwrap())
    };
    device.run(&axpy(), &bound.tensor("out", &view).stream(&stream)).unwrap();
    assert_eq!(bits(&view), expected);
    assert_eq!(bits(&out), expected);
}

#[test]
fn no_context_is_left_on_the_thread() {
    let Some(device) = gpu() else { return };
    std::thread::spawn(move || {
        let (bound, _) = bindings(&device, 100);
        device.run(&axpy(), &bound).unwrap();
        assert!(cudarc::driver::result::ctx::get_current().unwrap().is_none());
    })
    .join()
    .unwrap();
}

#[test]
fn timings_are_in_order() {
    let Some(device) = gpu() else { return };
    let (bound, _) = bindings(&device, 1 << 24);
    let options = BenchOptions { warmup: 3, reps: 11, flush_l2: true };
    let timing = device.bench(&axpy(), &bound, &options).unwrap();
    assert!(timing.reps == 11 && timing.samples_ms.len() == 11);
    assert!(0.0 < timing.min_ms && timing.min_ms <= timing.median_ms && timing.median_ms <= timing.max_ms);
    // 192 MiB at no more than 20 TB/s.
    assert!(timing.min_ms > 0.01, "{timing:?}");
    let each = device.bench_launches(&axpy_twice(), &bound, &options).unwrap();
    let sum: f64 = each.iter().map(|timing| timing.median_ms).sum();
    let whole = device.bench(&axpy_twice(), &bound, &options).unwrap().median_ms;
    assert!(each.len() == 2 && each.iter().all(|timing| timing.min_ms > 0.01), "{each:?}");
    assert!((0.8..1.5).contains(&(sum / whole)), "two launches take {sum} ms, and the whole takes {whole}");
    eprintln!("axpy of 2^24: {:.1} GB/s", 3.0 * 4.0 * (1 << 24) as f64 / timing.median_ms / 1e6);
}

#[test]
fn kernels_say_what_they_use() {
    let Some(device) = gpu() else { return };
    let compiled = device.compile(&axpy()).unwrap();
    let uses = compiled[0].resources.unwrap();
    assert!(uses.registers > 0 && uses.registers < 64 && uses.local_bytes == 0 && uses.static_shared == 0, "{uses:?}");
    assert_eq!(uses.max_threads, 1024);
    assert!(compiled[0].log.contains("registers"), "{}", compiled[0].log);
}

#[test]
fn all_shared_memory_can_be_asked_for() {
    let Some(device) = gpu() else { return };
    let most = device.info().shared_per_cta.unwrap();
    let (bound, out) = bindings(&device, 100);
    let mut plan = axpy();
    plan.launches[0].shared = most;
    device.run(&plan, &bound.checked()).unwrap();
    assert_eq!(out.first_poison().unwrap(), None);
    plan.launches[0].shared = most + 1;
    let (bound, _) = bindings(&device, 100);
    let error = device.run(&plan, &bound).unwrap_err().to_string();
    let name = device.name();
    assert_eq!(error, format!("`axpy`: `axpy` needs {} bytes of shared memory a CTA; {name} has {most}", most + 1));
}

fn with_ptx(ptx: &str) -> Plan {
    let mut plan = axpy();
    plan.launches[0].ptx = Arc::from(ptx);
    plan
}

#[test]
fn the_compilers_log_is_in_the_error() {
    let Some(device) = gpu() else { return };
    let (bound, _) = bindings(&device, 100);
    // A mistake that our reader lets through: a copy hint of PTX 7.4 in a text of 7.0.
    let hint = "    cp.async.ca.shared.global.L2::128B [%r0], [%d1], 16;\n    ld.global.f32 %f0, [%d1];";
    let text = AXPY.replace("    ld.global.f32 %f0, [%d1];", hint);
    let error = device.run(&with_ptx(&text), &bound).unwrap_err();
    let Error::Jit { log, entry, .. } = &error else { panic!("{error}") };
    assert!(log.contains("line 25") && entry == "axpy", "{error}");
    eprintln!("{error}");
    device.run(&axpy(), &bound).unwrap();
}

#[test]
fn versions_and_targets_that_cannot_run() {
    let Some(device) = gpu() else { return };
    let (bound, _) = bindings(&device, 100);
    let error = device.run(&with_ptx(&AXPY.replace(".version 7.0", ".version 19.0")), &bound).unwrap_err();
    assert!(matches!(error, Error::PtxVersion { .. }), "{error}");
    eprintln!("{error}");
    let mut plan = axpy();
    plan.target = if device.capability() == Some(100) { Target::SM_90A } else { Target::SM_100A };
    let error = device.run(&plan, &bound).unwrap_err();
    assert!(matches!(error, Error::Target { .. }) && error.to_string().contains("compile it for sm_80 or"), "{error}");
    eprintln!("{error}");
}

#[test]
fn every_target_that_runs_compiles() {
    let Some(device) = gpu() else { return };
    for target in device.targets() {
        let text = AXPY.replace(".version 7.0", &format!(".version {}", target.since()));
        let mut plan = with_ptx(&text.replace("sm_80", &target.to_string()));
        plan.target = target;
        let (bound, out) = bindings(&device, 100);
        let compiled = device.compile(&plan).unwrap_or_else(|error| panic!("{target}: {error}"));
        device.run(&plan, &bound).unwrap_or_else(|error| panic!("{target}: {error}"));
        assert_eq!(out.first_poison().unwrap(), None, "{target}");
        eprintln!("{target}: {:.1} ms, {:?}", compiled[0].millis, compiled[0].resources.unwrap());
    }
}

#[test]
fn no_room_is_an_error() {
    let Some(device) = gpu() else { return };
    let error = Tensor::uninit(&device, Elem::F32, &[1 << 43]).unwrap_err();
    assert!(matches!(error, Error::OutOfMemory { bytes, .. } if bytes == 1 << 45), "{error}");
    eprintln!("{error}");
    bindings(&device, 100);
}

#[test]
fn machine_code_is_kept_on_disk() {
    const TEST: &str = "machine_code_is_kept_on_disk";
    let Some(device) = gpu() else { return };
    if std::env::var_os("LACUNA_TEST_CHILD").is_some() {
        let compiled = &device.compile(&axpy()).unwrap()[0];
        eprintln!(
            "cached: {}, log: {}, ms: {:.2}",
            compiled.cached,
            compiled.log.contains("registers"),
            compiled.millis
        );
        let (bound, out) = bindings(&device, 100);
        device.run(&axpy(), &bound).unwrap();
        assert_eq!(out.first_poison().unwrap(), None);
        eprintln!("warnings: {:?}", device.warnings());
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    let run = |more: &[(&str, &str)]| {
        let text = child(TEST, &[&[("LACUNA_TEST_CHILD", "1"), ("LACUNA_CACHE_DIR", path)], more].concat());
        eprintln!("{}", text.lines().filter(|line| line.contains("cached: ")).collect::<String>());
        text
    };
    assert!(run(&[]).contains("cached: false, log: true"));
    assert!(run(&[]).contains("cached: true, log: true"));
    assert!(run(&[("LACUNA_CACHE", "off")]).contains("cached: false"));
    let mut entries = Vec::new();
    for shard in std::fs::read_dir(dir.path().join("v1/cubin")).unwrap() {
        entries.extend(std::fs::read_dir(shard.unwrap().path()).unwrap().map(|entry| entry.unwrap().path()));
    }
    assert_eq!(entries.len(), 1);
    let mut bytes = std::fs::read(&entries[0]).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&entries[0], bytes).unwrap();
    let text = run(&[]);
    assert!(text.contains("cached: false, log: true") && text.contains("damaged entry"), "{text}");
    assert!(run(&[]).contains("cached: true"));
    let file = dir.path().join("file");
    std::fs::write(&file, b"").unwrap();
    let text = run(&[("LACUNA_CACHE_DIR", file.to_str().unwrap())]);
    assert!(text.contains("cached: false") && text.contains("compiled kernels are not kept"), "{text}");
}

#[test]
fn a_fault_loses_the_context() {
    const TEST: &str = "a_fault_loses_the_context";
    let Some(device) = gpu() else { return };
    if std::env::var_os("LACUNA_TEST_CHILD").is_none() {
        eprintln!("{}", child(TEST, &[("LACUNA_TEST_CHILD", "1")]));
        return;
    }
    let (bound, out) = bindings(&device, 100);
    let wild = with_ptx(&AXPY.replace("ld.param.u64 %d3, [out];", "mov.u64 %d3, 64;"));
    let error = device.run(&wild, &bound).unwrap_err();
    assert!(matches!(error, Error::ContextLost { .. }), "{error}");
    eprintln!("{error}");
    for error in [
        device.run(&axpy(), &bound).map(|_| ()).unwrap_err(),
        out.to_vec::<f32>().map(|_| ()).unwrap_err(),
        Tensor::zeros(&device, Elem::F32, &[4]).map(|_| ()).unwrap_err(),
    ] {
        assert!(error.to_string().contains("the CUDA context is lost"), "{error}");
    }
    // The emulator says where.
    let (bound, _) = bindings(&Device::emulator(), 100);
    eprintln!("{}", Device::emulator().run(&wild, &bound).unwrap_err());
}
