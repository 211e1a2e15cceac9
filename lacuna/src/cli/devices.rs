//! `lacuna devices`: where kernels can run.

use clap::Args;
use lacuna::runtime::{Device, DeviceInfo};
use serde_json::{Value, json};

use super::args::FAMILY;
use super::failure::Result;
use super::output;

/// What `lacuna devices` takes.
#[derive(Debug, Args)]
pub(crate) struct Devices {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

impl Devices {
    /// Lists them.
    ///
    /// # Errors
    /// Only where nobody reads.
    pub(crate) fn list(&self) -> Result {
        let devices = Device::list();
        let no_gpu = devices.iter().all(|device| device.ordinal.is_none()).then(Device::no_cuda).flatten();
        if self.json {
            let devices: Vec<Value> = devices.iter().map(as_json).collect();
            let no_gpu = no_gpu.map(|why| why.to_string());
            return output::print(&format!("{:#}\n", json!({ "devices": devices, "no_cuda": no_gpu })));
        }
        let mut text: String = devices.iter().map(|device| format!("{}\n", as_text(device))).collect();
        if let Some(why) = no_gpu {
            text.push_str(&format!("no GPU: {why}\n"));
        }
        output::print(&text)
    }
}

/// What `--device` calls it.
fn word(device: &DeviceInfo) -> String {
    device.ordinal.map_or_else(|| "emulator".to_owned(), |ordinal| format!("cuda:{ordinal}"))
}

/// The targets of the family that it runs.
fn targets(device: &DeviceInfo) -> Vec<String> {
    let runs = |target: &lacuna::ptx::Target| device.capability.is_none_or(|capability| target.runs_on(capability));
    FAMILY.iter().filter(|target| runs(target)).map(ToString::to_string).collect()
}

fn as_text(device: &DeviceInfo) -> String {
    let mut parts = Vec::new();
    if device.ordinal.is_none() {
        parts.push("runs PTX on the CPU, and checks it while it runs".to_owned());
    } else {
        parts.push(device.name.clone());
    }
    parts.extend(device.capability.map(|c| format!("compute capability {}.{}", c / 10, c % 10)));
    parts.extend(device.memory.map(|bytes| format!("{:.0} GiB", bytes as f64 / f64::from(1 << 30))));
    parts.extend(device.sms.map(|sms| format!("{sms} SMs")));
    parts.extend(device.driver.clone());
    parts.extend(device.trouble.as_ref().map(|why| format!("cannot be used: {why}")));
    if device.trouble.is_none() {
        parts.push(targets(device).join(", "));
    }
    format!("{:<10}{}", word(device), parts.join("; "))
}

fn as_json(device: &DeviceInfo) -> Value {
    json!({
        "device": word(device),
        "name": device.name,
        "capability": device.capability,
        "driver": device.driver,
        "memory_bytes": device.memory,
        "sms": device.sms,
        "l2_bytes": device.l2,
        "shared_bytes_per_cta": device.shared_per_cta,
        "shared_bytes_per_sm": device.shared_per_sm,
        "targets": if device.trouble.is_none() { targets(device) } else { Vec::new() },
        "trouble": device.trouble.as_ref().map(ToString::to_string),
    })
}
