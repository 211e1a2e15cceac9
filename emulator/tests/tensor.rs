//! Tensor copies against plain Rust: every rank and swizzle, boxes that reach over each side, maps whose addresses go around,
//! stores and adds; and what is wrong with one is said.

#[path = "common/copies.rs"]
mod copies;

use copies::{Copies, map, out, wait};
use half::f16;
use lacuna_emulator::{FaultKind, Options, Swizzle, TensorElem, TensorMap};

const LOAD: &str = "shared::cluster.global.mbarrier::complete_tx::bytes";
const STORE: &str = "cp.async.bulk.tensor.2d.global.shared::cta.bulk_group";
const ADD: &str = "cp.reduce.async.bulk.tensor.2d.global.shared::cta.add.bulk_group";

/// Where coordinates of dimension `i` are: `%r30+i`.
fn coordinates(coords: &[i32]) -> (String, String) {
    let set = (0..).zip(coords).map(|(i, coord)| format!("mov.b32 %r{}, {coord};\n", 30 + i)).collect();
    let names: Vec<String> = (0..coords.len()).map(|i| format!("%r{}", 30 + i)).collect();
    (set, format!("{{{}}}", names.join(", ")))
}

/// The box at these coordinates into shared memory, and from there to the output.
fn load(coords: &[i32], bytes: u32) -> String {
    let (set, names) = coordinates(coords);
    let rank = coords.len();
    format!(
        "{set}@%p0 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r11], {bytes};\n\
         @%p0 cp.async.bulk.tensor.{rank}d.{LOAD} [%r10], [%d0, {names}], [%r11];\n{}{}ret;",
        wait("full", 0),
        out(32, bytes)
    )
}

/// The element of a tensor with these coordinates: its number, or nothing outside.
fn element(map: &TensorMap, at: &[i64]) -> Option<u64> {
    let inside = map.dims.iter().zip(at).all(|(dim, at)| (0..dim.extent as i64).contains(at));
    let offset =
        map.dims.iter().zip(at).fold(0u64, |sum, (dim, at)| sum.wrapping_add(dim.stride.wrapping_mul(*at as u64)));
    inside.then_some(offset / u64::from(map.elem.bytes()))
}

/// The coordinates of each element of a box, in the order in which they lie in it.
fn boxed(map: &TensorMap, coords: &[i32]) -> Vec<Vec<i64>> {
    let count: u32 = map.dims.iter().map(|dim| dim.tile).product();
    let at = |number: u32| {
        let mut rest = number;
        let dims = map.dims.iter().zip(coords);
        dims.map(|(dim, coord)| {
            let at = rest % dim.tile;
            rest /= dim.tile;
            i64::from(*coord) + i64::from(at)
        })
        .collect()
    };
    (0..count).map(at).collect()
}

/// Where a byte of a box lies under a swizzle, from the driver's description: rows of 32, 64 or 128 bytes, whose 16-byte pieces
/// are exchanged by the number of the row among 8 of 128 bytes.
fn swizzled(swizzle: Swizzle, byte: usize) -> usize {
    let pieces = match swizzle {
        Swizzle::None => return byte,
        Swizzle::B32 => 2,
        Swizzle::B64 => 4,
        Swizzle::B128 => 8,
    };
    let (line, within) = (byte / 128, byte % 128);
    let (group, piece) = (within / 16 / pieces, within / 16 % pieces);
    line * 128 + (group * pieces + (piece ^ (line % pieces))) * 16 + within % 16
}

/// A tensor of 16-bit numbers, each of which is its own place.
fn numbers(count: usize) -> Vec<u8> {
    (0..count).flat_map(|i| ((i as u16).wrapping_mul(7) | 1).to_le_bytes()).collect()
}

