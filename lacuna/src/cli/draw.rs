//! `lacuna draw`: a picture of the blocks that a kernel visits.

use std::path::PathBuf;

use clap::Args;
use lacuna::codegen::plan::Pick;
use lacuna::ptx::Target;
use lacuna::runtime::Elem;
use serde_json::json;

use super::args::{self, Chosen, Knob};
use super::failure::{Failure, Result};
use super::input::{Draw, Input};
use super::output::{self, count, spinner};
use super::picture::{self, Format};

/// What `lacuna draw` takes.
#[derive(Debug, Args)]
pub(crate) struct Picture {
    #[command(flatten)]
    chosen: Chosen,
    /// The documents, q, k and picks of a safetensors file [default: a real model's]
    #[arg(long, value_name = "FILE", help_heading = "Input", conflicts_with_all = ["tokens", "docs", "dim", "seed"])]
    input: Option<PathBuf>,
    /// So many tokens in one document; q and k are drawn
    #[arg(long, value_name = "N", help_heading = "Input", conflicts_with = "docs")]
    tokens: Option<usize>,
    /// Documents of these lengths, as a list with commas; q and k are drawn
    #[arg(long, value_name = "N,..", value_delimiter = ',', help_heading = "Input")]
    docs: Vec<usize>,
    /// Width of what is drawn: 32, 64, 96, 128, 192 or 256 [default: 64]
    #[arg(long, value_name = "N", help_heading = "Input")]
    dim: Option<usize>,
    /// Draw with this seed [default: 0]
    #[arg(long, value_name = "N", help_heading = "Input")]
    seed: Option<u64>,
    /// Knobs, as rows=64,kv=32; the others as they come first in `lacuna emit KERNEL --space`
    #[arg(long, value_name = "KNOB=N,..", value_delimiter = ',')]
    pick: Vec<Knob>,
    /// Compile for this GPU
    #[arg(long, default_value = "sm_80")]
    target: Target,
    /// Where the picture goes, a .png or an .svg [default: KERNEL.png]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

impl Picture {
    /// Draws it.
    ///
    /// # Errors
    /// A file that cannot be written, or is to be no picture; input that cannot be taken; more tokens than can be seen.
    pub(crate) fn draw(&self) -> Result {
        let kernel = self.chosen.kernel;
        let path = self.output.clone().unwrap_or_else(|| PathBuf::from(format!("{}.png", kernel.name)));
        let format = Format::of(&path)?;
        // A place that cannot be written is told of before the work.
        output::writable(&path)?;
        let options = self.chosen.options()?;
        let progress = spinner(self.json);
        progress.set_message(format!("drawing {}", kernel.name));
        if let Some(tokens) = self.tokens.or_else(|| self.docs.iter().copied().reduce(usize::saturating_add)) {
            fits(format, tokens)?;
        }
        let input = self.problem()?;
        fits(format, input.dims.total)?;
        if input.keys.is_some() {
            let message = format!("{} has keys apart from its queries; pictures are of as many of both", input.name);
            return Err(Failure::usage(message).hint("lacuna run takes it"));
        }
        let attention = kernel.build(input.shape(), &options)?;
        let pick = attention.pick(self.target, &args::pick(&self.pick)?)?;
        let explicit = self.chosen.given.iter().any(|(name, _)| *name == "blocks");
        let picks = input.picks_for(kernel, &options, explicit)?;
        let routing = input.routing_for(kernel, &options)?;
        let block = (picks.is_some() || routing.is_some()).then(|| options.get("block"));
        match (attention.mask(), &picks, block) {
            _ if let Some(routing) = &routing => {
                picture::routing(&path, routing, &input.cu_seqlens, options.get("block") as usize)?;
            }
            (Some(mask), ..) => {
                let extras = attention.extras(&input.extras, &input.cu_seqlens, input.dims.hq, input.seed)?;
                picture::blocks(&path, mask, &extras, &input.cu_seqlens, (pick["rows"], pick["kv"]))?;
            }
            _ if attention.lists().is_some() => {
                let extras = attention.extras(&input.extras, &input.cu_seqlens, input.dims.hq, input.seed)?;
                picture::lists(&path, &attention, &extras, &input.cu_seqlens)?;
            }
            (None, Some((picks, _)), Some(block)) => {
                picture::picks(&path, picks, &input.cu_seqlens, block as usize)?;
            }
            _ => return Err(Failure::usage(format!("`{}` has neither a mask nor blocks to draw", kernel.name))),
        }
        progress.finish_and_clear();
        let (rows, keys) = match (block, attention.lists()) {
            (Some(block), _) => (1, block),
            (None, Some(size)) => (size.rows, size.keys),
            (None, None) => (pick["rows"], pick["kv"]),
        };
        let drawn = Drawn { pick: &pick, rows, keys };
        output::print(&match self.json {
            true => format!("{:#}\n", self.as_json(&input, &drawn, &path.display().to_string())),
            false => format!(
                "{}: {} by {}, {}\n{}\n",
                path.display(),
                if rows == 1 { "1 query".to_owned() } else { format!("{rows} queries") },
                count(keys as usize, "key"),
                count(input.dims.total, "token"),
                picture::LEGEND
            ),
        })
    }

    fn problem(&self) -> Result<Input> {
        if let Some(path) = &self.input {
            return Input::file(path);
        }
        if self.tokens.is_none() && self.docs.is_empty() && self.dim.is_none() && self.seed.is_none() {
            return Input::minilm();
        }
        let dim = self.dim.unwrap_or(64);
        Input::draw(&Draw {
            tokens: self.tokens,
            docs: self.docs.clone(),
            keys: Vec::new(),
            heads: 1,
            kv_heads: 1,
            dim,
            dv: dim,
            seed: self.seed.unwrap_or(0),
            elem: Elem::Bf16,
            repeats: false,
        })
    }

    fn as_json(&self, input: &Input, drawn: &Drawn<'_>, path: &str) -> serde_json::Value {
        json!({
            "kernel": self.chosen.kernel.name,
            "pick": drawn.pick,
            "rows": drawn.rows,
            "keys": drawn.keys,
            "tokens": input.dims.total,
            "sequences": input.cu_seqlens.len() - 1,
            "output": path,
        })
    }
}

/// How large the blocks of a picture are.
struct Drawn<'a> {
    pick: &'a Pick,
    rows: u32,
    keys: u32,
}

/// Refuses more tokens than a picture shows.
fn fits(format: Format, tokens: usize) -> Result {
    let most = format.most_tokens();
    if tokens <= most {
        return Ok(());
    }
    Err(Failure::usage(format!("{tokens} tokens are too many to draw; at most {most} are right for {format}")))
}
