//! fs-verity: the kernel keeps a tree of hashes beside a file that never changes again, and refuses to read what does not
//! match it, whoever reads.

use std::fs::File;
use std::io;

use rustix::io::Errno;
use rustix::ioctl::{Opcode, Setter, ioctl, opcode};

/// `struct fsverity_enable_arg` of linux/fsverity.h.
#[repr(C)]
struct Enable {
    version: u32,
    hash_algorithm: u32,
    block_size: u32,
    salt_size: u32,
    salt_ptr: u64,
    sig_size: u32,
    reserved1: u32,
    sig_ptr: u64,
    reserved2: [u64; 11],
}

const _: () = assert!(size_of::<Enable>() == 128);

/// `FS_IOC_ENABLE_VERITY`.
const ENABLE: Opcode = opcode::write::<Enable>(b'f', 133);
const VERSION: u32 = 1;
const SHA256: u32 = 1;
/// The one that every kernel with fs-verity takes on machines with pages of 4 KiB.
const BLOCK_BYTES: u32 = 4096;

/// Protects a file that is open for reading only; false if the file system (or the kernel) does not offer it.
pub(super) fn enable(file: &File) -> io::Result<bool> {
    let how = Enable {
        version: VERSION,
        hash_algorithm: SHA256,
        block_size: BLOCK_BYTES,
        salt_size: 0,
        salt_ptr: 0,
        sig_size: 0,
        reserved1: 0,
        sig_ptr: 0,
        reserved2: [0; 11],
    };
    // SAFETY: the number is that of `FS_IOC_ENABLE_VERITY`, which reads one `fsverity_enable_arg` and follows its two
    // pointers only where their sizes are not zero.
    match unsafe { ioctl(file, Setter::<ENABLE, Enable>::new(how)) } {
        // It has it already.
        Ok(()) | Err(Errno::EXIST) => Ok(true),
        // No such operation, no such feature of this file system, or not with blocks of this size.
        Err(Errno::NOTTY | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_that_offers_it_protects_a_sealed_file_and_another_says_no() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sealed");
        std::fs::write(&path, vec![7; 100_000]).unwrap();
        let protected = enable(&File::open(&path).unwrap()).unwrap();
        if protected {
            let write = File::options().write(true).open(&path);
            assert!(write.is_err(), "a protected file can be opened for writing");
            assert_eq!(std::fs::read(&path).unwrap(), vec![7; 100_000]);
            assert!(enable(&File::open(&path).unwrap()).unwrap(), "again");
        } else {
            println!(
                "not run: reading a damaged file that fs-verity protects (this kernel or file system has none)"
            );
            assert!(File::options().write(true).open(&path).is_ok());
        }
    }
}
