use super::*;
use crate::host::Dims;
use crate::inputs::{self, Qkv, Route};
use crate::reference::{attention as masked, masks};
use crate::tolerance;
use half::bf16;

const SMALL: MobaConfig = MobaConfig { block: 16, top: 3, rule: Rule::Past };

fn problem<'a>(x: &'a Qkv<bf16>, cu_seqlens: &'a [i32]) -> Problem<'a, bf16> {
    Problem {
        q: &x.q,
        k: &x.k,
        v: &x.v,
        cu_seqlens,
        cu_seqlens_k: cu_seqlens,
        scale: 1.0 / (x.q.shape[2] as f32).sqrt(),
    }
}

fn drawn(seed: u64, total: usize, hq: usize, hk: usize) -> Qkv<bf16> {
    inputs::qkv(seed, Dims { total, keys: total, hq, hk, dk: 16, dv: 24 })
}

fn same(a: &Attended<f64>, b: &Attended<f64>) -> bool {
    let close = |a: &[f64], b: &[f64]| a.iter().zip(b).all(|(a, b)| a == b || (a - b).abs() < 1e-12);
    a.o.shape == b.o.shape && close(&a.o.data, &b.o.data) && close(&a.lse.data, &b.lse.data)
}

fn routed(routing: &Host<i32>, config: MobaConfig) -> Routed<'_> {
    Routed { routing, config, full_heads: None }
}

/// Keys 1, 2, 3, 4 | 5, 6 in blocks of 4 and a document of one key behind them.
#[test]
fn blocks_are_averaged_and_have_the_slots_of_their_documents() {
    let k = Host::new([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0].map(bf16::from_f32).to_vec(), [7, 1, 1]);
    let cu = [0, 6, 6, 7];
    let (sides, config) = (Sides::same(&cu), MobaConfig::new(4, 2));
    let pooled = pool(&k, sides, config);
    // ceil(7 / 4) + 3 slots; the documents begin at slots 0, 1 + 1 and 1 + 2.
    assert_eq!(pooled.mean.data, [2.5, 5.5, 0.0, 7.0, 0.0].map(bf16::from_f32));
    assert_eq!([(0, 0), (0, 1), (1, 0), (2, 0)].map(|(d, b)| sides.slot(d, b, config)), [0, 1, 2, 3]);
}

/// 1 and 1 + 2^-7 are neighbours in bf16: their mean is a tie, and goes to the even one whoever sums it up. A third of
/// a sum of three is none.
#[test]
fn means_are_rounded_to_the_type_of_the_keys() {
    let up = 1.0 + 2f32.powi(-7);
    let k = Host::new([1.0, up, up, 1.0, up, up].map(bf16::from_f32).to_vec(), [6, 1, 1]);
    let of = |cu: &[i32], block| pool(&k, Sides::same(cu), MobaConfig::new(block, 1));
    let tie = of(&[0, 2], 2);
    assert_eq!(tie.mean.data[0].to_f32(), 1.0);
    assert_eq!(
        (tie.low.data[0].to_f32(), tie.high.data[0].to_f32()),
        (1.0, up),
        "a sum in f32 may fall on either side"
    );
    let third = of(&[0, 6], 3);
    assert_eq!(third.mean.data[..2], [bf16::from_f32(up); 2]);
    assert_eq!((&third.low, &third.high), (&third.mean, &third.mean));
}

#[test]
fn no_two_blocks_share_a_slot() {
    let cu = inputs::cu_seqlens(&[1, 0, 16, 17, 15, 33, 0, 48, 5]);
    let sides = Sides::same(&cu);
    let slots: Vec<usize> = (0..sides.documents())
        .flat_map(|d| (0..SMALL.blocks(sides.keys(d).len())).map(move |b| sides.slot(d, b, SMALL)))
        .collect();
    assert!(slots.windows(2).all(|two| two[0] < two[1]), "{slots:?}");
    assert!(slots[slots.len() - 1] < sides.slots(SMALL));
}

