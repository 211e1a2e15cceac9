//! Pictures of what a kernel visits: queries down, keys across, one token as wide as it is high.
//!
//! There is no text in them: what the colours mean is said where the pictures are named. What other pictures are drawn
//! on, is here too.

use std::fmt;
use std::ops::Range;
use std::path::Path;

use image::codecs::png::PngEncoder;
use image::{ColorType, ImageEncoder as _};
use lacuna::codegen::pattern::{Class, Given};
use lacuna::dsl::Mask;
use lacuna::kernels::host::Host;
use lacuna::kernels::registry::{Attention, Extras};
use plotters::coord::Shift;
use plotters::prelude::{
    BitMapBackend, Color as _, DrawingArea, DrawingBackend, IntoDrawingArea as _, PathElement, RGBColor, Rectangle,
    SVGBackend,
};

use super::failure::{Failure, Result};
use super::output;

/// The colours, said in words.
pub(crate) const LEGEND: &str =
    "queries down, keys across; blue: whole or forced blocks, amber: masked or scored ones, grey: skipped";

/// Whole blocks, and those that every query must visit.
const BLUE: RGBColor = RGBColor(38, 84, 140);
/// Blocks that a mask cuts, and those that their score has chosen.
const AMBER: RGBColor = RGBColor(240, 160, 48);
/// What is not visited.
const GREY: RGBColor = RGBColor(226, 230, 236);
/// Where no query and key are of one document.
const WHITE: RGBColor = RGBColor(255, 255, 255);

/// Pixels along each side, near enough.
const SIDE: i32 = 960;

/// What a picture is written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// Pixels.
    Png,
    /// Rectangles.
    Svg,
}

impl Format {
    /// The format that a file's name asks for.
    ///
    /// # Errors
    /// For another ending, or none.
    pub(crate) fn of(path: &Path) -> Result<Self> {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("png") => Ok(Format::Png),
            Some("svg") => Ok(Format::Svg),
            _ => Err(Failure::usage(format!("{}: a picture is a .png or an .svg", path.display()))),
        }
    }

    /// The most tokens of a picture: more are too fine to see, and make files of rectangles large.
    pub(crate) fn most_tokens(self) -> usize {
        match self {
            Format::Png => 32768,
            Format::Svg => 4096,
        }
    }
}

/// `.png`.
impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Format::Png => ".png",
            Format::Svg => ".svg",
        })
    }
}

/// Where rectangles and lines go: pixels, or a file that lists them.
pub(crate) trait Sheet {
    /// Fills between two corners.
    fn fill_between(&self, corners: [(i32, i32); 2], colour: RGBColor) -> Result;

    /// Draws a line through points, so many pixels wide.
    fn line(&self, points: &[(i32, i32)], width: u32, colour: RGBColor) -> Result;
}

impl<B: DrawingBackend> Sheet for DrawingArea<B, Shift> {
    fn fill_between(&self, corners: [(i32, i32); 2], colour: RGBColor) -> Result {
        self.draw(&Rectangle::new(corners, colour.filled())).map_err(failed)
    }

    fn line(&self, points: &[(i32, i32)], width: u32, colour: RGBColor) -> Result {
        self.draw(&PathElement::new(points.to_vec(), colour.stroke_width(width))).map_err(failed)
    }
}

/// The blocks that tiles of `rows` queries visit under a mask, in blocks of `kv` keys. `extras` has the mask's tables.
///
/// # Errors
/// A file that cannot be written.
pub(crate) fn blocks(path: &Path, mask: &Mask, extras: &Extras, cu_seqlens: &[i32], (rows, kv): (u32, u32)) -> Result {
    let args: Vec<i64> = mask.args().map(|(_, value)| value.into()).collect();
    let whole: Vec<&[i32]> = mask.tables().map(|name| extras[name].data.as_slice()).collect();
    let (rows, width) = (i64::from(rows), i64::from(kv));
    draw(path, cu_seqlens, |canvas, start, len| {
        let tables: Vec<&[i32]> = whole.iter().map(|table| &table[start as usize..(start + len) as usize]).collect();
        let given = Given { args: &args, tables: &tables };
        for first in (0..len).step_by(rows as usize) {
            let last = (first + rows).min(len) - 1;
            for block in (0..len).step_by(width as usize) {
                let end = (block + width).min(len);
                let visited = || {
                    let bounded = mask.pattern().is_bounded();
                    !bounded
                        || mask
                            .pattern()
                            .runs(first..=last, len, kv, &args)
                            .iter()
                            .any(|run| run.contains(&(block / width)))
                };
                let colour = match mask.pattern().class(first..=last, block..=end - 1, given) {
                    Class::Full => BLUE,
                    Class::Partial if visited() => AMBER,
                    Class::Partial | Class::Empty => GREY,
                };
                canvas.cell(start + first..start + last + 1, start + block..start + end, colour, 2)?;
            }
        }
        Ok(())
    })
}

/// The blocks that are listed for tiles of queries, for the first head.
///
/// # Errors
/// A file that cannot be written.
pub(crate) fn lists(path: &Path, attention: &Attention, extras: &Extras, cu_seqlens: &[i32]) -> Result {
    let Some(lists) = attention.tile_lists(extras) else { return Ok(()) };
    let (rows, width) = (lists.rows as i64, lists.keys as i64);
    draw(path, cu_seqlens, |canvas, start, len| {
        canvas.cell(start..start + len, start..start + len, GREY, 0)?;
        let document = cu_seqlens.windows(2).position(|pair| i64::from(pair[0]) == start && pair[0] < pair[1]);
        for first in (0..len).step_by(rows as usize) {
            let last = (first + rows).min(len) - 1;
            for &block in lists.of(document.expect("a document that is drawn"), 0, (first / rows) as usize) {
                let keys = i64::from(block) * width..((i64::from(block) + 1) * width).min(len);
                if keys.start < 0 || keys.start >= len {
                    continue;
                }
                let colour = match lists.causal {
                    true if keys.start > last => GREY,
                    true if keys.end > first + 1 => AMBER,
                    _ => BLUE,
                };
                canvas.cell(start + first..start + last + 1, start + keys.start..start + keys.end, colour, 2)?;
            }
        }
        Ok(())
    })
}

