//! The shipped patterns once more, by hand, on integers: query position, key position, both in their own sequence.
//!
//! A `#[pattern]` is compared with these position by position.

/// A token sees itself and what came before.
pub fn causal(q: i64, kv: i64) -> bool {
    kv <= q
}

/// Every token sees every token of its sequence.
pub fn full(_q: i64, _kv: i64) -> bool {
    true
}

/// A token sees the last `w` tokens, itself included: `q - w + 1 ..= q`.
pub fn window(w: i64) -> impl Fn(i64, i64) -> bool + Sync {
    move |q, kv| q - w < kv && kv <= q
}

/// A token sees the last `w` tokens, itself included, and the first `s` ones that are not in its future.
pub fn window_sink(w: i64, s: i64) -> impl Fn(i64, i64) -> bool + Sync {
    move |q, kv| kv <= q && (q - kv < w || kv < s)
}

/// The first `p` tokens are seen by every token; what is behind them by itself and later ones.
pub fn prefix_lm(p: i64) -> impl Fn(i64, i64) -> bool + Sync {
    move |q, kv| if kv < p { true } else { kv <= q }
}

/// A token sees itself and those `step`, `2 step`, .. before it.
pub fn dilated(step: i64) -> impl Fn(i64, i64) -> bool + Sync {
    move |q, kv| (kv..=q).rev().step_by(step as usize).last() == Some(kv)
}

/// A token sees its own chunk of `chunk` tokens.
pub fn block_diagonal(chunk: i64) -> impl Fn(i64, i64) -> bool + Sync {
    move |q, kv| {
        let first = q - q % chunk;
        first <= kv && kv < first + chunk
    }
}

/// A token sees those up to `reach` before and behind it; the first `global` tokens see and are seen by all.
pub fn longformer(reach: i64, global: i64) -> impl Fn(i64, i64) -> bool + Sync {
    move |q, kv| q.min(kv) < global || (q - reach..=q + reach).contains(&kv)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(mask: impl Fn(i64, i64) -> bool, q: i64) -> Vec<i64> {
        (0..12).filter(|&kv| mask(q, kv)).collect()
    }

    #[test]
    fn each_sees_what_it_says() {
        assert_eq!(seen(causal, 3), [0, 1, 2, 3]);
        assert_eq!(seen(full, 3), (0..12).collect::<Vec<_>>());
        assert_eq!(seen(window(3), 7), [5, 6, 7]);
        assert_eq!(seen(window(3), 1), [0, 1]);
        assert_eq!(seen(window(1), 4), [4]);
        assert_eq!(seen(window_sink(3, 2), 7), [0, 1, 5, 6, 7]);
        assert_eq!(seen(window_sink(3, 2), 0), [0]);
        assert_eq!(seen(window_sink(3, 0), 7), [5, 6, 7]);
        assert_eq!(seen(prefix_lm(3), 1), [0, 1, 2]);
        assert_eq!(seen(prefix_lm(3), 4), [0, 1, 2, 3, 4]);
        assert_eq!(seen(prefix_lm(0), 2), [0, 1, 2]);
        assert_eq!(seen(dilated(3), 7), [1, 4, 7]);
        assert_eq!(seen(dilated(1), 2), [0, 1, 2]);
        assert_eq!(seen(dilated(9), 7), [7]);
        assert_eq!(seen(block_diagonal(4), 6), [4, 5, 6, 7]);
        assert_eq!(seen(block_diagonal(1), 6), [6]);
        assert_eq!(seen(longformer(2, 1), 6), [0, 4, 5, 6, 7, 8]);
        assert_eq!(seen(longformer(2, 1), 0), (0..12).collect::<Vec<_>>());
        assert_eq!(seen(longformer(0, 0), 5), [5]);
    }
}
