//! What is no problem for MoBA.

use super::{Described, Invalid, dtype, extents, same};
use crate::host::{Dims, Host};
use crate::reference::moba::{MobaConfig, Place, Sides};

/// The most blocks of a row.
pub const MAX_TOP: usize = 64;

/// Block lengths are multiples of this.
pub const BLOCK_STEP: usize = 16;

/// The shortest block.
pub const MIN_BLOCK: usize = 32;

const ROUTING: &[&str] = &["tokens", "query heads", "top-k"];

/// Checks the keys of a block and the blocks of a row.
pub fn moba(block: usize, top: usize) -> Result<(), Invalid> {
    if block < MIN_BLOCK || !block.is_multiple_of(BLOCK_STEP) || i32::try_from(block).is_err() {
        return Err(Invalid::Block { block });
    }
    if (1..=MAX_TOP).contains(&top) { Ok(()) } else { Err(Invalid::Top { top }) }
}

/// Checks a routing `[tokens, Hq, T]` of i32 for queries `q` that have been checked; gives `T`.
pub fn routing(routing: &Described<'_>, q: &Described<'_>, dims: Dims) -> Result<usize, Invalid> {
    let [tokens, heads, top] = extents::<3>(routing, ROUTING)?;
    dtype(routing, "i32")?;
    same(routing, "tokens", tokens, q, dims.total)?;
    same(routing, "query heads", heads, q, dims.hq)?;
    if (1..=MAX_TOP).contains(&top) { Ok(top) } else { Err(Invalid::Top { top }) }
}

/// Checks that each row of a routing lists its own block, then complete blocks before it, each once, or -1. Kernels
/// skip what is none of these, and have the own block anyway. Rows of full heads are not looked at.
pub fn routing_exists(
    routing: &Host<i32>,
    sides: Sides<'_>,
    block: usize,
    full_heads: Option<&[i32]>,
) -> Result<(), Invalid> {
    let [tokens, heads, top] = routing.shape;
    let config = MobaConfig::new(block, top);
    for (token, head) in (0..tokens).flat_map(|token| (0..heads).map(move |head| (token, head))) {
        if full_heads.is_some_and(|full| full[head] == 1) {
            continue;
        }
        let Some(Place { position, .. }) = sides.place(token) else { continue };
        let own = config.own(position).map_or(-1, |own| own as i32);
        let row = routing.row(token, head);
        let right = |slot: usize, entry: i32| match slot {
            0 => entry == own,
            _ => entry == -1 || ((0..own).contains(&entry) && !row[1..slot].contains(&entry)),
        };
        if let Some((slot, &entry)) = row.iter().enumerate().find(|&(slot, &entry)| !right(slot, entry)) {
            return Err(Invalid::Route { token, head, slot, entry, own });
        }
    }
    Ok(())
}

