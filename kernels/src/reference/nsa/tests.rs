use super::*;
use crate::host::Dims;
use crate::inputs::{self, Locality, Qkv, Spoil};
use crate::reference::{attention, masks};
use half::bf16;

const SMALL: NsaConfig = NsaConfig { l: 8, d: 4, l_sel: 16, n: 4 };

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

#[test]
fn overlap_scores_of_the_check_vector() {
    let p: Vec<f64> = (0..9).map(|i| f64::from(1 << i)).collect();
    assert_eq!(overlap_scores(&p, NsaConfig::PAPER, 3), [22.0, 360.0, 640.0]);
    assert_eq!(overlap_scores(&[], NsaConfig::PAPER, 2), [0.0, 0.0]);
}

/// Eq. 9 is the geometric overlap: a compression block gives its probability once for each `d` tokens that it shares
/// with the selection block.
#[test]
fn overlap_scores_are_the_shared_tokens() {
    for (l, d, l_sel) in [(32, 16, 64), (8, 4, 16), (16, 16, 32), (12, 4, 8), (4, 4, 4), (32, 8, 64)] {
        let config = NsaConfig { l, d, l_sel, n: 3 };
        let p: Vec<f64> = (0..config.compressed(10 * l_sel + 3)).map(|i| (i * i % 17) as f64).collect();
        for (j, score) in overlap_scores(&p, config, 11).into_iter().enumerate() {
            let shared = |i: usize| {
                let (start, end) = ((i * d).max(j * l_sel), (i * d + l).min((j + 1) * l_sel));
                (end.saturating_sub(start) / d) as f64
            };
            let want: f64 = p.iter().enumerate().map(|(i, p)| p * shared(i)).sum();
            assert_eq!(score, want, "block {j} of {config:?}");
        }
    }
}

#[test]
fn compression_counts_and_averages() {
    for (tokens, blocks) in [(0, 0), (1, 0), (31, 0), (32, 1), (47, 1), (48, 2), (64, 3)] {
        assert_eq!(NsaConfig::PAPER.compressed(tokens), blocks, "{tokens} tokens");
    }
    let x = drawn(1, 40, 2, 2);
    let got = compress(&x.k, &[0, 7, 7, 19, 40], SMALL);
    assert_eq!((got.cu_seqlens, got.data.shape), (vec![0, 0, 0, 2, 6], [6, 2, 16]));
    let want = (23..31).map(|t| x.k.row(t, 1)[9].to_f64()).sum::<f64>() / 8.0;
    assert!((got.data.row(3, 1)[9] - want).abs() < 1e-15);
}

#[test]
fn compressed_attention_sees_whole_past_blocks() {
    let mut x = drawn(2, 20, 3, 1);
    x.q.data.fill(bf16::ZERO);
    let got = compressed_attention(&problem(&x, &[0, 20]), SMALL);
    for t in 0..20usize {
        let visible = if t < 7 { 0 } else { (t - 7) / 4 + 1 };
        let lse = got.lse.data[t * 3];
        assert!(lse == (visible as f64).ln() || (lse - (visible as f64).ln()).abs() < 1e-15, "token {t}: {lse}");
        assert_eq!(got.o.row(t, 0).iter().all(|&o| o == 0.0), visible == 0);
    }
    let mean =
        (0..12).map(|t| x.v.row(t, 0)[0].to_f64() * if (4..8).contains(&t) { 2.0 } else { 1.0 }).sum::<f64>() / 16.0;
    assert!((got.o.row(11, 2)[0] - mean).abs() < 1e-15);
}

#[test]
fn scores_are_summed_over_the_group() {
    let x = drawn(3, 60, 6, 2);
    let scores = selection_scores(&x.q, &x.k, &[0, 60], SMALL);
    let (token, kv_head) = (50, 1);
    let k_cmp = compress(&x.k, &[0, 60], SMALL).data;
    let mut want = vec![0.0; 4];
    for head in 3..6 {
        let logit = |i: usize| {
            let k = k_cmp.row(i, kv_head);
            0.25 * x.q.row(token, head).iter().zip(k).map(|(q, k)| q.to_f64() * k).sum::<f64>()
        };
        let e: Vec<f64> = (0..=(50 - 7) / 4).map(|i| logit(i).exp()).collect();
        let sum: f64 = e.iter().sum();
        let p: Vec<f64> = e.iter().map(|e| e / sum).collect();
        want.iter_mut().zip(overlap_scores(&p, SMALL, 4)).for_each(|(w, s)| *w += s);
    }
    let far = scores[token * 2 + kv_head].iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(far < 1e-12, "off by {far}");
    let some =
        selection_scores_rows(&x.q, &x.k, &[0, 60], SMALL, &[Row { token, head: kv_head }, Row { token: 59, head: 0 }]);
    assert_eq!(some, [scores[token * 2 + kv_head].clone(), scores[118].clone()]);
}

