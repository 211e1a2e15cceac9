//! Reductions, prefix sums and stores of elements.

use lacuna_codegen::ir::Elem;
use proptest::prelude::*;

use crate::program::{assembled, floats, params, run};

/// Extents about multiples of warps and of CTAs.
const EXTENTS: [usize; 12] = [1, 2, 31, 32, 33, 64, 95, 128, 129, 256, 700, 1025];

/// Warps: one, powers of two, and others.
const WARPS: [usize; 6] = [1, 2, 3, 4, 7, 32];

fn text(warps: usize, extent: usize, tensors: &[(&str, Elem)], body: &str) -> String {
    let params = params(tensors);
    format!(
        "func @f target sm_80 warps {warps} {{\n  axis A = {extent}\n{params}  %0 = const 0\n  %1 = iota A\n{body}\n}}"
    )
}

/// Numbers of every size, about as many below zero as above.
fn ints(count: usize, seed: u32) -> Vec<i32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state
    };
    (0..count).map(|_| (next() as i32) >> (next() % 31)).collect()
}

#[test]
fn a_prefix_sum_is_what_stands_before_and_its_total_is_all() {
    let body = "
        %2 = element x[%1] : i32<A>
        %3 = scan %2 : i32<A>
        %4 = total %3
        %5 = const true
        set_element sums[%1] = %3 where %5
        set_element whole[%0] = %4 where %5
        %6 = broadcast %0 : i32<A>
        %7 = lt %6, %2 : bool<A>
        %8 = scan %7 : i32<A>
        %9 = total %8
        set_element ranks[%1] = %8 where %5
        set_element count[%0] = %9 where %5";
    let tensors = ["x", "sums", "whole", "ranks", "count"].map(|name| (name, Elem::I32));
    for (case, (warps, n)) in WARPS.into_iter().flat_map(|w| EXTENTS.map(|n| (w, n))).enumerate() {
        let x = ints(n, case as u32);
        let text = text(warps, n, &tensors, body);
        if n == EXTENTS[EXTENTS.len() - 1] {
            assert_eq!(assembled(&text).spill_stores, 0, "{warps} warps");
        }
        let found = run(&text, &[x.as_slice().into()], &[n, 1, n, 1]);
        let sum = |x: &[i32]| x.iter().fold(0i32, |sum, x| sum.wrapping_add(*x));
        let above = |x: &[i32]| x.iter().filter(|x| **x > 0).count() as i32;
        let sums: Vec<i32> = (0..n).map(|i| sum(&x[..i])).collect();
        let ranks: Vec<i32> = (0..n).map(|i| above(&x[..i])).collect();
        assert_eq!(found, [sums, vec![sum(&x)], ranks, vec![above(&x)]], "{n} elements, {warps} warps");
    }
}

#[test]
fn reductions_are_of_every_element_and_of_nothing_else() {
    // Every element is above zero in one case and below it in another, so that a place beside the tile would show.
    let body = "
        %2 = element x[%1] : i32<A>
        %3 = const true
        %4 = fold sum %2 : i32
        %5 = fold min %2 : i32
        %6 = fold max %2 : i32
        set_element ints[%0] = %4 where %3
        %7 = const 1
        set_element ints[%7] = %5 where %3
        %8 = const 2
        set_element ints[%8] = %6 where %3
        %9 = const 77
        %10 = broadcast %9 : i32<A>
        %11 = eq %2, %10 : bool<A>
        %12 = fold any %11 : bool
        %13 = const 3
        %14 = select %12, %7, %0 : i32
        set_element ints[%13] = %14 where %3
        %15 = convert %2 : f32<A>
        %16 = fold sum %15 : f32
        %17 = fold min %15 : f32
        %18 = fold max %15 : f32
        set_element floats[%0] = %16 where %3
        set_element floats[%7] = %17 where %3
        set_element floats[%8] = %18 where %3";
    let tensors = [("x", Elem::I32), ("ints", Elem::I32), ("floats", Elem::F32)];
    for (case, (warps, n)) in WARPS.into_iter().flat_map(|w| EXTENTS.map(|n| (w, n))).enumerate() {
        let sign = [1, -1][case % 2];
        // Small enough for f32 to add them exactly.
        let mut x: Vec<i32> = ints(n, case as u32).iter().map(|x| sign * (1 + x.rem_euclid(60))).collect();
        let there = case % 3 == 0;
        if there {
            x[case * 37 % n] = 77;
        }
        let found = run(&text(warps, n, &tensors, body), &[x.as_slice().into()], &[4, 3]);
        let (sum, min, max) = (x.iter().sum::<i32>(), *x.iter().min().unwrap(), *x.iter().max().unwrap());
        assert_eq!(found[0], [sum, min, max, i32::from(there)], "{n} elements, {warps} warps");
        assert_eq!(floats(&found[1]), [sum as f32, min as f32, max as f32], "{n} elements, {warps} warps");
    }
}

