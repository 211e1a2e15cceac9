//! A pattern, a score and a schedule of one's own, run beside attention in f64 and held to their PTX.
//!
//! To begin with yours, copy this folder, let `lacuna` in `Cargo.toml` come from where you have it, and replace the pattern,
//! the score and the schedule, and `seen` and `scored`: the same mask and the same score written once more on plain numbers.
//!
//! ```sh
//! cargo run                            # on a GPU if there is one, else on the emulator; `cargo run -- tune` finds its fastest pick
//! INSTA_UPDATE=always cargo test       # writes the PTX to src/snapshots, where a later change shows
//! ```

use lacuna::prelude::*;
use lacuna::{Trial, bf16, runtime::Device};

/// The token's own stretch of `stride` tokens up to itself, and the last `summary` tokens of every stretch before it: the
/// fixed pattern of Sparse Transformers, arXiv 1904.10509.
#[pattern]
fn fixed(q: Pos, kv: Pos, stride: u32, summary: u32) -> Keep {
    kv.le(q) & ((q / stride).eq_(kv / stride) | (kv % stride).ge(stride - summary))
}

/// Keys count for more the nearer they are: `boost` at the query itself, half of it `half` tokens before it.
#[score]
fn near(logit: Logit, q: Pos, kv: Pos, boost: f32, half: f32) -> Logit {
    logit + boost * ((kv - q) / half).exp2()
}

/// One CTA has one token and all query heads of one KV head: what is read of K and V serves the whole group.
#[schedule(tune(Kv in [64, 32], stages in [2, 3], warps in [4, 2, 1]))]
fn by_token(
    cx: &Cx,
    q: Queries<Dk>,
    k: Keys<Dk>,
    v: Values<Dv>,
    docs: Segments,
    #[fixed] mask: &Mask,
    #[optional] score: Option<&Score>,
) -> OutLse<Dv> {
    let (t, h) = cx.grid2(q.tokens(), k.heads());
    let rows = q.group::<Group>(docs.locate(t), h);
    let softmax = OnlineSoftmax::under(cx, &rows, score);
    for b in cx.pipelined(mask.visits::<Kv>(&rows), stages) {
        let s = softmax.logits(cx.dot(rows.q, k.block(b, h)), b);
        softmax.step(mask.keep(s, &rows, b), v.block(b, h));
    }
    softmax.finish()
}

/// The same mask by hand, for the comparison.
fn seen(stride: i64, summary: i64) -> impl Fn(i64, i64) -> bool + Sync {
    move |q, kv| kv <= q && (kv >= q - q % stride || kv % stride >= stride - summary)
}

/// And the same score, in f64.
fn scored(boost: f64, half: f64) -> impl Fn(f64, i64, i64, usize) -> f64 + Send + Sync {
    move |logit, q, kv, _head| logit + boost * 0.5f64.powf((q - kv) as f64 / half)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let attention = ByToken::new(fixed(32, 4)).with_score(near(2.0, 16.0)).at(Shape::new(Elem::Bf16, 64, 64, 8));
    let trial = Trial::<bf16>::draw(&attention.shape, 2, &[150, 41]).under(scored(2.0, 16.0));
    let device = Device::best();
    let result = trial.run(&device, &attention, &ByTokenPick { stages: 3, ..Default::default() }.to_pick())?;
    println!("{}: {}", device.name(), trial.check(&result, seen(32, 4)));
    if std::env::args().any(|arg| arg == "tune") {
        let timed = Trial::<bf16>::draw(&attention.shape, 4, &[8192]);
        println!("{}", lacuna::tune(&device, &attention, (&timed, &trial), seen(32, 4))?);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
