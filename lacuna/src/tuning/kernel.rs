//! A kernel of the registry as what a tuner sees.

use lacuna_codegen::plan::{Pick, Plan};
use lacuna_codegen::{Error, Work};
use lacuna_dsl::{Shape, Target};
use lacuna_kernels::registry::{Attention, Counted, Extents, Fact, Kernel, Known, Options};
use lacuna_kernels::tuned::TUNED;
use lacuna_runtime::Device;
use lacuna_runtime::tune::{
    Chooser, Class, Lengths, Profile, Record, Records, Schedule, Shipped, Stamp, Subject, bucket,
};

/// A kernel at a shape, and what is known of its launches.
#[derive(Clone, Debug)]
pub struct Case {
    /// The kernel.
    pub kernel: &'static Kernel,
    /// Its options.
    pub options: Options,
    /// Its shape.
    pub shape: Shape,
    /// What it is compiled for.
    pub target: Target,
}

/// A kernel at one shape class: every schedule that may compute it.
pub struct Tuned {
    kernel: &'static str,
    target: Target,
    class: Class,
    /// The one that is taken without a tuner first.
    ways: Vec<Way>,
}

/// One of the schedules.
struct Way {
    attention: Attention,
    first: Pick,
    counted: Counted,
}

impl Case {
    /// It at a launch of which so much is known. `overlap` says how much neighbouring tokens share of their selections, of a
    /// hundred, where that is known.
    ///
    /// # Errors
    /// Where no schedule has a pick for it, why the first one has none.
    pub fn at(&self, known: &Known, extents: &Extents, overlap: Option<u8>) -> Result<Tuned, Error> {
        let build = |options: &Options| self.kernel.build_for(self.shape.clone(), options, known);
        // What is taken without a tuner, whether it has a pick or not.
        let taken = build(&self.options)?;
        let way = |options: &Options| -> Result<Way, Error> {
            let attention = build(options)?;
            let first = attention.pick(self.target, &Pick::new())?;
            Ok(Way { attention, first, counted: Counted::new(extents.clone()) })
        };
        let (mut ways, mut refused) = (Vec::new(), None);
        for options in self.kernel.ways(&self.options) {
            match way(&options) {
                Ok(way) => ways.push(way),
                Err(error) => refused = refused.or(Some(error)),
            }
        }
        ways.sort_by_key(|way| way.attention.schedule_name != taken.schedule_name);
        let Some(first) = ways.first() else {
            return Err(
                refused.unwrap_or_else(|| Error::Unsupported(format!("`{}` has no schedule", self.kernel.name)))
            );
        };
        let fact = |(name, fact): (&'static str, Fact)| match fact {
            Fact::Is(value) => (name.to_owned(), value),
            Fact::About(n) => (name.to_owned(), format!("about {}", bucket(n))),
        };
        let mut facts: std::collections::BTreeMap<String, String> =
            first.attention.facts().into_iter().map(fact).collect();
        facts.insert("target".to_owned(), self.target.to_string());
        let class = Class::new(facts, &lengths(extents, overlap));
        Ok(Tuned { kernel: self.kernel.name, target: self.target, class, ways })
    }
}

/// The lengths of a launch.
fn lengths(extents: &Extents, overlap: Option<u8>) -> Lengths {
    let (tokens, documents) = (extents.tokens(), extents.docs.len() as u64);
    Lengths { tokens, documents, longest: extents.longest() as u64, heads_kv: extents.kv_heads, overlap }
}

impl Tuned {
    /// The attention under one of its schedules.
    pub fn attention(&self, schedule: &str) -> Option<&Attention> {
        self.ways.iter().map(|way| &way.attention).find(|attention| attention.schedule_name == schedule)
    }

    /// The attention under one of its schedules, and no other.
    pub fn into_attention(self, schedule: &str) -> Option<Attention> {
        self.ways.into_iter().map(|way| way.attention).find(|attention| attention.schedule_name == schedule)
    }
}

impl Subject for Tuned {
    fn kernel(&self) -> &str {
        self.kernel
    }

    fn class(&self) -> Class {
        self.class.clone()
    }

    fn target(&self) -> Target {
        self.target
    }

    fn schedules(&self) -> Vec<Schedule<'_>> {
        let of = |way: &Way| -> (&'static str, Pick) { (way.attention.schedule_name, way.first.clone()) };
        let each = |way| {
            let (name, first) = of(way);
            Schedule { name, tunable: &way.attention, first }
        };
        self.ways.iter().map(each).collect()
    }