/// Loads the box and compares it with what plain Rust makes of the description. How many elements are inside.
fn check_load(map: &TensorMap, coords: &[i32], count: usize, seed: u64) -> usize {
    let input = numbers(count);
    let bytes = boxed(map, coords).len() * 2;
    let mut copies = Copies::new(&input, bytes);
    copies.options = Options { seed, ..copies.options };
    let map = TensorMap { base: copies.input, ..map.clone() };
    copies.run(&load(coords, bytes as u32), &map).unwrap_or_else(|fault| panic!("{coords:?} {fault}"));
    let found = copies.read(bytes);
    let mut inside = 0;
    for (number, at) in boxed(&map, coords).iter().enumerate() {
        let expected = element(&map, at).map_or([0; 2], |at| [input[2 * at as usize], input[2 * at as usize + 1]]);
        inside += usize::from(element(&map, at).is_some());
        let byte = swizzled(map.swizzle, 2 * number);
        assert_eq!(found[byte..byte + 2], expected, "{coords:?}, element {number} at {at:?}");
    }
    inside
}

#[test]
fn boxes_of_every_rank() {
    let dims = [(40, 2, 64), (6, 80, 4), (5, 480, 2), (3, 2400, 2), (2, 7200, 2)];
    for rank in 1..=5 {
        let map = map(0, TensorElem::Bf16, &dims[..rank], Swizzle::None);
        assert!(check_load(&map, &[8, 1, 2, 1, 0][..rank], 7200, rank as u64) > 0);
    }
}

#[test]
fn swizzles_exchange_pieces_by_the_address() {
    for (swizzle, columns) in [(Swizzle::B32, 16), (Swizzle::B64, 32), (Swizzle::B128, 64)] {
        let map = map(0, TensorElem::F16, &[(80, 2, columns), (40, 160, 24)], swizzle);
        assert_eq!(check_load(&map, &[8, 3], 3200, 0), 24 * columns as usize);
        assert_eq!(check_load(&map, &[72, -7], 3200, 1), 17 * 8);
    }
}

#[test]
fn what_is_outside_is_zero_on_every_side() {
    let map = map(0, TensorElem::Bf16, &[(20, 2, 16), (5, 48, 4), (3, 240, 2)], Swizzle::None);
    let mut inside = Vec::new();
    for inner in [-16, -8, 0, 8, 16, 24, i32::MAX - 7, i32::MIN] {
        for (row, plane) in [(0, 0), (-2, 1), (3, 2), (5, 0), (-4, 0), (0, -1), (1, 3), (i32::MAX, i32::MIN)] {
            inside.push(check_load(&map, &[inner, row, plane], 360, 0));
        }
    }
    assert_eq!((inside.iter().max(), inside.iter().min()), (Some(&128), Some(&0)));
}

/// A packed tensor of documents, rows of 64 features: a map that ends where each of them does.
#[test]
fn a_ragged_map_ends_with_its_document() {
    const ROW: u64 = 128;
    let rows = 100;
    let input = numbers(64 * rows as usize);
    for (first, len) in [(0i32, 5i32), (5, 40), (45, 1), (46, 54)] {
        for row in (0..len).step_by(16) {
            let origin = 1 << 30;
            let dims = [(64, 2, 64), (1 << 30, ROW, 16), (0x7fff_0000, ROW, 1), (0x7fff_0000, (1 << 35) - ROW, 1)];
            let copies = Copies::new(&input, 16 * 128);
            let map = map(copies.input, TensorElem::Bf16, &dims, Swizzle::B128);
            let coords = [0, origin - len + row, first + len, origin];
            copies.run(&load(&coords, 16 * 128), &map).unwrap_or_else(|fault| panic!("{fault}"));
            let found = copies.read(16 * 128);
            for (i, line) in (0..16).flat_map(|i| (0..64).map(move |c| (i, c))) {
                let at = ((first + row + i) as usize * 64 + line) * 2;
                let expected = if row + i < len { [input[at], input[at + 1]] } else { [0; 2] };
                let byte = swizzled(Swizzle::B128, i as usize * 128 + 2 * line);
                assert_eq!(found[byte..byte + 2], expected, "document at {first}, row {row} + {i}, feature {line}");
            }
        }
    }
}

