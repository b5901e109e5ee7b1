//! Follows the manifests: what files there are, and when one of them changes.
//!
//! The truth is a fingerprint of the files (inode, size, time of change). Notifications of the kernel only
//! say when to look; a look every few seconds covers file systems that send none.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use notify::{RecursiveMode, Watcher};

use super::Wake;

/// Between two looks without a notification.
pub const LOOK: Duration = Duration::from_secs(2);
/// The files must not change for so long before they are read: editors write in several steps.
const QUIET: Duration = Duration::from_millis(150);
/// ... but a file that changes all the time is read after this.
const PATIENCE: Duration = Duration::from_secs(2);

/// The files of the manifests that were named.
pub struct Watch {
    named: Vec<PathBuf>,
    seen: Option<Vec<Stamp>>,
    _watcher: Option<notify::RecommendedWatcher>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    path: PathBuf,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

impl Watch {
    /// Follows these files and folders. `wake` is told when something happens near them.
    pub fn new(named: &[PathBuf], wake: Sender<Wake>) -> Self {
        let of: Vec<PathBuf> = named.to_vec();
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Reading a file is no change of it; and in the folder of a manifest, other programs may write a lot.
            if event.map_or(true, |event| !event.kind.is_access() && concerns(&of, &event.paths)) {
                let _ = wake.send(Wake::Files);
            }
        })
        .map_err(|error| tracing::warn!(%error, "no notifications of changed manifests; they are looked at every few seconds"))
        .ok();
        if let Some(watcher) = &mut watcher {
            for path in named {
                // A file is often replaced by a rename, so its folder is what has to be watched.
                let folder = if path.is_dir() {
                    path.as_path()
                } else {
                    parent(path)
                };
                if let Err(error) = watcher.watch(folder, RecursiveMode::NonRecursive) {
                    tracing::warn!(%error, folder = %folder.display(), "no notifications of changed manifests; they are looked at every few seconds");
                }
            }
        }
        Self {
            named: named.to_vec(),
            seen: None,
            _watcher: watcher,
        }
    }

    /// Whether the files are others than at the last call of [`changed`](Self::changed), which has to be called then.
    pub fn pending(&self) -> bool {
        self.seen.as_ref() != Some(&stamps(&self.named))
    }

    /// Whether the files are others than at the last call. Waits until they stop changing.
    pub fn changed(&mut self) -> bool {
        let mut now = stamps(&self.named);
        if self.seen.as_ref() == Some(&now) {
            return false;
        }
        if self.seen.is_some() {
            let deadline = Instant::now() + PATIENCE;
            while Instant::now() < deadline {
                std::thread::sleep(QUIET);
                let later = stamps(&self.named);
                if later == now {
                    break;
                }
                now = later;
            }
        }
        self.seen = Some(now);
        true
    }
}

/// The manifests in what was named: a file is itself; a folder is the `.yaml`, `.yml` and `.json` files in it,
/// hidden ones and sub-folders left out, in the order of their names.
pub fn files(named: &[PathBuf]) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = Vec::new();
    for path in named {
        if !path.is_dir() {
            all.push(path.clone());
            continue;
        }
        let mut inside: Vec<PathBuf> = fs::read_dir(path)
            .map(|entries| {
                entries
                    .filter_map(|entry| Some(entry.ok()?.path()))
                    .filter(|path| is_manifest(path))
                    .collect()
            })
            .unwrap_or_default();
        inside.sort();
        all.extend(inside);
    }
    // One that is named twice is read once.
    let mut once = std::collections::BTreeSet::new();
    all.retain(|path| once.insert(path.clone()));
    all
}

fn is_manifest(path: &Path) -> bool {
    has_manifests_name(path) && path.is_file()
}

fn has_manifests_name(path: &Path) -> bool {
    let hidden = path
        .file_name()
        .is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
    let ending = path
        .extension()
        .is_some_and(|e| e == "yaml" || e == "yml" || e == "json");
    !hidden && ending
}

/// Whether something that happened to these paths may concern the manifests that were named. An event without paths
/// (some were lost) does.
fn concerns(named: &[PathBuf], paths: &[PathBuf]) -> bool {
    paths.is_empty()
        || paths.iter().any(|path| {
            has_manifests_name(path)
                || named
                    .iter()
                    .any(|named| named == path || named.file_name() == path.file_name())
        })
}

/// The folder of a file; the present one for a bare name.
pub fn parent(path: &Path) -> &Path {
    path.parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

fn stamps(named: &[PathBuf]) -> Vec<Stamp> {
    files(named)
        .into_iter()
        .filter_map(|path| {
            let meta = fs::metadata(&path).ok()?;
            Some(Stamp {
                path,
                inode: meta.ino(),
                size: meta.size(),
                changed: (meta.ctime(), meta.ctime_nsec()),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_its_manifests_in_order() {
        let folder = tempfile::tempdir().unwrap();
        for name in [
            "b.yaml",
            "a.yml",
            "c.json",
            ".hidden.yaml",
            "readme.md",
            "b.yaml~",
        ] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        fs::create_dir(folder.path().join("sub.yaml")).unwrap();
        let named = [folder.path().to_owned(), folder.path().join("b.yaml")];
        let found: Vec<_> = files(&named)
            .iter()
            .map(|p| p.file_name().unwrap().to_str().unwrap().to_owned())
            .collect();
        assert_eq!(found, ["a.yml", "b.yaml", "c.json"]);
    }

    #[test]
    fn only_what_may_be_a_manifest_wakes() {
        let named = [PathBuf::from("/m/forks"), PathBuf::from("/folder")];
        let of = |path: &str| concerns(&named, &[PathBuf::from(path)]);
        assert!(of("/m/forks") && of("/folder/a.yaml") && of("/folder"));
        assert!(!of("/m/play.log") && !of("/folder/.a.yaml.swp") && !of("/folder/notes"));
        assert!(concerns(&named, &[]));
        assert!(concerns(&named, &["/m/x".into(), "/m/forks".into()]));
    }

    #[test]
    fn every_way_of_changing_a_file_is_seen_once() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.yaml");
        fs::write(&file, "1").unwrap();
        let (wake, woken) = std::sync::mpsc::channel();
        let mut watch = Watch::new(std::slice::from_ref(&file), wake);
        assert!(watch.changed(), "the first look reads");
        assert!(!watch.changed());
        fs::write(&file, "2").unwrap();
        assert!(watch.changed());
        let other = folder.path().join("a.tmp");
        fs::write(&other, "2").unwrap();
        fs::rename(&other, &file).unwrap();
        assert!(watch.changed(), "an editor that replaces the file");
        fs::remove_file(&file).unwrap();
        assert!(watch.changed());
        assert!(!watch.changed());
        assert!(
            woken.recv_timeout(Duration::from_secs(5)).is_ok(),
            "the kernel said so too"
        );
    }
}
