//! Safetensors files that are drawn, damaged and lied in: each is read as what it says, or refused in words; never a panic.

use std::collections::BTreeMap;
use std::path::Path;

use lacuna_runtime::{Device, Elem, Tensor, load, save};
use proptest::prelude::*;

/// Reads a file of these bytes: the bytes of all of its tensors, or why not.
fn read(dir: &Path, bytes: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let path = dir.join("x.safetensors");
    std::fs::write(&path, bytes).unwrap();
    let tensors = load(&Device::emulator_with(Default::default()), &path).map_err(|error| error.to_string())?;
    Ok(tensors.iter().map(|(_, tensor)| tensor.to_bytes().unwrap()).collect())
}

/// A file with two tensors of eight and six bytes.
fn good(dir: &Path) -> Vec<u8> {
    let device = Device::emulator();
    let ints = Tensor::from_slice(&device, &[2], &[7, 8]).unwrap();
    let halves = Tensor::from_f32(&device, Elem::Bf16, &[3], &[1.0, 2.0, 3.0]).unwrap();
    let path = dir.join("good.safetensors");
    save(&path, [("ints", &ints), ("halves", &halves)], &BTreeMap::new()).unwrap();
    std::fs::read(path).unwrap()
}

/// An extent or an offset: small, large, or no number that the format has.
fn number() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => (0_u64..20).prop_map(|n| n.to_string()),
        1 => any::<u64>().prop_map(|n| n.to_string()),
        1 => Just((1_u64 << 62).to_string()),
        1 => prop_oneof![Just("NaN"), Just("-1"), Just("1e400"), Just("0.5"), Just("null"), Just("\"4\""), Just("[]")]
            .prop_map(str::to_owned),
    ]
}

/// A tensor's entry in the header.
fn entry() -> impl Strategy<Value = String> {
    let dtype = prop_oneof![4 => Just("F32"), 2 => Just("BF16"), 1 => Just("I32"), 1 => Just("F64"), 1 => Just("Q7")];
    let shape = prop::collection::vec(number(), 0..4);
    ("[a-c]{1,2}|__metadata__", dtype, shape, number(), number()).prop_map(|(name, dtype, shape, begin, end)| {
        let shape = shape.join(",");
        format!("\"{name}\":{{\"dtype\":\"{dtype}\",\"shape\":[{shape}],\"data_offsets\":[{begin},{end}]}}")
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Headers whose offsets overlap, leave gaps, run backwards, whose sizes overflow or are no numbers.
    #[test]
    fn a_header_that_lies_is_refused(entries in prop::collection::vec(entry(), 0..4), data in 0_usize..40, off in -2_i64..3) {
        let dir = tempfile::tempdir().unwrap();
        let json = format!("{{{}}}", entries.join(","));
        let length = json.len() as u64;
        let bytes = [&length.wrapping_add_signed(off).to_le_bytes()[..], json.as_bytes(), &vec![1; data]].concat();
        match read(dir.path(), &bytes) {
            // What is taken fills the file, each byte of it once.
            Ok(tensors) => {
                let all: usize = tensors.iter().map(Vec::len).sum();
                prop_assert!(off == 0 && all == data, "{json}: {all} bytes of {data}");
            }
            Err(why) => prop_assert!(why.contains("x.safetensors: "), "{why}"),
        }
    }

    /// A good file that is cut, lengthened or flipped somewhere.
    #[test]
    fn a_damaged_file_is_refused_or_holds_as_many_bytes(at in any::<prop::sample::Index>(), bit in 0..8_u32, how in 0..3) {
        let dir = tempfile::tempdir().unwrap();
        let whole = good(dir.path());
        let at = at.index(whole.len());
        let mut bytes = whole.clone();
        match how {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, 0x5a),
            _ => bytes[at] ^= 1 << bit,
        }
        match read(dir.path(), &bytes) {
            Ok(tensors) => {
                prop_assert_eq!(tensors.iter().map(Vec::len).sum::<usize>(), 14);
                prop_assert_eq!(bytes.len(), whole.len());
            }
            Err(why) => prop_assert!(why.contains("x.safetensors: "), "{}", why),
        }
    }

    /// Anything at all.
    #[test]
    fn noise_is_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let dir = tempfile::tempdir().unwrap();
        prop_assert!(read(dir.path(), &bytes).is_err());
    }
}
