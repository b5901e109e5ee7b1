//! Holds the `/dev/fuse` descriptors of mounted volumes, so that they outlive the process that serves them.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use csi_driver::keeper::{helper, server};

const USAGE: &str = "\
Holds the FUSE descriptors of mounted volumes, so that they outlive the process that serves them.

Usage: anabranch-keeper --dir DIR [--abandon-after DURATION]

  --dir DIR                  directory of its socket, lock and log (mode 0700); one keeper each
  --abandon-after DURATION   when no serving process is connected for so long (for example 90s, 10m, 2h), abort and
                             unmount everything, so that programs get errors instead of waiting; 0 (the default)
                             waits for ever
  --version                  print the version
";

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let mut options = server::Options {
        directory: PathBuf::new(),
        abandon_after: Duration::ZERO,
    };
    while let Some(argument) = arguments.next() {
        // `--name VALUE` and `--name=VALUE` are the same.
        let (name, given) = split(&argument);
        let mut value = || {
            given
                .clone()
                .or_else(|| arguments.next())
                .unwrap_or_default()
        };
        match name.to_str() {
            Some(helper::ARGUMENT) if given.is_none() => {
                helper::run();
                return ExitCode::SUCCESS;
            }
            Some("--dir") => options.directory = value().into(),
            Some("--abandon-after") => {
                let text = value();
                match text.to_str().and_then(duration) {
                    Some(duration) => options.abandon_after = duration,
                    None => return usage(&format!("{} is no duration", text.display())),
                }
            }
            Some("--version") if given.is_none() => {
                println!("anabranch-keeper {}", env!("CARGO_PKG_VERSION"));
                return ExitCode::SUCCESS;
            }
            Some("--help" | "-h") if given.is_none() => {
                print!("{USAGE}");
                return ExitCode::SUCCESS;
            }
            _ => return usage(&format!("unknown argument {}", argument.display())),
        }
    }
    if options.directory.as_os_str().is_empty() {
        return usage("--dir is missing");
    }
    match server::run(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("anabranch-keeper: {error}");
            ExitCode::FAILURE
        }
    }
}

/// An argument's name, and the value behind its equals sign, if it has one.
fn split(argument: &OsStr) -> (OsString, Option<OsString>) {
    let bytes = argument.as_bytes();
    match bytes.iter().position(|byte| *byte == b'=') {
        Some(at) if bytes.starts_with(b"--") => (
            OsStr::from_bytes(&bytes[..at]).to_owned(),
            Some(OsStr::from_bytes(&bytes[at + 1..]).to_owned()),
        ),
        _ => (argument.to_owned(), None),
    }
}

fn usage(problem: &str) -> ExitCode {
    eprintln!("anabranch-keeper: {problem}\n\n{USAGE}");
    ExitCode::from(2)
}

/// `0`, or a number with `ms`, `s`, `m` or `h`.
fn duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let split = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(split);
    let millis: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    number
        .parse::<u64>()
        .ok()?
        .checked_mul(millis)
        .map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_may_stand_behind_an_equals_sign() {
        let of = |text: &str| {
            let (name, value) = split(OsStr::new(text));
            let text = |s: OsString| s.into_string().unwrap();
            (text(name), value.map(text))
        };
        assert_eq!(
            of("--dir=/run/a=b"),
            ("--dir".into(), Some("/run/a=b".into()))
        );
        assert_eq!(of("--dir="), ("--dir".into(), Some(String::new())));
        assert_eq!(of("--dir"), ("--dir".into(), None));
        assert_eq!(of("a=b"), ("a=b".into(), None));
    }

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(duration("0"), Some(Duration::ZERO));
        assert_eq!(duration("90s"), Some(Duration::from_secs(90)));
        assert_eq!(duration("5ms"), Some(Duration::from_millis(5)));
        assert_eq!(duration("90"), None);
        assert_eq!(duration("s"), None);
    }
}
