use super::*;

fn t<'a>(name: &'static str, shape: &'a [usize], dtype: &'a str) -> Described<'a> {
    Described { name, shape, dtype }
}

fn three(q: &[usize], k: &[usize], v: &[usize]) -> Result<(Dims, Precision), String> {
    qkv(&t("q", q, "bf16"), &t("k", k, "bf16"), &t("v", v, "bf16")).map_err(|e| e.to_string())
}

fn text<T: std::fmt::Debug>(result: Result<T, Invalid>) -> String {
    result.unwrap_err().to_string()
}

const DIMS: Dims = Dims { total: 128, keys: 128, hq: 12, hk: 4, dk: 64, dv: 128 };

#[test]
fn a_problem_passes() {
    assert_eq!(three(&[128, 12, 64], &[128, 4, 64], &[128, 4, 128]), Ok((DIMS, Precision::Bf16)));
    let f16 = |name, shape| Described { name, shape, dtype: "f16" };
    let got = qkv(&f16("q", &[0, 64, 32]), &f16("k", &[0, 1, 32]), &f16("v", &[0, 1, 32]));
    assert_eq!(got.unwrap().1, Precision::F16);
    for group in 1..=64 {
        three(&[1, 2 * group, 64], &[1, 2, 64], &[1, 2, 64]).unwrap();
    }
    assert_eq!(cu_seqlens(&[0, 5, 5, 128], 128), Ok(123));
    assert_eq!(cu_seqlens(&[0, 0], 0), Ok(0));
    assert_eq!((max_seqlen(123, 123), max_seqlen(500, 123), scale(0.125)), (Ok(()), Ok(()), Ok(())));
    assert_eq!((window(1), window(i32::MAX.into()), sink(0), sink(4)), (Ok(1), Ok(i32::MAX), Ok(0), Ok(4)));
    assert_eq!(nsa(NsaConfig::PAPER), Ok(()));
}

#[test]
fn shapes() {
    let refused = |q: &[usize], k: &[usize], v: &[usize], want: &str| assert_eq!(three(q, k, v).unwrap_err(), want);
    let (q, k) = (&[128, 12, 64], &[128, 4, 64]);
    refused(&[128, 64], k, k, "q has 2 dimensions, [128, 64]; it needs 3: [tokens, query heads, head width]");
    refused(q, &[2, 64, 4, 64], k, "k has 4 dimensions, [2, 64, 4, 64]; it needs 3: [tokens, KV heads, head width]");
    refused(q, &[100, 4, 64], k, "k has 100 tokens and q has 128; both must have the same number");
    refused(q, k, &[129, 4, 64], "v has 129 tokens and q has 128; both must have the same number");
    refused(q, k, &[128, 2, 64], "v has 2 heads and k has 4; both must have the same number");
    refused(q, &[128, 0, 64], k, "k has no heads; it needs at least 1");
    refused(&[128, 0, 64], k, k, "q has no heads; it needs at least 1");
    refused(
        q,
        &[128, 5, 64],
        &[128, 5, 64],
        "12 query heads cannot be shared out evenly over 5 KV heads; the query heads must be a multiple of the KV heads",
    );
    refused(
        &[128, 2, 64],
        k,
        k,
        "2 query heads cannot be shared out evenly over 4 KV heads; the query heads must be a multiple of the KV heads",
    );
    refused(&[128, 260, 64], k, k, "260 query heads over 4 KV heads make groups of 65; groups of 1 to 64 work");
    refused(q, &[128, 4, 128], k, "the heads of k are 128 wide and those of q 64; both must be equally wide");
    refused(&[128, 12, 80], &[128, 4, 80], k, "the heads of q are 80 wide; 32, 64, 96, 128, 192 or 256 is right");
    refused(q, k, &[128, 4, 512], "the heads of v are 512 wide; 32, 64, 96, 128, 192 or 256 is right");
    let far = &[1 << 31, 1, 64];
    refused(far, far, far, "q has 2147483648 tokens; at most 2147483647 can be counted in i32 cu_seqlens");
}

