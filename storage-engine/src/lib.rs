//! The storage engine of Anabranch: an append-only log, indexed by RocksDB.
