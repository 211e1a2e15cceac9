//! Text to [`Module`].
//!
//! The reader takes the PTX of a whole file and its freedom of layout, and refuses what [`Module`] cannot hold with the
//! place and the reason. It knows instructions by name only: operand counts, classes and undeclared symbols are for
//! [`verify`](crate::verify()). Any bytes give a value or an error; no input makes it recurse, or allocate more than a
//! small multiple of its own size.

mod body;
mod cursor;
mod registers;
mod suggest;

pub(crate) use cursor::is_identifier;
use cursor::{Cursor, shown};

use crate::{Entry, Limits, Module, Param, ParamType, SharedArray, Target, Version};

/// The text is not PTX, or not PTX that this crate holds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{line}:{column}: {message}")]
pub struct ReadError {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong, and what would be right where that is known.
    pub message: String,
}

/// Reads a module.
///
/// ```
/// let text = ".version 7.0\n.target sm_80\n.address_size 64\n.visible .entry k() {\n  .reg .u32 sum;\n  add.u31 sum, sum, 1;\n}";
/// let error = lacuna_ptx::read(text).unwrap_err();
/// assert_eq!(error.to_string(), "6:3: unknown instruction `add.u31`; did you mean `add.u32`?");
///
/// let module = lacuna_ptx::read(&text.replace("u31", "u32")).unwrap();
/// assert_eq!(module.entries[0].body[0].to_string(), "add.u32 %r0, %r0, 1;");
/// ```
///
/// # Errors
/// The first thing in the text that cannot be read.
pub fn read(text: &str) -> Result<Module, ReadError> {
    read_with_lines(text).map(|(module, _)| module)
}

/// [`read`], from bytes that may not be UTF-8.
///
/// # Errors
/// As for [`read`], and the first byte that is not UTF-8.
pub fn read_bytes(bytes: &[u8]) -> Result<Module, ReadError> {
    match std::str::from_utf8(bytes) {
        Ok(text) => read(text),
        Err(error) => {
            let valid = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
            Err(Cursor::new(&valid).error_at(valid.len(), "the text is not UTF-8 from here on"))
        }
    }
}

/// The line, from 1, at which every statement of every entry begins: `lines[entry][statement]`.
pub type Lines = Vec<Vec<usize>>;

/// [`read`], with the line of every statement.
///
/// # Errors
/// As for [`read`].
pub fn read_with_lines(text: &str) -> Result<(Module, Lines), ReadError> {
    let mut reader = Reader { cursor: Cursor::new(text), offsets: Vec::new() };
    let module = reader.module()?;
    let mut line = 1;
    let mut at = 0;
    // Statements stand in the order of the text, so one walk over it counts every line.
    let mut line_of = |offset: usize| {
        line += text.as_bytes()[at..offset].iter().filter(|byte| **byte == b'\n').count();
        at = offset;
        line
    };
    let lines = reader.offsets.iter().map(|entry| entry.iter().map(|offset| line_of(*offset)).collect()).collect();
    Ok((module, lines))
}

struct Reader<'t> {
    cursor: Cursor<'t>,
    /// Where every statement of every entry begins.
    offsets: Vec<Vec<usize>>,
}

impl<'t> Reader<'t> {
    fn module(&mut self) -> Result<Module, ReadError> {
        let (mut version, mut target, mut address_size) = (None, None, false);
        let mut shared = Vec::new();
        let mut entries = Vec::new();
        loop {
            self.cursor.skip()?;
            if self.cursor.peek().is_none() {
                break;
            }
            let start = self.cursor.offset();
            let word = self.cursor.word();
            let linkage = matches!(word, ".visible" | ".weak" | ".extern");
            let external = word == ".extern";
            let word = if linkage { self.word()? } else { word };
            match word {
                ".version" if !linkage => version = Some(self.parsed::<Version>()?),
                ".target" if !linkage => target = Some(self.target()?),
                ".address_size" if !linkage => {
                    let at = self.cursor.offset();
                    if self.cursor.count("64")? != 64 {
                        return Err(self.cursor.error_at(at, "only `.address_size 64` is supported"));
                    }
                    address_size = true;
                }
                ".shared" => self.shared(external, &mut shared)?,
                ".entry" if !external => entries.push(self.entry()?),
                ".file" | ".loc" if !linkage => self.cursor.skip_line(),
                ".section" if !linkage => self.section()?,
                "" => return Err(self.cursor.error(format!("expected a directive, found {}", self.cursor.found()))),
                word => {
                    let message = format!("`{}` is not supported at module scope", shown(word));
                    return Err(self.cursor.error_at(start, message));
                }
            }
        }
        let missing = |directive: &str| self.cursor.error_at(0, format!("the module has no `{directive}`"));
        let version = version.ok_or_else(|| missing(".version"))?;
        let target = target.ok_or_else(|| missing(".target"))?;
        if !address_size {
            return Err(missing(".address_size 64"));
        }
        Ok(Module { version, target, shared, entries })
    }

