//! What people write to name something in a store: `base`, `fork/agent-0`, `base@-10m:/some/file`.

use std::fmt;

use serde::{Deserialize, Serialize};
use storage_engine::{Engine, Epoch, Point, SnapshotInfo, TimelineInfo};

use super::failure::{Failure, Outcome};
use super::instant::parse_instant;

/// Most choices that an error lists before it says how many more there are.
const MOST_CHOICES: usize = 12;

/// The kinds of things that have names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A dataset with its root timeline.
    Bucket,
    /// A timeline that started at a cutoff of another.
    Fork,
    /// A named, durable pin on an instant of a timeline.
    Snapshot,
}

impl Kind {
    /// All kinds, in the order in which they are listed.
    pub const ALL: [Kind; 3] = [Kind::Bucket, Kind::Snapshot, Kind::Fork];

    /// Reads a kind in the forms that kubectl accepts too.
    pub fn parse(word: &str) -> Option<Kind> {
        match word {
            "bucket" | "buckets" | "bkt" => Some(Kind::Bucket),
            "fork" | "forks" | "bucketfork" | "bucketforks" | "bf" => Some(Kind::Fork),
            "snapshot" | "snapshots" | "bucketsnapshot" | "bucketsnapshots" | "bs" => {
                Some(Kind::Snapshot)
            }
            _ => None,
        }
    }

    /// The word in front of names.
    pub fn word(self) -> &'static str {
        match self {
            Kind::Bucket => "bucket",
            Kind::Fork => "fork",
            Kind::Snapshot => "snapshot",
        }
    }

    /// The name that a thing of this kind has in the engine.
    pub fn engine_name(self, namespace: &str, name: &str) -> String {
        format!("{}/{namespace}/{name}", self.word())
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// Something in a store, as it is written on the command line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Name {
    /// Said by a prefix such as `fork/`; without it all kinds are looked through.
    pub kind: Option<Kind>,
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
    /// The instant after `@`: its state then, instead of now.
    pub at: Option<Epoch>,
    /// The path after `:`, always with its leading slash.
    pub path: Option<Vec<u8>>,
}

impl Name {
    /// Reads `[KIND/[NAMESPACE/]]NAME[@INSTANT][:/PATH]`; `namespace` holds where none is written.
    pub fn parse(text: &[u8], namespace: &str, now: Epoch) -> Outcome<Name> {
        // A time contains colons too, but never one before a slash.
        let cut = text.windows(2).position(|w| w == b":/");
        let (head, path) = match cut {
            Some(at) => (&text[..at], Some(text[at + 1..].to_vec())),
            None => (
                text.strip_suffix(b":").unwrap_or(text),
                text.ends_with(b":").then(|| b"/".to_vec()),
            ),
        };
        let head = std::str::from_utf8(head).map_err(|_| Failure::usage("a name is not UTF-8"))?;
        let (head, at) = match head.split_once('@') {
            Some((head, instant)) => (head, Some(parse_instant(instant, now)?)),
            None => (head, None),
        };
        let parts: Vec<&str> = head.split('/').collect();
        let kind_of = |word: &str| {
            Kind::parse(word).ok_or_else(|| {
                Failure::usage(format!("{word:?} is not a kind; a name starts with bucket/, fork/ or snapshot/, or with nothing"))
            })
        };
        let (kind, namespace, name) = match parts.as_slice() {
            [name] => (None, namespace, *name),
            [kind, name] => (Some(kind_of(kind)?), namespace, *name),
            [kind, namespace, name] => (Some(kind_of(kind)?), *namespace, *name),
            _ => {
                return Err(
                    Failure::usage(format!("{head:?} has too many parts for a name"))
                        .then(EXAMPLES),
                );
            }
        };
        if name.is_empty() || namespace.is_empty() {
            return Err(Failure::usage(format!(
                "{:?} names nothing",
                String::from_utf8_lossy(text)
            ))
            .then(EXAMPLES));
        }
        if kind == Some(Kind::Snapshot) && at.is_some() {
            return Err(Failure::usage(format!(
                "a snapshot is one instant already: leave the @ away from {head}"
            )));
        }
        Ok(Name {
            kind,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            at,
            path,
        })
    }

