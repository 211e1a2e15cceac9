//! The shipped patterns once more, by hand, on integers: query position, key position, both in their own sequence.
//!
//! A `#[pattern]` is compared with these position by position. Those on tables take a query and a key of one sequence, and
//! tables with a number for each key.
//!
//! A query that is before every key, at a position below 0, sees none: but where it does not matter where a query is.

use super::Pair;

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
    move |q, kv| if kv < p { q >= 0 } else { kv <= q }
}

/// A token sees itself and those `step`, `2 step`, .. before it.
pub fn dilated(step: i64) -> impl Fn(i64, i64) -> bool + Sync {
    move |q, kv| (kv..=q).rev().step_by(step as usize).last() == Some(kv)
}

/// A token sees its own chunk of `chunk` tokens.
pub fn block_diagonal(chunk: i64) -> impl Fn(i64, i64) -> bool + Sync {
    move |q, kv| {
        let first = q - q % chunk;
        q >= 0 && first <= kv && kv < first + chunk
    }
}

/// A token sees those up to `reach` before and behind it; the first `global` tokens see and are seen by all.
pub fn longformer(reach: i64, global: i64) -> impl Fn(i64, i64) -> bool + Sync {
    move |q, kv| q >= 0 && (q.min(kv) < global || (q - reach..=q + reach).contains(&kv))
}

/// A token sees the earlier ones, and itself, that the table has in the same document.
pub fn document_table(docs: Vec<i32>) -> impl Fn(&Pair) -> bool + Send + Sync {
    move |pair| {
        let [of_query, of_key] = pair.of(&docs);
        if of_query == of_key { pair.kv <= pair.q } else { false }
    }
}

/// A token of a tree sees itself and those above it, which a walk through the tree enters no later and leaves after it has
/// entered the token.
pub fn token_tree(enter: Vec<i32>, leave: Vec<i32>) -> impl Fn(&Pair) -> bool + Send + Sync {
    move |pair| {
        let ([query, key], [_, left]) = (pair.of(&enter), pair.of(&leave));
        (key..left).contains(&query)
    }
}

/// A token sees as many of the first tokens as the table says.
pub fn ranges(ends: Vec<i32>) -> impl Fn(&Pair) -> bool + Send + Sync {
    move |pair| (0..i64::from(pair.of(&ends)[0])).contains(&pair.kv)
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
        let of = |mask: &dyn Fn(&Pair) -> bool, q| {
            let pair = |kv| Pair { start: 2, q, kv, head: 0 };
            (0..6).filter(|&kv| mask(&pair(kv))).collect::<Vec<i64>>()
        };
        assert_eq!(of(&document_table(vec![9, 9, 4, 4, 7, 4, 7, 4]), 3), [0, 1, 3]);
        assert_eq!(of(&document_table(vec![9, 9, 4, 4, 7, 4, 7, 4]), 2), [2]);
        // 1 and 4 follow 0; 2 and 3 follow 1; 5 follows 4.
        let tree = token_tree(vec![8, 8, 0, 1, 2, 3, 4, 5], vec![8, 8, 6, 4, 3, 4, 6, 6]);
        assert_eq!([0, 2, 3, 5].map(|q| of(&tree, q)), [vec![0], vec![0, 1, 2], vec![0, 1, 3], vec![0, 4, 5]]);
        assert_eq!(of(&ranges(vec![9, 9, 3, -1, 0, 0, 0, 0]), 0), [0, 1, 2]);
        assert_eq!(of(&ranges(vec![9, 9, 3, -1, 0, 0, 0, 0]), 1), []);
        assert_eq!(seen(longformer(2, 1), 6), [0, 4, 5, 6, 7, 8]);
        assert_eq!(seen(longformer(2, 1), 0), (0..12).collect::<Vec<_>>());
        assert_eq!(seen(longformer(0, 0), 5), [5]);
    }
}
