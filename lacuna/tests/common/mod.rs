//! Running the command, and files for it.
#![allow(dead_code, unreachable_pub)]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use half::bf16;
use lacuna::kernels::host::{Dims, Float, Host};
use lacuna::kernels::inputs::{self, Qkv};
use lacuna::runtime::{Device, load};
use safetensors::Dtype;
use safetensors::tensor::TensorView;

/// A call of the command.
pub struct Call(Command);

/// What it came to.
pub struct Ended {
    pub stdout: String,
    pub stderr: String,
}

/// The command with these arguments. What the environment says of devices is taken away.
pub fn lacuna(args: &[&str]) -> Call {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lacuna"));
    command.args(args).env_remove("LACUNA_DEVICE").env("LACUNA_CACHE", "off").env("LACUNA_TUNED", "off");
    Call(command)
}

impl Call {
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.0.env(name, value);
        self
    }

    /// Runs it; it must end with this code.
    pub fn ends(mut self, code: i32) -> Ended {
        let done = self.0.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let (stdout, stderr) = (text(done.stdout), text(done.stderr));
        assert_eq!(done.status.code(), Some(code), "{:?}\n{stdout}\n{stderr}", self.0);
        Ended { stdout, stderr }
    }

    /// Runs it; it must end with this code and this line, and must not print anything else than hints.
    pub fn refuses(self, code: i32, line: &str) -> Ended {
        let done = self.ends(code);
        assert_eq!(done.stderr.lines().next(), Some(line), "{}", done.stderr);
        assert_eq!(done.stdout, "");
        done
    }
}

impl Ended {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {}", self.stdout))
    }
}

/// A problem of 90 tokens.
pub struct Small {
    pub qkv: Qkv<bf16>,
    pub cu_seqlens: Vec<i32>,
}

pub fn small() -> Small {
    let dims = Dims { total: 90, keys: 90, hq: 4, hk: 2, dk: 32, dv: 64 };
    Small { qkv: inputs::qkv(7, dims), cu_seqlens: inputs::cu_seqlens(&[57, 33]) }
}

impl Small {
    pub fn file(&self) -> Tensors {
        let mut file = Tensors::default();
        file.halves("q", &self.qkv.q);
        file.halves("k", &self.qkv.k);
        file.halves("v", &self.qkv.v);
        file.ints("cu_seqlens", &[self.cu_seqlens.len()], &self.cu_seqlens);
        file
    }
}

/// A safetensors file.
#[derive(Default)]
pub struct Tensors(BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>);

impl Tensors {
    pub fn halves(&mut self, name: &str, x: &Host<bf16>) {
        let bytes = x.data.iter().flat_map(|x| x.to_bits().to_le_bytes()).collect();
        self.0.insert(name.to_owned(), (Dtype::BF16, x.shape.to_vec(), bytes));
    }

    pub fn ints(&mut self, name: &str, shape: &[usize], data: &[i32]) {
        let bytes = data.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.0.insert(name.to_owned(), (Dtype::I32, shape.to_vec(), bytes));
    }

    pub fn floats(&mut self, name: &str, shape: &[usize], value: f32) {
        let bytes = value.to_f32().to_le_bytes().repeat(shape.iter().product());
        self.0.insert(name.to_owned(), (Dtype::F32, shape.to_vec(), bytes));
    }

    pub fn remove(&mut self, name: &str) {
        self.0.remove(name);
    }

    pub fn bytes(&self) -> Vec<u8> {
        let view = |(dtype, shape, bytes)| TensorView::new(dtype, shape, bytes).unwrap();
        let views =
            self.0.iter().map(|(name, (dtype, shape, bytes))| (name, view((*dtype, shape.clone(), &bytes[..]))));
        safetensors::serialize(views, None).unwrap()
    }

    pub fn write(&self, path: &Path) {
        std::fs::write(path, self.bytes()).unwrap();
    }
}

/// `o` and `lse` of a file.
pub fn stored(path: &Path) -> (Vec<f32>, Vec<f32>) {
    let file = load(&Device::emulator(), path).unwrap();
    (file.get("o").unwrap().to_f32_vec().unwrap(), file.get("lse").unwrap().to_f32_vec().unwrap())
}

/// The names in a directory, sorted.
pub fn files_of(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
