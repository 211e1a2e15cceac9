//! `lacuna inspect`: what a kernel is made of, what it takes of a multiprocessor, and how fast it could be.

pub(crate) mod floor;
mod machine;

use std::collections::BTreeMap;

use clap::Args;
use lacuna::codegen::plan::{Pick, Plan};
use lacuna::kernels::registry::Extents;
use lacuna::runtime::tune::occupancy::{self, Cta, Occupancy};
use serde_json::{Value, json};

use super::args;
use super::failure::{Failure, Result};
use super::output::{self, count, duration, spinner};
use super::shaped::{self, Shaped};
use floor::Floor;
use machine::{ByDriver, KINDS, Known, Products, SASS_KINDS, Sass, Used};

/// What `lacuna inspect` takes.
#[derive(Debug, Args)]
pub(crate) struct Inspect {
    #[command(flatten)]
    shaped: Shaped,
    /// The floor of a launch on so many tokens in one document [default: 8192]
    #[arg(long, value_name = "N", help_heading = "Launch", conflicts_with = "docs")]
    tokens: Option<u32>,
    /// The floor of a launch on documents of these lengths, as a list with commas
    #[arg(long, value_name = "N,..", value_delimiter = ',', help_heading = "Launch")]
    docs: Vec<u32>,
    /// Query heads of the launch, a multiple of --group [default: 16 or the group, whichever is more]
    #[arg(long, value_name = "N", help_heading = "Launch")]
    heads: Option<u32>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// The most tokens of a launch that is counted.
const MOST_TOKENS: u64 = 1 << 20;

/// Everything that is found.
struct Found {
    schedule: &'static str,
    /// Bytes of the plan's workspace.
    workspace: u64,
    pick: Pick,
    plan: Plan,
    used: Known<Used>,
    ptx: Known<([usize; KINDS.len()], BTreeMap<String, usize>)>,
    sass: Known<Sass>,
    /// Of warpgroups, where they multiply.
    products: Option<Known<Products>>,
    driver: Known<ByDriver>,
    occupancy: Option<Occupancy>,
    extents: Extents,
    floor: Floor,
}

impl Inspect {
    /// Inspects it.
    ///
    /// # Errors
    /// A shape or pick that cannot be compiled; extents of a launch that cannot be.
    pub(crate) fn inspect(&self) -> Result {
        let extents = self.extents()?;
        let attention = self.shaped.attention(&shaped::known(&extents.docs, extents.heads, extents.kv_heads))?;
        let (pick, plan) = self.shaped.plan(&attention)?;
        let progress = spinner(self.json);
        progress.set_message("asking ptxas");
        let (by_ptxas, assembled) = machine::assembled(&plan);
        progress.set_message("asking nvdisasm");
        let names = machine::disassembled(&plan, &assembled);
        progress.set_message("asking the driver");
        let driver = machine::by_driver(&plan);
        progress.finish_and_clear();
        let used = match (by_ptxas, &driver) {
            (Ok(used), _) => Ok(used),
            (Err(_), Ok(driver)) => Ok(driver.used()),
            (Err(why), Err(no_gpu)) => Err(format!("{why}; {no_gpu}")),
        };
        let launch = plan.attending();
        let cta = Cta {
            threads: launch.threads,
            registers: used.as_ref().ok().map(|used| used.registers),
            shared: launch.shared + used.as_ref().map_or(0, |used| used.static_shared),
        };
        let found = Found {
            ptx: machine::counted(&plan),
            products: machine::products(&plan, &assembled, &names),
            sass: names.map(|names| machine::sass(&names)),
            driver,
            occupancy: occupancy::occupancy(plan.target, cta),
            floor: Floor::of(&attention, &pick, &plan, &extents),
            schedule: attention.schedule_name,
            workspace: shaped::workspace(&plan, extents.symbols(&attention), [extents.longest(); 2]),
            pick,
            used,
            extents,
            plan,
        };
        output::print(&if self.json { format!("{:#}\n", self.as_json(&found)) } else { self.as_text(&found) })
    }

    fn extents(&self) -> Result<Extents> {
        let Shaped { group, dim, dv, .. } = self.shaped;
        let (group, heads) = (group.max(1), self.shaped.heads(self.heads)?);
        let docs = if self.docs.is_empty() { vec![self.tokens.unwrap_or(8192)] } else { self.docs.clone() };
        let tokens: u64 = docs.iter().map(|&len| u64::from(len)).sum();
        if !(1..=MOST_TOKENS).contains(&tokens) {
            return Err(Failure::usage(format!("{tokens} tokens; 1 to {MOST_TOKENS} are right")));
        }
        let (dk, dv) = (u64::from(dim), u64::from(dv.unwrap_or(dim)));
        Ok(Extents { docs, heads: heads.into(), kv_heads: (heads / group).into(), dk, dv })
    }