/// Queries and keys end together: 3 queries over 5 keys stand at 2, 3 and 4; of 4 over 2 the first two see nothing.
#[test]
fn queries_and_keys_end_together() {
    let (q, k) = ([0, 3, 7, 8], [0, 5, 7, 7]);
    let sides = Sides { q: &q, k: &k };
    let positions: Vec<i64> = (0..8).map(|token| sides.place(token).unwrap().position).collect();
    assert_eq!(positions, [2, 3, 4, -2, -1, 0, 1, -1]);
    assert_eq!(sides.place(5), Some(Place { document: 1, position: 0, keys: 2 }));
    assert_eq!(sides.place(8), None);
}

/// Two query heads over one KV head, blocks of 2 with means 1, 3 and 5: only complete past blocks have scores,
/// unscaled.
#[test]
fn scores_are_products_with_the_means_of_complete_past_blocks() {
    let k = Host::new([0.0, 2.0, 2.0, 4.0, 4.0, 6.0, 9.0].map(bf16::from_f32).to_vec(), [7, 1, 1]);
    let q = Host::new((0..14).map(|i| bf16::from_f32(if i % 2 == 0 { 1.0 } else { -2.0 })).collect(), [7, 2, 1]);
    let gated = gate(&q, &k, Sides::same(&[0, 7]), MobaConfig::new(2, 2));
    let scores: Vec<&[f64]> = gated.iter().map(|row| &row.scores[..]).collect();
    assert_eq!(scores[..4], [&[] as &[f64]; 4]);
    assert_eq!((scores[4], scores[5], scores[6]), (&[1.0][..], &[-2.0][..], &[1.0][..]));
    assert_eq!((scores[8], scores[12], scores[13]), (&[1.0, 3.0][..], &[1.0, 3.0, 5.0][..], &[-2.0, -6.0, -10.0][..]));
    assert!(gated[13].margin > 0.0 && gated[13].margin < 1e-4, "{}", gated[13].margin);
    let some = gate_rows(&q, &k, Sides::same(&[0, 7]), MobaConfig::new(2, 2), &[Row { token: 6, head: 1 }]);
    assert_eq!(some[0], gated[13]);
}

#[test]
fn the_own_block_is_first_and_the_best_follow() {
    let config = MobaConfig { top: 4, ..SMALL };
    let scores = [0.0, 3.0, 1.0, 3.0, 2.0, 3.0];
    assert_eq!(route_row(&scores, 6 * 16 + 3, config), [6, 1, 3, 5], "ties go to the lower block");
    assert_eq!(route_row(&scores[..3], 3 * 16, config), [3, 1, 2, 0]);
    assert_eq!(route_row(&scores[..2], 3 * 16 - 1, config), [2, 1, 0, -1]);
    assert_eq!(route_row(&[], 15, config), [0, -1, -1, -1]);
    assert_eq!(route_row(&[], -1, config), [-1; 4], "no key, no block");
    assert_eq!(route_row(&scores, 6 * 16, MobaConfig { top: 1, ..SMALL }), [6]);
    let lost = [f64::NAN, f64::NEG_INFINITY, -1.0];
    assert_eq!(route_row(&lost, 3 * 16, config), [3, 2, -1, -1], "NaN and -inf are no scores");
}

/// Scores ln 1, ln 2, ln 4, ln 1 of the others: shares 1/8, 2/8, 4/8, 1/8.
#[test]
fn vmoba_takes_what_reaches_the_share() {
    let scores = [1f64.ln(), 2f64.ln(), 50.0, 4f64.ln(), 1f64.ln()];
    let taken = |share, top| {
        route_row(&scores, 2 * 16 + 5, MobaConfig { block: 16, top, rule: Rule::Mass { share, scale: 1.0 } })
    };
    assert_eq!(taken(0.0, 3), [2, -1, -1], "the own block is forced, and has no part in the sum");
    assert_eq!(taken(0.3, 3), [2, 3, -1]);
    assert_eq!(taken(0.51, 3), [2, 3, 1]);
    assert_eq!(taken(0.8, 5), [2, 3, 1, 0, -1]);
    assert_eq!(taken(0.95, 5), [2, 3, 1, 0, 4]);
    assert_eq!(taken(1.5, 6), [2, 3, 1, 0, 4, -1]);
    assert_eq!(taken(0.95, 2), [2, 3]);
    // Under half the scale the shares are those of 1, √2, 2 and 1.
    let flatter = MobaConfig { block: 16, top: 5, rule: Rule::Mass { share: 0.6, scale: 0.5 } };
    assert_eq!(route_row(&scores, 0, flatter)[0], 0);
    assert_eq!(route_row(&scores, 2 * 16, flatter), [2, 3, 1, -1, -1]);
}

