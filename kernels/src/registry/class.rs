//! What decides between the picks of a kernel besides the lengths of a launch, and which schedules may compute it.

use super::{Allowed, Attention, Kernel, Options, POSITIONS};
use crate::moba::RoutingIs;

/// A fact of a shape class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    /// Compared as it is.
    Is(String),
    /// A number of tokens or the like: numbers near it decide as it does.
    About(u64),
}

/// The option that says which schedule computes picked blocks: that is what records are of, and no fact.
const BY_BLOCK: &str = "by-block";

impl Attention {
    /// What its picks depend on: what is baked into its text, and what was chosen about the kernel.
    pub fn facts(&self) -> Vec<(&'static str, Fact)> {
        let is = |value: &dyn std::fmt::Display| Fact::Is(value.to_string());
        let shape = &self.shape;
        let mut facts = vec![
            ("dtype", is(&shape.elem.name())),
            ("dk", is(&shape.dk)),
            ("dv", is(&shape.dv)),
            ("group", is(&shape.group)),
        ];
        facts.extend(shape.keys_apart.then(|| ("keys", is(&"apart"))));
        facts.extend(self.options.score.map(|score| ("score", is(&score.name))));
        facts.extend(self.options.sinks.then(|| ("sinks", is(&"yes"))));
        let routing = self.routing().filter(|routing| *routing == RoutingIs::Given);
        facts.extend(routing.map(|_| ("routing", is(&"given"))));
        let settings = self.kernel.settings.iter().chain(self.options.score.map_or(&[][..], |score| score.settings));
        for setting in settings.filter(|setting| setting.name != BY_BLOCK) {
            let value = self.options.get(setting.name);
            // What has no upper end counts tokens.
            let fact = match setting.allowed {
                Allowed::Range(_, POSITIONS) => Fact::About(value.into()),
                _ => is(&value),
            };
            facts.push((setting.name, fact));
        }
        facts
    }
}

impl Kernel {
    /// The options under which each of the schedules computes it that may: those that are given, where they leave no choice.
    pub fn ways(&self, options: &Options) -> Vec<Options> {
        let either = options.iter().any(|(name, value)| name == BY_BLOCK && value == 2);
        if either { [0, 1].map(|value| options.with(BY_BLOCK, value)).into() } else { vec![options.clone()] }
    }
}

#[cfg(test)]
mod tests {
    use crate::registry::{self, Fact};
    use lacuna_dsl::{Elem, Shape};

    #[test]
    fn every_option_of_every_kernel_is_a_fact_but_the_schedule() {
        for kernel in registry::KERNELS {
            let attention = kernel.build(Shape::new(Elem::F16, 64, 32, 2), &kernel.options([]).unwrap()).unwrap();
            let facts = attention.facts();
            for setting in kernel.settings {
                let has = facts.iter().any(|(name, _)| *name == setting.name);
                assert_eq!(has, setting.name != "by-block", "{}: {}", kernel.name, setting.name);
            }
            let of = |name: &str| facts.iter().find(|fact| fact.0 == name).map(|fact| fact.1.clone());
            assert_eq!(of("dtype"), Some(Fact::Is("f16".to_owned())));
            assert_eq!([of("dk"), of("dv"), of("group")], ["64", "32", "2"].map(|n| Some(Fact::Is(n.to_owned()))));
        }
        let window = registry::find("window").unwrap();
        let attention = window.build(Shape::new(Elem::Bf16, 64, 64, 1), &window.options([("window", 1000)]).unwrap());
        assert!(attention.unwrap().facts().contains(&("window", Fact::About(1000))));
    }

    #[test]
    fn picked_blocks_may_be_computed_in_two_ways_unless_the_caller_says_which() {
        let kernel = registry::find("nsa-selected").unwrap();
        let names = |given: &[(&str, u32)]| -> Vec<&str> {
            let options = kernel.options(given.iter().copied()).unwrap();
            let build = |options| kernel.build(Shape::new(Elem::Bf16, 64, 64, 4), options).unwrap().schedule_name;
            kernel.ways(&options).iter().map(build).collect()
        };
        assert_eq!(names(&[]), ["group-centric", "block-major"]);
        assert_eq!(names(&[("by-block", 1)]), ["block-major"]);
        assert_eq!(names(&[("by-block", 0)]), ["group-centric"]);
        let causal = registry::find("causal").unwrap();
        assert_eq!(causal.ways(&causal.options([]).unwrap()).len(), 1);
    }
}
