//! The shapes that commands time kernels at: documents of one length each.

use clap::Args;
use lacuna::dsl::Shape;
use lacuna::kernels::registry::Extents;
use lacuna::kernels::validate::{self, Described};
use lacuna::runtime::Elem;

use super::args;
use super::failure::Result;

/// Lengths, heads and widths.
#[derive(Clone, Debug, Args)]
pub(crate) struct Shapes {
    /// Tokens of a document, one shape each, as a list with commas; 8k is 8192, 1m is 1048576
    #[arg(
        long,
        value_name = "N,..",
        value_delimiter = ',',
        value_parser = tokens,
        default_value = "8k,32k",
        help_heading = "Shapes"
    )]
    pub(crate) tokens: Vec<usize>,
    /// Documents, all of one length
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = "Shapes")]
    pub(crate) batch: usize,
    /// Query heads
    #[arg(long, value_name = "N", default_value_t = 16, help_heading = "Shapes")]
    pub(crate) heads: usize,
    /// KV heads [default: as many as query heads]
    #[arg(long, value_name = "N", help_heading = "Shapes")]
    kv_heads: Option<usize>,
    /// Width of queries and keys: 32, 64, 96, 128, 192 or 256
    #[arg(long, alias = "dim", value_name = "N", default_value_t = 128, help_heading = "Shapes")]
    pub(crate) head_dim: usize,
    /// Width of values [default: as wide as keys]
    #[arg(long, value_name = "N", help_heading = "Shapes")]
    dv: Option<usize>,
    /// bf16 or f16
    #[arg(long, value_parser = args::dtype, default_value = "bf16", help_heading = "Shapes")]
    pub(crate) dtype: Elem,
}

impl Shapes {
    /// KV heads.
    pub(crate) fn kv_heads(&self) -> usize {
        self.kv_heads.unwrap_or(self.heads)
    }

    /// The width of values.
    pub(crate) fn dv(&self) -> usize {
        self.dv.unwrap_or(self.head_dim)
    }

    /// Refuses what is no problem.
    ///
    /// # Errors
    /// Heads that cannot be shared out evenly; extents that are none, or too large.
    pub(crate) fn check(&self) -> Result {
        let dtype = self.dtype.name();
        for tokens in self.tokens.iter().map(|tokens| tokens.saturating_mul(self.batch)) {
            let (kv_heads, dk, dv) = (self.kv_heads(), self.head_dim, self.dv());
            let (q, k, v) = ([tokens, self.heads, dk], [tokens, kv_heads, dk], [tokens, kv_heads, dv]);
            let described = |name, shape| Described { name, shape, dtype };
            validate::qkv(&described("q", &q), &described("k", &k), &described("v", &v))?;
        }
        Ok(())
    }

    /// The shape of a kernel for them.
    pub(crate) fn shape(&self) -> Shape {
        let group = self.heads / self.kv_heads().max(1);
        Shape::new(self.dtype, self.head_dim as u32, self.dv() as u32, group as u32)
    }

    /// The extents of a launch on documents of so many tokens.
    pub(crate) fn extents(&self, tokens: usize) -> Extents {
        let [heads, kv_heads, dk, dv] = [self.heads, self.kv_heads(), self.head_dim, self.dv()].map(|n| n as u64);
        Extents { docs: vec![tokens as u32; self.batch], heads, kv_heads, dk, dv }
    }
}

/// `8192`, `8k`, `1m`.
fn tokens(text: &str) -> Result<usize, String> {
    let (digits, unit) = match text.char_indices().last() {
        Some((at, 'k' | 'K')) => (&text[..at], 1 << 10),
        Some((at, 'm' | 'M')) => (&text[..at], 1 << 20),
        _ => (text, 1),
    };
    let count = digits.parse::<usize>().ok().and_then(|count| count.checked_mul(unit));
    count.filter(|&count| count > 0).ok_or_else(|| "a number of tokens is right, such as 8192, 8k or 1m".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_counted_in_thousands_and_millions_of_two() {
        assert_eq!(["1", "8192", "8k", "32K", "1m"].map(|text| tokens(text).unwrap()), [1, 8192, 8192, 32768, 1 << 20]);
        for text in ["", "k", "0", "-1", "8 k", "8kb", "1.5m", "99999999999999999999", "99999999999999m"] {
            assert_eq!(tokens(text).unwrap_err(), "a number of tokens is right, such as 8192, 8k or 1m", "{text}");
        }
    }
}