#[test]
fn floats_are_reduced_as_ieee_has_them() {
    let body = "
        %2 = element x[%1] : f32<A>
        %3 = const true
        %4 = fold sum %2 : f32
        %5 = fold min %2 : f32
        %6 = fold max %2 : f32
        set_element found[%0] = %4 where %3
        %7 = const 1
        set_element found[%7] = %5 where %3
        %8 = const 2
        set_element found[%8] = %6 where %3";
    let tensors = [("x", Elem::F32), ("found", Elem::F32)];
    let reduced = |warps: usize, x: &[f32]| floats(&run(&text(warps, x.len(), &tensors, body), &[x.into()], &[3])[0]);
    for warps in [1, 4] {
        let minus = reduced(warps, &[-0.0; 40]);
        assert!(minus.iter().all(|x| x.to_bits() == (-0f32).to_bits()), "zeros keep their sign: {minus:?}");
        assert!(reduced(warps, &[f32::NAN; 40]).iter().all(|x| x.is_nan()), "of NaNs alone there is nothing else");
        let mut x = vec![1.5f32; 40];
        x[33] = f32::NAN;
        let some = reduced(warps, &x);
        assert!(some[0].is_nan() && some[1..] == [1.5, 1.5], "a NaN is no extreme, and spoils a sum: {some:?}");
        x[33] = f32::INFINITY;
        assert_eq!(reduced(warps, &x), [f32::INFINITY, 1.5, f32::INFINITY]);
    }
}

#[test]
fn quotients_by_powers_of_two_go_towards_zero_as_others_do() {
    for by in [1, 2, 64, 1 << 30, 3] {
        let body = format!(
            "
        %2 = element x[%1] : i32<A>
        %3 = const {by}
        %4 = broadcast %3 : i32<A>
        %5 = div %2, %4 : i32<A>
        %6 = rem %2, %4 : i32<A>
        %7 = const true
        set_element quotient[%1] = %5 where %7
        set_element rest[%1] = %6 where %7"
        );
        let tensors = ["x", "quotient", "rest"].map(|name| (name, Elem::I32));
        let mut x = ints(90, by as u32);
        x.extend([0, 1, -1, by, -by, by - 1, 1 - by, i32::MIN, i32::MAX, i32::MIN + 1]);
        let found = run(&text(1, x.len(), &tensors, &body), &[x.as_slice().into()], &[x.len(); 2]);
        let of = |f: fn(i32, i32) -> i32| x.iter().map(|&x| f(x, by)).collect::<Vec<_>>();
        assert_eq!(found, [of(|x, by| x / by), of(|x, by| x % by)], "by {by}");
    }
}

#[test]
fn elements_are_stored_where_they_are_kept_and_nowhere_else() {
    let body = "
        %2 = element x[%1] : i32<A>
        %3 = broadcast %0 : i32<A>
        %4 = lt %3, %2 : bool<A>
        %5 = scan %4 : i32<A>
        set_element packed[%5] = %2 where %4
        %6 = total %5
        %7 = const true
        %8 = const false
        set_element packed[%0] = %0 where %8
        set_element count[%0] = %6 where %7";
    let tensors = ["x", "packed", "count"].map(|name| (name, Elem::I32));
    for (case, (warps, n)) in WARPS.into_iter().flat_map(|w| EXTENTS.map(|n| (w, n))).enumerate() {
        let x = ints(n, case as u32);
        let mut packed: Vec<i32> = x.iter().copied().filter(|x| *x > 0).collect();
        let count = packed.len() as i32;
        packed.resize(n, -1);
        let found = run(&text(warps, n, &tensors, body), &[x.as_slice().into()], &[n, 1]);
        assert_eq!(found, [packed, vec![count]], "{n} elements, {warps} warps");
    }
}