#[test]
fn dtypes() {
    let of = |q, k, v| {
        let shape = &[4, 1, 64];
        text(qkv(&t("q", shape, q), &t("k", shape, k), &t("v", shape, v)))
    };
    assert_eq!(of("f32", "f32", "f32"), "q is f32; it must be bf16 or f16");
    assert_eq!(of("bf16", "f16", "bf16"), "k is f16; it must be bf16");
    assert_eq!(of("f16", "f16", "f32"), "v is f32; it must be f16");
}

#[test]
fn outputs_and_lse() {
    let judge = |o: Described<'_>, lse: Described<'_>| {
        outputs(&o, &lse, &t("q", &[], ""), &t("v", &[], ""), DIMS, Precision::Bf16).map_err(|e| e.to_string())
    };
    let (o, lse) = (t("o", &[128, 12, 128], "bf16"), t("lse", &[128, 12], "f32"));
    assert_eq!(judge(o, lse), Ok(()));
    let refused = |o, lse, want: &str| assert_eq!(judge(o, lse).unwrap_err(), want);
    refused(
        t("o", &[128, 12, 64], "bf16"),
        lse,
        "the heads of o are 64 wide and those of v 128; both must be equally wide",
    );
    refused(t("o", &[128, 4, 128], "bf16"), lse, "o has 4 heads and q has 12; both must have the same number");
    refused(t("o", &[12, 12, 128], "bf16"), lse, "o has 12 tokens and q has 128; both must have the same number");
    refused(t("o", &[128, 12, 128], "f32"), lse, "o is f32; it must be bf16");
    refused(o, t("lse", &[128, 12], "bf16"), "lse is bf16; it must be f32");
    refused(o, t("lse", &[12, 128], "f32"), "lse has 12 tokens and q has 128; both must have the same number");
    refused(o, t("lse", &[128, 128], "f32"), "lse has 128 heads and q has 12; both must have the same number");
    refused(o, t("lse", &[1, 12, 128], "f32"), "lse has 3 dimensions, [1, 12, 128]; it needs 2: [tokens, query heads]");
}

#[test]
fn sequences() {
    let refused = |values: &[i32], want: &str| assert_eq!(text(cu_seqlens(values, 128)), want);
    for values in [&[][..], &[0]] {
        let entries = values.len();
        refused(
            values,
            &format!(
                "cu_seqlens has {entries} entries; it needs batch + 1, at least 2: where each sequence begins, and where the last one ends"
            ),
        );
    }
    refused(&[3, 128], "cu_seqlens begins with 3; it must begin with 0");
    refused(
        &[0, 10, 7, 128],
        "cu_seqlens falls from 10 to 7 at entry 2; it must never fall (equal entries are an empty sequence)",
    );
    refused(&[0, 10, 120], "cu_seqlens ends with 120; it must end with 128, the tokens of the tensors");
    let want = "max_seqlen is 50 and the longest sequence has 64 tokens; it must be 64 or more";
    assert_eq!(text(max_seqlen(50, 64)), want);
}

/// Keys that are apart from the queries: as many in k as in v, and of as many sequences.
#[test]
fn sequences_with_keys_of_their_own() {
    let judge = |q: &[usize], k: &[usize], v: &[usize]| {
        qkv_apart(&t("q", q, "bf16"), &t("k", k, "bf16"), &t("v", v, "bf16")).map_err(|e| e.to_string())
    };
    let (q, k, v) = (&[128, 12, 64], &[300, 4, 64], &[300, 4, 128]);
    assert_eq!(judge(q, k, v), Ok((Dims { keys: 300, ..DIMS }, Precision::Bf16)));
    assert_eq!(judge(q, &[0, 4, 64], &[0, 4, 128]), Ok((Dims { keys: 0, ..DIMS }, Precision::Bf16)));
    let want = "v has 128 tokens and k has 300; both must have the same number";
    assert_eq!(judge(q, k, &[128, 4, 128]).unwrap_err(), want);
    let far = &[1 << 31, 4, 64];
    let want = "k has 2147483648 tokens; at most 2147483647 can be counted in i32 cu_seqlens";
    assert_eq!(judge(q, far, far).unwrap_err(), want);

    let cu = [0, 100, 100, 128];
    assert_eq!(cu_seqlens_k(&[0, 0, 250, 300], 300, &cu), Ok(250));
    let refused = |values: &[i32], want: &str| assert_eq!(text(cu_seqlens_k(values, 300, &cu)), want);
    refused(&[1, 100, 200, 300], "cu_seqlens_k begins with 1; it must begin with 0");
    refused(
        &[0, 200, 100, 300],
        "cu_seqlens_k falls from 200 to 100 at entry 2; it must never fall (equal entries are an empty sequence)",
    );
    refused(&[0, 100, 100, 128], "cu_seqlens_k ends with 128; it must end with 300, the tokens of k and v");
    refused(
        &[0, 100, 300],
        "cu_seqlens_k has 3 entries and cu_seqlens 4; both must have one for each sequence, and one more",
    );
    refused(
        &[],
        "cu_seqlens_k has 0 entries; it needs batch + 1, at least 2: where each sequence begins, and where the last one ends",
    );
}

