//! How long a launch waits for its tuned plan: `cargo bench -p lacuna-runtime --bench launch`.

#![allow(missing_docs, reason = "criterion's macros make items without documentation")]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use lacuna_codegen::plan::{Expr, Launch, Pick, Plan, Space, Tunable};
use lacuna_codegen::{Error, Work};
use lacuna_ptx::Target;
use lacuna_runtime::tune::{Chooser, Class, Lengths, Records, Schedule, Stamp, Subject};

/// A kernel with one pick.
struct One;

impl Tunable for One {
    fn space(&self, _: Target) -> Space {
        Space::default()
    }

    fn plan(&self, target: Target, _: &Pick) -> Result<Plan, Error> {
        let launch = Launch {
            ptx: "mma.sync".into(),
            entry: "one".to_owned(),
            grid: [1, 1, 1].map(Expr::Const),
            threads: 128,
            shared: 0,
            registers: 32,
            resident: 1,
            cluster: [1; 3],
            args: Vec::new(),
        };
        let (tensors, scalars, requires) = (Vec::new(), Vec::new(), Vec::new());
        let (name, workspace) = ("one".to_owned(), Expr::Const(0));
        Ok(Plan { name, target, tensors, scalars, requires, workspace, launches: vec![launch] })
    }
}

impl Subject for One {
    fn kernel(&self) -> &str {
        "one"
    }

    fn class(&self) -> Class {
        Class::new([].into(), &lengths(1))
    }

    fn target(&self) -> Target {
        Target::SM_90
    }

    fn schedules(&self) -> Vec<Schedule<'_>> {
        vec![Schedule { name: "one", tunable: self, first: Pick::new() }]
    }

    fn work(&self, _: &str, _: &Pick, _: &Plan) -> Work {
        Work::default()
    }
}

fn lengths(tokens: u64) -> Lengths {
    Lengths { tokens, documents: 1, longest: tokens, heads_kv: 8, overlap: None }
}

fn launch(c: &mut Criterion) {
    let stamp = Stamp { gpu: "none".to_owned(), driver: "none".to_owned(), clocks_mhz: None, lacuna: "0".to_owned() };
    let subject = |_: &Lengths| -> Result<Box<dyn Subject>, Error> { Ok(Box::new(One)) };
    let chooser = Chooser::new("one", (&Records::off(), vec![]), (stamp, None), false, Box::new(subject));
    // As many classes as a long-running server meets.
    (0..20).for_each(|power| drop(chooser.choose(&lengths(1 << power))));
    let mut tokens = 1;
    c.bench_function("the plan of a launch whose class is known", |b| {
        b.iter(|| {
            tokens = tokens % 1_000_000 + 977;
            chooser.choose(black_box(&lengths(tokens)))
        });
    });
}

criterion_group!(benches, launch);
criterion_main!(benches);
