//! Who reads what: goes over query rows, hands each its keys and values.
//!
//! In: packed tensors, and a list of visible keys for each row. Out: outputs and LSE in the order of the rows asked for.
//! The arithmetic of a row is the caller's; the f64 references and the plain computation of the tolerance both walk here.

use super::{Attended, Mask, Pair, Problem, Sees};
use crate::host::{Host, Real, Row};
use rayon::prelude::*;

/// The numbers that a row is computed in.
pub(crate) trait Number: Copy + Default + Send + Sync {
    fn of(x: f64) -> Self;
    const NEG_INFINITY: Self;
}

impl Number for f64 {
    fn of(x: f64) -> Self {
        x
    }
    const NEG_INFINITY: Self = f64::NEG_INFINITY;
}

impl Number for f32 {
    fn of(x: f64) -> Self {
        x as f32
    }
    const NEG_INFINITY: Self = f32::NEG_INFINITY;
}

/// What a walk reads. Queries and keys may be packed differently: compressed keys are fewer.
pub(crate) struct Source<'a, Q, K> {
    pub(crate) q: &'a Host<Q>,
    pub(crate) k: &'a Host<K>,
    pub(crate) v: &'a Host<K>,
    pub(crate) cu_q: Vec<usize>,
    pub(crate) cu_kv: Vec<usize>,
    /// By how much the positions of queries are beyond their places in their sequence, for each sequence.
    pub(crate) shift: Vec<i64>,
    pub(crate) scale: f32,
}

impl<'a, T> Source<'a, T, T> {
    pub(crate) fn of(p: &Problem<'a, T>) -> Self {
        let (cu_q, cu_kv) = (offsets(p.cu_seqlens), offsets(p.cu_seqlens_k));
        let shift = shifts(&cu_q, &cu_kv);
        Source { q: p.q, k: p.k, v: p.v, cu_q, cu_kv, shift, scale: p.scale }
    }
}

/// How many more keys than queries each sequence has.
pub(crate) fn shifts(cu_q: &[usize], cu_k: &[usize]) -> Vec<i64> {
    assert_eq!(cu_q.len(), cu_k.len(), "queries and keys are of as many sequences");
    let more = |(q, k): (&[usize], &[usize])| (k[1] - k[0]) as i64 - (q[1] - q[0]) as i64;
    cu_q.windows(2).zip(cu_k.windows(2)).map(more).collect()
}

/// cu_seqlens as indices.
pub(crate) fn offsets(cu_seqlens: &[i32]) -> Vec<usize> {
    cu_seqlens.iter().map(|&x| usize::try_from(x).expect("cu_seqlens never falls below 0")).collect()
}

/// A row that wants its keys.
pub(crate) struct At {
    /// The position of the query in its sequence: below 0 where it is before every key.
    pub(crate) position: i64,
    /// Which of the queries of its sequence it is.
    pub(crate) index: usize,
    /// The token, over all sequences.
    pub(crate) token: usize,
    /// Its sequence.
    pub(crate) sequence: usize,
    /// The query head.
    pub(crate) head: usize,
    /// The KV head.
    pub(crate) kv_head: usize,
    /// The first key of its sequence, over all sequences.
    pub(crate) first_key: usize,
    /// How many keys its sequence has.
    pub(crate) keys: usize,
}

/// Lists the keys that a row sees, by position in the sequence; the list is empty when it is called.
pub(crate) type Seen<'a> = dyn Fn(&At, &mut Vec<u32>) + Sync + 'a;

/// Which row is computed.
pub(crate) struct Query {
    /// Its position in its sequence.
    pub(crate) position: i64,
    /// Its query head.
    pub(crate) head: usize,
}

/// The arithmetic of a row: which one it is, query, keys and values, the visible ones, scale, scratch, the output (zeros); gives the LSE.
pub(crate) type Attend<'a, N> = dyn Fn(&Query, &[N], &Panel<N>, &[u32], f32, &mut Vec<N>, &mut [N]) -> N + Sync + 'a;

/// Keys seen under a mask.
pub(crate) fn masked<'a>(mask: Mask<'a>) -> impl Fn(&At, &mut Vec<u32>) + Sync + 'a {
    move |at, seen| {
        seen.extend((0..at.keys as u32).filter(|&j| mask(at.position, i64::from(j))));
    }
}

/// Keys seen pair by pair.
pub(crate) fn paired<'a>(sees: Sees<'a>) -> impl Fn(&At, &mut Vec<u32>) + Sync + 'a {
    move |at, seen| {
        let (start, q, head) = (at.first_key, at.position, at.head);
        if q < 0 {
            return;
        }
        seen.extend((0..at.keys as u32).filter(|&j| sees(&Pair { start, q, kv: i64::from(j), head })));
    }
}