    /// The path in it, or the root.
    pub fn path_or_root(&self) -> &[u8] {
        self.path.as_deref().unwrap_or(b"/")
    }

    /// Finds what is named. Costs a lookup per kind.
    pub fn resolve(&self, engine: &Engine) -> Outcome<Found> {
        let mut found: Vec<Found> = Vec::new();
        for kind in Kind::ALL {
            if self.kind.is_some_and(|k| k != kind) || (kind == Kind::Snapshot && self.at.is_some())
            {
                continue;
            }
            let name = kind.engine_name(&self.namespace, &self.name);
            if kind == Kind::Snapshot {
                found.extend(present(engine.snapshot_named(&name))?.map(Found::Snapshot));
            } else {
                let there = present(engine.timeline_named(&name))?;
                // Nobody sees a part of an import.
                if let Some(info) = &there
                    && info
                        .settings
                        .labels
                        .get(crds::names::LABEL_IMPORT)
                        .is_some_and(|import| import == "pending")
                {
                    return Err(Failure::new(
                        "Unavailable",
                        format!("{kind}/{} is being imported", self.name),
                    )
                    .then(format!(
                        "`anabranch get buckets {}` shows how far it is.",
                        self.name
                    )));
                }
                found.extend(there.map(|info| Found::Timeline(info, self.at)));
            }
        }
        match found.len() {
            0 => Err(self.unknown(engine)),
            1 => Ok(found.remove(0)),
            _ => {
                let choices: Vec<String> = found
                    .iter()
                    .map(|f| display_name(f.name(), &self.namespace))
                    .collect();
                Err(Failure::new(
                    "Ambiguous",
                    format!("{} could be {}", self.name, choices.join(" or ")),
                )
                .then("Write one of them out."))
            }
        }
    }

    /// Finds a timeline that is named, now: for what cannot be done to the past or to a snapshot.
    pub fn resolve_timeline(&self, engine: &Engine, what: &str) -> Outcome<TimelineInfo> {
        match self.resolve(engine)? {
            Found::Timeline(info, None) => Ok(info),
            Found::Timeline(..) => Err(Failure::usage(format!(
                "{what} works on the present of a timeline: leave the @ away"
            ))),
            Found::Snapshot(_) => Err(Failure::usage(format!(
                "{what} works on a bucket or a fork, and {self} is a snapshot"
            ))),
        }
    }

    fn unknown(&self, engine: &Engine) -> Failure {
        let mut names: Vec<String> = Vec::new();
        let wanted = |kind: Kind| self.kind.is_none_or(|k| k == kind);
        for info in engine.timelines() {
            if let Some((kind, namespace, name)) = split_engine_name(&info.name)
                && namespace == self.namespace
                && wanted(kind)
            {
                names.push(format!("{kind}/{name}"));
            }
        }
        if self.at.is_none() {
            for info in engine.snapshots().unwrap_or_default() {
                if let Some((kind, namespace, name)) = split_engine_name(&info.name)
                    && namespace == self.namespace
                    && wanted(kind)
                {
                    names.push(format!("{kind}/{name}"));
                }
            }
        }
        // Those that look like it first: a set is asked for by its own name, a typing error shares a start.
        names.sort_by_key(|n| {
            let own = n.split_once('/').map_or(n.as_str(), |(_, own)| own);
            let same = own
                .bytes()
                .zip(self.name.bytes())
                .take_while(|(a, b)| a == b)
                .count();
            (std::cmp::Reverse(same), n.clone())
        });
        let failure = Failure::not_found(format!("{self} does not exist"));
        if names.is_empty() {
            return failure.then(format!(
                "There is nothing of that kind in the namespace {} yet.",
                self.namespace
            ));
        }
        let more = names.len().saturating_sub(MOST_CHOICES);
        names.truncate(MOST_CHOICES);
        let tail = if more > 0 {
            format!(" and {more} more")
        } else {
            String::new()
        };
        failure.then(format!("There are {}{tail}.", names.join(", ")))
    }
}

