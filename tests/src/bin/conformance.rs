//! Records the conformance set: `cargo run --release -p lacuna-tests --bin conformance [FILE]`. It needs a GPU.
#![allow(clippy::print_stdout, reason = "a command says what it did")]

use std::{error::Error, path::PathBuf};

use lacuna_runtime::Device;
use lacuna_tests::conformance::{Recording, cases};

fn main() -> Result<(), Box<dyn Error>> {
    let device = Device::cuda(0).map_err(|why| format!("recording needs a GPU: {why}"))?;
    let info = device.info();
    let device_line = format!("{}, {}", info.name, info.driver.unwrap_or_default());
    let mut recording = Recording { device: device_line, ..Recording::default() };
    for case in cases() {
        let words = case.run(&device).map_err(|error| format!("{}: {error}\n{}", case.name, case.ptx))?;
        recording.insert(&case, words);
    }
    let path = std::env::args_os().nth(1).map_or_else(Recording::path, PathBuf::from);
    let bytes = recording.to_bytes();
    std::fs::write(&path, &bytes).map_err(|error| format!("{}: {error}", path.display()))?;
    println!("{}: {} cases, {} bytes, from {}", path.display(), recording.cases.len(), bytes.len(), recording.device);
    Ok(())
}
