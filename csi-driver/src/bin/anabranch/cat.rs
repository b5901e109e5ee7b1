//! `anabranch cat`.

use std::ffi::OsString;
use std::io::{self, Write};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use clap::Args;
use csi_driver::owner::{Command, Event, Failure, Outcome, Output};

use crate::screen::broken;
use crate::session::{Format, Session};

/// Writes the bytes of a file to the standard output, also of a past instant.
#[derive(Args)]
pub struct Cat {
    /// Which file: base:/readme, snapshot/base-v1:/readme, base@-10m:/readme.
    name: OsString,
    /// Only these bytes, counted from 0, both ends included: 0-99, or 100- to the end.
    #[arg(long, value_name = "FIRST-LAST")]
    range: Option<String>,
    #[command(flatten)]
    format: Format,
}

impl Cat {
    pub fn run(&self, session: &Session) -> Outcome {
        let (start, length) = match &self.range {
            Some(text) => parse_range(text)?,
            None => (0, None),
        };
        let name = session.name(&self.name)?;
        let mut out = io::stdout().lock();
        if self.format.json() {
            let mut printer = Base64 {
                out,
                pending: Vec::new(),
                bytes: 0,
                begun: false,
            };
            session.execute(
                &Command::Cat {
                    name,
                    start,
                    length,
                },
                &mut io::empty(),
                &mut printer,
            )?;
            return printer.finish();
        }
        let command = Command::Cat {
            name,
            start,
            length,
        };
        session.show(&command, self.format, &mut |event| match event {
            Event::Bytes(bytes) => out.write_all(&bytes).map_err(|e| broken(&e)),
            _ => Ok(()),
        })?;
        io::stdout().flush().map_err(|e| broken(&e))
    }
}

/// Reads `FIRST-LAST` or `FIRST-` into a start and a length.
fn parse_range(text: &str) -> Outcome<(u64, Option<u64>)> {
    let wrong = || {
        Failure::usage(format!(
            "{text:?} is not a range: write for example 0-99 or 100-"
        ))
    };
    let (first, last) = text.split_once('-').ok_or_else(wrong)?;
    let first: u64 = first.parse().map_err(|_| wrong())?;
    if last.is_empty() {
        return Ok((first, None));
    }
    let last: u64 = last.parse().map_err(|_| wrong())?;
    let length = last
        .checked_sub(first)
        .and_then(|n| n.checked_add(1))
        .ok_or_else(wrong)?;
    Ok((first, Some(length)))
}

/// Prints `{"base64":"...","bytes":N}` while the bytes come in.
struct Base64<W> {
    out: W,
    pending: Vec<u8>,
    bytes: u64,
    begun: bool,
}

impl<W: Write> Base64<W> {
    fn write(&mut self, all: bool) -> io::Result<()> {
        if !self.begun {
            self.begun = true;
            self.out.write_all(b"{\n  \"base64\": \"")?;
        }
        // Whole groups of three bytes only: the text is one base64, not many.
        let whole = if all {
            self.pending.len()
        } else {
            self.pending.len() / 3 * 3
        };
        let text = BASE64_STANDARD.encode(&self.pending[..whole]);
        self.pending.drain(..whole);
        self.out.write_all(text.as_bytes())
    }

    fn finish(mut self) -> Outcome {
        self.write(true)
            .and_then(|()| writeln!(self.out, "\",\n  \"bytes\": {}\n}}", self.bytes))
            .and_then(|()| self.out.flush())
            .map_err(|e| broken(&e))
    }
}

impl<W: Write> Output for Base64<W> {
    fn event(&mut self, event: Event) -> Outcome {
        let Event::Bytes(bytes) = event else {
            return Ok(());
        };
        self.bytes += bytes.len() as u64;
        self.pending.extend_from_slice(&bytes);
        self.write(false).map_err(|e| broken(&e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_have_both_ends_or_none() {
        assert_eq!(parse_range("0-99").unwrap(), (0, Some(100)));
        assert_eq!(parse_range("7-").unwrap(), (7, None));
        for wrong in ["", "-", "-5", "5", "9-8", "a-b"] {
            assert_eq!(parse_range(wrong).unwrap_err().reason, "Usage", "{wrong}");
        }
    }

    #[test]
    fn base64_is_one_text_however_the_bytes_come() {
        let mut out = Vec::new();
        let mut printer = Base64 {
            out: &mut out,
            pending: Vec::new(),
            bytes: 0,
            begun: false,
        };
        for part in [b"a".as_slice(), b"bcd", b"efgh"] {
            printer.event(Event::Bytes(part.to_vec())).unwrap();
        }
        printer.finish().unwrap();
        let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(
            BASE64_STANDARD
                .decode(value["base64"].as_str().unwrap())
                .unwrap(),
            b"abcdefgh"
        );
        assert_eq!(value["bytes"], 8);
    }
}
