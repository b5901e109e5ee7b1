//! Which keys there are: those that are a path of files.

use crate::error::{Error, Result};

/// Longest key in bytes, as in S3.
pub const MAX_KEY: usize = 1024;
/// Longest part of a key between two slashes in bytes: it is the name of a file.
pub const MAX_KEY_PART: usize = 255;

/// A key taken apart.
pub(crate) struct Key<'a> {
    /// The names on the way from the root; never empty.
    pub path: Vec<&'a [u8]>,
    /// It ends with a slash: a directory that is a key itself.
    pub marker: bool,
}

impl<'a> Key<'a> {
    /// # Errors
    /// `InvalidArgument`, saying what is wrong with it.
    pub fn parse(text: &'a str) -> Result<Self> {
        let refuse = |why: &str| {
            let shown: String = text.chars().take(100).collect();
            Err(Error::invalid(format!(
                "{shown:?} cannot be the key of an object: {why}"
            )))
        };
        if text.is_empty() {
            return refuse("it is empty");
        }
        if text.len() > MAX_KEY {
            return refuse(&format!(
                "it has {} bytes and may have {MAX_KEY}",
                text.len()
            ));
        }
        if text.starts_with('/') {
            return refuse("it starts with a slash, and keys are paths without one");
        }
        if text.contains('\0') {
            return refuse("it holds a zero byte");
        }
        let (path, marker) = match text.strip_suffix('/') {
            Some(path) => (path, true),
            None => (text, false),
        };
        let mut parts = Vec::new();
        for part in path.split('/') {
            match part {
                "" => return refuse("two slashes stand side by side"),
                "." | ".." => return refuse(&format!("the part {part:?} means a directory")),
                _ if part.len() > MAX_KEY_PART => {
                    return refuse(&format!(
                        "a part between slashes has {} bytes and may have {MAX_KEY_PART}",
                        part.len()
                    ));
                }
                _ => parts.push(part.as_bytes()),
            }
        }
        Ok(Self {
            path: parts,
            marker,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_path_is_refused_with_the_reason() {
        let long_part = "x".repeat(256);
        let long = format!("{}x", "ab/".repeat(400));
        for (text, why) in [
            ("", "empty"),
            ("/a", "starts with a slash"),
            ("/", "starts with a slash"),
            ("a//b", "side by side"),
            ("a//", "side by side"),
            ("a/./b", "means a directory"),
            ("..", "means a directory"),
            ("a/../", "means a directory"),
            ("a\0b", "zero byte"),
            (long_part.as_str(), "256 bytes"),
            (long.as_str(), "1201 bytes"),
        ] {
            let error = Key::parse(text).map(|_| ()).unwrap_err();
            assert_eq!(error.kind(), crate::ErrorKind::InvalidArgument);
            assert!(error.to_string().contains(why), "{text:?}: {error}");
        }
    }

    #[test]
    fn a_trailing_slash_makes_a_directory_of_it() {
        let key = Key::parse("a b/ü/").unwrap();
        assert!(key.marker);
        assert_eq!(key.path, [b"a b".as_slice(), "ü".as_bytes()]);
        assert!(!Key::parse("a b/ü").unwrap().marker);
    }
}
