//! Whatever reads what others say (callers of the container storage interface, the command line, the keeper's and the
//! owner's sockets), fed with changed inputs: none may panic, and what is taken has one meaning. FUSE requests have
//! their own tests (`src/fuse/request_tests.rs`), stored bytes those of the engine.
//!
//! The corpus stands in `csi-driver/corpus`, a directory for each decoder. `ANABRANCH_SEED` repeats a run,
//! `ANABRANCH_FUZZ=N` makes N changed inputs for each decoder.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use csi_driver::keeper::wire::{Reply, Request};
use csi_driver::owner::Command;
use csi_driver::owner::frame::{Hello, json, read_frame};
use csi_driver::owner::instant::{parse_duration, parse_instant};
use csi_driver::owner::name::Name;
use storage_engine::Epoch;

/// Changed inputs for each decoder in an ordinary run.
const INPUTS: u64 = 20_000;
const NOW: Epoch = Epoch(1_700_000_000_000_000_000);

type Decoder = fn(&[u8]);

const DECODERS: [(&str, Decoder); 5] = [
    ("id", id),
    ("owner-frame", owner_frame),
    ("keeper-message", keeper_message),
    ("name", name),
    ("instant", instant),
];

/// Ids of the container storage interface, which its page tokens are as well: one spelling each.
fn id(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    #[cfg(feature = "cluster")]
    {
        use csi_driver::csi::{GroupId, SnapshotRef, VolumeId};
        if let Some(id) = VolumeId::parse(&text) {
            assert_eq!(id.to_string(), text);
        }
        if let Some(id) = SnapshotRef::parse(&text) {
            assert_eq!(id.to_string(), text);
        }
        if let Some(id) = GroupId::parse(&text) {
            assert_eq!(id.as_str(), text);
        }
    }
    let _ = text;
}

/// Frames of the owner's socket, until one is none.
fn owner_frame(bytes: &[u8]) {
    let mut rest = bytes;
    while let Ok(Some((_, payload))) = read_frame(&mut rest) {
        let _ = json::<Hello>(&payload);
        if let Ok(command) = json::<Command>(&payload) {
            assert!(!command.word().is_empty());
        }
    }
}

fn keeper_message(bytes: &[u8]) {
    if let Ok(request) = serde_json::from_slice::<Request>(bytes) {
        let again = serde_json::to_vec(&request).unwrap();
        assert_eq!(serde_json::from_slice::<Request>(&again).unwrap(), request);
    }
    if let Ok(reply) = serde_json::from_slice::<Reply>(bytes) {
        let again = serde_json::to_vec(&reply).unwrap();
        assert_eq!(serde_json::from_slice::<Reply>(&again).unwrap(), reply);
    }
}

fn name(bytes: &[u8]) {
    if let Ok(name) = Name::parse(bytes, "default", NOW) {
        assert!(!name.path_or_root().is_empty());
    }
}

fn instant(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let _ = parse_instant(&text, NOW);
    let _ = parse_duration(&text);
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n.max(1) as u64) as usize
    }

    /// One of the inputs with up to four changes.
    fn change(&mut self, inputs: &[Vec<u8>]) -> Vec<u8> {
        /// Bytes that mean something to one of the decoders.
        const SPECIAL: &[u8] = b"/@:-+.,\"\\{}[]\0\xff\x7f 09azTZ";
        let mut bytes = inputs[self.below(inputs.len())].clone();
        for _ in 0..1 + self.below(4) {
            let at = self.below(bytes.len());
            match self.below(7) {
                _ if bytes.is_empty() => bytes.push(self.below(256) as u8),
                0 => bytes[at] ^= 1 << self.below(8),
                1 => bytes[at] = self.below(256) as u8,
                2 => bytes[at] = SPECIAL[self.below(SPECIAL.len())],
                3 => bytes.insert(at, SPECIAL[self.below(SPECIAL.len())]),
                4 => bytes.truncate(at),
                5 => {
                    bytes.remove(at);
                }
                _ => {
                    let other = inputs[self.below(inputs.len())].clone();
                    bytes.truncate(at);
                    bytes.extend_from_slice(&other[self.below(other.len())..]);
                }
            }
        }
        bytes
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|n| n.parse().unwrap())
}

#[test]
fn no_input_makes_a_decoder_panic() {
    let seed = number("ANABRANCH_SEED").unwrap_or_else(|| {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |time| time.as_nanos() as u64 % 1_000_000_000_000)
    });
    let count = number("ANABRANCH_FUZZ").unwrap_or(INPUTS);
    println!("ANABRANCH_SEED={seed}, {count} inputs for each decoder");
    for (name, decode) in DECODERS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("corpus")
            .join(name);
        let mut files: Vec<_> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        files.sort();
        let inputs: Vec<Vec<u8>> = files.iter().map(|f| std::fs::read(f).unwrap()).collect();
        assert!(!inputs.is_empty(), "the corpus of {name} is empty");
        let feed = |input: &[u8]| {
            if std::panic::catch_unwind(|| decode(input)).is_err() {
                panic!(
                    "the decoder {name} panics on this input: {}",
                    hex::encode(input)
                );
            }
        };
        inputs.iter().for_each(|input| feed(input));
        let mut random = Random(seed);
        for _ in 0..count {
            feed(&random.change(&inputs));
        }
    }
}