/// Fills shared memory with each word's number and copies the box out.
fn store(coords: &[i32], bytes: u32, what: &str) -> String {
    let (set, names) = coordinates(coords);
    let mut fill = "shl.b32 %r20, %r0, 2;\nadd.u32 %r21, %r10, %r20;\nadd.u32 %r22, %r0, 1;\n".to_owned();
    for at in (0..bytes).step_by(128) {
        fill += &format!("st.shared.u32 [%r21+{at}], %r22;\nadd.u32 %r22, %r22, 32;\n");
    }
    format!(
        "{set}{fill}fence.proxy.async.shared::cta;\nbar.sync 0;\n@%p0 {what} [%d0, {names}], [%r10];\n\
         @%p0 cp.async.bulk.commit_group;\n@%p0 cp.async.bulk.wait_group 0;\nret;"
    )
}

#[test]
fn stores_write_what_is_inside_and_nothing_else() {
    for swizzle in [Swizzle::None, Swizzle::B128] {
        for coords in [[0, 0], [32, 3], [16, 7], [40, 7], [64, 0], [72, 0], [0, 9]] {
            let copies = Copies::new(&[0; 16], 10 * 160);
            copies.memory.write(copies.output, &[0xee; 10 * 160]).unwrap();
            // 72 of the 80 columns of a row belong to the tensor, and 9 of 10 rows.
            let map = map(copies.output, TensorElem::Bf16, &[(72, 2, 64), (9, 160, 4)], swizzle);
            let text = store(&coords, 512, STORE);
            copies.run(&text, &map).unwrap_or_else(|fault| panic!("{fault}"));
            let found = copies.read(10 * 160);
            let shared: Vec<u8> = (1..=128u32).flat_map(u32::to_le_bytes).collect();
            let mut expected = vec![0xee; 10 * 160];
            for (number, at) in boxed(&map, &coords).iter().enumerate() {
                if let Some(at) = element(&map, at) {
                    let byte = swizzled(swizzle, 2 * number);
                    expected[2 * at as usize..][..2].copy_from_slice(&shared[byte..byte + 2]);
                }
            }
            assert_eq!(found, expected, "{coords:?}");
        }
    }
}

#[test]
fn adds_are_of_the_maps_type() {
    let add = "cp.reduce.async.bulk.tensor.1d.global.shared::cta.add.bulk_group";
    // Words are 1, 2, 3 ..: as floats subnormal, as halves a number and a zero.
    let copies = Copies::new(&[0; 16], 128);
    let halves: Vec<u8> = (0..64).flat_map(|i| f16::from_f32(i as f32).to_le_bytes()).collect();
    copies.memory.write(copies.output, &halves).unwrap();
    let map16 = map(copies.output, TensorElem::F16, &[(64, 2, 64)], Swizzle::None);
    copies.run(&store(&[0], 128, add), &map16).unwrap_or_else(|fault| panic!("{fault}"));
    let found = copies.read(128);
    for i in 0..64 {
        let added = if i % 2 == 0 { f16::from_bits(i as u16 / 2 + 1) } else { f16::ZERO };
        let expected = f16::from_f32(i as f32 + f32::from(added));
        assert_eq!(f16::from_le_bytes([found[2 * i], found[2 * i + 1]]), expected, "{i}");
    }
    let copies = Copies::new(&[0; 16], 128);
    copies.memory.write(copies.output, &[0; 128]).unwrap();
    let map32 = map(copies.output, TensorElem::F32, &[(32, 4, 32)], Swizzle::None);
    let text = store(&[0], 128, add).replace("add.u32 %r22, %r0, 1;", "cvt.rn.f32.u32 %f0, %r0;\nmov.b32 %r22, %f0;");
    let twice = text.replace(
        "@%p0 cp.async.bulk.commit_group;",
        &format!("@%p0 {add} [%d0, {{%r30}}], [%r10];\n@%p0 cp.async.bulk.commit_group;"),
    );
    assert_ne!(twice, text);
    copies.run(&twice, &map32).unwrap_or_else(|fault| panic!("{fault}"));
    let found = copies.read(128);
    let floats: Vec<f32> = found.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    assert_eq!(floats, (0..32).map(|i| 2.0 * i as f32).collect::<Vec<_>>());
}

