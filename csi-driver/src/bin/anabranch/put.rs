//! `anabranch put`.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use clap::Args;
use csi_driver::owner::output::typed;
use csi_driver::owner::report::PutAnswer;
use csi_driver::owner::{Command, Event, Failure, Outcome};

use crate::screen::{line, size};
use crate::session::{Format, Session};

/// Puts a file into a timeline. Readers see the old content or the new one, never a part.
#[derive(Args)]
pub struct Put {
    /// A file of this machine, or - for the standard input.
    file: OsString,
    /// Where to: base:/some/file. Directories are made when they are missing.
    name: OsString,
    /// Permission bits in octal; those of FILE, or of the file that is replaced, without.
    #[arg(long, value_name = "MODE")]
    mode: Option<String>,
    #[command(flatten)]
    format: Format,
}

impl Put {
    pub fn run(&self, session: &Session) -> Outcome {
        let name = session.name(&self.name)?;
        let mut mode = match &self.mode {
            Some(text) => Some(
                u32::from_str_radix(text, 8)
                    .ok()
                    .filter(|mode| *mode <= 0o7777)
                    .ok_or_else(|| {
                        Failure::usage(format!(
                            "{text:?} is no mode: write octal digits such as 0644"
                        ))
                    })?,
            ),
            None => None,
        };
        let mut input: Box<dyn Read> = if self.file == "-" {
            Box::new(io::stdin())
        } else {
            let path = Path::new(&self.file);
            let unreadable =
                |e: io::Error| Failure::new("Io", format!("cannot read {}: {e}", path.display()));
            let file = File::open(path).map_err(unreadable)?;
            let meta = file.metadata().map_err(unreadable)?;
            if meta.is_dir() {
                return Err(Failure::usage(format!("{} is a directory, and put takes one file", path.display()))
                    .then("Copy directories through a mount, or import them: spec.source.directory of a Bucket."));
            }
            if mode.is_none() && meta.is_file() {
                mode = Some(meta.permissions().mode() & 0o7777);
            }
            Box::new(file)
        };
        let (uid, gid) = (
            rustix::process::geteuid().as_raw(),
            rustix::process::getegid().as_raw(),
        );
        let command = Command::Put {
            name: name.clone(),
            mode,
            uid,
            gid,
        };
        session.show_with(&command, &mut input, self.format, &mut |event| {
            let Event::Begin(fields) = event else {
                return Ok(());
            };
            let answer: PutAnswer = typed(fields.into())?;
            let how = if answer.replaced { "replaced" } else { "new" };
            line(&format!(
                "{}:{} {how}, {}",
                answer.timeline.short(),
                answer.path.path,
                size(answer.size)
            ))
        })
    }
}
