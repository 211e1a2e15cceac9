//! The axpy on the emulator and on every GPU that is there: what it computes, what compiling costs, what the kernel
//! uses, how fast it is. The process compiles twice; run it again to see the cache on disk at work.
#![allow(clippy::print_stdout)]

#[path = "../tests/common/mod.rs"]
mod common;

use common::{axpy, axpy_twice, ramp};
use lacuna_runtime::{BenchOptions, Bindings, Device, Elem, Result, Tensor};

fn main() -> Result<()> {
    for info in Device::list() {
        println!("{info:?}");
    }
    match Device::no_cuda() {
        Some(why) => println!("no GPU: {why}"),
        None => smoke(&Device::cuda(0)?)?,
    }
    smoke(&Device::emulator())
}

fn smoke(device: &Device) -> Result<()> {
    println!("\n{device}");
    for plan in [axpy(), axpy_twice()] {
        for kernel in device.compile(&plan)? {
            let how = if kernel.cached { "from the cache" } else { "compiled" };
            println!("  {}: {} in {:.2} ms, {:?}", plan.name, how, kernel.millis, kernel.resources);
            for line in kernel.log.lines() {
                println!("    | {line}");
            }
        }
        let n: u64 = if device.is_cuda() { 1 << 26 } else { 1 << 16 };
        let x = ramp(n);
        let out = Tensor::poisoned(device, Elem::F32, &[n])?;
        let bindings = Bindings::new()
            .tensor("x", &Tensor::from_slice(device, &[n], &x)?)
            .tensor("y", &Tensor::from_slice(device, &[n], &vec![1.0f32; n as usize])?)
            .tensor("out", &out)
            .float("a", 2.0);
        let report = device.run(&plan, &bindings)?;
        let again = device.run(&plan, &bindings)?;
        println!("  first run {:.3} ms, second {:.3} ms, {} launches", report.millis, again.millis, report.launches);
        let once = |x: f32| 2.0f32.mul_add(x, 1.0);
        let expected = |x: f32| if plan.launches.len() == 1 { once(x) } else { once(once(x)) };
        let wrong = out.to_vec::<f32>()?.iter().zip(&x).filter(|(out, x)| **out != expected(**x)).count();
        println!("  {wrong} of {n} elements are wrong");
        let timing = device.bench(&plan, &bindings, &BenchOptions::default())?;
        let bytes = 12.0 * n as f64 * plan.launches.len() as f64;
        println!(
            "  median {:.4} ms of {} (min {:.4}, max {:.4}), {:.1} GB/s",
            timing.median_ms,
            timing.reps,
            timing.min_ms,
            timing.max_ms,
            bytes / timing.median_ms / 1e6
        );
        if let Some(total) = report.total() {
            println!("  emulator: {} warp instructions, {} CTAs", total.warp_instructions, total.ctas);
        }
    }
    for warning in device.warnings() {
        println!("  warning: {warning}");
    }
    Ok(())
}
