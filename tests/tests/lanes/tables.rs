//! Tables in shared memory, and counting.

use proptest::prelude::*;

use crate::program::{Words, assembled, run};

#[test]
fn a_table_is_read_where_it_was_set() {
    // Set in one order, read in the reverse one; places outside are left alone and read as zero.
    for (warps, extent, slots) in [(1, 32, 32), (1, 40, 100), (2, 100, 50), (4, 300, 300), (3, 70, 64)] {
        let text = format!(
            "func @f target sm_80 warps {warps} {{
              axis A = {extent}
              axis Slot = {slots}
              param x : i32[n]
              param y : i32[n]
              param one : i32[n]
              table $t over Slot
              %0 = const 0
              %1 = const true
              %2 = iota Slot
              %3 = const -5
              set $t[%2] = %3 where %1
              %4 = iota A
              %5 = element x[%4] : i32<A>
              %6 = const 9
              %7 = broadcast %6 : i32<A>
              %8 = ne %5, %7 : bool<A>
              set $t[%4] = %5 where %8
              %9 = const {last}
              %10 = broadcast %9 : i32<A>
              %11 = sub %10, %4 : i32<A>
              %12 = get $t[%11] : i32<A>
              set_element y[%4] = %12 where %1
              set $t[%3] = %6 where %1
              set $t[%0] = %6 where %1
              %13 = get $t[%0]: i32
              set_element one[%0] = %13 where %1
            }}",
            last = extent - 1
        );
        let x: Vec<i32> = (0..extent).map(|i| i * 7 % 12).collect();
        let found = run(&text, &[x.as_slice().into()], &[extent as usize, 1]);
        let held = |i: i32| match i {
            i if i >= slots => 0,
            i if x[i as usize] == 9 => -5,
            i => x[i as usize],
        };
        let y: Vec<i32> = (0..extent).rev().map(held).collect();
        assert_eq!(found, [y, vec![9]], "{extent} elements, {slots} places, {warps} warps");
    }
}

/// A func that sets a table to its places, and goes through so many elements, an extent a round: their numbers are %12, whether
/// there is such a one %13, their places %14, and whether they are kept besides %18. It stores the table to `sums`.
fn by_rounds(warps: usize, extent: usize, slots: i32, elements: usize, param: &str, body: &str) -> String {
    let (rounds, last) = (elements.div_ceil(extent), elements - 1);
    format!(
        "func @f target sm_80 warps {warps} {{
          axis A = {extent}
          axis Slot = {slots}
          param place : i32[n]
          param keep : i32[n]
          param {param} : i32[n]
          param sums : i32[n]
          table $t over Slot
          %0 = const 0
          %1 = const true
          %2 = iota Slot
          set $t[%2] = %2 where %1
          %3 = const {rounds}
          %4 = const {extent}
          %5 = iota A
          %6 = const {last}
          for %7 in %0..%3 {{
            %8 = mul %7, %4 : i32
            %9 = broadcast %8 : i32<A>
            %10 = add %5, %9 : i32<A>
            %11 = broadcast %6 : i32<A>
            %12 = min %10, %11 : i32<A>
            %13 = le %10, %11 : bool<A>
            %14 = element place[%12] : i32<A>
            %15 = element keep[%12] : i32<A>
            %16 = broadcast %0 : i32<A>
            %17 = ne %15, %16 : bool<A>
            %18 = and %13, %17 : bool<A>
            {body}
          }}
          %20 = get $t[%2] : i32<Slot>
          set_element sums[%2] = %20 where %1
        }}"
    )
}

/// A place that is drawn: a sixteenth are wild, and half of those negative.
fn place(drawn: u16, spread: i32) -> i32 {
    match drawn & 15 {
        0 => i32::from(drawn as i16) << 16,
        _ => i32::from(drawn >> 4) % spread - 2,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// In the order of the elements, whatever they are: all alike, all different, none that counts, many outside.
    #[test]
    fn counts_come_in_the_order_of_the_elements(
        extent in 1usize..200,
        slots in 1i32..70,
        spread in 1i32..90,
        keys in proptest::collection::vec((any::<u16>(), 0u8..8), 1..1000),
    ) {
        let keys: Vec<(i32, bool)> = keys.into_iter().map(|(key, keep)| (place(key, spread), keep > 0)).collect();
        let text = by_rounds(1, extent, slots, keys.len(), "at", "
          %19 = count_up $t[%14] where %18 : i32<A>
          set_element at[%12] = %19 where %13");
        let (key, keep): (Vec<i32>, Vec<i32>) = keys.iter().map(|&(key, keep)| (key, i32::from(keep))).unzip();
        let inputs: [Words; 2] = [key.as_slice().into(), keep.as_slice().into()];
        let found = run(&text, &inputs, &[keys.len(), slots as usize]);
        let mut counts: Vec<i32> = (0..slots).collect();
        let mut at = Vec::new();
        for (key, keep) in keys {
            let inside = (0..slots).contains(&key) && keep;
            at.push(if inside { counts[key as usize] } else { 0 });
            if inside {
                counts[key as usize] += 1;
            }
        }
        prop_assert_eq!(&found[0], &at);
        prop_assert_eq!(&found[1], &counts);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Several warps add to a table at once; places repeat, and some are outside.
    #[test]
    fn sums_are_those_of_plain_rust(
        warps in 1usize..5,
        extent in 1usize..200,
        slots in 1i32..70,
        spread in 1i32..90,
        added in proptest::collection::vec((any::<u16>(), any::<i32>(), 0u8..8), 1..1000),
    ) {
        let text = by_rounds(warps, extent, slots, added.len(), "value", "
          %19 = element value[%12] : i32<A>
          add_to $t[%14] += %19 where %18");
        let places: Vec<i32> = added.iter().map(|added| place(added.0, spread)).collect();
        let values: Vec<i32> = added.iter().map(|added| added.1).collect();
        let keep: Vec<i32> = added.iter().map(|added| i32::from(added.2 > 0)).collect();
        let inputs: [Words; 3] = [places.as_slice().into(), keep.as_slice().into(), values.as_slice().into()];
        let found = run(&text, &inputs, &[slots as usize]);
        let mut sums: Vec<i32> = (0..slots).collect();
        for ((place, value), keep) in places.into_iter().zip(values).zip(keep) {
            if keep != 0 && (0..slots).contains(&place) {
                sums[place as usize] = sums[place as usize].wrapping_add(value);
            }
        }
        prop_assert_eq!(&found[0], &sums);
    }
}

#[test]
fn what_is_never_kept_counts_nothing() {
    let text = "func @f target sm_80 warps 1 {
      axis A = 40
      axis Slot = 4
      param at : i32[n]
      param count : i32[n]
      table $t over Slot
      %0 = const 3
      %1 = const true
      %2 = iota Slot
      set $t[%2] = %0 where %1
      %3 = iota A
      %4 = const false
      %5 = count_up $t[%3] where %4 : i32<A>
      set_element at[%3] = %5 where %1
      %6 = get $t[%2] : i32<Slot>
      set_element count[%2] = %6 where %1
    }";
    assert_eq!(run(text, &[], &[40, 4]), [vec![0; 40], vec![3; 4]]);
    let counted = text.replace("false", "true");
    assert_eq!(assembled(&counted).spill_stores, 0);
    let mut at = vec![3; 4];
    at.resize(40, 0);
    assert_eq!(run(&counted, &[], &[40, 4]), [at, vec![4; 4]]);
}