/// The blocks of `block` keys that are picked for each token, for the first KV head. Forced blocks are the first one,
/// and the token's own and the one before it.
///
/// # Errors
/// A file that cannot be written.
pub(crate) fn picks(path: &Path, picks: &Host<i32>, cu_seqlens: &[i32], block: usize) -> Result {
    let width = block as i64;
    draw(path, cu_seqlens, |canvas, start, len| {
        canvas.cell(start..start + len, start..start + len, GREY, 0)?;
        for position in 0..len {
            let own = position / width;
            let row = picks.row((start + position) as usize, 0);
            for &picked in row.iter().filter(|&&picked| picked >= 0 && i64::from(picked) * width < len) {
                let picked = i64::from(picked);
                let colour = if picked == 0 || picked + 1 >= own { BLUE } else { AMBER };
                let keys = picked * width..((picked + 1) * width).min(position + 1);
                if !keys.is_empty() {
                    canvas.cell(
                        start + position..start + position + 1,
                        start + keys.start..start + keys.end,
                        colour,
                        0,
                    )?;
                }
            }
        }
        Ok(())
    })
}

/// The blocks of `block` keys that each token is routed to, for the first query head: its own is blue, the others
/// amber.
///
/// # Errors
/// A file that cannot be written.
pub(crate) fn routing(path: &Path, routing: &Host<i32>, cu_seqlens: &[i32], block: usize) -> Result {
    let width = block as i64;
    draw(path, cu_seqlens, |canvas, start, len| {
        canvas.cell(start..start + len, start..start + len, GREY, 0)?;
        for position in 0..len {
            let own = position / width;
            let query = start + position..start + position + 1;
            let row = &routing.row((start + position) as usize, 0)[1..];
            for chosen in row.iter().map(|&chosen| i64::from(chosen)).filter(|chosen| (0..own).contains(chosen)) {
                let keys = start + chosen * width..start + (chosen + 1) * width;
                canvas.cell(query.clone(), keys, AMBER, 0)?;
            }
            canvas.cell(query, start + own * width..start + position + 1, BLUE, 0)?;
        }
        Ok(())
    })
}

/// A square of tokens by tokens.
struct Canvas<'a> {
    sheet: &'a dyn Sheet,
    total: i64,
    side: i32,
}

impl Canvas<'_> {
    /// Fills queries by keys, leaving a gap at the right and below.
    fn cell(&self, queries: Range<i64>, keys: Range<i64>, colour: RGBColor, gap: i32) -> Result {
        let at = |token: i64| (token * i64::from(self.side) / self.total.max(1)) as i32;
        // The far corner is not filled.
        let end = |token: i64, first: i32| (at(token) - gap).max(first + 1);
        let (left, top) = (at(keys.start), at(queries.start));
        let corners = [(left, top), (end(keys.end, left), end(queries.end, top))];
        self.sheet.fill_between(corners, colour)
    }
}

/// Makes a picture, document by document.
fn draw(path: &Path, cu_seqlens: &[i32], each: impl Fn(&Canvas<'_>, i64, i64) -> Result) -> Result {
    let total = cu_seqlens.last().map_or(0, |&end| i64::from(end));
    // At least a pixel a token, where that is not too large.
    let side = if (SIDE.into()..2 * i64::from(SIDE)).contains(&total) { total as i32 } else { SIDE };
    paint(path, (side as u32, side as u32), |sheet: &dyn Sheet| {
        let canvas = Canvas { sheet, total, side };
        let mut documents = cu_seqlens.windows(2).filter(|pair| pair[0] < pair[1]);
        documents.try_for_each(|pair| each(&canvas, pair[0].into(), (pair[1] - pair[0]).into()))
    })
}

/// Writes a picture of so many pixels across and down, with what `all` draws on white.
///
/// # Errors
/// A name that is no picture's; a file that cannot be written.
pub(crate) fn paint(path: &Path, size: (u32, u32), all: impl Fn(&dyn Sheet) -> Result) -> Result {
    let bytes = match Format::of(path)? {
        Format::Png => {
            let mut pixels = vec![0; 3 * size.0 as usize * size.1 as usize];
            onto(BitMapBackend::with_buffer(&mut pixels, size), all)?;
            let mut png = Vec::new();
            PngEncoder::new(&mut png).write_image(&pixels, size.0, size.1, ColorType::Rgb8).map_err(failed)?;
            png
        }
        Format::Svg => {
            let mut text = String::new();
            onto(SVGBackend::with_string(&mut text, size), all)?;
            text.into_bytes()
        }
    };
    output::write(path, &bytes)
}

/// A white sheet with what `all` draws.
fn onto<B: DrawingBackend>(backend: B, all: impl Fn(&dyn Sheet) -> Result) -> Result {
    let area = backend.into_drawing_area();
    area.fill(&WHITE).map_err(failed)?;
    all(&area)?;
    area.present().map_err(failed)
}

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::usage(format!("cannot draw a picture: {error}"))
}
