//! Every decoder of stored bytes, fed with damaged ones: none may panic, or take memory that its input does
//! not account for, and what it accepts it must write back the same.
//!
//! The corpus stands in `storage-engine/corpus`, a directory for each decoder. Each file is tried as it is,
//! then changed at random, from a seed that is printed. An input that a decoder failed on is put there and
//! stays a test for ever. `ANABRANCH_FUZZ=N` makes N changed inputs for each decoder, `ANABRANCH_SEED`
//! repeats a run, and `ANABRANCH_CORPUS=write` writes the inputs anew that encoders give.

mod memory;
mod mutate;
mod seeds;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::catalog::Catalog;
use crate::ids::{FileId, Position, SnapshotId, TimelineId};
use crate::index::dead::Dead;
use crate::index::keys::{RecordKey, split_version_key};
use crate::index::records;
use crate::log::compacted::{COMPACTED_HEADER_BYTES, CompactedHeader};
use crate::log::frame::{self, HEADER_BYTES, Header};
use crate::log::reader::{self, Applied, SegmentFile};
use crate::log::segment::{SegmentHeader, parse_segment_name, read_header, segment_path};
use crate::objects::{Bounds, Key};
use memory::{MemoryFile, most_allocated};
use mutate::Mutator;

/// Changed inputs for each decoder in an ordinary run.
const INPUTS: u64 = 20_000;
/// A decoder may allocate so many bytes for each byte of its input, ...
const PER_BYTE: usize = 64;
/// ... and so many besides: messages, buffers of a fixed size.
const BESIDES: usize = 4 << 20;

type Decoder = fn(&[u8]);

/// All of them. Input that has two parts begins with the length of the first.
const DECODERS: [(&str, Decoder); 15] = [
    ("key", key),
    ("version-key", version_key),
    ("record", record),
    ("rows", rows),
    ("frame-header", frame_header),
    ("segment-header", segment_header),
    ("segment", segment),
    ("compacted", compacted),
    ("store-json", store_json),
    ("catalog", catalog),
    ("dead", dead),
    ("names", names),
    ("reply", reply),
    ("applied", applied),
    ("list-token", list_token),
];

fn two_parts(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = bytes.split_first()?;
    rest.split_at_checked(usize::from(*len))
}

fn key(bytes: &[u8]) {
    if let Ok(key) = RecordKey::decode(bytes) {
        assert_eq!(key.encode(), bytes, "{key:?} is written another way");
    }
}

fn version_key(bytes: &[u8]) {
    let _ = split_version_key(bytes);
}

fn record(bytes: &[u8]) {
    let Some((key, row)) = two_parts(bytes) else {
        return;
    };
    if let Ok(key) = RecordKey::decode(key)
        && let Ok(record) = records::decode(&key, row)
    {
        let again = records::encode(record.as_ref());
        assert_eq!(records::decode(&key, &again).unwrap(), record);
    }
}

fn rows(bytes: &[u8]) {
    if let Ok(rows) = frame::decode_rows(bytes) {
        assert_eq!(frame::encode_rows(&rows), bytes);
    }
}

fn frame_header(bytes: &[u8]) {
    if let Some((head, rows)) = bytes.split_first_chunk::<HEADER_BYTES>()
        && let Some(header) = Header::decode(head)
    {
        let _ = header.intact(head, rows);
        assert!(header.total() >= HEADER_BYTES as u64);
    }
}

fn segment_header(bytes: &[u8]) {
    let _ = SegmentHeader::decode(bytes);
}

/// A whole file of the log: replayed, and searched for frames.
fn segment(bytes: &[u8]) {
    let memory = MemoryFile::new(bytes);
    let Ok((header, compacted)) = read_header(&memory, bytes.len() as u64) else {
        return;
    };
    let mut file = SegmentFile {
        path: segment_path(Path::new("log"), header.id),
        file: Arc::new(memory),
        len: bytes.len() as u64,
        followed: false,
        header,
        compacted,
    };
    let _ = reader::any_frame(&file, 0, |_, _| false);
    let applied = Applied {
        position: file.header.base,
        chain: file.header.chain,
    };
    if applied.position.0.checked_add(file.len).is_none() {
        // A position that no log reaches.
        file.header.base = Position(0);
    }
    if let Some(header) = &file.compacted {
        let _ = header.translated(Arc::clone(&file.file));
    }
    let _ = reader::replay(std::slice::from_mut(&mut file), applied, |step| {
        assert!(step.bytes <= bytes.len() as u64);
        Ok(())
    });
}

/// A compacted segment, with the checksums that its header would have, so that what is behind them is reached.
fn compacted(bytes: &[u8]) {
    let _ = CompactedHeader::decode(bytes);
    let mut bytes = bytes.to_vec();
    let Some((head, rest)) = bytes.split_first_chunk_mut::<COMPACTED_HEADER_BYTES>() else {
        return;
    };
    let sum = crc32c::crc32c(&head[..184]);
    head[184..188].copy_from_slice(&sum.to_be_bytes());
    let Ok(header) = CompactedHeader::decode(head) else {
        return;
    };
    assert_eq!(header.encode(), *head, "it is written another way");
    let _ = header.decode_meta(rest);
}