    fn as_text(&self, found: &Found) -> String {
        let kernel = self.shaped.chosen.kernel;
        let launch = found.plan.attending();
        let mut text = format!("{}: {}, {}\n", kernel.name, found.schedule, found.plan.target);
        let mut line = |name: &str, value: String| text.push_str(&format!("  {name:<12}  {value}\n"));
        let before: Vec<_> = found.plan.launches.iter().take_while(|other| other.entry != launch.entry).collect();
        if !before.is_empty() {
            let names: Vec<&str> = before.iter().map(|launch| launch.entry.as_str()).collect();
            line("blocks", format!("found by launches before it: {}", names.join(", ")));
        }
        line("pick", format!("{}: {}", args::pick_text(&found.pick), count(launch.threads as usize, "thread")));
        match &found.used {
            Ok(used) => {
                let spills = match used.spills {
                    Some((stores, loads)) => format!("{stores} bytes spilled, {loads} loaded back"),
                    None => "spills among them".to_owned(),
                };
                line(
                    "registers",
                    format!("{} a thread, {} bytes of stack, {spills} ({})", used.registers, used.stack, used.by),
                );
                line("shared", format!("{} bytes static, {} dynamic a CTA", used.static_shared, launch.shared));
            }
            Err(why) => {
                line("registers", format!("not known: {why}"));
                line("shared", format!("{} bytes dynamic a CTA", launch.shared));
            }
        }
        line(
            "PTX",
            match &found.ptx {
                Ok((kinds, _)) => {
                    KINDS.iter().zip(kinds).map(|((name, _), n)| format!("{n} {name}")).collect::<Vec<_>>().join(", ")
                }
                Err(why) => format!("not counted: {why}"),
            },
        );
        line(
            "SASS",
            match &found.sass {
                Ok((kinds, each)) => {
                    let kinds: Vec<String> =
                        SASS_KINDS.iter().zip(kinds).map(|((name, _), n)| format!("{n} {name}")).collect();
                    let named = |name: &str| SASS_KINDS.iter().any(|(_, names)| names.contains(&name));
                    let mut most: Vec<(&String, &usize)> = each.iter().filter(|(name, _)| !named(name)).collect();
                    most.sort_by_key(|&(_, n)| std::cmp::Reverse(n));
                    let most: Vec<String> = most.iter().take(4).map(|(name, n)| format!("{n} {name}")).collect();
                    format!("{}; of the others most are {}", kinds.join(", "), most.join(", "))
                }
                Err(why) => format!("not counted: {why}"),
            },
        );
        match &found.products {
            Some(Ok(products)) => line("warpgroups", products.text()),
            Some(Err(why)) => line("warpgroups", format!("not known: {why}")),
            None => {}
        }
        line(
            "driver",
            match &found.driver {
                Ok(ByDriver { device, resources, ctas }) => format!(
                    "{} registers a thread, {} bytes of local memory, {} an SM ({device})",
                    resources.registers,
                    resources.local_bytes,
                    count(*ctas as usize, "CTA")
                ),
                Err(why) => format!("not asked: {why}"),
            },
        );
        line(
            "occupancy",
            match &found.occupancy {
                Some(o) => {
                    let allowed: Vec<String> = o.allowed.iter().map(|(name, ctas)| format!("{name} {ctas}")).collect();
                    format!(
                        "{} and {} of {} an SM, limited by {} ({})",
                        count(o.ctas as usize, "CTA"),
                        count(o.warps as usize, "warp"),
                        o.most_warps,
                        o.limited_by,
                        allowed.join(", ")
                    )
                }
                None => format!("not known: {} is not in the table of limits", found.plan.target),
            },
        );
        let Extents { docs, heads, kv_heads, .. } = &found.extents;
        let tokens: u64 = docs.iter().map(|&len| u64::from(len)).sum();
        line(
            "launch",
            format!(
                "{} in {}, {} over {}",
                count(tokens as usize, "token"),
                count(docs.len(), "document"),
                count(*heads as usize, "query head"),
                count(*kv_heads as usize, "KV head")
            ),
        );
        if found.plan.launches.len() > 1 {
            let names: Vec<&str> = found.plan.launches.iter().map(|launch| launch.entry.as_str()).collect();
            line("  launches", format!("{}; what is above is {}", names.join(", "), launch.entry));
            line("  workspace", format!("{}B", si(found.workspace as f64)));
        }
        let [products, l2, hbm] = found.floor.bounds();
        let Floor { flops, l2_bytes, hbm_bytes, ceiling, .. } = found.floor;
        line("  products", format!("{} FLOPs, {} at {:.0} TFLOP/s", si(flops), duration(products.1), ceiling / 1e12));
        line("  L2", format!("{}B, {}, {:.1} FLOPs a byte", si(l2_bytes), duration(l2.1), flops / l2_bytes.max(1.0)));
        line(
            "  HBM",
            format!("{}B, {}, {:.1} FLOPs a byte", si(hbm_bytes), duration(hbm.1), flops / hbm_bytes.max(1.0)),
        );
        let (bound, millis) = found.floor.bound();
        line("floor", format!("{} on an H200: {bound}", duration(millis)));
        text
    }

