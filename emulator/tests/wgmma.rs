//! `wgmma` gives what its operands' layouts say, and what is wrong about it is named.

#[path = "common/warpgroup.rs"]
mod warpgroup;

use warpgroup::{READY, Swizzle, Tile, Warpgroup, accumulator, element_of, value};

const SWIZZLES: [Swizzle; 4] = [Swizzle::None, Swizzle::B32, Swizzle::B64, Swizzle::B128];

/// B's elements are others than A's.
fn other(row: usize, column: usize) -> f32 {
    value(row + 5, column + 2)
}

const fn aligned(bytes: usize) -> usize {
    bytes.next_multiple_of(1024)
}

/// One product of 64 by N by K from shared memory. A and B lie with k along their rows, or transposed.
fn shared_by_shared(element: &str, columns: usize, k: usize, transposed: [bool; 2], swizzles: [Swizzle; 2]) {
    let tile = |at: usize, extent: usize, transposed: bool, swizzle: Swizzle| {
        let (rows, columns) = if transposed { (k, extent) } else { (extent, k) };
        Tile { at, rows, columns: columns.next_multiple_of(swizzle.width() / 2), swizzle }
    };
    let a = tile(0, 64, transposed[0], swizzles[0]);
    let b = tile(aligned(a.bytes()), columns, transposed[1], swizzles[1]);
    let step = |tile: Tile, transposed: bool, step| if transposed { tile.mn_major(step) } else { tile.k_major(step) };
    let turn = |transposed: bool, at: fn(usize, usize) -> f32| move |r, c| if transposed { at(c, r) } else { at(r, c) };
    let case = Warpgroup { registers: columns / 2, ..Warpgroup::default() }
        .tile(a, element, turn(transposed[0], value))
        .tile(b, element, turn(transposed[1], other));
    let mut body = format!("{READY}wgmma.fence.sync.aligned;\n");
    for s in 0..k / 16 {
        body += &format!(
            "mov.b64 %d8, {:#x};\nmov.b64 %d9, {:#x};\n\
             wgmma.mma_async.sync.aligned.m64n{columns}k16.f32.{element}.{element} {}, %d8, %d9, {}, 1, 1, {}, {};\n",
            step(a, transposed[0], s),
            step(b, transposed[1], s),
            accumulator(columns),
            u8::from(s > 0),
            u8::from(transposed[0]),
            u8::from(transposed[1]),
        );
    }
    body += "wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;\n";
    let out = case.run(&body).unwrap_or_else(|fault| panic!("{fault}"));
    for (thread, registers) in out.iter().enumerate() {
        for (i, sum) in registers.iter().enumerate() {
            let (row, column) = element_of(thread, i);
            let exact: f32 = (0..k).map(|k| value(row, k) * other(column, k)).sum();
            assert_eq!(*sum, exact, "{element} N {columns} K {k} {transposed:?} {swizzles:?} at {row}, {column}");
        }
    }
}

#[test]
fn every_layout_of_operands_in_shared_memory() {
    for a in SWIZZLES {
        for b in SWIZZLES {
            for transposed in [[false, false], [true, false], [false, true], [true, true]] {
                shared_by_shared("bf16", 64, 64, transposed, [a, b]);
            }
        }
    }
}

#[test]
fn every_width_of_the_accumulator() {
    for columns in (8..=256).step_by(8) {
        for transposed in [false, true] {
            shared_by_shared("f16", columns, 32, [false, transposed], [Swizzle::B64, Swizzle::B32]);
        }
    }
    for columns in [80, 128, 176, 256] {
        shared_by_shared("bf16", columns, 128, [false, false], [Swizzle::B128; 2]);
        shared_by_shared("bf16", columns, 64, [true, true], [Swizzle::B128; 2]);
    }
}
