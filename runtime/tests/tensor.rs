//! Tensors: what goes in comes out, views see the right elements, and every misuse is named.

use std::collections::BTreeMap;

use half::{bf16, f16};
use lacuna_runtime::{Device, Elem, Tensor, check, load, save};

fn ramp(n: i32) -> Vec<i32> {
    (0..n).collect()
}

#[test]
fn handles_cross_threads() {
    fn send_and_sync<T: Send + Sync + 'static>() {}
    send_and_sync::<Device>();
    send_and_sync::<Tensor>();
    send_and_sync::<lacuna_runtime::Stream>();
    send_and_sync::<lacuna_runtime::Bindings>();
    send_and_sync::<lacuna_runtime::Error>();
}

#[test]
fn every_element_type_round_trips() {
    let device = Device::emulator();
    let floats = [0.0f32, -1.5, 3.25, 65504.0, f32::NEG_INFINITY, 1.0 / 3.0];
    let f32s = Tensor::from_slice(&device, &[2, 3], &floats).unwrap();
    assert_eq!(f32s.to_vec::<f32>().unwrap(), floats);
    let halves = floats.map(f16::from_f32);
    assert_eq!(Tensor::from_slice(&device, &[6], &halves).unwrap().to_vec::<f16>().unwrap(), halves);
    let brains = floats.map(bf16::from_f32);
    let tensor = Tensor::from_f32(&device, Elem::Bf16, &[6], &floats).unwrap();
    assert_eq!(tensor.to_vec::<bf16>().unwrap(), brains);
    assert_eq!(tensor.to_f32_vec().unwrap()[5], bf16::from_f32(1.0 / 3.0).to_f32());
    assert_eq!(tensor.to_f64_vec().unwrap()[1], -1.5);
    assert_eq!(Tensor::from_slice(&device, &[3], &ramp(3)).unwrap().to_f64_vec().unwrap(), [0.0, 1.0, 2.0]);
    assert_eq!(Tensor::zeros(&device, Elem::F16, &[40_000]).unwrap().to_f32_vec().unwrap(), vec![0.0; 40_000]);
    let empty = Tensor::from_slice::<f32>(&device, &[0, 7], &[]).unwrap();
    assert_eq!((empty.numel(), empty.to_vec::<f32>().unwrap().len()), (0, 0));
    assert_eq!(Tensor::from_slice(&device, &[], &[5]).unwrap().to_vec::<i32>().unwrap(), [5]);
}

#[test]
fn views_share_memory() {
    let device = Device::emulator();
    let all = Tensor::from_slice(&device, &[3, 2, 4], &ramp(24)).unwrap();
    let row = all.select(0, 2).unwrap();
    assert_eq!(row.to_vec::<i32>().unwrap(), (16..24).collect::<Vec<_>>());
    let part = all.slice(2, 1..3).unwrap();
    assert_eq!(part.to_vec::<i32>().unwrap(), [1, 2, 5, 6, 9, 10, 13, 14, 17, 18, 21, 22]);
    assert!(!part.is_contiguous() && row.is_contiguous());
    assert_eq!(part.span_bytes(), (2 * 8 + 4 + 1 + 1) * 4);
    assert_eq!(all.reshape(&[6, 4]).unwrap().slice(0, 1..2).unwrap().to_vec::<i32>().unwrap(), [4, 5, 6, 7]);
    let transposed = all.strided(0, &[4, 3], &[1, 8]).unwrap();
    assert_eq!(transposed.to_vec::<i32>().unwrap(), [0, 8, 16, 1, 9, 17, 2, 10, 18, 3, 11, 19]);
    part.copy_from_slice(&[-1; 12]).unwrap();
    assert_eq!(all.to_vec::<i32>().unwrap()[..8], [0, -1, -1, 3, 4, -1, -1, 7]);
    drop(all);
    assert_eq!(row.to_vec::<i32>().unwrap()[0], 16, "a view keeps the memory");
    assert_eq!(row.slice(0, 1..1).unwrap().numel(), 0);
    assert_eq!(row.slice(0, 2..2).unwrap().numel(), 0);
    let elsewhere = part.to_device(&Device::emulator_with(Default::default())).unwrap();
    assert_eq!(elsewhere.to_vec::<i32>().unwrap(), [-1; 12]);
    assert!(elsewhere.is_contiguous() && elsewhere.device() != part.device());
    assert_eq!(format!("{part:?}"), "Tensor i32[3, 2, 2] strides [8, 4, 1] on emulator");
}