    /// The next word, past blanks. May be empty.
    fn word(&mut self) -> Result<&'t str, ReadError> {
        self.cursor.skip()?;
        Ok(self.cursor.word())
    }

    /// The next word as a `T`.
    fn parsed<T: std::str::FromStr>(&mut self) -> Result<T, ReadError>
    where
        T::Err: std::fmt::Display,
    {
        self.cursor.skip()?;
        let start = self.cursor.offset();
        let word = shown(self.cursor.word());
        word.parse().map_err(|error: T::Err| self.cursor.error_at(start, error.to_string()))
    }

    /// `sm_90a`, or with options after it: `sm_80, debug`.
    fn target(&mut self) -> Result<Target, ReadError> {
        let target = self.parsed()?;
        while self.next_is(b',')? {
            self.cursor.identifier("a target option")?;
        }
        Ok(target)
    }

    /// Goes past blanks, and past `byte` where it stands next.
    fn next_is(&mut self, byte: u8) -> Result<bool, ReadError> {
        self.cursor.skip()?;
        Ok(self.cursor.eat(byte))
    }

    /// `.section .debug_str { .. }`: what debuggers read.
    fn section(&mut self) -> Result<(), ReadError> {
        self.word()?;
        self.cursor.expect(b'{')?;
        self.cursor.skip_past(b'}')
    }

    /// `.align 128 .b8 a[1024], b[16];` after `.shared`.
    fn shared(&mut self, external: bool, into: &mut Vec<SharedArray>) -> Result<(), ReadError> {
        let mut word = self.word()?;
        let mut align = None;
        if word == ".align" {
            align = Some(self.cursor.count("an alignment")?);
            word = self.word()?;
        }
        let Some(element) = element_bytes(word) else {
            let start = self.cursor.offset() - word.len();
            return Err(self
                .cursor
                .error_at(start, format!("expected an element type such as .b8, found `{}`", shown(word))));
        };
        loop {
            let name = self.cursor.identifier("the name of a shared array")?.to_owned();
            let start = self.cursor.offset();
            let mut bytes = Some(u64::from(element));
            while self.next_is(b'[')? {
                self.cursor.skip()?;
                if self.cursor.eat(b']') {
                    bytes = None;
                    break;
                }
                let count = self.cursor.count("a number of elements")?;
                bytes = bytes.map(|bytes| bytes.saturating_mul(u64::from(count)));
                self.cursor.expect(b']')?;
            }
            let fail = |message: &str| Err(self.cursor.error_at(start, message));
            let bytes = match bytes {
                None if external => None,
                Some(_) if external => return fail("an `.extern` shared array is sized at launch: write `[]`"),
                None => return fail("a shared array without a size must be `.extern`"),
                Some(bytes) => match u32::try_from(bytes) {
                    Ok(bytes) => Some(bytes),
                    Err(_) => return fail("this shared array does not fit 32 bits"),
                },
            };
            into.push(SharedArray { name, align: align.unwrap_or(element), bytes });
            if !self.next_is(b',')? {
                break;
            }
        }
        self.cursor.expect(b';')
    }

    /// From the name on.
    fn entry(&mut self) -> Result<Entry, ReadError> {
        let name = self.cursor.identifier("the name of a kernel")?.to_owned();
        let mut params = Vec::new();
        if self.next_is(b'(')? && !self.next_is(b')')? {
            loop {
                params.push(self.param()?);
                if !self.next_is(b',')? {
                    break;
                }
            }
            self.cursor.expect(b')')?;
        }
        let mut entry = Entry {
            name,
            params,
            limits: Limits::default(),
            regs: Default::default(),
            shared: Vec::new(),
            body: Vec::new(),
        };
        while !self.next_is(b'{')? {
            self.limit(&mut entry.limits)?;
        }
        let offsets = self.body(&mut entry)?;
        self.offsets.push(offsets);
        Ok(entry)
    }

    /// `.param .u64 .ptr .global .align 16 name`, `.param .align 64 .b8 name[128]`.
    fn param(&mut self) -> Result<Param, ReadError> {
        self.cursor.skip()?;
        let start = self.cursor.offset();
        if self.cursor.word() != ".param" {
            return Err(self.cursor.error_at(start, "expected `.param`"));
        }
        let mut align = None;
        let mut ty = None;
        loop {
            self.cursor.skip()?;
            let start = self.cursor.offset();
            match self.cursor.word() {
                // What a pointer points to is a hint for the optimiser; `.ptr` may bring its own alignment.
                ".ptr" | ".global" | ".shared" | ".const" | ".local" => {}
                ".align" => align = Some(self.cursor.count("an alignment")?).filter(|_| ty.is_none()),
                ".u32" | ".s32" | ".b32" => ty = Some(ParamType::U32),
                ".u64" | ".s64" | ".b64" => ty = Some(ParamType::U64),
                ".f32" => ty = Some(ParamType::F32),
                ".b8" | ".u8" | ".s8" => ty = Some(ParamType::Bytes { align: 1, bytes: 0 }),
                word if !word.starts_with('.') && is_identifier(word) => {
                    let ty = match ty {
                        Some(ParamType::Bytes { .. }) => {
                            self.cursor.expect(b'[')?;
                            let bytes = self.cursor.count("a number of bytes")?;
                            self.cursor.expect(b']')?;
                            ParamType::Bytes { align: align.unwrap_or(1), bytes }
                        }
                        Some(ty) if align.is_none_or(|align| align == ty.bytes()) => ty,
                        Some(_) => {
                            let message = "only a `.b8` array may have an alignment that is not its size";
                            return Err(self.cursor.error_at(start, message));
                        }
                        None => {
                            return Err(self
                                .cursor
                                .error_at(start, "expected the type of a parameter before its name"));
                        }
                    };
                    return Ok(Param { name: word.to_owned(), ty });
                }
                "" => {
                    return Err(self.cursor.error(format!("expected a parameter, found {}", self.cursor.found())));
                }
                word => {
                    let message = format!("`{}` is not supported on a parameter", shown(word));
                    return Err(self.cursor.error_at(start, message));
                }
            }
        }
    }

    /// A performance directive between the parameters and the body.
    fn limit(&mut self, limits: &mut Limits) -> Result<(), ReadError> {
        self.cursor.skip()?;
        let start = self.cursor.offset();
        match self.cursor.word() {
            ".maxntid" => limits.max_threads = Some(self.extents("a number of threads")?),
            ".reqntid" => limits.required_threads = Some(self.extents("a number of threads")?),
            ".reqnctapercluster" => limits.required_cluster = Some(self.extents("a number of CTAs")?),
            ".explicitcluster" => limits.explicit_cluster = true,
            ".minnctapersm" => limits.min_ctas = Some(self.cursor.count("a number of CTAs")?),
            ".maxnreg" => limits.max_regs = Some(self.cursor.count("a number of registers")?),
            "" => return Err(self.cursor.error(format!("expected the body, found {}", self.cursor.found()))),
            word => {
                let message = format!("`{}` is not supported before a body", shown(word));
                return Err(self.cursor.error_at(start, message));
            }
        }
        Ok(())
    }

    /// `128`, `128, 1`, `128, 1, 1`.
    fn extents(&mut self, what: &str) -> Result<[u32; 3], ReadError> {
        let mut extents = [self.cursor.count(what)?, 1, 1];
        for axis in &mut extents[1..] {
            if !self.next_is(b',')? {
                break;
            }
            *axis = self.cursor.count(what)?;
        }
        Ok(extents)
    }
}

fn element_bytes(word: &str) -> Option<u32> {
    match word {
        ".b8" | ".u8" | ".s8" => Some(1),
        ".b16" | ".u16" | ".s16" | ".f16" | ".bf16" => Some(2),
        ".b32" | ".u32" | ".s32" | ".f32" => Some(4),
        ".b64" | ".u64" | ".s64" | ".f64" => Some(8),
        _ => None,
    }
}
