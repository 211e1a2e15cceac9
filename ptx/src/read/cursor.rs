//! A place in PTX text, and the small tokens: blanks, words, numbers, strings.

use super::ReadError;

/// A number in the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Number {
    /// Above `i64::MAX` it is kept by its bits.
    Int(i64),
    /// Single precision, by its bits.
    Float(u32),
}

pub(super) struct Cursor<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Cursor<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Cursor { text, at: 0 }
    }

    /// Bytes from the start of the text.
    pub(super) fn offset(&self) -> usize {
        self.at
    }

    fn bytes(&self) -> &'t [u8] {
        &self.text.as_bytes()[self.at..]
    }

    /// The next byte.
    pub(super) fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn starts_with(&self, prefix: &str) -> bool {
        self.bytes().starts_with(prefix.as_bytes())
    }

    /// Goes past `byte` where it stands next.
    pub(super) fn eat(&mut self, byte: u8) -> bool {
        let there = self.peek() == Some(byte);
        self.at += usize::from(there);
        there
    }

    /// Goes past blanks and `byte`.
    pub(super) fn expect(&mut self, byte: u8) -> Result<(), ReadError> {
        self.skip()?;
        if self.eat(byte) {
            return Ok(());
        }
        Err(self.error(format!("expected `{}`, found {}", char::from(byte), self.found())))
    }

    /// Goes past white space and every comment.
    pub(super) fn skip(&mut self) -> Result<(), ReadError> {
        while self.line_comment()?.is_some() {}
        Ok(())
    }

    /// Goes past white space and block comments, up to and over the next `//` comment if that comes first. The inner
    /// option is the comment's text where it stands on a line of its own.
    pub(super) fn line_comment(&mut self) -> Result<Option<Option<&'t str>>, ReadError> {
        loop {
            self.at += self.bytes().iter().take_while(|byte| byte.is_ascii_whitespace()).count();
            if self.starts_with("/*") {
                let Some(length) = self.text[self.at + 2..].find("*/") else {
                    return Err(self.error("this comment has no end"));
                };
                self.at += length + 4;
            } else if self.starts_with("//") {
                let before = self.text.as_bytes()[..self.at].iter().rev();
                let alone = before.take_while(|byte| **byte != b'\n').all(u8::is_ascii_whitespace);
                let rest = &self.text[self.at + 2..];
                let text = &rest[..rest.find('\n').unwrap_or(rest.len())];
                self.at += 2 + text.len();
                let text = text.strip_suffix('\r').unwrap_or(text);
                return Ok(Some(alone.then(|| text.strip_prefix(' ').unwrap_or(text))));
            } else {
                return Ok(None);
            }
        }
    }

    /// Goes to the end of the line.
    pub(super) fn skip_line(&mut self) {
        self.at += self.bytes().iter().take_while(|byte| **byte != b'\n').count();
    }

    /// Goes past the next `end`.
    pub(super) fn skip_past(&mut self, end: u8) -> Result<(), ReadError> {
        match self.bytes().iter().position(|byte| *byte == end) {
            Some(length) => {
                self.at += length + 1;
                Ok(())
            }
            None => Err(self.error(format!("expected `{}` before the end of the text", char::from(end)))),
        }
    }

    /// A name, a directive, an instruction: letters, digits, `_ $ % .`, and `::` between them. May be empty.
    pub(super) fn word(&mut self) -> &'t str {
        let bytes = self.bytes();
        let mut length = 0;
        loop {
            length += bytes[length..].iter().take_while(|byte| is_word(**byte)).count();
            let colons = bytes[length..].starts_with(b"::");
            if length == 0 || !colons || !bytes.get(length + 2).is_some_and(|byte| is_word(*byte)) {
                break;
            }
            length += 2;
        }
        let word = &self.text[self.at..self.at + length];
        self.at += length;
        word
    }

    /// Goes past a lone `_`.
    pub(super) fn eat_sink(&mut self) -> bool {
        let alone = self.starts_with("_") && !self.bytes().get(1).is_some_and(|byte| is_word(*byte));
        self.at += usize::from(alone);
        alone
    }

    /// An identifier: what a label, a symbol or a register may be called.
    pub(super) fn identifier(&mut self, what: &str) -> Result<&'t str, ReadError> {
        self.skip()?;
        let start = self.at;
        let word = self.word();
        if is_identifier(word) {
            return Ok(word);
        }
        self.at = start;
        Err(self.error(format!("expected {what}, found {}", self.found())))
    }

    /// `"text"`.
    pub(super) fn string(&mut self) -> Result<&'t str, ReadError> {
        self.expect(b'"')?;
        let rest = &self.text[self.at..];
        match rest.find(['"', '\n']) {
            Some(length) if rest.as_bytes()[length] == b'"' => {
                self.at += length + 1;
                Ok(&rest[..length])
            }
            _ => Err(self.error("this string has no end")),
        }
    }

    /// A count or a size.
    pub(super) fn count(&mut self, what: &str) -> Result<u32, ReadError> {
        self.skip()?;
        let start = self.at;
        match self.number() {
            Ok(Number::Int(value)) if u32::try_from(value).is_ok() => Ok(value as u32),
            _ => Err(self.error_at(start, format!("expected {what}, a number from 0 to 4294967295"))),
        }
    }

    /// An immediate.
    pub(super) fn number(&mut self) -> Result<Number, ReadError> {
        self.skip()?;
        let start = self.at;
        let negative = self.eat(b'-');
        let word = self.word();
        let fail = |message: String| Err(self.error_at(start, message));
        if let Some(digits) = word.strip_prefix("0f").or_else(|| word.strip_prefix("0F")) {
            return match u32::from_str_radix(digits, 16) {
                Ok(bits) if digits.len() == 8 && !negative && !digits.starts_with('+') => Ok(Number::Float(bits)),
                _ => fail(format!("`{}` is not a float: write `0f` and the eight hex digits of its bits", shown(word))),
            };
        }
        if word.starts_with("0d") || word.starts_with("0D") {
            return fail("double precision is not supported".to_owned());
        }
        let digits = word.strip_suffix('U').unwrap_or(word);
        let (digits, radix) = match digits.as_bytes() {
            [b'0', b'x' | b'X', ..] => (&digits[2..], 16),
            [b'0', b'b' | b'B', ..] => (&digits[2..], 2),
            [b'0', _, ..] => (&digits[1..], 8),
            _ => (digits, 10),
        };
        if word.contains('.') {
            return fail(format!("`{}`: write a float as `0f` and the eight hex digits of its bits", shown(word)));
        }
        let value = match u64::from_str_radix(digits, radix) {
            Ok(value) => value,
            Err(_) if digits.is_empty() || !digits.bytes().all(|digit| char::from(digit).is_digit(radix)) => {
                self.at = start;
                return Err(self.error(format!("expected an operand, found {}", self.found())));
            }
            Err(_) => return fail(format!("`{}` does not fit 64 bits", shown(word))),
        };
        match negative {
            false => Ok(Number::Int(value as i64)),
            true if value <= 1 << 63 => Ok(Number::Int((value as i64).wrapping_neg())),
            true => fail(format!("`-{}` does not fit 64 bits", shown(word))),
        }
    }

    /// What stands next, for a message.
    pub(super) fn found(&self) -> String {
        let mut ahead = Cursor { text: self.text, at: self.at };
        match (ahead.word(), self.text[self.at..].chars().next()) {
            (_, None) => "the end of the text".to_owned(),
            ("", Some('\n' | '\r')) => "the end of the line".to_owned(),
            ("", Some(char)) => format!("`{}`", char.escape_default()),
            (word, _) => format!("`{}`", shown(word)),
        }
    }

    pub(super) fn error(&self, message: impl Into<String>) -> ReadError {
        self.error_at(self.at, message)
    }

    pub(super) fn error_at(&self, offset: usize, message: impl Into<String>) -> ReadError {
        let before = &self.text[..offset];
        let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
        let column = before[before.rfind('\n').map_or(0, |end| end + 1)..].chars().count() + 1;
        ReadError { line, column, message: message.into() }
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | b'%' | b'.')
}

/// Whether PTX takes this as a name. A lone `_` is none: it stands for a result that nobody wants.
pub(crate) fn is_identifier(name: &str) -> bool {
    let tail = |tail: &[u8]| tail.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$'));
    match name.as_bytes() {
        [first, rest @ ..] if first.is_ascii_alphabetic() => tail(rest),
        [b'_' | b'$' | b'%', rest @ ..] => !rest.is_empty() && tail(rest),
        _ => false,
    }
}

/// A word cut to what a message can hold.
pub(super) fn shown(word: &str) -> &str {
    // Words are ASCII, so every index is a boundary.
    &word[..word.len().min(60)]
}
