//! Which launches have one winner.
//!
//! A shape class is what decides between picks, and no more, so that what was found at one launch serves the launches that
//! are like it. It has two parts:
//!
//!  * **facts**, compared as they are: the target, the element type, the widths, the group, and what the caller chose about
//!    the kernel. They are baked into the PTX, or say how many blocks a tile visits. A number that counts tokens (a window)
//!    stands in its bucket.
//!  * **lengths**, in buckets: tokens, documents, the longest document, KV heads, and how much neighbouring tokens share of
//!    their selections. They are what a host knows at a launch without reading the device.
//!
//! A bucket holds the numbers whose nearest power of two, by ratio, is the same: 8192 stands for 5793 to 11585. What decides
//! between picks are ratios (CTAs to multiprocessors, rounds of a loop to its stages, bytes to the size of L2), which change
//! by less than 1.42 from the middle of a bucket to its end; and lengths that people tune at are the middles. Shares of a
//! selection stand in quarters. Two launches of one class get one winner, whatever else differs between them.

use std::collections::BTreeMap;
use std::fmt;

/// What the host knows of the sizes of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Lengths {
    /// Query tokens of all documents.
    pub tokens: u64,
    /// Documents.
    pub documents: u64,
    /// Keys of the longest document: `max_seqlen`, or `max_seqlen_k` where they are apart.
    pub longest: u64,
    /// KV heads.
    pub heads_kv: u64,
    /// Of a hundred blocks that a token selects, how many its neighbour selects too, where the caller knows.
    pub overlap: Option<u8>,
}

/// Lengths in buckets: equal for launches that differ in nothing that decides between picks. Made in a few instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bucket {
    tokens: u8,
    documents: u8,
    longest: u8,
    heads_kv: u8,
    /// Quarters; [`UNKNOWN`] where nobody says.
    overlap: u8,
}

const UNKNOWN: u8 = u8::MAX;

/// The exponent of the power of two that is nearest to a number, by ratio; 0 stands for none and for one.
fn exponent(n: u64) -> u8 {
    let below = n.max(1).ilog2();
    // n / 2^below > sqrt(2), without a rounding.
    let n = u128::from(n.max(1));
    (below + u32::from(n * n > 1u128 << (2 * below + 1))) as u8
}

/// The power of two that a number of tokens stands for in a class.
pub fn bucket(n: u64) -> u64 {
    1u64.checked_shl(exponent(n).into()).unwrap_or(u64::MAX)
}

impl Lengths {
    /// Their buckets.
    pub fn bucket(&self) -> Bucket {
        Bucket {
            tokens: exponent(self.tokens),
            documents: exponent(self.documents),
            longest: exponent(self.longest),
            heads_kv: exponent(self.heads_kv),
            overlap: self.overlap.map_or(UNKNOWN, |share| (share.min(100) + 12) / 25),
        }
    }
}

/// `tokens 32k, documents 4, longest 8k, KV heads 16`.
impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Bucket { tokens, documents, longest, heads_kv, overlap } = self;
        let [tokens, documents, longest, heads] = [tokens, documents, longest, heads_kv].map(|&e| binary(e));
        write!(f, "tokens {tokens}, documents {documents}, longest {longest}, KV heads {heads}")?;
        if *overlap != UNKNOWN { write!(f, ", overlap {}%", 25 * overlap) } else { Ok(()) }
    }
}

/// Two to a power: `8`, `32k`, `4m`.
fn binary(exponent: u8) -> String {
    match exponent {
        0..10 => format!("{}", 1u64 << exponent),
        10..20 => format!("{}k", 1u64 << (exponent - 10)),
        _ => format!("{}m", 1u128 << (exponent - 20)),
    }
}

/// A shape class.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Class {
    facts: BTreeMap<String, String>,
    bucket: Bucket,
}

impl Class {
    /// Of facts by name, and lengths.
    pub fn new(facts: BTreeMap<String, String>, lengths: &Lengths) -> Self {
        Class { facts, bucket: lengths.bucket() }
    }

    /// Its lengths.
    pub fn bucket(&self) -> Bucket {
        self.bucket
    }
}

/// One line, the same for equal classes and no others: what a record calls it.
impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in &self.facts {
            write!(f, "{name} {value}, ")?;
        }
        write!(f, "{}", self.bucket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lengths(tokens: u64) -> Lengths {
        Lengths { tokens, documents: 1, longest: tokens, heads_kv: 16, overlap: None }
    }

    #[test]
    fn a_bucket_is_the_nearest_power_of_two_by_ratio() {
        assert_eq!([0, 1, 2, 3, 5, 6, 8192].map(bucket), [1, 1, 2, 4, 4, 8, 8192]);
        assert_eq!([5792, 5793, 11585, 11586].map(bucket), [4096, 8192, 8192, 16384]);
        for n in (1..200_000).step_by(7) {
            let ratio = n as f64 / bucket(n) as f64;
            assert!((0.707..1.4143).contains(&ratio), "{n} stands as {}", bucket(n));
        }
        assert!(bucket(u64::MAX) >= 1 << 63);
    }

    #[test]
    fn launches_that_are_alike_are_of_one_class_and_others_are_not() {
        let class = |lengths: Lengths, dk: &str| Class::new([("dk".to_owned(), dk.to_owned())].into(), &lengths);
        let one = class(lengths(8192), "128");
        assert_eq!(one, class(lengths(8000), "128"));
        assert_eq!(one.to_string(), "dk 128, tokens 8k, documents 1, longest 8k, KV heads 16");
        let others = [
            class(lengths(8192), "64"),
            class(lengths(16384), "128"),
            class(Lengths { documents: 4, ..lengths(8192) }, "128"),
            class(Lengths { longest: 2048, ..lengths(8192) }, "128"),
            class(Lengths { heads_kv: 4, ..lengths(8192) }, "128"),
            class(Lengths { overlap: Some(50), ..lengths(8192) }, "128"),
        ];
        for other in &others {
            assert!(*other != one && other.to_string() != one.to_string(), "{other}");
        }
        let shared = |share| Lengths { overlap: Some(share), ..lengths(64) }.bucket().to_string();
        assert!(shared(50).ends_with("overlap 50%") && shared(45) == shared(55) && shared(0) != shared(25));
        assert_eq!(shared(200), shared(100), "a share is at most all");
    }
}