fn store_json(bytes: &[u8]) {
    if let Ok(store) = crate::store::parse(Path::new("store.json"), bytes) {
        crate::store::store_id(&store).unwrap();
    }
}

fn catalog(bytes: &[u8]) {
    let Some((key, value)) = two_parts(bytes) else {
        return;
    };
    let _ = Catalog::default().load(key, value);
}

/// Deadlist records and residues: values without a tag.
fn dead(bytes: &[u8]) {
    if let Ok(dead) = Dead::decode(bytes) {
        assert_eq!(dead.encode(), bytes);
    }
    if let Ok((length, given)) = crate::gc::decode_residue(bytes)
        && !given.is_empty()
    {
        assert_eq!(crate::gc::encode_residue(length, &given), bytes);
    }
}

/// The answer of a request that may come again.
fn reply(bytes: &[u8]) {
    if let Ok((unique, answer)) = crate::rocks::decode_reply(bytes) {
        let ino = answer.ino.map_or(0, |ino| ino.0);
        let again = [unique, ino, answer.size].map(u64::to_be_bytes).concat();
        assert_eq!(again, bytes);
    }
}

/// What the index says that it holds of the log.
fn applied(bytes: &[u8]) {
    if let Ok((applied, epoch)) = crate::rocks::decode_applied(bytes) {
        let again = [
            &applied.position.0.to_be_bytes()[..],
            &applied.chain,
            &epoch.0.to_be_bytes(),
        ];
        assert_eq!(again.concat(), bytes);
    }
}

/// Where the next page of a list begins, as a caller gives it back: a prefix, and the token.
fn list_token(bytes: &[u8]) {
    let Some((prefix, token)) = two_parts(bytes) else {
        return;
    };
    let (prefix, token) = (
        String::from_utf8_lossy(prefix),
        String::from_utf8_lossy(token),
    );
    for delimiter in [None, Some("/")] {
        let Ok(bounds) = Bounds::new(&prefix, delimiter, None, Some(&token)) else {
            continue;
        };
        if let Some(last) = bounds.after.clone() {
            let _ = bounds.from(Some(&last));
            // It may be spelled in other ways, with the same meaning.
            let again = bounds.token(&last, bounds.number);
            let read = Bounds::new(&prefix, delimiter, None, Some(&again)).unwrap();
            assert_eq!((read.after, read.number), (bounds.after, bounds.number));
        }
    }
}

/// Names of files, ids, keys of objects.
fn names(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Some(id) = parse_segment_name(&text) {
        let path = segment_path(Path::new(""), id);
        assert_eq!(path.to_str().unwrap().to_lowercase(), text.to_lowercase());
    }
    let _ = text.parse::<TimelineId>();
    let _ = text.parse::<SnapshotId>();
    let _ = text.parse::<FileId>();
    let _ = Key::parse(&text);
}

fn corpus(decoder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(decoder)
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|n| n.parse().unwrap())
}

/// Feeds one input; panics with it if something is wrong.
fn feed(name: &str, decode: Decoder, input: &[u8]) {
    let outcome = std::panic::catch_unwind(|| most_allocated(|| decode(input)));
    let most = outcome.unwrap_or_else(|_| {
        panic!(
            "the decoder {name} panics on this input: {}",
            hex::encode(input)
        )
    });
    assert!(
        most <= input.len() * PER_BYTE + BESIDES,
        "the decoder {name} allocates {most} bytes for these {}: {}",
        input.len(),
        hex::encode(input)
    );
}

#[test]
fn no_input_makes_a_decoder_panic_or_take_memory() {
    let seed = number("ANABRANCH_SEED").unwrap_or_else(|| {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |time| time.as_nanos() as u64 % 1_000_000_000_000)
    });
    let count = number("ANABRANCH_FUZZ").unwrap_or(INPUTS);
    println!("ANABRANCH_SEED={seed}, {count} inputs for each decoder");
    for (name, decode) in DECODERS {
        let inputs: BTreeMap<PathBuf, Vec<u8>> = std::fs::read_dir(corpus(name))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .map(|path| (path.clone(), std::fs::read(path).unwrap()))
            .collect();
        let inputs: Vec<Vec<u8>> = inputs.into_values().collect();
        assert!(!inputs.is_empty(), "the corpus of {name} is empty");
        for input in &inputs {
            feed(name, decode, input);
        }
        let mut mutator = Mutator::new(seed);
        for _ in 0..count {
            let input = mutator.change(&inputs, name.starts_with("segment"));
            feed(name, decode, &input);
        }
    }
}

/// The corpus has what the encoders give today, so that a new record is never left out.
#[test]
fn the_corpus_has_what_the_encoders_give() {
    let write = std::env::var("ANABRANCH_CORPUS").as_deref() == Ok("write");
    for (decoder, seeds) in seeds::all() {
        for (name, bytes) in seeds {
            let path = corpus(decoder).join(name);
            if write {
                std::fs::create_dir_all(corpus(decoder)).unwrap();
                std::fs::write(&path, &bytes).unwrap();
            }
            assert!(
                std::fs::read(&path).is_ok_and(|there| there == bytes),
                "{} is not what is encoded today: run with ANABRANCH_CORPUS=write",
                path.display()
            );
        }
    }
}