/// Checks which heads are full, `[Hq]` of i32: 1 or 0 for each.
pub fn full_heads(full: &Described<'_>, values: &[i32], dims: Dims) -> Result<(), Invalid> {
    let [heads] = extents::<1>(full, &["query heads"])?;
    dtype(full, "i32")?;
    if heads != dims.hq {
        return Err(Invalid::PerHead { name: full.name, rows: heads, heads: dims.hq });
    }
    match values.iter().position(|value| ![0, 1].contains(value)) {
        None => Ok(()),
        Some(head) => Err(Invalid::FullHead { head, value: values[head] }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validate::{cu_seqlens, qkv};

    const DIMS: Dims = Dims { total: 128, keys: 128, hq: 12, hk: 4, dk: 64, dv: 64 };

    fn t<'a>(name: &'static str, shape: &'a [usize], dtype: &'a str) -> Described<'a> {
        Described { name, shape, dtype }
    }

    #[test]
    fn blocks_and_top_k() {
        for (block, top) in [(32, 1), (48, 64), (160_000, 3), (16 * 9_999_999, 8)] {
            assert_eq!(moba(block, top), Ok(()));
        }
        let refused = |block, top, want: &str| assert_eq!(moba(block, top).unwrap_err().to_string(), want);
        for block in [0, 16, 33, 40, 100, 1 << 31] {
            refused(block, 8, &format!("a block has {block} keys; a multiple of 16 is right, at least 32"));
        }
        refused(128, 0, "top-k is 0; 1 to 64 is right, the own block counts");
        refused(128, 65, "top-k is 65; 1 to 64 is right, the own block counts");
    }

    /// What every attention refuses, said of MoBA's operands.
    #[test]
    fn operands() {
        let refused = |q: Described<'_>, k: &[usize], want: &str| {
            assert_eq!(qkv(&q, &t("k", k, "bf16"), &t("v", k, "bf16")).unwrap_err().to_string(), want);
        };
        refused(t("q", &[128, 12, 64], "f32"), &[128, 4, 64], "q is f32; it must be bf16 or f16");
        refused(
            t("q", &[128, 12, 64], "bf16"),
            &[128, 4, 128],
            "the heads of k are 128 wide and those of q 64; both must be equally wide",
        );
        refused(
            t("q", &[128, 12, 64], "bf16"),
            &[128, 5, 64],
            "12 query heads cannot be shared out evenly over 5 KV heads; the query heads must be a multiple of the KV heads",
        );
        let falls = cu_seqlens(&[0, 90, 60, 128], 128).unwrap_err().to_string();
        assert!(falls.starts_with("cu_seqlens falls from 90 to 60 at entry 2"), "{falls}");
        let misses = cu_seqlens(&[0, 90, 100], 128).unwrap_err().to_string();
        assert_eq!(misses, "cu_seqlens ends with 100; it must end with 128, the tokens of the tensors");
    }

    #[test]
    fn routings() {
        let q = t("q", &[128, 12, 64], "bf16");
        let judge = |r: Described<'_>| routing(&r, &q, DIMS).map_err(|e| e.to_string());
        assert_eq!(judge(t("routing", &[128, 12, 8], "i32")), Ok(8));
        let refused =
            |shape: &[usize], dtype: &str, want: &str| assert_eq!(judge(t("routing", shape, dtype)).unwrap_err(), want);
        refused(&[128, 96], "i32", "routing has 2 dimensions, [128, 96]; it needs 3: [tokens, query heads, top-k]");
        refused(&[128, 12, 8], "i64", "routing is i64; it must be i32");
        refused(&[127, 12, 8], "i32", "routing has 127 tokens and q has 128; both must have the same number");
        refused(&[128, 4, 8], "i32", "routing has 4 query heads and q has 12; both must have the same number");
        refused(&[128, 12, 0], "i32", "top-k is 0; 1 to 64 is right, the own block counts");
        refused(&[128, 12, 65], "i32", "top-k is 65; 1 to 64 is right, the own block counts");
    }

    /// 3 queries over 70 keys, blocks of 32: positions 67 to 69, own block 2; 2 queries over 1 key: the first has none.
    #[test]
    fn routes_are_past_blocks() {
        let sides = Sides { q: &[0, 3, 5], k: &[0, 70, 71] };
        let good = vec![2, 0, 1, 2, 1, -1, 2, -1, 0, -1, -1, -1, 0, -1, -1];
        let judge = |slot: usize, entry: i32| {
            let mut data = good.clone();
            data[slot] = entry;
            routing_exists(&Host::new(data, [5, 1, 3]), sides, 32, None).map_err(|e| e.to_string())
        };
        assert_eq!(judge(0, 2), Ok(()));
        let refused = |slot: usize, entry: i32, want: &str| assert_eq!(judge(slot, entry).unwrap_err(), want);
        let wrong = Host::filled(7, [5, 2, 3]);
        assert_eq!(routing_exists(&wrong, sides, 32, Some(&[1, 1])), Ok(()), "full heads are not looked at");
        let text = routing_exists(&wrong, sides, 32, Some(&[1, 0])).unwrap_err().to_string();
        assert_eq!(text, "routing[0, 1, 0] is 7; a row begins with its own block, which is 2");
        refused(0, 1, "routing[0, 0, 0] is 1; a row begins with its own block, which is 2");
        refused(9, 0, "routing[3, 0, 0] is 0; a row without a key has -1 alone");
        refused(10, 0, "routing[3, 0, 1] is 0; a row without a key has -1 alone");
        for entry in [2, 3, -2, i32::MAX] {
            let want = format!(
                "routing[1, 0, 1] is {entry}; the row's own block is 2, so blocks 0 to 1 are right, each once, and -1 is none"
            );
            refused(4, entry, &want);
        }
        refused(
            2,
            0,
            "routing[0, 0, 2] is 0; the row's own block is 2, so blocks 0 to 1 are right, each once, and -1 is none",
        );
        refused(13, 0, "routing[4, 0, 1] is 0; the row's own block is 0, so -1 alone is right");
    }

    #[test]
    fn heads_are_full_or_not() {
        let judge = |values: &[i32]| {
            full_heads(&t("full_heads", &[values.len()], "i32"), values, DIMS).map_err(|e| e.to_string())
        };
        assert_eq!(judge(&[0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1]), Ok(()));
        assert_eq!(
            judge(&[1; 4]).unwrap_err(),
            "full_heads has numbers for 4 heads; it needs them for 12, the query heads"
        );
        let mut two = [0; 12];
        two[7] = 2;
        assert_eq!(judge(&two).unwrap_err(), "full_heads[7] is 2; 1 is a full head, 0 is none");
    }
}