#[test]
fn poison_marks_what_was_not_written() {
    let device = Device::emulator();
    for elem in [Elem::Bf16, Elem::F16, Elem::F32, Elem::I32] {
        let tensor = Tensor::poisoned(&device, elem, &[2, 3]).unwrap();
        assert_eq!(tensor.first_poison().unwrap(), Some(0));
        if elem != Elem::I32 {
            assert!(tensor.to_f64_vec().unwrap().iter().all(|x| x.is_nan()));
        }
        let zeros = Tensor::zeros(&device, elem, &[2, 3]).unwrap();
        assert_eq!(zeros.first_poison().unwrap(), None);
    }
    let tensor = Tensor::poisoned(&device, Elem::F32, &[4]).unwrap();
    tensor.slice(0, 0..3).unwrap().copy_from_slice(&[f32::NAN; 3]).unwrap();
    assert_eq!(tensor.first_poison().unwrap(), Some(3), "a NaN of arithmetic is no poison");
}

#[test]
fn misuse_is_named() {
    let device = Device::emulator();
    let tensor = Tensor::from_slice(&device, &[2, 3], &ramp(6)).unwrap();
    let text = |result: lacuna_runtime::Result<Tensor>| result.unwrap_err().to_string();
    assert_eq!(
        text(Tensor::from_slice(&device, &[2, 3], &ramp(5))),
        "5 elements given for shape [2, 3], which takes 6"
    );
    assert_eq!(
        text(Tensor::from_bytes(&device, Elem::F16, &[2, 3], &[0; 6])),
        "6 bytes given for shape [2, 3], which takes 12"
    );
    assert_eq!(
        text(Tensor::zeros(&device, Elem::Bool, &[2])),
        "`bool` lives in registers only; a tensor holds bf16, f16, f32 or i32"
    );
    assert_eq!(
        text(Tensor::uninit(&device, Elem::F32, &[1 << 40, 1 << 40])),
        "shape [1099511627776, 1099511627776] is too large: its size in bytes does not fit"
    );
    assert_eq!(
        text(tensor.strided(1, &[2, 3], &[3, 1])),
        "a view of shape [2, 3] and strides [3, 1] from element 1 reaches element 6; the tensor ends at element 6"
    );
    assert_eq!(text(tensor.strided(0, &[2], &[3, 1])), "shape [2] and strides [3, 1] differ in length");
    assert_eq!(text(tensor.slice(2, 0..1)), "there is no dimension 2 in shape [2, 3]");
    assert_eq!(text(tensor.slice(1, 2..4)), "2..4 is not within dimension 1 of shape [2, 3]");
    assert_eq!(
        text(tensor.select(0, u64::MAX)),
        "18446744073709551615..18446744073709551615 is not within dimension 0 of shape [2, 3]"
    );
    assert_eq!(text(tensor.reshape(&[7])), "shape [2, 3] cannot become [7]: the numbers of elements differ");
    assert_eq!(
        text(tensor.slice(1, 0..2).unwrap().reshape(&[4])),
        "shape [2, 2] cannot become [4]: it is not contiguous"
    );
    assert_eq!(tensor.to_vec::<f32>().unwrap_err().to_string(), "the tensor holds i32, not f32");
    assert_eq!(tensor.copy_from_slice(&[0.0f32; 6]).unwrap_err().to_string(), "the tensor holds i32, not f32");
    assert_eq!(
        tensor.copy_from_slice(&[0; 5]).unwrap_err().to_string(),
        "5 elements given for shape [2, 3], which takes 6"
    );
    let fresh = Tensor::uninit(&device, Elem::F32, &[2, 3]).unwrap();
    fresh.slice(0, 0..1).unwrap().copy_from_slice(&[1.0f32; 3]).unwrap();
    assert_eq!(fresh.to_vec::<f32>().unwrap_err().to_string(), "element [1, 0] was never written");
    // Sixteen terabytes of address space cost nothing until they are touched.
    let huge = Tensor::uninit(&device, Elem::F32, &[1 << 42]).unwrap();
    huge.slice(0, (1 << 42) - 1..1 << 42).unwrap().copy_from_slice(&[1.0f32]).unwrap();
    let error = Tensor::uninit(&device, Elem::F32, &[1 << 47]).unwrap_err().to_string();
    assert_eq!(error, "emulator: no room for 562949953421312 bytes: 281474976710656 of 281474976710656 bytes are free");
}