fn plain() -> (Copies, TensorMap) {
    let copies = Copies::new(&numbers(64 * 64), 64 * 128);
    let map = map(copies.input, TensorElem::Bf16, &[(64, 2, 64), (64, 128, 8)], Swizzle::B128);
    (copies, map)
}

#[test]
fn what_is_wrong_with_a_copy_is_said_where_it_is_issued() {
    let (copies, map) = plain();
    let good = load(&[0, 0], 1024);
    copies.run(&good, &map).unwrap_or_else(|fault| panic!("{fault}"));
    let wrong = |from: &str, to: &str| {
        let bad = good.replace(from, to);
        assert_ne!(bad, good, "{from}");
        copies.fault(&bad, &map)
    };
    let fault = wrong("[%d0, {%r30, %r31}]", "[%d1, {%r30, %r31}]");
    assert!(fault.to_string().starts_with("operand: there is no tensor map at 0x"), "{fault}");
    assert!(fault.to_string().contains("expected the generic address of a parameter that is one"), "{fault}");
    let fault = wrong(
        "2d.shared::cluster.global.mbarrier::complete_tx::bytes [%r10], [%d0, {%r30, %r31}]",
        "1d.shared::cluster.global.mbarrier::complete_tx::bytes [%r10], [%d0, {%r30}]",
    );
    assert!(
        fault.to_string().starts_with("operand: the tensor map has 2 dimensions, and here are 1 coordinates"),
        "{fault}"
    );
    let fault = wrong("bytes [%r10], ", "bytes [%r10+64], ");
    assert!(matches!(fault.kind, FaultKind::Misaligned { address: 64, bytes: 128, .. }), "{fault}");
    let fault = wrong("bytes [%r10], ", "bytes [%r10+32768], ");
    assert!(matches!(fault.kind, FaultKind::OutOfBounds { bytes: 1024, .. }), "{fault}");
}

#[test]
fn memory_that_nobody_has_and_that_nobody_wrote() {
    let copies = Copies::new(&numbers(64 * 64), 64 * 128);
    let rows = |extent| map(copies.input, TensorElem::Bf16, &[(64, 2, 64), (extent, 128, 8)], Swizzle::B128);
    let fault = copies.fault(&load(&[0, 60], 1024), &rows(65));
    assert!(matches!(fault.kind, FaultKind::OutOfBounds { limit: None, .. }), "{fault}");
    assert!(fault.to_string().contains("cp.async.bulk.tensor.2d"), "{fault}");
    copies.run(&load(&[0, 60], 1024), &rows(64)).unwrap_or_else(|fault| panic!("{fault}"));
    let unwritten = TensorMap { base: copies.memory.alloc(8192), ..rows(64) };
    let fault = copies.fault(&load(&[0, 0], 1024), &unwritten);
    assert!(matches!(fault.kind, FaultKind::UnwrittenMemory { .. }), "{fault}");
}