    fn work(&self, schedule: &str, pick: &Pick, _: &Plan) -> Work {
        let way = self.ways.iter().find(|way| way.attention.schedule_name == schedule);
        way.map_or(Work::default(), |way| way.attention.work(&way.counted, pick))
    }
}

/// Winners that came with lacuna, of a kernel on a GPU.
pub fn shipped(gpu: &str, kernel: &str) -> Vec<Record> {
    let files = TUNED.iter().filter_map(|text| Shipped::read(text).ok());
    files.flat_map(|file| file.of(gpu, kernel).cloned().collect::<Vec<_>>()).collect()
}

/// The ceilings of a device: those of its GPU; `None` for the emulator, whose times are not a GPU's.
pub fn profile(device: &Device) -> Option<Profile> {
    if device.is_cuda() { Profile::of(&device.info()) } else { None }
}

/// What chooses for the launches of a kernel on a device: what was tuned there, else what came with lacuna, else the model.
/// Its records are read once, here; after the first launch of a class, the next one's plan is found in less than a
/// microsecond.
///
/// ```
/// use lacuna::kernels::registry;
/// use lacuna::prelude::*;
/// use lacuna::runtime::{Device, tune::{Lengths, Records}};
/// use lacuna::tuning::{Case, chooser};
///
/// let kernel = registry::find("window").unwrap();
/// let options = kernel.options([("window", 1024)]).unwrap();
/// let case = Case { kernel, options, shape: Shape::new(Elem::Bf16, 128, 128, 4), target: Target::SM_80 };
/// let chooser = chooser(&Device::best(), &Records::user(), case);
/// let lengths = Lengths { tokens: 8192, documents: 2, longest: 5000, heads_kv: 8, overlap: None };
/// let choice = chooser.choose(&lengths)?;
/// println!("{}: {:?}, {}", choice.schedule, choice.pick, choice.why);
/// assert_eq!(choice.plan.target, Target::SM_80);
/// # Ok::<(), lacuna::dsl::Error>(())
/// ```
pub fn chooser(device: &Device, records: &Records, case: Case) -> Chooser<'static> {
    let (name, stamp) = (case.kernel.name, Stamp::of(&device.info()));
    let shipped = shipped(&stamp.gpu, name);
    // How MoBA's work is chunked, and whether it is dense, depends on every extent.
    let exact = case.kernel.routed(&case.options).is_some();
    let at = move |lengths: &Lengths| -> Result<Box<dyn Subject>, Error> {
        let extents = like(lengths, &case.shape);
        let known = known(&extents);
        Ok(Box::new(case.at(&known, &extents, lengths.overlap)?))
    };
    Chooser::new(name, (records, shipped), (stamp, profile(device)), exact, Box::new(at))
}

/// Extents that have these lengths: one longest document, and others that share the rest evenly.
fn like(lengths: &Lengths, shape: &Shape) -> Extents {
    let Lengths { tokens, documents, longest, heads_kv, .. } = *lengths;
    let documents = documents.max(1);
    let longest = longest.min(tokens).max(tokens.div_ceil(documents));
    let (rest, others) = (tokens - longest, documents - 1);
    let other = |i: u64| (rest * (i + 1) / others - rest * i / others) as u32;
    let docs = std::iter::once(longest as u32).chain((0..others).map(other)).collect();
    let (dk, dv) = (shape.dk.into(), shape.dv.into());
    Extents { docs, heads: heads_kv * u64::from(shape.group), kv_heads: heads_kv, dk, dv }
}