#[test]
fn vars_hold_lane_tiles_from_round_to_round() {
    // Horner's rule over rounds, element by element, and a running sum of totals beside it.
    let rounds = 5;
    let extent = 70;
    for warps in [1, 2, 4] {
        let text = format!(
            "func @f target sm_80 warps {warps} {{
              axis A = {extent}
              param x : i32[n]
              param y : i32[n]
              param z : i32[n]
              var %h : i32<A> = 1
              var %sum : i32 = 0
              var %odd : bool<A> = false
              %0 = const 0
              %1 = iota A
              %2 = const {rounds}
              %3 = const 3
              %4 = const {extent}
              %5 = const true
              for %6 in %0..%2 {{
                %7 = mul %6, %4 : i32
                %8 = broadcast %7 : i32<A>
                %9 = add %8, %1 : i32<A>
                %10 = element x[%9] : i32<A>
                %11 = read %h
                %12 = broadcast %3 : i32<A>
                %13 = mul %11, %12 : i32<A>
                %14 = add %13, %10 : i32<A>
                write %h = %14
                %15 = scan %14 : i32<A>
                %16 = total %15
                %17 = read %sum
                %18 = add %17, %16 : i32
                write %sum = %18
                %19 = read %odd
                %20 = not %19 : bool<A>
                %21 = lt %10, %14 : bool<A>
                %22 = and %20, %21 : bool<A>
                write %odd = %22
              }}
              %23 = read %h
              %24 = read %odd
              %25 = broadcast %0 : i32<A>
              %26 = select %24, %23, %25 : i32<A>
              set_element y[%1] = %26 where %5
              %27 = read %sum
              set_element z[%0] = %27 where %5
            }}"
        );
        let x = ints(rounds * extent, warps as u32);
        let found = run(&text, &[x.as_slice().into()], &[extent, 1]);
        let (mut h, mut sum, mut odd) = (vec![1i32; extent], 0i32, vec![false; extent]);
        for row in x.chunks(extent) {
            for i in 0..extent {
                h[i] = h[i].wrapping_mul(3).wrapping_add(row[i]);
                odd[i] = !odd[i] & (row[i] < h[i]);
                sum = sum.wrapping_add(h[i]);
            }
        }
        let y: Vec<i32> = (0..extent).map(|i| if odd[i] { h[i] } else { 0 }).collect();
        assert!(y.iter().any(|y| *y != 0), "something is to be seen");
        assert_eq!(found, [y, vec![sum]], "{warps} warps");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Tiles of tiles: gathered, compared, compacted, over and over in a loop, with a carry.
    #[test]
    fn a_stream_is_compacted_tile_by_tile(
        warps in 1usize..9,
        extent in 1usize..300,
        x in proptest::collection::vec(-9i32..9, 1..2000),
    ) {
        let rounds = x.len().div_ceil(extent);
        let last = x.len() - 1;
        let text = format!(
            "func @f target sm_80 warps {warps} {{
              axis A = {extent}
              param x : i32[n]
              param y : i32[n]
              param z : i32[n]
              var %base : i32 = 0
              %0 = const 0
              %1 = iota A
              %2 = const {rounds}
              %3 = const {extent}
              %4 = const {last}
              for %5 in %0..%2 {{
                %6 = mul %5, %3 : i32
                %7 = broadcast %6 : i32<A>
                %8 = add %1, %7 : i32<A>
                %9 = broadcast %4 : i32<A>
                %10 = min %8, %9 : i32<A>
                %11 = element x[%10] : i32<A>
                %12 = broadcast %0 : i32<A>
                %13 = lt %12, %11 : bool<A>
                %14 = le %8, %9 : bool<A>
                %15 = and %13, %14 : bool<A>
                %16 = scan %15 : i32<A>
                %17 = read %base
                %18 = broadcast %17 : i32<A>
                %19 = add %16, %18 : i32<A>
                set_element y[%19] = %11 where %15
                %20 = total %16
                %21 = add %17, %20 : i32
                write %base = %21
              }}
              %22 = read %base
              %23 = const true
              set_element z[%0] = %22 where %23
            }}"
        );
        let found = run(&text, &[x.as_slice().into()], &[x.len(), 1]);
        let mut packed: Vec<i32> = x.iter().copied().filter(|x| *x > 0).collect();
        prop_assert_eq!(found[1][0], packed.len() as i32);
        packed.resize(x.len(), -1);
        prop_assert_eq!(&found[0], &packed);
    }
}
