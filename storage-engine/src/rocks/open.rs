//! How the index is opened and read. Every number has its reason beside it.

use std::path::Path;

use rocksdb::{
    BlockBasedOptions, Cache, DB, DBCompressionType, LogLevel, Options, ReadOptions, SliceTransform,
};

use crate::error::{ErrorKind, IoContext, Result};
use crate::index::keys::EPOCH_LEN;

use super::{RECORD, translate};

/// Cache for blocks of the index: the inner levels of a store of a few million files stay in it.
const BLOCK_CACHE_BYTES: usize = 256 << 20;
/// RocksDB must not flush by itself (see the module's page), so its limit is far above ours.
const WRITE_BUFFER_BYTES: usize = 2 << 30;

/// Opens or creates the index. Tells why, if it had to be thrown away: what is in it comes from the log then.
pub(super) fn open(path: &Path) -> Result<(DB, Option<String>)> {
    let torn = forget_torn(path)?;
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_write_buffer_size(WRITE_BUFFER_BYTES);
    // A flush that is slower than the writes leaves several buffers behind; stalling is our limiter's matter.
    options.set_max_write_buffer_number(8);
    options.set_prefix_extractor(SliceTransform::create(
        "record",
        without_epoch,
        Some(is_version),
    ));
    // Most looks into an ancestor or for a new name find nothing. A part of the buffer's limit, which is never
    // used up: 2 MiB, dozens of bits for each of the records that fit into what is written out at once. All of
    // it is touched whenever the index is opened or written out.
    options.set_memtable_prefix_bloom_ratio(0.001);
    options.set_max_background_jobs(2);
    // Handles of all index files; the process has others to keep.
    options.set_max_open_files(256);
    // RocksDB's own log of what it does is silent but for its head: it is written with the same checks as data, and
    // Debian's build asserts in its next line after one that found the disk full, which would end the process.
    options.set_log_level(LogLevel::Fatal);
    options.set_keep_log_file_num(2);
    options.set_max_log_file_size(1 << 20);
    options.set_compression_type(DBCompressionType::None);
    options.set_level_compaction_dynamic_level_bytes(true);
    options.set_bytes_per_sync(1 << 20);
    options.set_paranoid_checks(true);
    let mut table = BlockBasedOptions::default();
    let cache = Cache::new_lru_cache(BLOCK_CACHE_BYTES)
        .map_err(|e| translate("make the cache of the index", &e))?;
    table.set_block_cache(&cache);
    table.set_bloom_filter(10.0, false);
    table.set_whole_key_filtering(false);
    table.set_format_version(5);
    options.set_block_based_table_factory(&table);
    let open = || DB::open(&options, path).map_err(|e| translate("open the index", &e));
    match open() {
        // What it says of its own files is damaged. A loss of power may leave it so, because RocksDB reads a torn end of its
        // manifest as damage; and nothing is in the index that is not in the log.
        Err(error) if error.kind() == ErrorKind::Corrupt => {
            forget(path, &error.to_string())?;
            Ok((open()?, Some(error.to_string())))
        }
        opened => Ok((opened?, torn)),
    }
}

/// Removes a damaged index: the opening makes it anew from the log.
pub(super) fn forget(path: &Path, why: &str) -> Result<()> {
    tracing::warn!(index = %path.display(), why, "the index is damaged; it is made anew from the log");
    std::fs::remove_dir_all(path).context("remove", path)
}

/// Removes an index whose manifest is not there. RocksDB renames the file that names the manifest and syncs their directory
/// once behind both, so that where a directory's entries are not written in order, a loss of power leaves the second
/// without the first.
fn forget_torn(path: &Path) -> Result<Option<String>> {
    let Ok(current) = std::fs::read_to_string(path.join("CURRENT")) else {
        return Ok(None);
    };
    let manifest = current.trim_end();
    if !manifest.starts_with("MANIFEST-") || path.join(manifest).exists() {
        return Ok(None);
    }
    let why = format!("{manifest} is missing in {}", path.display());
    forget(path, &why)?;
    Ok(Some(why))
}

/// All versions of one record share this prefix, which the bloom filters know.
fn without_epoch(key: &[u8]) -> &[u8] {
    &key[..key.len() - EPOCH_LEN]
}

fn is_version(key: &[u8]) -> bool {
    key.first() == Some(&RECORD) && key.len() > EPOCH_LEN
}

/// Reads of one record's versions.
pub(super) fn point_reads() -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_prefix_same_as_start(true);
    options
}

/// Ordered scans of everything that starts with `prefix`.
pub(super) fn scans(prefix: &[u8]) -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_total_order_seek(true);
    if let Some(end) = successor(prefix) {
        options.set_iterate_upper_bound(end);
    }
    options
}

/// The smallest key above everything that starts with `prefix`.
pub(super) fn successor(prefix: &[u8]) -> Option<Vec<u8>> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return Some(end);
        }
    }
    None
}
