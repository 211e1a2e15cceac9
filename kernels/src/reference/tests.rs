use super::*;
use crate::host::Dims;
use crate::inputs;
use half::bf16;

const DIMS: Dims = Dims { total: 23, keys: 23, hq: 6, hk: 2, dk: 20, dv: 12 };

fn problem<'a>(x: &'a inputs::Qkv<bf16>, cu_seqlens: &'a [i32]) -> Problem<'a, bf16> {
    Problem { q: &x.q, k: &x.k, v: &x.v, cu_seqlens, cu_seqlens_k: cu_seqlens, scale: 0.21 }
}

/// The same formula with nothing shared: no maximum taken off, no lists, sums in index order.
fn naive(p: &Problem<'_, bf16>, mask: impl Fn(i64, i64) -> bool, token: usize, head: usize) -> (Vec<f64>, f64) {
    let sequence = p.cu_seqlens.windows(2).find(|w| (w[0]..w[1]).contains(&(token as i32))).unwrap();
    let kv_head = head / p.group();
    let (mut o, mut sum) = (vec![0.0; p.v.shape[2]], 0.0);
    for j in sequence[0]..sequence[1] {
        if mask((token as i32 - sequence[0]).into(), (j - sequence[0]).into()) {
            let (q, k) = (p.q.row(token, head), p.k.row(j as usize, kv_head));
            let s: f64 = q.iter().zip(k).map(|(a, b)| a.to_f64() * b.to_f64()).sum();
            let e = (s * f64::from(p.scale)).exp();
            sum += e;
            o.iter_mut().zip(p.v.row(j as usize, kv_head)).for_each(|(o, v)| *o += e * v.to_f64());
        }
    }
    (o.into_iter().map(|x| if sum == 0.0 { 0.0 } else { x / sum }).collect(), sum.ln())
}

#[test]
fn is_the_naive_formula() {
    let x = inputs::qkv::<bf16>(1, DIMS);
    let cu = inputs::cu_seqlens(&[9, 0, 1, 13]);
    let p = problem(&x, &cu);
    let odd = |q: i64, kv: i64| (q + kv) % 3 == 1 && kv <= q;
    for mask in [&masks::causal as Mask<'_>, &masks::full, &masks::window_sink(3, 1), &odd] {
        let got = attention(&p, mask);
        assert_eq!((got.o.shape, got.lse.shape), ([23, 6, 12], [23, 6]));
        for Row { token, head } in p.rows() {
            let (o, lse) = naive(&p, mask, token, head);
            let l = got.lse.data[token * 6 + head];
            assert!(l == lse || (l - lse).abs() < 1e-12, "lse of {token} {head}: {l} and {lse}");
            let far = got.o.row(token, head).iter().zip(&o).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(far < 1e-12, "o of {token} {head} is off by {far}");
        }
    }
}

#[test]
fn equal_logits_give_the_mean_and_the_count() {
    let mut x = inputs::qkv::<bf16>(2, DIMS);
    x.q.data.fill(bf16::ZERO);
    let got = attention(&problem(&x, &[0, 23]), &masks::causal);
    for t in 0..23 {
        assert!((got.lse.data[t * 6] - ((t + 1) as f64).ln()).abs() < 1e-14);
        let mean = (0..=t).map(|j| x.v.row(j, 1)[5].to_f64()).sum::<f64>() / (t + 1) as f64;
        assert!((got.o.row(t, 4)[5] - mean).abs() < 1e-14);
    }
}

#[test]
fn a_query_head_reads_the_kv_head_of_its_group() {
    for (hq, hk) in [(1, 1), (3, 1), (10, 2), (12, 2), (21, 3), (64, 1)] {
        let dims = Dims { total: 3, keys: 3, hq, hk, dk: 8, dv: 8 };
        let mut x = inputs::qkv::<bf16>(3, dims);
        for (t, h) in (0..3).flat_map(|t| (0..hk).map(move |h| (t, h))) {
            x.v.row_mut(t, h).fill(bf16::from_f32(h as f32 + 1.0));
        }
        let got = attention(&problem(&x, &[0, 3]), &masks::full);
        for head in 0..hq {
            let want = (head / (hq / hk) + 1) as f64;
            assert!(got.o.row(2, head).iter().all(|&o| (o - want).abs() < 1e-14), "head {head} of {hq}/{hk}");
        }
    }
}

#[test]
fn sampled_rows_are_rows_of_the_whole() {
    let x = inputs::qkv::<bf16>(4, DIMS);
    let cu = inputs::cu_seqlens(&[9, 14]);
    let p = problem(&x, &cu);
    let rows = [(22, 5), (0, 0), (9, 2), (8, 3), (22, 5)].map(|(token, head)| Row { token, head });
    let (whole, some) = (attention(&p, &masks::causal), attention_rows(&p, &masks::causal, &rows));
    assert_eq!(some.o, whole.o.gather(&rows));
    assert_eq!(some.lse, whole.lse.gather(&rows));
}

