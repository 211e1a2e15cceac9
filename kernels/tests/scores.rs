//! Every shipped score, as recorded, against the same by hand, on drawn numbers.

use lacuna_dsl::Score;
use lacuna_kernels::reference::scores as by_hand;
use lacuna_kernels::{inputs, scores};

/// Logits of all sizes, with positions before, at and behind each other.
fn drawn() -> impl Iterator<Item = (f64, i64, i64)> {
    let noise =
        inputs::qkv::<f32>(5, lacuna_kernels::host::Dims { total: 40, keys: 40, hq: 2, hk: 1, dk: 32, dv: 32 }).q.data;
    let sizes = [1.0, 30.0, 1e-3, 1e4];
    noise.into_iter().enumerate().map(move |(i, x)| {
        let (q, kv) = (i as i64 * 37 % 5000, i as i64 * 101 % 3000);
        (f64::from(x) * sizes[i % 4], q, kv)
    })
}

/// `tables` are `[heads, ..]`.
fn compare(score: &Score, tables: &[Vec<f32>], heads: usize, hand: &dyn Fn(f64, i64, i64, usize) -> f64) {
    assert_eq!(score.check(), Ok(()));
    assert_eq!(score.tables().count(), tables.len());
    let mut changed = 0;
    for (i, (logit, q, kv)) in drawn().enumerate() {
        let head = i % heads;
        let of_head = |table: &Vec<f32>| table.chunks(table.len() / heads).nth(head).unwrap().to_vec();
        let numbers: Vec<Vec<f32>> = tables.iter().map(of_head).collect();
        let numbers: Vec<&[f32]> = numbers.iter().map(Vec::as_slice).collect();
        let (got, want) = (score.of(logit, q, kv, &numbers), hand(logit, q, kv, head));
        assert!((got - want).abs() <= 1e-9 * (1.0 + want.abs()), "{logit} at {q}, {kv}: {got}, not {want}");
        changed += usize::from(want != logit);
    }
    assert!(changed > 1000, "the score does something");
}

#[test]
fn the_recorded_score_is_the_one_by_hand() {
    for heads in [1, 7, 12, 16] {
        let slopes = scores::slopes(heads);
        for (a, b) in slopes.iter().zip(by_hand::alibi_slopes(heads)) {
            assert!((a - b).abs() <= f32::EPSILON * b, "{a}, not {b}");
        }
        compare(&scores::alibi(), std::slice::from_ref(&slopes), heads, &by_hand::alibi(slopes.clone()));
    }
    for (heads, entries, ahead) in [(1, 1, 0), (3, 129, 0), (2, 700, 300)] {
        let table = inputs::normal::<f32, 2>(9, [heads, entries], 1.0).data;
        let hand = by_hand::relative_bias(table.clone(), entries, ahead.into());
        compare(&scores::relative_bias(ahead), &[table], heads, &hand);
    }
    for cap in [1.0, 20.0, 50.0] {
        compare(&scores::softcap(cap), &[], 1, &by_hand::softcap(cap.into()));
    }
}

#[test]
fn slopes_are_those_of_the_paper() {
    assert_eq!(scores::slopes(8), [0.5, 0.25, 0.125, 0.0625, 0.03125, 0.015625, 0.0078125, 0.00390625]);
}

#[test]
fn infinities_go_where_they_should() {
    assert_eq!(scores::alibi().of(f64::NEG_INFINITY, 5, 2, &[&[0.5]]), f64::NEG_INFINITY);
    assert_eq!(scores::softcap(30.0).of(f64::NEG_INFINITY, 5, 2, &[]), -30.0);
    assert_eq!(by_hand::softcap(30.0)(f64::NEG_INFINITY, 5, 2, 0), -30.0);
}

/// T5's function as its paper and code have it, for a decoder: whole distances, then a logarithm, then the last bucket.
#[test]
fn buckets_are_those_of_t5() {
    let numbers: Vec<f32> = (0..64).map(|x| x as f32).collect();
    let table = scores::t5_bias(&numbers, 32, 128);
    assert_eq!(table.len(), 2 * 129);
    for (head, row) in table.chunks(129).enumerate() {
        for (distance, &got) in row.iter().enumerate() {
            let bucket = match distance {
                0..16 => distance,
                _ => (16 + ((distance as f64 / 16.0).ln() / 8f64.ln() * 16.0) as usize).min(31),
            };
            assert_eq!(got, (head * 32 + bucket) as f32, "head {head}, distance {distance}");
        }
        assert_eq!(
            (row[15], row[16], row[128]),
            ((head * 32 + 15) as f32, (head * 32 + 16) as f32, (head * 32 + 31) as f32)
        );
    }
}