#[test]
fn top_n_forces_ranks_and_pads() {
    let config = NsaConfig { n: 5, ..SMALL };
    let scores = [0.0, 3.0, 1.0, 3.0, 2.0, 3.0, 0.0, 9.0];
    assert_eq!(top_n(&scores, 6 * 16 + 3, config), [0, 1, 3, 5, 6], "ties go to the lower block, 7 lies in the future");
    assert_eq!(top_n(&scores, 7 * 16, config), [0, 1, 3, 6, 7]);
    assert_eq!(top_n(&scores, 3 * 16, config), [0, 1, 2, 3, -1]);
    assert_eq!(top_n(&scores, 16, config), [0, 1, -1, -1, -1]);
    assert_eq!(top_n(&scores, 15, config), [0, -1, -1, -1, -1]);
    assert_eq!(top_n(&[0.0; 8], 7 * 16, config), [0, 1, 2, 6, 7], "scores of 0 are chosen too");
    let nan = [0.0, f64::NAN, 1.0, f64::NAN, 0.5, 0.0, 0.0, 0.0];
    assert_eq!(top_n(&nan, 7 * 16, config), [0, 2, 4, 6, 7]);
    assert_eq!(top_n(&[0.0; 8], 7 * 16, NsaConfig { n: 3, ..SMALL }), [0, 6, 7]);
}

#[test]
#[should_panic(expected = "n = 2 leaves no room for the three forced blocks")]
fn fewer_picks_than_forced_blocks_are_refused() {
    top_n(&[0.0], 0, NsaConfig { n: 2, ..SMALL });
}

#[test]
#[should_panic(expected = "d = 3 divides neither l = 8 nor l' = 16")]
fn a_stride_that_does_not_divide_is_refused() {
    compress(&drawn(1, 4, 1, 1).k, &[0, 4], NsaConfig { d: 3, ..SMALL });
}

/// Lengths below `l`, of 1, of 0, no multiple of `d`, `l` or `l'`, and more picks than blocks.
#[test]
fn select_handles_every_length() {
    let cu = inputs::cu_seqlens(&[1, 0, 7, 5, 16, 33, 90, 0]);
    let x = drawn(4, 152, 3, 1);
    let picks = select(&x.q, &x.k, &cu, SMALL);
    let scores = selection_scores(&x.q, &x.k, &cu, SMALL);
    assert_eq!(picks.shape, [152, 1, 4]);
    let mut free = 0;
    for w in cu.windows(2) {
        let (start, length) = (w[0] as usize, (w[1] - w[0]) as usize);
        for position in 0..length {
            let (row, scores) = (picks.row(start + position, 0), &scores[start + position]);
            assert_eq!(scores.len(), SMALL.blocks(length));
            check_picks(row, scores, position, SMALL, 0.0).unwrap();
            free += usize::from(position / 16 >= 4);
            let blocks = row.iter().filter(|&&b| b >= 0).count();
            assert!(row[..blocks].is_sorted() && row[blocks..].iter().all(|&b| b == -1));
        }
    }
    assert!(free > 10, "some rows must leave a choice");
    assert_eq!(picks.row(0, 0), [0, -1, -1, -1]);
}

#[test]
fn check_picks_says_what_is_wrong() {
    let scores = [0.0, 3.0, 1.0, 2.95, 2.0, 0.0, 0.0];
    let at = |picks: &[i32], margin| check_picks(picks, &scores, 6 * 16, SMALL, margin).map_err(|e| e.to_string());
    assert_eq!(at(&[6, 1, 0, 5], 0.0), Ok(()));
    assert_eq!(at(&[0, 3, 5, 6], 0.1), Ok(()));
    let refused = |picks, margin, text: &str| assert_eq!(at(picks, margin), Err(text.to_string()));
    refused(&[0, 3, 5, 6], 0.01, "block 3 (score 2.95) was chosen over block 1 (score 3) at position 96");
    refused(&[0, 1, 1, 6], 0.0, "block 1 is listed at position 96, where blocks 0 to 6 may be, each once");
    refused(&[0, 1, 7, 6], 0.0, "block 7 is listed at position 96, where blocks 0 to 6 may be, each once");
    refused(&[0, -2, 5, 6], 0.0, "block -2 is listed at position 96, where blocks 0 to 6 may be, each once");
    refused(&[0, 1, 2, 6], 0.0, "block 5 is forced at position 96 and is not listed");
    refused(&[0, -1, 5, 6], 0.0, "3 blocks are listed at position 96, where 4 must be");
}

#[test]
fn every_block_selected_is_causal_attention() {
    for (hq, hk) in [(1, 1), (2, 1), (3, 1), (5, 1), (12, 2), (7, 1), (16, 1), (64, 1)] {
        let cu = inputs::cu_seqlens(&[1, 0, 37, 16]);
        let x = drawn(5, 54, hq, hk);
        let all: Vec<i32> = (0..54 * hk).flat_map(|_| [2, 0, 1]).collect();
        let got = selected_attention(&problem(&x, &cu), &Host::new(all, [54, hk, 3]), 16);
        assert!(same(&got, &attention(&problem(&x, &cu), &masks::causal)), "{hq}/{hk}");
    }
}