/// Blocks are those of a sequence's keys.
#[test]
fn picks_are_blocks_of_the_keys() {
    let sides = Sides { q: &[0, 1, 3], k: &[0, 5, 5] };
    let picks = |first: i32, last: i32| Host::new(vec![first, last, last], [3, 1, 1]);
    assert_eq!(picks_exist(&picks(2, -1), sides, 2), Ok(()));
    let want = "picks[0, 0, 0] is 3; the sequence of token 0 has blocks 0 to 2, and -1 is none";
    assert_eq!(text(picks_exist(&picks(3, -1), sides, 2)), want);
    let want = "picks[1, 0, 0] is 0; the sequence of token 1 has no blocks, and -1 is none";
    assert_eq!(text(picks_exist(&picks(2, 0), sides, 2)), want);
}

#[test]
fn numbers() {
    for (value, shown) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf"), (0.0, "0"), (-0.125, "-0.125")] {
        let want = format!("the scale is {shown}; it must be finite and above 0 (1/sqrt of the head width is usual)");
        assert_eq!(text(scale(value)), want);
    }
    for value in [0, -5, 1 << 31] {
        let want = format!("the window is {value} tokens; it must be 1 to 2147483647, the token itself counts");
        assert_eq!(text(window(value)), want);
    }
    for value in [-1, 1 << 31] {
        assert_eq!(text(sink(value)), format!("the sink is {value} tokens; it must be 0 to 2147483647"));
    }
}

#[test]
fn selections() {
    let judge = |p: Described<'_>| {
        picks(&p, &t("q", &[128, 12, 64], "bf16"), &t("k", &[128, 4, 64], "bf16"), DIMS).map_err(|e| e.to_string())
    };
    assert_eq!(judge(t("picks", &[128, 4, 16], "i32")), Ok(16));
    let refused =
        |shape: &[usize], dtype: &str, want: &str| assert_eq!(judge(t("picks", shape, dtype)).unwrap_err(), want);
    refused(&[128, 16], "i32", "picks has 2 dimensions, [128, 16]; it needs 3: [tokens, KV heads, blocks]");
    refused(&[128, 4, 16], "i64", "picks is i64; it must be i32");
    refused(&[4, 128, 16], "i32", "picks has 4 tokens and q has 128; both must have the same number");
    refused(&[128, 12, 16], "i32", "picks has 12 heads and k has 4; both must have the same number");
    refused(&[128, 4, 0], "i32", "picks has shape [128, 4, 0]: no room for a block; the last extent must be 1 or more");

    let want =
        "a stride of 24 does not divide blocks of 32 (compression) and 64 (selection) tokens; it must divide both";
    assert_eq!(text(nsa(NsaConfig { d: 24, ..NsaConfig::PAPER })), want);
    let want = "2 selected blocks leave no room for the 3 forced ones; it must be 3 or more";
    assert_eq!(text(nsa(NsaConfig { n: 2, ..NsaConfig::PAPER })), want);
}

#[test]
fn picks_are_blocks_of_their_own_sequence() {
    let picks = |block: i32| Host::new(vec![0, -1, 0, block, 0, -1, 0, 0], [4, 1, 2]);
    let cu_seqlens = [0, 3, 4];
    assert_eq!(picks_exist(&picks(1), &cu_seqlens, 2), Ok(()));
    let want = |block| format!("picks[1, 0, 1] is {block}; the sequence of token 1 has blocks 0 to 1, and -1 is none");
    for block in [2, -2, i32::MAX] {
        assert_eq!(text(picks_exist(&picks(block), &cu_seqlens, 2)), want(block));
    }
}
