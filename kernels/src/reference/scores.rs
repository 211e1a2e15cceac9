//! The shipped scores once more, by hand, in f64: scaled logit, query position, key position, query head.
//!
//! A `#[score]` is compared with these on drawn numbers.

/// ALiBi: each key a query sees is as much less likely as it is far, by the slope of the head.
pub fn alibi(slopes: Vec<f32>) -> impl Fn(f64, i64, i64, usize) -> f64 + Send + Sync {
    move |logit, q, kv, head| logit - f64::from(slopes[head]) * (q - kv) as f64
}

/// ALiBi with the slopes of the paper: `2^(-8/H), 2^(-16/H), ..`, as the kernel gets them, in f32.
pub fn alibi_slopes(heads: usize) -> Vec<f32> {
    (0..heads).map(|head| 2f64.powf(-8.0 * (head + 1) as f64 / heads as f64) as f32).collect()
}

/// No logit beyond `cap` either way.
pub fn softcap(cap: f64) -> impl Fn(f64, i64, i64, usize) -> f64 + Send + Sync {
    move |logit, _, _, _| {
        // tanh by its definition; where exp would overflow, it is one.
        let x = (logit / cap).clamp(-300.0, 300.0);
        let (up, down) = (x.exp(), (-x).exp());
        cap * (up - down) / (up + down)
    }
}

/// T5's bias: `table` has a row of `entries` numbers for each head, by the distance from query to key.
pub fn relative_bias(
    table: Vec<f32>,
    entries: usize,
    ahead: i64,
) -> impl Fn(f64, i64, i64, usize) -> f64 + Send + Sync {
    move |logit, q, kv, head| {
        let distance = q - kv + ahead;
        let entry = if distance < 0 { 0 } else { (entries - 1).min(distance as usize) };
        logit + f64::from(table[head * entries + entry])
    }
}
