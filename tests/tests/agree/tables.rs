//! Masks that read tables and rows of listed blocks, over ragged documents, at every width and pick.

use half::{bf16, f16};
use lacuna_dsl::{Elem, Pick, Shape, Target, Tunable};
use lacuna_kernels::host::{Dims, Float, Host, Precision, Sides};
use lacuna_kernels::inputs::{self, Qkv};
use lacuna_kernels::reference::Problem;
use lacuna_kernels::registry::{self, Attention, Extras, Ints};
use lacuna_kernels::tolerance::Verdicts;
use lacuna_runtime::{Bindings, Device, Element, Tensor};
use lacuna_tests::{target_for, widths};

use crate::harness::devices;

/// One attention that reads tables or lists.
#[derive(Clone, Debug)]
struct Tabled {
    kernel: &'static str,
    options: Vec<(&'static str, u32)>,
    /// Tables and lists in the place of drawn ones.
    tables: Extras,
    width: u32,
    group: u32,
    lengths: Vec<usize>,
    /// Keys of each document, where they are apart from its queries.
    keys: Option<Vec<usize>>,
    pick: Pick,
    /// What it is compiled for; what each device would have it compiled for, where it is not said.
    target: Option<Target>,
    elem: Elem,
}

impl Tabled {
    fn new(kernel: &'static str, width: u32, group: u32, lengths: &[usize]) -> Self {
        let (lengths, pick) = (lengths.to_vec(), Pick::new());
        let (options, tables, elem) = (Vec::new(), Extras::new(), Elem::Bf16);
        Tabled { kernel, options, tables, width, group, lengths, keys: None, pick, target: None, elem }
    }

    fn with_keys(self, keys: &[usize]) -> Self {
        Tabled { keys: Some(keys.to_vec()), ..self }
    }

    fn attention(&self) -> Attention {
        let kernel = registry::find(self.kernel).expect("a shipped kernel");
        let options = kernel.options(self.options.iter().copied()).expect("options that it has");
        let shape = Shape::new(self.elem, self.width, self.width, self.group);
        let shape = if self.keys.is_some() { shape.with_keys_apart() } else { shape };
        kernel.build(shape, &options).expect("a shape")
    }

    fn extras(&self, sides: Sides<'_>) -> Extras {
        self.attention().extras(&self.tables, sides, self.group as usize * 2, 11).expect("tables that fit")
    }

    /// What a device makes of it, held to what `judge` must give.
    fn run(&self, device: &Device, judge: &Tabled) -> Verdicts {
        match self.elem {
            Elem::Bf16 => self.typed::<bf16>(device, judge),
            _ => self.typed::<f16>(device, judge),
        }
    }