const EXAMPLES: &str =
    "Write for example base, fork/agent-0, snapshot/base-v1, base@-10m or base:/some/file.";

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(kind) = self.kind {
            write!(f, "{kind}/")?;
        }
        f.write_str(&self.name)?;
        if let Some(at) = self.at {
            write!(f, "@{at}")?;
        }
        match &self.path {
            Some(path) => write!(f, ":{}", String::from_utf8_lossy(path)),
            None => Ok(()),
        }
    }
}

/// What a name stands for.
#[derive(Clone, Debug)]
pub enum Found {
    /// A timeline, now or at a past instant.
    Timeline(TimelineInfo, Option<Epoch>),
    /// A snapshot.
    Snapshot(SnapshotInfo),
}

impl Found {
    /// Where it is in the engine's history.
    pub fn point(&self) -> Point {
        match self {
            Found::Timeline(info, None) => Point::Now(info.id),
            Found::Timeline(info, Some(at)) => Point::At(info.id, *at),
            Found::Snapshot(info) => Point::Snapshot(info.id),
        }
    }

    /// Its name in the engine.
    pub fn name(&self) -> &str {
        match self {
            Found::Timeline(info, _) => &info.name,
            Found::Snapshot(info) => &info.name,
        }
    }
}

/// Splits `fork/default/agent-0` into its kind, namespace and name; `None` for names of other making.
pub fn split_engine_name(name: &str) -> Option<(Kind, &str, &str)> {
    let (kind, rest) = name.split_once('/')?;
    let (namespace, name) = rest.split_once('/')?;
    let kind = Kind::ALL.into_iter().find(|k| k.word() == kind)?;
    (!namespace.is_empty() && !name.is_empty()).then_some((kind, namespace, name))
}

/// An engine's name as people write it, without the namespace that holds anyway.
pub fn display_name(name: &str, namespace: &str) -> String {
    match split_engine_name(name) {
        Some((kind, of, name)) if of == namespace => format!("{kind}/{name}"),
        _ => name.to_owned(),
    }
}

/// `None` for what does not exist, so that a lookup can go on with the next kind.
pub(crate) fn present<T>(result: storage_engine::Result<T>) -> Outcome<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == storage_engine::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Epoch = Epoch(1_800_000_000_000_000_000);

    fn parse(text: &str) -> Outcome<Name> {
        Name::parse(text.as_bytes(), "default", NOW)
    }

    #[test]
    fn every_part_of_a_name_is_read() {
        let name = parse("fork/agent-0@2026-11-26T18:55:26Z:/dir/a:/b").unwrap();
        assert_eq!(
            (name.kind, name.name.as_str(), name.namespace.as_str()),
            (Some(Kind::Fork), "agent-0", "default")
        );
        assert_eq!(name.path.as_deref(), Some(b"/dir/a:/b".as_slice()));
        assert_eq!(
            super::super::instant::rfc3339(name.at.unwrap()),
            "2026-11-26T18:55:26.000000000Z"
        );
        let plain = parse("base").unwrap();
        assert_eq!(
            (plain.kind, plain.at, plain.path.clone()),
            (None, None, None)
        );
        assert_eq!(plain.path_or_root(), b"/");
        assert_eq!(
            parse("base:").unwrap().path.as_deref(),
            Some(b"/".as_slice())
        );
        assert_eq!(parse("bucket/team/base").unwrap().namespace, "team");
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for wrong in [
            "",
            ":/x",
            "pod/x",
            "fork/",
            "a/b/c/d",
            "base@soon",
            "snapshot/v1@-1m",
        ] {
            assert_eq!(parse(wrong).unwrap_err().reason, "Usage", "{wrong}");
        }
    }

    #[test]
    fn engine_names_split_and_shorten() {
        assert_eq!(
            split_engine_name("fork/default/agent-0"),
            Some((Kind::Fork, "default", "agent-0"))
        );
        assert_eq!(split_engine_name("importing/default/x"), None);
        assert_eq!(
            display_name("bucket/default/base", "default"),
            "bucket/base"
        );
        assert_eq!(
            display_name("bucket/team/base", "default"),
            "bucket/team/base"
        );
    }
}