/// The keys and values of one sequence and one KV head, contiguous.
pub(crate) struct Panel<N> {
    k: Vec<N>,
    v: Vec<N>,
    dk: usize,
    dv: usize,
}

impl<N: Number> Panel<N> {
    pub(crate) fn of<Q, K: Real>(src: &Source<'_, Q, K>, sequence: usize, head: usize) -> Self {
        let tokens = src.cu_kv[sequence]..src.cu_kv[sequence + 1];
        let pick = |x: &Host<K>| {
            let mut out = Vec::with_capacity(tokens.len() * x.shape[2]);
            for t in tokens.clone() {
                out.extend(x.row(t, head).iter().map(|&x| N::of(x.to_f64())));
            }
            out
        };
        Panel { k: pick(src.k), v: pick(src.v), dk: src.k.shape[2], dv: src.v.shape[2] }
    }

    pub(crate) fn key(&self, j: u32) -> &[N] {
        &self.k[j as usize * self.dk..][..self.dk]
    }

    pub(crate) fn value(&self, j: u32) -> &[N] {
        &self.v[j as usize * self.dv..][..self.dv]
    }
}

/// Every row: `[total, Hq, Dv]` and `[total, Hq]`.
pub(crate) fn whole<Q: Real, K: Real, N: Number>(
    src: &Source<'_, Q, K>,
    seen: &Seen<'_>,
    attend: &Attend<'_, N>,
) -> Attended<N> {
    let [total, heads, _] = src.q.shape;
    let rows: Vec<Row> = (0..total).flat_map(|token| (0..heads).map(move |head| Row { token, head })).collect();
    let Attended { o, lse } = some(src, seen, attend, &rows);
    Attended { o: Host::new(o.data, [total, heads, src.v.shape[2]]), lse: Host::new(lse.data, [total, heads]) }
}

/// These rows: `[rows, 1, Dv]` and `[rows, 1]`. A token outside every sequence sees nothing.
pub(crate) fn some<Q: Real, K: Real, N: Number>(
    src: &Source<'_, Q, K>,
    seen: &Seen<'_>,
    attend: &Attend<'_, N>,
    rows: &[Row],
) -> Attended<N> {
    let (hq, hk, dv) = (src.q.shape[1], src.k.shape[1], src.v.shape[2]);
    let mut o = Host::filled(N::default(), [rows.len(), 1, dv]);
    let mut lse = Host::filled(N::NEG_INFINITY, [rows.len(), 1]);
    let results: Vec<(usize, N, Vec<N>)> = units(src, rows)
        .into_par_iter()
        .flat_map(|(sequence, kv_head, members)| {
            let panel = Panel::<N>::of(src, sequence, kv_head);
            let first_key = src.cu_kv[sequence];
            let keys = src.cu_kv[sequence + 1] - first_key;
            let one = |(list, q, p): &mut (Vec<u32>, Vec<N>, Vec<N>), i: usize| {
                let Row { token, head } = rows[i];
                list.clear();
                let index = token - src.cu_q[sequence];
                let position = index as i64 + src.shift[sequence];
                seen(&At { position, index, token, sequence, head, kv_head, first_key, keys }, list);
                q.clear();
                q.extend(src.q.row(token, head).iter().map(|&x| N::of(x.to_f64())));
                let mut o = vec![N::default(); dv];
                let lse = attend(&Query { position, head }, q, &panel, list, src.scale, p, &mut o);
                (i, lse, o)
            };
            members.into_par_iter().with_min_len(32).map_init(Default::default, one).collect::<Vec<_>>()
        })
        .collect();
    debug_assert_eq!(hq % hk, 0);
    for (i, l, row) in results {
        lse.data[i] = l;
        o.row_mut(i, 0).copy_from_slice(&row);
    }
    Attended { o, lse }
}

/// The rows by sequence and KV head, each as its index among the rows asked for.
fn units<Q, K>(src: &Source<'_, Q, K>, rows: &[Row]) -> Vec<(usize, usize, Vec<usize>)> {
    let (hq, hk) = (src.q.shape[1], src.k.shape[1]);
    let batch = src.cu_q.len() - 1;
    let mut members = vec![Vec::new(); batch * hk];
    for (i, row) in rows.iter().enumerate() {
        let sequence = src.cu_q.partition_point(|&start| start <= row.token);
        if (1..=batch).contains(&sequence) {
            members[(sequence - 1) * hk + row.head * hk / hq].push(i);
        }
    }
    let filled = members.into_iter().enumerate().filter(|(_, m)| !m.is_empty());
    filled.map(|(u, m)| (u / hk, u % hk, m)).collect()
}