/// Not causal: the first query scores every block, the cut one at the end by the mean of what it has.
#[test]
fn vmoba_sees_what_lies_ahead() {
    let x = drawn(11, 40, 2, 1);
    let cu = inputs::cu_seqlens(&[40]);
    let config = MobaConfig { rule: Rule::Mass { share: 2.0, scale: 1.0 }, ..SMALL };
    let gated = gate(&x.q, &x.k, Sides::same(&cu), config);
    let mean: Vec<f64> = pool(&x.k, Sides::same(&cu), config).mean.row(2, 0).iter().map(|x| x.to_f64()).collect();
    let by_hand = (32..40).map(|t| x.k.row(t, 0)[5].to_f64()).sum::<f64>() / 8.0;
    assert!((mean[5] - by_hand).abs() < 4e-3 * by_hand.abs());
    let score: f64 = x.q.row(0, 1).iter().zip(&mean).map(|(q, k)| q.to_f64() * k).sum();
    assert!((gated[1].scores[2] - score).abs() < 1e-12 && gated[1].scores.len() == 3);
    let routing = route(&x.q, &x.k, Sides::same(&cu), config);
    let p = problem(&x, &cu);
    assert!(same(&attention(&p, &routed(&routing, config), None), &masked(&p, &masks::full)));
    for (row, gated) in gated.iter().enumerate() {
        check_route(routing.row(row / 2, row % 2), gated, row as i64 / 2, config).unwrap();
    }
}

/// Every length that there is, beside the other side's: a routing passes its own check, and one that is not is told.
#[test]
fn routes_of_every_length() {
    let (q, k) = ([1, 0, 7, 5, 16, 33, 90, 0, 20, 60], [1, 0, 7, 9, 16, 33, 90, 20, 0, 100]);
    let (q, k) = (inputs::cu_seqlens(&q), inputs::cu_seqlens(&k));
    let (x, y) = (drawn(4, 232, 6, 2), drawn(5, 276, 6, 2));
    let sides = Sides { q: &q, k: &k };
    let (routing, scores) = (route(&x.q, &y.k, sides, SMALL), gate(&x.q, &y.k, sides, SMALL));
    let (mut free, mut without) = (0, 0);
    for (row, gated) in scores.iter().enumerate() {
        let place = sides.place(row / 6).unwrap();
        check_route(routing.row(row / 6, row % 6), gated, place.position, SMALL).unwrap();
        free += usize::from(gated.scores.len() > 2);
        without += usize::from(place.position < 0);
    }
    assert!(free > 100 && without == 20 * 6, "{free} rows have a choice, {without} no block");
}