#[test]
fn boxes_begin_at_multiples_of_16_bytes() {
    let (copies, halves) = plain();
    let said = |map: &TensorMap, text: &str, what: &str| {
        let fault = copies.fault(text, map).to_string();
        assert!(
            fault.starts_with(&format!("operand: the rows of a box begin at a multiple of 16 bytes, {what}")),
            "{fault}"
        );
    };
    // Wherever the box is, and whatever is in it.
    for coord in [1, 4, 65, -4, i32::MAX] {
        said(&halves, &load(&[coord, 0], 1024), &format!("and coordinate 0 is {coord}, of elements of 2 bytes"));
    }
    said(&halves, &load(&[4, 64], 1024), "and coordinate 0 is 4, of elements of 2 bytes");
    let words = map(copies.input, TensorElem::F32, &[(32, 4, 32), (64, 128, 8)], Swizzle::B128);
    said(&words, &load(&[2, 0], 1024), "and coordinate 0 is 2, of elements of 4 bytes");
    copies.run(&load(&[4, 0], 1024), &words).unwrap_or_else(|fault| panic!("{fault}"));
    let to = TensorMap { base: copies.output, ..words };
    for what in [STORE, ADD] {
        said(&to, &store(&[1, 0], 1024, what), "and coordinate 0 is 1, of elements of 4 bytes");
        copies.run(&store(&[4, 0], 1024, what), &to).unwrap_or_else(|fault| panic!("{fault}"));
    }
    let fault = copies.fault(&store(&[1, 0], 1024, ADD), &to).to_string();
    assert!(fault.contains(ADD), "{fault}");
}

#[test]
fn stores_do_not_begin_before_the_tensor() {
    let copies = Copies::new(&[0; 16], 10 * 160);
    copies.memory.write(copies.output, &[0; 10 * 160]).unwrap();
    let map = map(copies.output, TensorElem::Bf16, &[(72, 2, 64), (9, 160, 4)], Swizzle::None);
    for what in [STORE, ADD] {
        // Of the last two nothing is in the tensor.
        for (coords, at) in [([-8, 0], 0), ([0, -1], 1), ([-64, 0], 0), ([0, -4], 1)] {
            let fault = copies.fault(&store(&coords, 512, what), &map).to_string();
            let before = "operand: a tensor store or add does not begin before the tensor";
            assert!(fault.starts_with(&format!("{before}, and coordinate {at} is {}", coords[at])), "{fault}");
            assert!(fault.contains(what), "{fault}");
        }
        copies.run(&store(&[0, 0], 512, what), &map).unwrap_or_else(|fault| panic!("{fault}"));
    }
}

#[test]
fn stores_do_not_end_within_16_bytes() {
    let copies = Copies::new(&[0; 16], 10 * 160);
    let map = map(copies.output, TensorElem::Bf16, &[(70, 2, 64), (9, 160, 4)], Swizzle::None);
    let text = |column| store(&[column, 0], 512, STORE);
    let fault = copies.fault(&text(64), &map);
    assert!(
        fault
            .to_string()
            .starts_with("operand: a tensor store writes multiples of 16 bytes, and rows of this tensor end after 140"),
        "{fault}"
    );
    copies.run(&text(0), &map).unwrap_or_else(|fault| panic!("{fault}"));
}

#[test]
fn a_map_that_cannot_be_is_refused_at_the_launch() {
    let (copies, map) = plain();
    let bad = TensorMap { base: map.base + 8, ..map };
    let fault = copies.fault("ret;", &bad);
    assert!(
        fault.to_string().starts_with("launch: parameter `map`: a tensor map begins at a multiple of 16 bytes"),
        "{fault}"
    );
}

#[test]
fn hints_do_nothing_to_a_map_and_are_refused_elsewhere() {
    let (copies, map) = plain();
    let hints = "prefetch.tensormap [%d0];\nmov.u32 %r30, 0;\ncp.async.bulk.prefetch.tensor.2d.L2.global [%d0, {%r30, %r30}];\n\
                 createpolicy.fractional.L2::evict_last.b64 %d5;\n";
    let with_policy = load(&[0, 0], 1024).replace(
        "bytes [%r10], [%d0, {%r30, %r31}], [%r11]",
        "bytes.L2::cache_hint [%r10], [%d0, {%r30, %r31}], [%r11], %d5",
    );
    assert!(with_policy.contains("cache_hint"));
    copies.run(&format!("{hints}{with_policy}"), &map).unwrap_or_else(|fault| panic!("{fault}"));
    assert!(copies.fault("prefetch.tensormap [%d1];\nret;", &map).to_string().contains("there is no tensor map"));
}