    fn as_json(&self, found: &Found) -> Value {
        let kernel = self.shaped.chosen.kernel;
        let launch = found.plan.attending();
        let used = found.used.as_ref().map(|used| {
            json!({
                "by": used.by,
                "registers": used.registers,
                "spill_store_bytes": used.spills.map(|spills| spills.0),
                "spill_load_bytes": used.spills.map(|spills| spills.1),
                "stack_bytes": used.stack,
                "static_shared_bytes": used.static_shared,
            })
        });
        let sass = found.sass.as_ref().map(|(kinds, each)| {
            let kinds: serde_json::Map<String, Value> =
                SASS_KINDS.iter().zip(kinds).map(|((name, _), n)| ((*name).to_owned(), (*n).into())).collect();
            json!({ "kinds": kinds, "instructions": each })
        });
        let driver = found.driver.as_ref().map(|ByDriver { device, resources, ctas }| {
            json!({
                "device": device,
                "registers": resources.registers,
                "local_bytes": resources.local_bytes,
                "static_shared_bytes": resources.static_shared,
                "most_threads": resources.max_threads,
                "ctas": ctas,
            })
        });
        let ptx = found.ptx.as_ref().map(|(kinds, each)| {
            let kinds: serde_json::Map<String, Value> =
                KINDS.iter().zip(kinds).map(|((name, _), n)| ((*name).to_owned(), (*n).into())).collect();
            json!({ "kinds": kinds, "instructions": each })
        });
        let occupancy = found.occupancy.as_ref().map(|o| {
            json!({
                "ctas": o.ctas,
                "warps": o.warps,
                "most_warps": o.most_warps,
                "limited_by": o.limited_by,
                "registers_known": found.used.is_ok(),
                "allowed": o.allowed.iter().copied().collect::<BTreeMap<_, _>>(),
            })
        });
        let Floor { flops, l2_bytes, hbm_bytes, ceiling, .. } = found.floor;
        let (bound, millis) = found.floor.bound();
        json!({
            "kernel": kernel.name,
            "schedule": found.schedule,
            "target": found.plan.target.to_string(),
            "pick": found.pick,
            "threads": launch.threads,
            "dynamic_shared_bytes": launch.shared,
            "launches": found.plan.launches.iter().map(|launch| launch.entry.as_str()).collect::<Vec<_>>(),
            "workspace_bytes": found.workspace,
            "used": used.as_ref().ok(),
            "used_unknown": found.used.as_ref().err(),
            "ptx": ptx.as_ref().ok(),
            "sass": sass.as_ref().ok(),
            "sass_unknown": found.sass.as_ref().err(),
            "warpgroups": found.products.as_ref().and_then(|products| products.as_ref().ok()).map(Products::json),
            "warpgroups_unknown": found.products.as_ref().and_then(|products| products.as_ref().err()),
            "driver": driver.as_ref().ok(),
            "driver_unknown": found.driver.as_ref().err(),
            "occupancy": occupancy,
            "launch": {
                "docs": found.extents.docs,
                "heads": found.extents.heads,
                "kv_heads": found.extents.kv_heads,
                "flops": flops,
                "l2_bytes": l2_bytes,
                "hbm_bytes": hbm_bytes,
                "flops_a_byte_of_l2": flops / l2_bytes.max(1.0),
                "flops_a_byte_of_hbm": flops / hbm_bytes.max(1.0),
                "products_flops_a_second": ceiling,
                "milliseconds": found.floor.bounds().into_iter().collect::<BTreeMap<_, _>>(),
                "bound": bound,
                "floor_milliseconds": millis,
            },
        })
    }
}

/// `1.10 T`, `537 M`.
fn si(x: f64) -> String {
    let units = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")];
    let (by, unit) = units.into_iter().find(|(by, _)| x >= *by).unwrap_or((1.0, ""));
    format!("{:.3} {unit}", x / by)
}