#[test]
fn check_route_says_what_is_wrong() {
    let gated = Gated { scores: vec![0.0, 3.0, 1.0, 2.95, 2.0], margin: 0.0 };
    let wide = Gated { margin: 0.1, ..gated.clone() };
    let at = |row: &[i32], gated: &Gated| check_route(row, gated, 5 * 16 + 1, SMALL).map_err(|e| e.to_string());
    assert_eq!(at(&[5, 1, 3], &gated), Ok(()));
    assert_eq!(at(&[5, 3, 1], &wide), Ok(()));
    let refused = |row, text: &str| assert_eq!(at(row, &gated), Err(text.to_string()));
    refused(&[5, 3, 1], "block 3 (score 2.95) stands before block 1 (score 3) at position 81");
    refused(&[5, 1, 4], "block 4 (score 2) stands before block 3 (score 2.95) at position 81");
    refused(&[4, 1, 3], "a row at position 81 begins with 4; its own block is 5");
    refused(&[5, 1, 5], "a row at position 81 lists 5: [5, 1, 5]");
    refused(&[5, 1, 1], "a row at position 81 lists 1: [5, 1, 1]");
    refused(&[5, 1, -2], "a row at position 81 lists -2: [5, 1, -2]");
    refused(&[5, 1, 6], "a row at position 81 lists 6: [5, 1, 6]");
    refused(&[5, 1, -1], "a row at position 81 lists 1 blocks; 2 to 2 is right");
    let none = check_route(&[0, -1, -1], &Gated::default(), -3, SMALL).unwrap_err().to_string();
    assert_eq!(none, "a row at position -3 begins with 0; its own block is -1");
    assert_eq!(check_route(&[-1; 3], &Gated::default(), -3, SMALL), Ok(()));
    let mass = MobaConfig { top: 5, rule: Rule::Mass { share: 0.5, scale: 1.0 }, ..SMALL };
    let scores = Gated { scores: vec![4f64.ln(), 2f64.ln(), 0.0, 1f64.ln()], margin: 0.0 };
    let counted = |row: &[i32], scores: &Gated| check_route(row, scores, 2 * 16, mass).map_err(|e| e.to_string());
    assert_eq!(counted(&[2, 0, -1, -1, -1], &scores), Ok(()));
    assert_eq!(
        counted(&[2, 0, 1, 3, -1], &Gated { margin: 1.0, ..scores.clone() }),
        Ok(()),
        "scores that may be off by 1 have any share"
    );
    assert_eq!(
        counted(&[2, 0, 1, -1, -1], &scores),
        Err("a row at position 32 lists 2 blocks; 1 to 1 is right".to_owned())
    );
}

#[test]
fn every_block_is_causal_attention() {
    for (hq, hk) in [(1, 1), (3, 1), (4, 4), (12, 2)] {
        let cu = inputs::cu_seqlens(&[1, 0, 37, 16, 33]);
        let x = drawn(5, 87, hq, hk);
        let p = problem(&x, &cu);
        let routing = route(&x.q, &x.k, Sides::same(&cu), SMALL);
        let causal = masked(&p, &masks::causal);
        assert!(same(&attention(&p, &routed(&routing, SMALL), None), &causal), "{hq}/{hk}");
        let two = MobaConfig { top: 2, ..SMALL };
        let routing = route(&x.q, &x.k, Sides::same(&cu), two);
        assert!(!same(&attention(&p, &routed(&routing, two), None), &causal), "{hq}/{hk}: block 0 or 1 is missing");
    }
}

/// A head that is full is causal whatever its routing, and changes no other.
#[test]
fn full_heads_are_full() {
    let cu = inputs::cu_seqlens(&[70, 0, 23]);
    let x = drawn(6, 93, 4, 2);
    let p = problem(&x, &cu);
    let routing = Host::filled(-1, [93, 4, 3]);
    let one = attention(&p, &Routed { full_heads: Some(&[0, 1, 0, 0]), ..routed(&routing, SMALL) }, None);
    let (causal, own) = (masked(&p, &masks::causal), masked(&p, &|q, kv| kv <= q && kv / 16 == q / 16));
    for token in 0..93 {
        for head in 0..4 {
            let want = if head == 1 { &causal } else { &own };
            assert_eq!(one.o.row(token, head), want.o.row(token, head), "token {token}, head {head}");
        }
    }
}