#[test]
fn a_row_without_keys_is_zero() {
    let x = inputs::qkv::<bf16>(5, DIMS);
    let none_for_4 = |q: i64, kv: i64| q != 4 && kv <= q;
    let got = attention(&problem(&x, &[0, 23]), &none_for_4);
    assert_eq!(got.lse.data[4 * 6..5 * 6], [f64::NEG_INFINITY; 6]);
    assert!((0..6).all(|h| got.o.row(4, h).iter().all(|&o| o == 0.0)));
    assert!(got.o.row(5, 0).iter().all(|&o| o != 0.0));
}

#[test]
fn nan_and_infinity_propagate_to_the_rows_that_see_them_only() {
    let mut x = inputs::qkv::<bf16>(6, DIMS);
    x.k.row_mut(10, 0)[3] = bf16::NAN;
    x.v.row_mut(12, 1)[2] = bf16::INFINITY;
    let got = attention(&problem(&x, &[0, 23]), &masks::causal);
    for t in 0..23 {
        assert_eq!(got.lse.data[t * 6].is_nan(), t >= 10, "lse of {t}");
        assert_eq!(got.o.row(t, 2)[7].is_nan(), t >= 10, "o of {t}");
        assert_eq!(got.o.row(t, 3)[2] == f64::INFINITY, t >= 12, "o of {t}");
        assert!(got.o.row(t, 3)[3].is_finite() && got.lse.data[t * 6 + 3].is_finite());
    }
}

#[test]
fn a_logit_of_minus_infinity_is_no_key() {
    let rows = [Row { token: 7, head: 1 }];
    let x = inputs::infinite_rows::<bf16>(7, DIMS, &rows);
    let got = attention(&problem(&x, &[0, 23]), &masks::causal);
    assert_eq!(got.lse.gather(&rows).data, [f64::NEG_INFINITY]);
    assert!(got.o.row(7, 1).iter().all(|&o| o == 0.0));
    assert!(got.o.data.iter().all(|o| o.is_finite()));

    let mut x = inputs::qkv::<bf16>(7, DIMS);
    x.q.row_mut(7, 1)[0] = bf16::ONE;
    x.k.row_mut(7, 0)[0] = bf16::NEG_INFINITY;
    let cut = attention(&problem(&x, &[0, 23]), &|q, kv| kv <= q && kv != 7).o;
    assert_eq!(attention(&problem(&x, &[0, 23]), &masks::causal).o.row(7, 1), cut.row(7, 1));
}

#[test]
fn large_logits_stay_finite() {
    let x = inputs::large_logits::<bf16>(8, DIMS, 4000.0);
    let got = attention(&problem(&x, &[0, 23]), &masks::causal);
    assert!(got.o.data.iter().chain(&got.lse.data).all(|x| x.is_finite()));
    assert!(got.lse.data.iter().any(|l| l.abs() > 3000.0));
}

/// Queries stand at the end of their keys: the last queries of a sequence, over all of its keys, have the rows that they have
/// among all queries; queries over the last keys alone, before all of which the others stand, see none.
#[test]
fn queries_and_keys_end_together() {
    let x = inputs::qkv::<bf16>(4, DIMS);
    let tail = |host: &crate::host::Host<bf16>, from: usize| {
        let [tokens, heads, width] = host.shape;
        crate::host::Host::new(host.data[from * heads * width..].to_vec(), [tokens - from, heads, width])
    };
    let whole = problem(&x, &[0, 23]);
    for mask in [&masks::causal as Mask<'_>, &masks::full, &masks::window_sink(3, 1), &masks::block_diagonal(5)] {
        let want = attention(&whole, mask);
        let q = tail(&x.q, 19);
        let few = attention(&Problem { q: &q, cu_seqlens: &[0, 4], ..whole }, mask);
        assert_eq!((&few.o.data[..], &few.lse.data[..]), (&want.o.data[19 * 6 * 12..], &want.lse.data[19 * 6..]));
    }
    // 23 queries over 4 keys: the first 19 are before every key.
    let (k, v) = (tail(&x.k, 19), tail(&x.v, 19));
    let many = Problem { k: &k, v: &v, cu_seqlens_k: &[0, 4], ..whole };
    for mask in [&masks::causal as Mask<'_>, &masks::prefix_lm(3), &masks::longformer(9, 2), &masks::block_diagonal(5)]
    {
        let got = attention(&many, mask);
        assert_eq!(got.lse.data[..19 * 6], [f64::NEG_INFINITY; 19 * 6]);
        assert!(got.o.data[..19 * 6 * 12].iter().all(|&o| o == 0.0));
        assert!(got.lse.data[19 * 6..].iter().all(|lse| lse.is_finite()));
        let pairs = attention_of(&many, &|pair| mask(pair.q, pair.kv));
        assert_eq!((pairs.o.data, pairs.lse.data), (got.o.data, got.lse.data));
    }
    let full = attention(&many, &masks::full);
    assert!(full.lse.data.iter().all(|lse| lse.is_finite()), "where a query is does not matter to it");
}
