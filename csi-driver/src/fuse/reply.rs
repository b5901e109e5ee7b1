//! Replies: what goes back to the kernel for one request.

use bytemuck::Pod;

use super::abi;
use super::errno::Errno;

/// Room for the largest fixed reply (STATX).
const SMALL: usize = 304;

/// The answer to one request.
#[derive(Debug)]
// One lives at a time on each serving thread's stack: a box would cost an allocation for each request.
#[allow(clippy::large_enum_variant)]
pub enum Reply {
    /// None is waited for (FORGET and its like).
    Silent,
    /// The request failed.
    Failed(Errno),
    /// It succeeded and there is nothing to say.
    Empty,
    /// One or two of the fixed structures.
    Fixed(Fixed),
    /// File data, names, or values.
    Data(Vec<u8>),
}

/// Fixed structures, kept without an allocation.
#[derive(Debug)]
pub struct Fixed {
    length: usize,
    bytes: [u8; SMALL],
}

impl Reply {
    /// A reply of one structure.
    pub fn of<T: Pod>(value: &T) -> Reply {
        const { assert!(size_of::<T>() <= SMALL) };
        let mut fixed = Fixed {
            length: size_of::<T>(),
            bytes: [0; SMALL],
        };
        fixed.bytes[..size_of::<T>()].copy_from_slice(bytemuck::bytes_of(value));
        Reply::Fixed(fixed)
    }

    /// A reply of two structures, one after the other.
    pub fn of_both<T: Pod, U: Pod>(first: &T, second: &U) -> Reply {
        const { assert!(size_of::<T>() + size_of::<U>() <= SMALL) };
        let mut fixed = Fixed {
            length: size_of::<T>() + size_of::<U>(),
            bytes: [0; SMALL],
        };
        fixed.bytes[..size_of::<T>()].copy_from_slice(bytemuck::bytes_of(first));
        fixed.bytes[size_of::<T>()..fixed.length].copy_from_slice(bytemuck::bytes_of(second));
        Reply::Fixed(fixed)
    }

    /// A value to a caller that gave room for `size` bytes; 0 asks for the length alone (GETXATTR, LISTXATTR).
    pub fn sized_value(value: Vec<u8>, size: u32) -> Reply {
        if size == 0 {
            Reply::of(&abi::GetXattrOut {
                size: value.len() as u32,
                padding: 0,
            })
        } else if value.len() > size as usize {
            Reply::Failed(Errno(libc::ERANGE))
        } else {
            Reply::Data(value)
        }
    }

    /// The bytes after the header; empty for a failure.
    pub fn payload(&self) -> &[u8] {
        match self {
            Reply::Silent | Reply::Failed(_) | Reply::Empty => &[],
            Reply::Fixed(fixed) => fixed.bytes.get(..fixed.length).unwrap_or_default(),
            Reply::Data(data) => data,
        }
    }

    /// The header for this reply.
    pub fn header(&self, unique: u64) -> abi::OutHeader {
        let error = if let Reply::Failed(errno) = self {
            -errno.0
        } else {
            0
        };
        abi::OutHeader {
            len: (size_of::<abi::OutHeader>() + self.payload().len()) as u32,
            error,
            unique,
        }
    }
}

/// Entries of a directory, packed until the room is used up.
#[derive(Debug)]
pub struct Listing {
    bytes: Vec<u8>,
    room: usize,
}

impl Listing {
    /// An empty listing with room for `size` bytes.
    pub fn new(size: u32) -> Listing {
        Listing {
            bytes: Vec::with_capacity((size as usize).min(1 << 20)),
            room: size as usize,
        }
    }

    /// Adds an entry, with its attributes for READDIRPLUS; false when it does not fit any more.
    pub fn push(
        &mut self,
        ino: u64,
        cookie: u64,
        kind: u32,
        name: &[u8],
        entry: Option<&abi::EntryOut>,
    ) -> bool {
        let fixed = size_of::<abi::Dirent>() + entry.map_or(0, |_| size_of::<abi::EntryOut>());
        let length = (fixed + name.len()).next_multiple_of(8);
        if self.bytes.len() + length > self.room {
            return false;
        }
        let end = self.bytes.len() + length;
        if let Some(entry) = entry {
            self.bytes.extend_from_slice(bytemuck::bytes_of(entry));
        }
        let dirent = abi::Dirent {
            ino,
            off: cookie,
            namelen: name.len() as u32,
            kind,
        };
        self.bytes.extend_from_slice(bytemuck::bytes_of(&dirent));
        self.bytes.extend_from_slice(name);
        self.bytes.resize(end, 0);
        true
    }

    /// The reply.
    pub fn into_reply(self) -> Reply {
        Reply::Data(self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_takes_what_fits_and_aligns_each_entry() {
        let mut listing = Listing::new(72);
        assert!(listing.push(5, 77, 4, b"a", None));
        assert!(listing.push(6, 78, 8, b"12345678", None));
        assert!(!listing.push(7, 79, 8, b"", None));
        let reply = listing.into_reply();
        assert_eq!(reply.payload().len(), 64);
        assert_eq!(&reply.payload()[24..32], b"a\0\0\0\0\0\0\0");
        assert_eq!(&reply.payload()[56..], b"12345678");
    }

    #[test]
    fn a_value_is_measured_given_or_too_large() {
        assert_eq!(
            Reply::sized_value(vec![1; 5], 0).payload(),
            bytemuck::bytes_of(&[5u32, 0])
        );
        assert_eq!(Reply::sized_value(vec![1; 5], 5).payload(), &[1; 5]);
        assert_eq!(
            Reply::sized_value(vec![1; 5], 4).header(2).error,
            -libc::ERANGE
        );
    }
}