#[test]
fn checks_name_the_first_bad_element() {
    let device = Device::emulator();
    let text = |result: lacuna_runtime::Result<()>| result.unwrap_err().to_string();
    let floats = Tensor::from_slice(&device, &[2, 2], &[0.0, 1.0, f32::NAN, f32::INFINITY]).unwrap();
    assert_eq!(text(check::finite(&floats)), "the tensor[1, 0] is NaN: only finite numbers are allowed here");
    check::finite(&floats.select(0, 0).unwrap()).unwrap();
    let ints = |data: &[i32]| Tensor::from_slice(&device, &[data.len() as u64], data).unwrap();
    check::finite(&ints(&[1])).unwrap();
    check::indices(&ints(&[-1, 0, 4]), -1, 5).unwrap();
    assert_eq!(text(check::indices(&ints(&[-1, 0, 5]), -1, 5)), "the tensor[2] is 5, which is not in -1..5");
    assert_eq!(text(check::indices(&floats, 0, 5)), "the tensor holds f32, not i32");
    check::cu_seqlens(&ints(&[0, 3, 3, 9]), 9).unwrap();
    let boundaries = |data: &[i32]| text(check::cu_seqlens(&ints(data), 9));
    assert_eq!(boundaries(&[1, 9]), "the tensor[0] is 1: cumulative sequence lengths begin with 0");
    assert_eq!(
        boundaries(&[0, 4, 3, 9]),
        "the tensor[2] is 3, less than 4 before it: cumulative sequence lengths never go down"
    );
    assert_eq!(
        boundaries(&[0, 4]),
        "the tensor ends with 4, and there are 9 tokens: cumulative sequence lengths end with that number"
    );
    assert_eq!(
        boundaries(&[]),
        "the tensor is empty: cumulative sequence lengths hold one element more than there are sequences"
    );
}

#[test]
fn the_best_device_is_there_and_says_why() {
    let best = Device::best();
    match Device::no_cuda() {
        Some(why) => assert!(best == Device::emulator() && !why.to_string().is_empty()),
        None => assert!(best.is_cuda()),
    }
    let rows = Device::list();
    assert_eq!(rows.last().unwrap().name, "emulator");
    assert_eq!(Device::emulator().info(), *rows.last().unwrap());
    assert!(Device::emulator().runs(lacuna_ptx::Target::SM_100A));
}

#[test]
fn files_hold_tensors_of_any_layout() {
    let device = Device::emulator();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.safetensors");
    let all = Tensor::from_slice(&device, &[3, 2, 4], &ramp(24)).unwrap();
    let view = all.select(1, 1).unwrap();
    let halves = Tensor::from_f32(&device, Elem::Bf16, &[3], &[1.0, 2.0, 3.0]).unwrap();
    let empty = Tensor::zeros(&device, Elem::F32, &[0, 2]).unwrap();
    let metadata = BTreeMap::from([("heads".to_owned(), "12".to_owned()), ("model".to_owned(), "a \"b\"".to_owned())]);
    save(&path, [("view", &view), ("a.halves", &halves), ("empty", &empty)], &metadata).unwrap();
    let back = load(&device, &path).unwrap();
    assert_eq!(back.get("view").unwrap().to_vec::<i32>().unwrap(), view.to_vec::<i32>().unwrap());
    assert_eq!(back.get_shaped("a.halves", &[Some(3)]).unwrap().to_f32_vec().unwrap(), [1.0, 2.0, 3.0]);
    assert_eq!(back.get("empty").unwrap().shape(), [0, 2]);
    assert_eq!(back.metadata(), &metadata);
    assert_eq!(back.iter().map(|(name, _)| name).collect::<Vec<_>>(), ["a.halves", "empty", "view"]);
    // The format's own reader agrees, and the bytes are settled by the content.
    let bytes = std::fs::read(&path).unwrap();
    let theirs = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(theirs.tensor("view").unwrap().shape(), [3, 4]);
    save(&path, [("empty", &empty), ("a.halves", &halves), ("view", &view)], &metadata).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1, "no temporary file is left");
}