/// What is known of a launch of these extents.
fn known(extents: &Extents) -> Known {
    let symbols = [
        ("tokens", extents.tokens()),
        ("tokens_k", extents.tokens()),
        ("heads_q", extents.heads),
        ("heads_kv", extents.kv_heads),
        ("segments_plus_one", extents.docs.len() as u64 + 1),
    ];
    let symbols = symbols.map(|(name, extent)| (name.to_owned(), extent)).into();
    Known { max_seqlen: Some(extents.longest()), extents: Some(symbols), ..Known::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lacuna_dsl::Elem;
    use lacuna_kernels::registry;
    use lacuna_runtime::tune::{models_choice, rank};

    fn case(kernel: &str, given: &[(&str, u32)], group: u32) -> Case {
        let kernel = registry::find(kernel).unwrap();
        let options = kernel.options(given.iter().copied()).unwrap();
        Case { kernel, options, shape: Shape::new(Elem::Bf16, 128, 128, group), target: Target::SM_90 }
    }

    fn extents(tokens: u32, kv_heads: u64, group: u64) -> Extents {
        Extents { docs: vec![tokens], heads: kv_heads * group, kv_heads, dk: 128, dv: 128 }
    }

    fn tuned(case: &Case, extents: &Extents) -> Tuned {
        case.at(&known(extents), extents, None).unwrap()
    }

    /// Measured on an H200: 16 query heads over 16, block by block 5.8 ms and token by token 54; 64 over 4, 23 and 13.7.
    #[test]
    fn the_model_tells_the_schedules_apart_that_an_h200_does() {
        for (group, kv_heads, faster) in [(1, 16, "block-major"), (16, 4, "group-centric")] {
            let extents = extents(65536, kv_heads, group);
            let subject = tuned(&case("nsa-selected", &[], group as u32), &extents);
            let staged = rank(&subject, &[], &Profile::H200);
            let first = subject.schedules().remove(0);
            assert_eq!(first.name, faster, "without a tuner");
            assert_eq!(models_choice(&staged, &first).unwrap().schedule, faster);
            let schedules: std::collections::BTreeSet<&str> =
                staged.iter().filter_map(|s| s.as_ref().ok()).map(|c| c.schedule.as_str()).collect();
            assert_eq!(schedules.len(), 2, "both are candidates: {schedules:?}");
        }
    }

    #[test]
    fn the_model_is_near_what_an_h200_took() {
        for (kernel, given, group, kv_heads, docs, took) in [
            ("causal", &[][..], 1, 16, vec![8192; 4], 2.95),
            ("causal", &[], 1, 16, vec![32768], 11.7),
            ("window", &[("window", 1024)], 1, 16, vec![65536], 1.68),
            ("nsa-selected", &[], 16, 4, vec![65536], 13.7),
            ("nsa-selected", &[], 1, 16, vec![65536], 6.0),
            ("nsa-selected", &[], 4, 8, vec![65536], 11.3),
        ] {
            let extents = Extents { docs, ..extents(0, kv_heads, group) };
            let subject = tuned(&case(kernel, given, group as u32), &extents);
            let staged = rank(&subject, &[], &Profile::H200);
            let first = subject.schedules().remove(0);
            let own = staged.iter().filter_map(|s| s.as_ref().ok());
            let own = own.clone().find(|c| c.schedule == first.name && c.pick == first.first).unwrap();
            let ratio = own.prediction.ms / took;
            assert!(
                (0.6..1.6).contains(&ratio),
                "{kernel}, group {group}: {} ms, and it took {took}",
                own.prediction.ms
            );
        }
    }

    #[test]
    fn a_class_is_of_what_was_chosen_and_of_lengths() {
        let class = |case: &Case, extents: &Extents| tuned(case, extents).class().to_string();
        let one = class(&case("window", &[("window", 1024)], 4), &extents(8192, 8, 4));
        let want = "dk 128, dtype bf16, dv 128, group 4, target sm_90, window about 1024, \
                    tokens 8k, documents 1, longest 8k, KV heads 8";
        assert_eq!(one, want);
        assert_eq!(one, class(&case("window", &[("window", 1100)], 4), &extents(8000, 8, 4)));
        assert_ne!(one, class(&case("window", &[("window", 4096)], 4), &extents(8192, 8, 4)));
        // Whichever schedule the caller lets compute it, records are shared.
        let either = class(&case("nsa-selected", &[], 4), &extents(8192, 8, 4));
        assert_eq!(either, class(&case("nsa-selected", &[("by-block", 1)], 4), &extents(8192, 8, 4)));
    }

    #[test]
    fn lengths_become_documents_that_have_them() {
        for (tokens, documents, longest) in [(8192, 1, 8192), (1000, 7, 400), (10, 20, 3), (0, 1, 0), (100, 4, 5)] {
            let lengths = Lengths { tokens, documents, longest, heads_kv: 2, overlap: None };
            let extents = like(&lengths, &Shape::new(Elem::Bf16, 64, 64, 3));
            assert_eq!((extents.tokens(), extents.docs.len() as u64, extents.heads), (tokens, documents, 6));
            assert!(extents.longest() as u64 >= longest.min(tokens));
        }
    }

    /// A plan that is dense because every block may be seen is not given to a longer document of the same class.
    #[test]
    fn what_depends_on_every_extent_is_planned_for_every_extent() {
        let case = case("moba", &[("block", 128), ("top-k", 8)], 1);
        let chooser = chooser(&Device::emulator(), &Records::off(), case);
        let at = |tokens| {
            let lengths = Lengths { tokens, documents: 1, longest: tokens, heads_kv: 2, overlap: None };
            chooser.choose(&lengths).unwrap().plan.launches.len()
        };
        assert!(at(1000) == 1 && at(1100) > 3, "1000 and 1100 are in one bucket");
    }
}
