//! Printing: tables for people, JSON for programs.

use std::io::{self, Write};

use csi_driver::owner::{Event, Failure, Outcome, Output};
use serde_json::{Map, Value};

/// Writes to the standard output; a reader that went away is no error to talk about.
pub fn print(text: &str) -> Outcome {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|e| broken(&e))
}

/// A line on the standard output.
pub fn line(text: &str) -> Outcome {
    print(&format!("{text}\n"))
}

/// What a failed write to the standard output means.
pub fn broken(error: &io::Error) -> Failure {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return Failure::new("Pipe", "the reader of the output went away");
    }
    let reason = if error.kind() == io::ErrorKind::StorageFull {
        "NoSpace"
    } else {
        "Io"
    };
    Failure::new(reason, format!("cannot write the output: {error}"))
}

/// Bytes for people: `1.2Gi`.
pub fn size(bytes: u64) -> String {
    crds::quantity::human(bytes)
}

/// `1 file`, `2 files`.
pub fn count(n: u64, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

/// Columns of aligned text. Kept until it is printed: its widths are those of its contents.
pub struct Table {
    header: Vec<String>,
    right: Vec<bool>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these headings; one that starts with `>` is a column of numbers, aligned to the right.
    pub fn new(header: &[&str]) -> Self {
        Self {
            header: header
                .iter()
                .map(|h| h.trim_start_matches('>').to_owned())
                .collect(),
            right: header.iter().map(|h| h.starts_with('>')).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows
            .push(cells.into_iter().map(|c| clean(&c)).collect());
    }

    /// Whether it has no rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The text, a line for each row, without blanks at the ends.
    pub fn text(&self) -> String {
        let mut widths: Vec<usize> = self.header.iter().map(|h| width(h)).collect();
        for row in &self.rows {
            for (column, cell) in row.iter().enumerate() {
                if let Some(w) = widths.get_mut(column) {
                    *w = (*w).max(width(cell));
                }
            }
        }
        let mut text = String::new();
        for row in std::iter::once(&self.header).chain(&self.rows) {
            let mut line = String::new();
            for (column, cell) in row.iter().enumerate() {
                if column > 0 {
                    line.push_str("   ");
                }
                let pad = " ".repeat(
                    widths
                        .get(column)
                        .copied()
                        .unwrap_or(0)
                        .saturating_sub(width(cell)),
                );
                if self.right.get(column) == Some(&true) {
                    line.push_str(&pad);
                    line.push_str(cell);
                } else {
                    line.push_str(cell);
                    line.push_str(&pad);
                }
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

fn width(text: &str) -> usize {
    text.chars().count()
}

/// A text without control characters: file names must not move the cursor.
pub fn clean(text: &str) -> String {
    if text.chars().any(char::is_control) {
        text.chars()
            .map(|c| if c.is_control() { '\u{fffd}' } else { c })
            .collect()
    } else {
        text.to_owned()
    }
}

/// Prints an answer as one JSON object while it comes in; memory does not grow with it.
pub struct JsonPrinter<W> {
    out: W,
    fields: usize,
    entries: usize,
    rows_open: bool,
    begun: bool,
}

impl<W: Write> JsonPrinter<W> {
    pub fn new(out: W) -> Self {
        Self {
            out,
            fields: 0,
            entries: 0,
            rows_open: false,
            begun: false,
        }
    }

    fn fields(&mut self, map: &Map<String, Value>) -> io::Result<()> {
        for (key, value) in map {
            self.separate()?;
            let value = serde_json::to_string(value).map_err(io::Error::other)?;
            write!(self.out, "  {}: {value}", Value::from(key.as_str()))?;
        }
        Ok(())
    }

    fn separate(&mut self) -> io::Result<()> {
        self.out
            .write_all(if self.fields == 0 { b"\n" } else { b",\n" })?;
        self.fields += 1;
        Ok(())
    }

    fn take(&mut self, event: &Event) -> io::Result<()> {
        match event {
            Event::Begin(map) => {
                self.out.write_all(b"{")?;
                self.begun = true;
                self.fields(map)
            }
            Event::Row(row) => {
                if self.entries == 0 {
                    self.separate()?;
                    self.out.write_all(b"  \"entries\": [")?;
                    self.rows_open = true;
                }
                self.out.write_all(if self.entries == 0 {
                    b"\n    "
                } else {
                    b",\n    "
                })?;
                self.entries += 1;
                serde_json::to_writer(&mut self.out, row).map_err(io::Error::from)
            }
            Event::End(map) => {
                self.close_rows()?;
                self.fields(map)
            }
            Event::Bytes(_) | Event::Progress(_) => Ok(()),
        }
    }

    fn close_rows(&mut self) -> io::Result<()> {
        if self.rows_open {
            self.rows_open = false;
            self.out.write_all(b"\n  ]")?;
        }
        Ok(())
    }

    /// Ends the object. A command that says nothing prints nothing.
    pub fn finish(mut self) -> Outcome {
        let mut end = || {
            if !self.begun {
                return Ok(());
            }
            self.close_rows()?;
            self.out.write_all(b"\n}\n")?;
            self.out.flush()
        };
        end().map_err(|e| broken(&e))
    }
}

impl<W: Write> Output for JsonPrinter<W> {
    fn event(&mut self, event: Event) -> Outcome {
        self.take(&event).map_err(|e| broken(&e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_answer_is_one_json_object() {
        let mut bytes = Vec::new();
        let mut printer = JsonPrinter::new(&mut bytes);
        let map = |value: Value| value.as_object().unwrap().clone();
        printer
            .event(Event::Begin(map(json!({"a": 1, "b": "x"}))))
            .unwrap();
        printer.event(Event::Row(json!({"r": 1}))).unwrap();
        printer.event(Event::Row(json!({"r": 2}))).unwrap();
        printer.event(Event::End(map(json!({"total": 2})))).unwrap();
        printer.finish().unwrap();
        let value: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(
            value,
            json!({"a": 1, "b": "x", "entries": [{"r": 1}, {"r": 2}], "total": 2})
        );
        let mut empty = Vec::new();
        let mut printer = JsonPrinter::new(&mut empty);
        printer.event(Event::Begin(Map::new())).unwrap();
        printer.finish().unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&empty).unwrap(), json!({}));
    }

    #[test]
    fn tables_line_up_and_cannot_be_broken_by_names() {
        let mut table = Table::new(&["NAME", ">SIZE"]);
        table.row(["a\nb".to_owned(), "1".to_owned()]);
        table.row(["long-name".to_owned(), "1000".to_owned()]);
        assert_eq!(
            table.text(),
            "NAME        SIZE\na\u{fffd}b            1\nlong-name   1000\n"
        );
    }
}
