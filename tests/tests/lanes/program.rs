//! A func in its text form, with its tensors, on every device that there is.

use std::sync::{Arc, OnceLock};

use lacuna_codegen::compile;
use lacuna_codegen::ir::{Elem, Param, read};
use lacuna_codegen::plan::{Access, Arg, Dim, Launch, Plan, TensorSpec};
use lacuna_ptx::Target;
use lacuna_ptx::tools::{Usage, assemble};
use lacuna_runtime::{Bindings, Device, Tensor};
use lacuna_tests::target_for;

/// The emulator, and CUDA device 0 where it can be used.
pub(crate) fn devices() -> &'static [Device] {
    static DEVICES: OnceLock<Vec<Device>> = OnceLock::new();
    DEVICES.get_or_init(|| [Device::emulator()].into_iter().chain(Device::cuda(0).ok()).collect())
}

/// What a tensor holds, in words.
#[derive(Clone, Debug)]
pub(crate) struct Words(pub(crate) Vec<u32>);

impl From<&[i32]> for Words {
    fn from(ints: &[i32]) -> Self {
        Words(ints.iter().map(|x| x.cast_unsigned()).collect())
    }
}

impl From<&[f32]> for Words {
    fn from(floats: &[f32]) -> Self {
        Words(floats.iter().map(|x| x.to_bits()).collect())
    }
}

/// What ptxas makes of a func.
///
/// # Panics
/// If there is no ptxas, or it refuses the text.
pub(crate) fn assembled(text: &str) -> Usage {
    let func = read(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let compiled = compile(func).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let assembled =
        assemble(&compiled.text, Target::SM_80).unwrap_or_else(|error| panic!("{error}\n{}", compiled.text));
    assembled.usage("f").expect("what it takes").clone()
}

/// Runs a func of one CTA, whose parameters are tensors of one dimension: those that `inputs` has, then outputs, each as
/// many words as `outputs` says. They begin as -1, and what they hold afterwards is the same on every device.
///
/// # Panics
/// If the text is no func, does not compile, or a device refuses or differs.
pub(crate) fn run(text: &str, inputs: &[Words], outputs: &[usize]) -> Vec<Vec<i32>> {
    let mut results: Vec<Vec<Vec<i32>>> =
        devices().iter().map(|device| run_on(device, text, inputs, outputs)).collect();
    let first = results.swap_remove(0);
    for other in results {
        assert_eq!(first, other, "devices differ\n{text}");
    }
    first
}

fn run_on(device: &Device, text: &str, inputs: &[Words], outputs: &[usize]) -> Vec<Vec<i32>> {
    let text = text.replacen("sm_80", &target_for(device).to_string(), 1);
    let func = read(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let params = func.params.clone();
    let compiled = compile(func).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let extents: Vec<u64> =
        inputs.iter().map(|words| words.0.len()).chain(outputs.iter().copied()).map(|n| n as u64).collect();
    assert_eq!(params.len(), extents.len(), "a tensor each\n{text}");
    let tensors: Vec<TensorSpec> = params
        .iter()
        .zip(&extents)
        .enumerate()
        .map(|(n, (param, extent))| {
            let Param::Tensor(tensor) = param else { panic!("a number\n{text}") };
            let access = if n < inputs.len() { Access::Read } else { Access::Write };
            TensorSpec {
                name: tensor.name.clone(),
                elem: tensor.elem,
                dims: vec![Dim::Fixed(*extent)],
                access,
                align: 4,
            }
        })
        .collect();
    let ptx = compiled.text.clone();
    let launch = Launch {
        ptx: Arc::from(compiled.text),
        entry: "f".to_owned(),
        grid: [1.into(), 1.into(), 1.into()],
        threads: compiled.threads,
        shared: compiled.shared,
        registers: 0,
        resident: 1,
        cluster: [1; 3],
        args: tensors.iter().map(|tensor| Arg::Pointer(tensor.name.clone())).collect(),
    };
    let mut bindings = Bindings::new();
    let mut bound = Vec::new();
    for (n, spec) in tensors.iter().enumerate() {
        let words = inputs.get(n).map_or_else(|| vec![u32::MAX; extents[n] as usize], |words| words.0.clone());
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let tensor = Tensor::from_bytes(device, spec.elem, &[extents[n]], &bytes).expect("a tensor");
        bindings = bindings.tensor(&spec.name, &tensor);
        bound.push(tensor);
    }
    let plan = Plan {
        name: "f".to_owned(),
        target: target_for(device),
        tensors,
        scalars: Vec::new(),
        requires: Vec::new(),
        workspace: 0.into(),
        launches: vec![launch],
    };
    device.run(&plan, &bindings).unwrap_or_else(|error| panic!("{error}\n{text}\n{ptx}"));
    let words = |tensor: &Tensor| {
        let bytes = tensor.to_bytes().expect("its bytes");
        bytes.chunks_exact(4).map(|word| i32::from_le_bytes(word.try_into().expect("four"))).collect()
    };
    bound[inputs.len()..].iter().map(words).collect()
}

/// The floats that an output is.
pub(crate) fn floats(words: &[i32]) -> Vec<f32> {
    words.iter().map(|word| f32::from_bits(word.cast_unsigned())).collect()
}

/// The element types of a test's tensors, as the text has them.
pub(crate) fn params(tensors: &[(&str, Elem)]) -> String {
    tensors.iter().map(|(name, elem)| format!("  param {name} : {}[n]\n", elem.name())).collect()
}
