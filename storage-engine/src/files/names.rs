//! Which names a directory can hold.

use crate::error::{Error, ErrorKind, Result};

/// Longest name of a directory entry in bytes.
pub(crate) const NAME_MAX: usize = 255;

/// Refuses what is no name of an entry.
pub(crate) fn check(name: &[u8]) -> Result<()> {
    if name.len() > NAME_MAX {
        return Err(Error::new(
            ErrorKind::NameTooLong,
            format!(
                "a name may have {NAME_MAX} bytes, this one has {}",
                name.len()
            ),
        ));
    }
    if name.is_empty()
        || name == b"."
        || name == b".."
        || name.iter().any(|b| matches!(b, 0 | b'/'))
    {
        return Err(Error::invalid(format!(
            "{:?} is no name of a file",
            String::from_utf8_lossy(name)
        )));
    }
    Ok(())
}