#[test]
fn only_the_selected_blocks_count() {
    let x = drawn(6, 40, 6, 2);
    let cu = inputs::cu_seqlens(&[40]);
    let picks = Host::new((0..80).flat_map(|row| if row % 2 == 0 { [0, 2] } else { [1, -1] }).collect(), [40, 2, 2]);
    let got = selected_attention(&problem(&x, &cu), &picks, 16);
    let head_0 = attention(&problem(&x, &cu), &|q, kv| kv <= q && kv / 16 != 1);
    let head_1 = attention(&problem(&x, &cu), &|q, kv| kv <= q && kv / 16 == 1);
    for t in 0..40 {
        assert_eq!(got.o.row(t, 2), head_0.o.row(t, 2), "token {t}");
        assert_eq!(got.o.row(t, 3), head_1.o.row(t, 3), "token {t}");
    }
    assert_eq!(got.lse.data[3], f64::NEG_INFINITY, "block 1 lies in the future of token 0");
}

#[test]
fn order_does_not_count_and_what_is_no_block_is_skipped() {
    let cu = inputs::cu_seqlens(&[100, 0, 33]);
    let x = drawn(7, 133, 5, 1);
    let good = inputs::picks(7, &cu, 1, 16, 5, Locality::PerToken);
    let p = problem(&x, &cu);
    let want = selected_attention(&p, &good, 16);
    for how in [Spoil::Shuffle, Spoil::OutOfRange] {
        let mut picks = good.clone();
        inputs::spoil(8, &mut picks, &cu, 16, how);
        assert_ne!(picks, good);
        assert!(same(&selected_attention(&p, &picks, 16), &want), "{how:?}");
    }
}

#[test]
fn a_row_of_nothing_is_zero_and_a_repeated_block_counts_again() {
    let cu = inputs::cu_seqlens(&[50]);
    let x = drawn(9, 50, 3, 1);
    let p = problem(&x, &cu);
    let mut picks = Host::filled(-1, [50, 1, 3]);
    picks.row_mut(40, 0).copy_from_slice(&[0, 0, 1]);
    picks.row_mut(41, 0).copy_from_slice(&[1, 1, 1]);
    let got = selected_attention(&p, &picks, 16);
    assert_eq!(got.lse.data[..120], [f64::NEG_INFINITY; 120]);
    assert!(got.o.data[..40 * 72].iter().all(|&o| o == 0.0));

    let once = attention(&p, &|_, kv| kv / 16 == 1);
    assert!((got.lse.data[41 * 3] - once.lse.data[41 * 3] - 3f64.ln()).abs() < 1e-12);
    assert!(got.o.row(41, 0).iter().zip(once.o.row(41, 0)).all(|(a, b)| (a - b).abs() < 1e-12));

    let zero = attention(&p, &|_, kv| kv / 16 == 0).lse.data[40 * 3];
    let one = once.lse.data[40 * 3];
    assert!((got.lse.data[40 * 3] - (2.0 * zero.exp() + one.exp()).ln()).abs() < 1e-12);
}

#[test]
fn sampled_rows_are_rows_of_the_whole() {
    let cu = inputs::cu_seqlens(&[70, 30]);
    let x = drawn(10, 100, 4, 2);
    let picks = inputs::picks(1, &cu, 2, 16, 3, Locality::PerToken);
    let rows = [(99, 3), (0, 1), (70, 2), (69, 0)].map(|(token, head)| Row { token, head });
    let whole = selected_attention(&problem(&x, &cu), &picks, 16);
    let some = selected_attention_rows(&problem(&x, &cu), &picks, 16, &rows);
    assert_eq!((some.o, some.lse), (whole.o.gather(&rows), whole.lse.gather(&rows)));
}

/// The last queries of a sequence select, over all of its keys, what they select among all queries; one that is before every
/// key selects nothing.
#[test]
fn selections_of_queries_with_keys_of_their_own() {
    let (x, cu) = (drawn(11, 150, 4, 2), inputs::cu_seqlens(&[150]));
    let whole = select(&x.q, &x.k, &cu, SMALL);
    let q = Host::new(x.q.data[100 * 4 * 16..].to_vec(), [50, 4, 16]);
    let few = select(&q, &x.k, Sides { q: &[0, 50], k: &cu }, SMALL);
    assert_eq!(few.data, whole.data[100 * 2 * SMALL.n..]);
    let k = Host::new(x.k.data[..30 * 2 * 16].to_vec(), [30, 2, 16]);
    let many = select(&x.q, &k, Sides { q: &cu, k: &[0, 30] }, SMALL);
    assert!(many.data[..120 * 2 * SMALL.n].iter().all(|&block| block == -1));
    assert!(many.data[120 * 2 * SMALL.n..].chunks(SMALL.n).all(|row| row[0] == 0));
}
