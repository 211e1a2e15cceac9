//! Words and signs of the text form, each with its place.

use super::read::ReadError;

/// Where a token starts, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) line: u32,
    pub(super) column: u32,
}

impl Place {
    pub(super) fn error(self, message: impl Into<String>) -> ReadError {
        ReadError { line: self.line, column: self.column, message: message.into() }
    }
}

/// A token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// An identifier or keyword.
    Word(String),
    /// A quoted name.
    Quoted(String),
    /// Digits, perhaps with a fraction and an exponent; `0f` and eight hexadecimal digits.
    Number(String),
    /// A sign: one of [`SIGNS`].
    Sign(&'static str),
    /// The end of the text.
    End,
}

/// Signs, longer ones before those that they start with.
const SIGNS: [&str; 17] = ["..", "+=", "{", "}", "[", "]", "<", ">", ",", ":", "=", "@", "%", "$", "#", ".", "-"];

/// The tokens of a text, ending in [`Token::End`].
pub(super) fn lex(text: &str) -> Result<Vec<(Token, Place)>, ReadError> {
    let mut lexer = Lexer { rest: text, place: Place { line: 1, column: 1 } };
    let mut tokens = Vec::new();
    loop {
        lexer.skip_space();
        let place = lexer.place;
        let token = lexer.token()?;
        let end = token == Token::End;
        tokens.push((token, place));
        if end {
            return Ok(tokens);
        }
    }
}

struct Lexer<'t> {
    rest: &'t str,
    place: Place,
}

impl<'t> Lexer<'t> {
    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn bump(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.rest = &self.rest[c.len_utf8()..];
        if c == '\n' {
            self.place = Place { line: self.place.line + 1, column: 1 };
        } else {
            self.place.column += 1;
        }
        Some(c)
    }

    /// Everything up to the first character that does not fit.
    fn take(&mut self, fits: impl Fn(char) -> bool) -> &'t str {
        let (from, length) = (self.rest, self.rest.find(|c| !fits(c)).unwrap_or(self.rest.len()));
        while from.len() - self.rest.len() < length {
            self.bump();
        }
        &from[..length]
    }

    fn skip_space(&mut self) {
        loop {
            self.take(char::is_whitespace);
            if self.peek() != Some(';') {
                return;
            }
            self.take(|c| c != '\n');
        }
    }

    fn token(&mut self) -> Result<Token, ReadError> {
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        match self.peek() {
            None => Ok(Token::End),
            Some('"') => self.quoted(),
            Some(c) if c.is_ascii_digit() => Ok(Token::Number(self.number())),
            Some(c) if word(c) => Ok(Token::Word(self.take(word).to_owned())),
            Some(c) => {
                let Some(sign) = SIGNS.into_iter().find(|sign| self.rest.starts_with(sign)) else {
                    return Err(self.place.error(format!("`{}` means nothing here", c.escape_default())));
                };
                sign.chars().for_each(|_| {
                    self.bump();
                });
                Ok(Token::Sign(sign))
            }
        }
    }

    fn number(&mut self) -> String {
        if self.rest.starts_with("0f") {
            return self.take(|c| c.is_ascii_alphanumeric()).to_owned();
        }
        let digits = |c: char| c.is_ascii_digit();
        let mut text = self.take(digits).to_owned();
        let after = |rest: &str, skip: usize| rest.chars().nth(skip).is_some_and(digits);
        // `0..4` is a range, `0.5` a number.
        if self.rest.starts_with('.') && after(self.rest, 1) {
            self.bump();
            text = text + "." + self.take(digits);
        }
        let minus = self.rest.starts_with("e-");
        if self.rest.starts_with('e') && after(self.rest, 1 + usize::from(minus)) {
            self.bump();
            text.push('e');
            if minus {
                self.bump();
                text.push('-');
            }
            text += self.take(digits);
        }
        text
    }

    fn quoted(&mut self) -> Result<Token, ReadError> {
        let start = self.place;
        self.bump();
        let mut name = String::new();
        loop {
            let place = self.place;
            match self.bump() {
                None | Some('\n') => return Err(start.error("this quoted name does not end on its line")),
                Some('"') => return Ok(Token::Quoted(name)),
                Some('\\') => match self.bump() {
                    Some(c @ ('"' | '\\')) => name.push(c),
                    Some('n') => name.push('\n'),
                    Some('u') => {
                        let code = self.take(|c| c == '{' || c.is_ascii_hexdigit());
                        let c = code.strip_prefix('{').and_then(|hex| u32::from_str_radix(hex, 16).ok());
                        match (c.and_then(char::from_u32), self.bump()) {
                            (Some(c), Some('}')) => name.push(c),
                            _ => return Err(place.error("`\\u{..}` takes the hexadecimal number of a character")),
                        }
                    }
                    _ => return Err(place.error("after `\\` in a name stands `\"`, `\\`, `n` or `u{..}`")),
                },
                Some(c) => name.push(c),
            }
        }
    }
}