#[test]
fn files_that_are_wrong_are_named() {
    let device = Device::emulator();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    let shown = path.display().to_string();
    let one = Tensor::from_slice(&device, &[2], &[1, 2]).unwrap();
    save(&path, [("one", &one)], &BTreeMap::new()).unwrap();
    let good = std::fs::read(&path).unwrap();
    let refusal = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        load(&device, &path).unwrap_err().to_string().replace(&shown, "x")
    };
    let n = good.len();
    assert_eq!(refusal(&good[..n - 1]), format!("x: cut short: it has {} bytes, and {n} are needed", n - 1));
    assert_eq!(refusal(&good[..20]), format!("x: cut short: it has 20 bytes, and {} are needed", n - 8));
    assert_eq!(refusal(&good[..3]), "x: cut short: it has 3 bytes, and 8 are needed");
    assert_eq!(
        refusal(&[&good[..], &[0]].concat()),
        "x: 1 bytes follow the last tensor; not a safetensors file, or a damaged one"
    );
    assert_eq!(
        refusal(&[0xff; 64]),
        "x: bad safetensors header: its length is given as 18446744073709551615 bytes, and at most 100000000 are allowed"
    );
    let file = |json: &str, data: usize| [&(json.len() as u64).to_le_bytes(), json.as_bytes(), &vec![0; data]].concat();
    assert!(refusal(&file("{\"a\":", 0)).starts_with("x: bad safetensors header: EOF while parsing"));
    assert_eq!(
        refusal(&file(r#"{"a":{"dtype":"F64","shape":[1],"data_offsets":[0,8]}}"#, 8)),
        "x: tensor `a` holds F64; supported: BF16, F16, F32, I32"
    );
    assert_eq!(
        refusal(&file(r#"{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}"#, 8)),
        "x: bad safetensors header: tensor `a` of F32 [3] does not fill its 8 bytes"
    );
    assert_eq!(
        refusal(&file(r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#, 12)),
        "x: bad safetensors header: tensor `a` lies at bytes 4..12, and the one before it ends at 0"
    );
    let huge = r#"{"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]}}"#;
    assert!(refusal(&file(huge, 0)).contains("does not fill its 0 bytes"));
    std::fs::write(&path, &good).unwrap();
    let tensors = load(&device, &path).unwrap();
    let text = |error: lacuna_runtime::Error| error.to_string().replace(&shown, "x");
    assert_eq!(text(tensors.get("two").unwrap_err()), "x: no tensor `two`; it has: one");
    assert_eq!(
        text(tensors.get_shaped("one", &[None, Some(3)]).unwrap_err()),
        "x: tensor `one` has shape [2]; expected [_, 3]"
    );
    assert_eq!(
        text(save(&path, [("one", &one), ("one", &one)], &BTreeMap::new()).unwrap_err()),
        "x: cannot save a tensor as `one`: two tensors have this name"
    );
    assert_eq!(
        text(save(&path, [("__metadata__", &one)], &BTreeMap::new()).unwrap_err()),
        "x: cannot save a tensor as `__metadata__`: the format keeps this name for itself"
    );
    let fresh = Tensor::uninit(&device, Elem::F32, &[2]).unwrap();
    assert!(save(&path, [("fresh", &fresh)], &BTreeMap::new()).is_err());
    assert_eq!(std::fs::read(&path).unwrap(), good, "a save that fails leaves the file as it was");
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1, "and no temporary file");
    let missing = load(&device, dir.path().join("none.safetensors")).unwrap_err().to_string();
    assert!(missing.contains("none.safetensors: cannot open: No such file"), "{missing}");
    let nowhere = save(dir.path().join("no/x"), [("one", &one)], &BTreeMap::new()).unwrap_err().to_string();
    assert!(nowhere.contains("no/x: cannot write: No such file"), "{nowhere}");
}

/// `/dev/full` refuses every write with "no space left"; saving beside it is refused by its directory or goes elsewhere,
/// so a limit on file sizes stands in for a full disk, in a child process.
#[cfg(unix)]
#[test]
fn a_full_disk_leaves_nothing() {
    const CHILD: &str = "LACUNA_TEST_FULL_DISK";
    if let Some(dir) = std::env::var_os(CHILD) {
        let device = Device::emulator();
        let large = Tensor::zeros(&device, Elem::F32, &[1 << 20]).unwrap();
        let path = std::path::Path::new(&dir).join("x.safetensors");
        let error = save(&path, [("large", &large)], &BTreeMap::new()).unwrap_err().to_string();
        assert!(error.contains("x.safetensors: cannot write: File too large"), "{error}");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let test = std::env::current_exe().unwrap();
    // Blocks of 1024 bytes; without a trap the signal would end the child before the error does.
    let script = "trap '' XFSZ; ulimit -f 1024; exec \"$0\" --exact a_full_disk_leaves_nothing";
    let out =
        std::process::Command::new("bash").args(["-c", script]).arg(test).env(CHILD, dir.path()).output().unwrap();
    assert!(out.status.success(), "{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0);
}
