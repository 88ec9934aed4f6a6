//! One flat JSON object per line, written without allocation.

use core::fmt::{self, Write};

/// Writes an object's members; `finish` closes it.
pub struct Object<'w, W: Write> {
    out: &'w mut W,
    first: bool,
}

impl<'w, W: Write> Object<'w, W> {
    /// Opens an object.
    ///
    /// # Errors
    /// Those of the writer, here and below.
    pub fn new(out: &'w mut W) -> Result<Self, fmt::Error> {
        out.write_char('{')?;
        Ok(Self { out, first: true })
    }

    fn key(&mut self, key: &str) -> fmt::Result {
        if !self.first {
            self.out.write_char(',')?;
        }
        self.first = false;
        self.out.write_char('"')?;
        Escaped(self.out).write_str(key)?;
        self.out.write_str("\":")
    }

    /// A string member, formatted and escaped.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn text(&mut self, key: &str, value: fmt::Arguments<'_>) -> fmt::Result {
        self.key(key)?;
        self.out.write_char('"')?;
        Escaped(self.out).write_fmt(value)?;
        self.out.write_char('"')
    }

    /// A number.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn number(&mut self, key: &str, value: u64) -> fmt::Result {
        self.key(key)?;
        write!(self.out, "{value}")
    }

    /// A boolean.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn boolean(&mut self, key: &str, value: bool) -> fmt::Result {
        self.key(key)?;
        write!(self.out, "{value}")
    }

    /// Closes the object.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn finish(self) -> fmt::Result {
        self.out.write_char('}')
    }
}

struct Escaped<'w, W: Write>(&'w mut W);

impl<W: Write> Write for Escaped<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            match c {
                '"' => self.0.write_str("\\\"")?,
                '\\' => self.0.write_str("\\\\")?,
                c if c < ' ' => write!(self.0, "\\u{:04x}", u32::from(c))?,
                c => self.0.write_char(c)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_and_escapes() {
        let mut out = String::new();
        let mut object = Object::new(&mut out).expect("writes");
        object.text("check", format_args!("a\"b\\c\n{}", 1)).expect("writes");
        object.number("n", 7).expect("writes");
        object.boolean("ok", true).expect("writes");
        object.finish().expect("writes");
        assert_eq!(out, r#"{"check":"a\"b\\c\u000a1","n":7,"ok":true}"#);
    }

    #[test]
    fn empty() {
        let mut out = String::new();
        Object::new(&mut out).expect("writes").finish().expect("writes");
        assert_eq!(out, "{}");
    }
}