    fn typed<T: Float + Element>(&self, device: &Device, judge: &Tabled) -> Verdicts {
        let total: usize = self.lengths.iter().sum();
        let key_lengths = self.keys.as_ref().unwrap_or(&self.lengths);
        let (hq, width, keys) = (self.group as usize * 2, self.width as usize, key_lengths.iter().sum());
        let Qkv { q, k, v } = inputs::qkv::<T>(7, Dims { total, keys, hq, hk: 2, dk: width, dv: width });
        let (cu, cu_k) = (inputs::cu_seqlens(&self.lengths), inputs::cu_seqlens(key_lengths));
        let sides = Sides { q: &cu, k: &cu_k };
        let attention = self.attention();
        let target = self.target.unwrap_or_else(|| target_for(device));
        let pick = attention.pick(target, &self.pick).expect("a pick that fits");
        let plan = attention.plan(target, &pick).expect("a plan");
        let tensor =
            |x: &Host<T>| Tensor::from_slice(device, &x.shape.map(|extent| extent as u64), &x.data).expect("memory");
        let (total, heads) = (total as u64, hq as u64);
        let o = Tensor::poisoned(device, self.elem, &[total, heads, width as u64]).expect("memory");
        let lse = Tensor::poisoned(device, Elem::F32, &[total, heads]).expect("memory");
        let cu_seqlens = Tensor::from_slice(device, &[cu.len() as u64], &cu).expect("memory");
        let scale = 1.0 / (self.width as f32).sqrt();
        let longest = |lengths: &[usize]| lengths.iter().max().copied().unwrap_or(0) as i32;
        let cu_seqlens_k = Tensor::from_slice(device, &[cu_k.len() as u64], &cu_k).expect("memory");
        let mut bindings = Bindings::new().tensor("q", &tensor(&q)).tensor("k", &tensor(&k)).tensor("v", &tensor(&v));
        bindings = bindings.tensor("o", &o).tensor("lse", &lse).tensor("cu_seqlens", &cu_seqlens);
        bindings = bindings.float("scale", scale).int("max_seqlen", longest(&self.lengths));
        if self.keys.is_some() {
            bindings = bindings.tensor("cu_seqlens_k", &cu_seqlens_k);
        }
        if plan.scalars.iter().any(|scalar| scalar.name == "max_seqlen_k") {
            bindings = bindings.int("max_seqlen_k", longest(key_lengths));
        }
        for (name, Ints { shape, data }) in self.extras(sides) {
            let shape: Vec<u64> = shape.iter().map(|&extent| extent as u64).collect();
            bindings = bindings.tensor(&name, &Tensor::from_slice(device, &shape, &data).expect("memory"));
        }
        for (name, value) in attention.given(target).expect("it was planned") {
            bindings = bindings.scalar(&name, value);
        }
        let report = device.run(&plan, &bindings).unwrap_or_else(|error| panic!("{self:?} on {device}: {error}"));
        if let Some(stats) = report.total() {
            assert_eq!(stats.bank_conflicts, 0, "{self:?}");
        }
        assert_eq!(o.first_poison().expect("memory"), None, "{self:?} on {device}: o");
        assert_eq!(lse.first_poison().expect("memory"), None, "{self:?} on {device}: lse");
        let problem = Problem { q: &q, k: &k, v: &v, cu_seqlens: &cu, cu_seqlens_k: &cu_k, scale };
        let expected = judge.attention().expected(&problem, None, &judge.extras(sides), &Default::default(), None);
        let stored = if self.elem == Elem::Bf16 { Precision::Bf16 } else { Precision::F16 };
        expected.check(&o.to_f32_vec().expect("memory"), &lse.to_f32_vec().expect("memory"), stored)
    }
}

fn agree(title: &str, cases: &[Tabled]) {
    println!("\n{title}: {} cases; error and allowed of o, of LSE", cases.len());
    let all = cases.iter().flat_map(|case| devices().iter().map(move |device| (case, device)));
    let runs = |case: &Tabled, device: &Device| case.target.is_none_or(|target| device.targets().contains(&target));
    for (case, device) in all.filter(|(case, device)| runs(case, device)) {
        let verdicts = case.run(device, case);
        println!(
            "{device}: {} D{}: {:.4} {:.4}",
            case.kernel,
            case.width,
            verdicts.o.error / verdicts.o.allowed,
            verdicts.lse.error / verdicts.lse.allowed
        );
        assert!(verdicts.ok(), "{case:?} on {device}:\n{verdicts}");
    }
}

/// Documents of a tile and less, of tails, of nothing; the last one ends with the tables.
const LENGTHS: [&[usize]; 5] = [&[1, 0, 65], &[150], &[64, 128], &[17, 90, 3], &[0, 0, 200, 1]];

/// Queries and keys of each document: a chunk, one token, more queries than keys, no keys, no queries.
const APART: [(&[usize], &[usize]); 8] = [
    (&[70], &[200]),
    (&[1], &[130]),
    (&[300], &[40]),
    (&[1, 1, 1], &[1, 200, 0]),
    (&[40, 0, 130, 1], &[90, 33, 20, 65]),
    (&[0, 150, 7], &[64, 0, 100]),
    (&[20, 100], &[130, 0]),
    (&[33], &[0]),
];

const KERNELS: [&str; 3] = ["document-table", "token-tree", "ranges"];

const TILE: [u32; 2] = [64, 128];

/// Block-sparse rows of one size.
fn bsr(width: u32, group: u32, lengths: &[usize], (rows, keys): (u32, u32), density: u32, causal: bool) -> Tabled {
    let options = vec![("query-block", rows), ("key-block", keys), ("density", density), ("causal", causal.into())];
    Tabled { options, ..Tabled::new("bsr", width, group, lengths) }
}

#[test]
fn block_sparse_rows_of_every_size() {
    let mut cases = Vec::new();
    for (rows, keys) in TILE.into_iter().chain([256]).flat_map(|rows| [32, 64, 128, 256].map(|keys| (rows, keys))) {
        for causal in [true, false] {
            let (width, group) = (widths()[cases.len() % 3], 1 + cases.len() as u32 % 3);
            let density = [0, 30, 70, 100][cases.len() % 4];
            cases.push(bsr(width, group, LENGTHS[cases.len() % 5], (rows, keys), density, causal));
        }
    }
    agree("block-sparse rows: sizes", &cases);
}

#[test]
fn block_sparse_rows_at_every_pick() {
    let mut cases = Vec::new();
    for (width, causal) in [(32, true), (64, false)] {
        for pick in bsr(width, 1, &[1], (128, 128), 40, causal).attention().space(lacuna_dsl::Target::SM_80).picks() {
            cases.push(Tabled { pick, ..bsr(width, 2, &[200, 0, 270], (128, 128), 40, causal) });
        }
    }
    agree("block-sparse rows: picks", &cases);
}

/// Lists of each head's own, in any order, with repeats; and tiles without any block.
#[test]
fn lists_in_any_order() {
    let lists = |shape: [usize; 4], data: &[i32]| {
        let ints = Ints { shape: shape.to_vec(), data: data.to_vec() };
        Extras::from([("lists".to_owned(), ints)])
    };
    let one = bsr(64, 1, &[200], (128, 64), 0, false);
    let own = lists([1, 2, 2, 4], &[3, 0, -1, -1, 1, 1, 2, -1, -1, -1, -1, -1, 0, 3, 2, 1]);
    let nothing = lists([1, 1, 2, 1], &[-1, 3]);
    let causal = Tabled { options: vec![("key-block", 64)], ..one.clone() };
    let cases = [(&one, &own), (&causal, &own), (&one, &nothing)]
        .map(|(case, lists)| Tabled { tables: lists.clone(), ..case.clone() });
    agree("block-sparse rows: any order", &cases);

    // One block too many, one too few, one beside it, and twice what stands once.
    let emulator = Device::emulator();
    let listed = |list: &[i32; 3]| {
        let data = list.repeat(2);
        Tabled { tables: lists([1, 1, 2, 3], &data), ..one.clone() }
    };
    let right = listed(&[0, 2, -1]);
    for wrong in [[0, 2, 1], [0, -1, -1], [0, 1, -1], [0, 2, 2]] {
        let verdicts = listed(&wrong).run(&emulator, &right);
        assert!(!verdicts.o.ok && !verdicts.lse.ok, "{wrong:?} passes for [0, 2]:\n{verdicts}");
    }
}

/// A table that is given.
fn given(name: &str, data: Vec<i32>) -> Extras {
    Extras::from([(name.to_owned(), Ints { shape: vec![data.len()], data })])
}

#[test]
fn every_table_at_every_width() {
    let mut cases = Vec::new();
    for kernel in KERNELS {
        for (width, group) in widths().into_iter().flat_map(|width| [1, 3].map(|group| (width, group))) {
            let mut case = Tabled::new(kernel, width, group, LENGTHS[cases.len() % 5]);
            case.elem = if cases.len() % 2 == 0 { Elem::Bf16 } else { Elem::F16 };
            cases.push(case);
        }
    }
    for packed in [1, 2, 7, 1000] {
        let options = vec![("packed", packed)];
        cases.push(Tabled { options, ..Tabled::new("document-table", 32, 2, LENGTHS[packed as usize % 5]) });
    }
    agree("tables: widths", &cases);
}

#[test]
fn tables_at_every_pick() {
    let mut cases = Vec::new();
    for kernel in KERNELS {
        for pick in Tabled::new(kernel, 32, 1, &[1]).attention().space(lacuna_dsl::Target::SM_80).picks() {
            cases.push(Tabled { pick, ..Tabled::new(kernel, 32, 2, LENGTHS[cases.len() % 5]) });
        }
    }
    agree("tables: picks", &cases);
}

/// Tables at the ends of 32 bits, and rows that see nothing at all.
#[test]
fn tables_of_any_numbers() {
    let len = 200;
    let new = |kernel, tables| Tabled { tables, ..Tabled::new(kernel, 64, 1, &[len]) };
    let wild = |at: usize| [i32::MIN, i32::MAX, 0, -1, 1 << 30][at * at / 7 % 5];
    let cases = [
        new("document-table", given("docs", (0..len).map(wild).collect())),
        new("document-table", given("docs", vec![i32::MIN; len])),
        new("ranges", given("ends", (0..len).map(wild).collect())),
        new("ranges", given("ends", vec![0; len])),
        new("ranges", given("ends", (0..len).map(|at| if at < 130 { 0 } else { 3 }).collect())),
    ];
    agree("tables: any numbers", &cases);
}

/// A number for each key: a query has that of the key at its position, and is at none where it is before every key.
#[test]
fn tables_and_lists_of_documents_with_keys_of_their_own() {
    let mut cases = Vec::new();
    for (lengths, keys) in APART {
        for kernel in KERNELS {
            let (width, group) = (widths()[cases.len() % 3], 1 + cases.len() as u32 % 3);
            cases.push(Tabled::new(kernel, width, group, lengths).with_keys(keys));
        }
        for (size, causal) in [((128, 64), true), ((64, 32), false), ((256, 128), true)] {
            let group = 1 + cases.len() as u32 % 3;
            cases.push(bsr(widths()[cases.len() % 3], group, lengths, size, 60, causal).with_keys(keys));
        }
        for kernel in ["document-table", "ranges"] {
            let picks = Tabled::new(kernel, 32, 1, &[1]).attention().space(lacuna_dsl::Target::SM_80).picks();
            let pick = picks[cases.len() * 5 % picks.len()].clone();
            cases.push(Tabled { pick, ..Tabled::new(kernel, 32, 2, lengths).with_keys(keys) });
        }
    }
    agree("tables: keys apart", &cases);
}

/// With the numbers of another table the result is beyond the tolerance.
#[test]
fn a_table_that_is_nearly_right_is_not() {
    let emulator = Device::emulator();
    let len = 150;
    let with = |kernel, name, data| Tabled { tables: given(name, data), ..Tabled::new(kernel, 64, 2, &[len]) };
    let docs = |cut| with("document-table", "docs", (0..len).map(|at| i32::from(at >= cut)).collect());
    let ends = |end| with("ranges", "ends", vec![end; len]);
    let causal = with("document-table", "docs", vec![0; len]);
    for (right, wrong) in [(docs(70), docs(71)), (docs(70), causal), (ends(40), ends(41))] {
        let verdicts = wrong.run(&emulator, &right);
        assert!(!verdicts.o.ok && !verdicts.lse.ok, "{wrong:?} passes for {right:?}:\n{verdicts}");
    }
}

/// Block lists and classified blocks, with every way in which the products of warpgroups overlap.
#[test]
fn on_warpgroups() {
    let mut cases = Vec::new();
    for (overlap, width) in [(1, 64), (2, 64), (3, 64), (1, 128), (2, 128), (3, 128)] {
        let pick: Pick = [("overlap".to_owned(), overlap)].into();
        let on = |tabled: Tabled| Tabled { target: Some(Target::SM_90A), pick: pick.clone(), ..tabled };
        let lengths = [&[1, 0, 65][..], &[300], &[129, 200, 3]][overlap as usize - 1];
        cases.push(on(bsr(width, 2, lengths, (128, 128), 40, overlap % 2 == 0)));
        cases.extend(KERNELS.map(|kernel| on(Tabled::new(kernel, width, 2, lengths))));
    }
    agree("tables on warpgroups", &cases);
}