/// Fewer queries than keys see what the last of as many queries see; more queries than keys see nothing in the
/// beginning.
#[test]
fn unequal_sides_are_the_end_of_equal_ones() {
    let (x, long) = (drawn(7, 80, 4, 2), inputs::cu_seqlens(&[80]));
    let last = |host: &Host<bf16>, from: usize| {
        let [tokens, heads, width] = host.shape;
        Host::new(host.data[from * heads * width..].to_vec(), [tokens - from, heads, width])
    };
    let routing = route(&x.q, &x.k, Sides::same(&long), SMALL);
    let want = attention(&problem(&x, &long), &routed(&routing, SMALL), None);

    let (q, cu_q) = (last(&x.q, 43), inputs::cu_seqlens(&[37]));
    let sides = Sides { q: &cu_q, k: &long };
    let tail = route(&q, &x.k, sides, SMALL);
    assert_eq!(tail.data, routing.data[43 * 4 * 3..]);
    let few = Problem { q: &q, cu_seqlens: &cu_q, ..problem(&x, &long) };
    let got = attention(&few, &routed(&tail, SMALL), None);
    assert_eq!((&got.o.data[..], &got.lse.data[..]), (&want.o.data[43 * 4 * 24..], &want.lse.data[43 * 4..]));

    let (k, v, cu_k) = (last(&x.k, 43), last(&x.v, 43), inputs::cu_seqlens(&[37]));
    let many = Problem { k: &k, v: &v, cu_seqlens_k: &cu_k, ..problem(&x, &long) };
    let got = attention(&many, &routed(&Host::filled(0, [80, 4, 3]), SMALL), None);
    assert_eq!(got.lse.data[..43 * 4], [f64::NEG_INFINITY; 43 * 4]);
    assert!(got.o.data[..43 * 4 * 24].iter().all(|&o| o == 0.0));
    assert!(got.lse.data[43 * 4..].iter().all(|lse| lse.is_finite()));
}

/// Garbage in a routing is no block, wherever it stands; a block that is listed twice counts twice.
#[test]
fn what_is_no_block_is_skipped_and_a_repeated_one_counts_again() {
    let cu = inputs::cu_seqlens(&[100, 0, 33]);
    let (sides, x) = (Sides::same(&cu), drawn(8, 133, 5, 1));
    let config = MobaConfig { top: 5, ..SMALL };
    let good = inputs::routing(3, &cu, &cu, 5, 16, 5, Route::Random);
    let mut bad = good.clone();
    inputs::garbage(4, &mut bad, &cu, &cu, 16);
    assert_ne!(bad, good);
    let p = problem(&x, &cu);
    let want = attention(&p, &routed(&good, config), None);
    assert!(same(&attention(&p, &routed(&bad, config), None), &want));

    let twice = Host::new((0..133 * 5).flat_map(|_| [0, 1, 1, -1, -1]).collect(), [133, 5, 5]);
    let got = attention(&p, &routed(&twice, config), None);
    let part = |block: i64| masked(&p, &move |q, kv| kv <= q && kv / 16 == block).lse.data[70 * 5 + 2].exp();
    assert_eq!(sides.place(70).unwrap().position / 16, 4);
    assert!((got.lse.data[70 * 5 + 2] - (2.0 * part(1) + part(4)).ln()).abs() < 1e-12);
}

#[test]
fn the_plain_computation_is_near_and_rows_are_rows_of_the_whole() {
    let cu = inputs::cu_seqlens(&[200, 70]);
    let x = drawn(10, 270, 4, 2);
    let (p, routing) = (problem(&x, &cu), route(&x.q, &x.k, Sides::same(&cu), SMALL));
    let routed = routed(&routing, SMALL);
    let (whole, plain) = (attention(&p, &routed, None), tolerance::plain_routed(&p, &routed, None));
    let off = whole.o.data.iter().zip(&plain.o.data).map(|(a, b)| (a - f64::from(*b)).abs()).fold(0.0, f64::max);
    assert!(off > 0.0 && off < 0.02, "{off}");
    let rows = [(269, 3), (0, 1), (200, 2), (199, 0)].map(|(token, head)| Row { token, head });
    let some = attention(&p, &routed, Some(&rows));
    assert_eq!((some.o, some.lse), (whole.o.gather(&rows), whole.lse.gather(&rows)));
    let some = tolerance::plain_routed(&p, &routed, Some(&rows));
    assert_eq!((some.o, some.lse), (plain.o.gather(&rows), plain.lse.gather(&rows)));
}
