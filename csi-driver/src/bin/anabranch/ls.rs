//! `anabranch ls`.

use std::ffi::OsString;

use clap::Args;
use csi_driver::owner::output::typed;
use csi_driver::owner::report::FileRow;
use csi_driver::owner::{Command, Event, Outcome};

use crate::screen::{clean, line};
use crate::session::{Format, Session};

/// Lists a directory of a timeline or a snapshot, also at a past instant.
#[derive(Args)]
pub struct Ls {
    /// Where: base, base:/src, snapshot/base-v1:/src, base@-10m:/src.
    name: OsString,
    /// Everything below it too.
    #[arg(short = 'R', long)]
    recursive: bool,
    /// Mode, owner, size and time.
    #[arg(short, long)]
    long: bool,
    #[command(flatten)]
    format: Format,
}

impl Ls {
    pub fn run(&self, session: &Session) -> Outcome {
        let name = session.name(&self.name)?;
        let base = name.path.clone().unwrap_or_else(|| b"/".to_vec());
        let base = String::from_utf8_lossy(&base)
            .trim_end_matches('/')
            .to_owned()
            + "/";
        let command = Command::Ls {
            name,
            recursive: self.recursive,
        };
        session.show(&command, self.format, &mut |event| {
            let Event::Row(row) = event else {
                return Ok(());
            };
            let row: FileRow = typed(row)?;
            let path = row.path.path.strip_prefix(&base).unwrap_or(&row.path.path);
            let slash = if row.kind == "directory" { "/" } else { "" };
            if !self.long {
                return line(&format!("{}{slash}", clean(path)));
            }
            let target = row
                .target
                .as_deref()
                .map(|t| format!(" -> {}", clean(t)))
                .unwrap_or_default();
            line(&format!(
                "{}{} {:>3} {:>6} {:>6} {:>12} {} {}{slash}{target}",
                letter(&row.kind),
                permissions(&row.mode),
                row.links,
                row.uid,
                row.gid,
                row.size,
                row.modified.get(..19).unwrap_or(&row.modified),
                clean(path),
            ))
        })
    }
}

fn letter(kind: &str) -> char {
    match kind {
        "directory" => 'd',
        "symlink" => 'l',
        "charDevice" => 'c',
        "blockDevice" => 'b',
        "fifo" => 'p',
        "socket" => 's',
        _ => '-',
    }
}

/// `rwxr-sr-x` for `2755`.
fn permissions(octal: &str) -> String {
    let mode = u32::from_str_radix(octal, 8).unwrap_or(0);
    let mut text = String::with_capacity(9);
    for (shift, special, set, unset) in [
        (6, 0o4000, 's', 'S'),
        (3, 0o2000, 's', 'S'),
        (0, 0o1000, 't', 'T'),
    ] {
        text.push(if mode >> shift & 4 != 0 { 'r' } else { '-' });
        text.push(if mode >> shift & 2 != 0 { 'w' } else { '-' });
        text.push(match (mode & special != 0, mode >> shift & 1 != 0) {
            (true, true) => set,
            (true, false) => unset,
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn modes_read_like_in_ls() {
        assert_eq!(super::permissions("0755"), "rwxr-xr-x");
        assert_eq!(super::permissions("1777"), "rwxrwxrwt");
        assert_eq!(super::permissions("4650"), "rwSr-x---");
    }
}
