//! Which forks are mounted where.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use csi_driver::mounts::{MountRequest, Mounts};
use csi_driver::owner::name::{Kind, split_engine_name};
use storage_engine::{Engine, Point};

/// The mounts of a play: every fork at `<top>/<namespace>/<name>`.
pub struct Volumes {
    mounts: Mounts,
    top: PathBuf,
    /// Forks that cannot be mounted, and why; said once for each reason.
    pub troubles: BTreeMap<String, String>,
}

/// What a round of mounting did.
#[derive(Debug, Default)]
pub struct Round {
    /// Sentences on what is new.
    pub news: Vec<String>,
    /// Something could not be mounted and is to be tried again.
    pub trouble: bool,
    /// How many forks are mounted.
    pub mounted: usize,
}

impl Volumes {
    pub fn new(mounts: Mounts, top: &Path) -> Self {
        Self {
            mounts,
            top: top.to_owned(),
            troubles: BTreeMap::new(),
        }
    }

    /// Mounts what is not mounted, and unmounts what is no longer there.
    pub fn round(&mut self, engine: &Engine) -> Round {
        let mut round = Round::default();
        let mut wanted: BTreeMap<String, (Point, PathBuf, bool)> = BTreeMap::new();
        for info in engine.timelines() {
            if let Some((Kind::Fork, namespace, name)) = split_engine_name(&info.name) {
                let place = self.top.join(namespace).join(name);
                wanted.insert(
                    mount_id(namespace, name),
                    (Point::Now(info.id), place, info.settings.read_only),
                );
            }
        }
        let present = self.mounts.list();
        for mount in present.iter().filter(|mount| !mount.detached) {
            let same = wanted
                .get(&mount.id)
                .is_some_and(|(point, place, read_only)| {
                    *point == mount.point
                        && *place == mount.mount_point
                        && *read_only == mount.read_only
                });
            if same {
                round.mounted += 1;
                wanted.remove(&mount.id);
                continue;
            }
            if let Err(error) = self.mounts.unmount(&mount.id, true) {
                round.news.push(format!(
                    "cannot unmount {}: {error}",
                    mount.mount_point.display()
                ));
                round.trouble = true;
            } else if !wanted.contains_key(&mount.id) {
                round
                    .news
                    .push(format!("unmounted {}", mount.mount_point.display()));
                self.tidy(&mount.mount_point);
            }
        }
        let ids: BTreeSet<String> = wanted.keys().cloned().collect();
        self.troubles.retain(|id, _| ids.contains(id));
        for (id, (point, place, read_only)) in wanted {
            match self.mount(&id, point, &place, read_only) {
                Ok(()) => {
                    self.troubles.remove(&id);
                    round.mounted += 1;
                    round.news.push(format!("mounted {}", place.display()));
                }
                Err(trouble) => {
                    round.trouble = true;
                    if self.troubles.get(&id) != Some(&trouble) {
                        round
                            .news
                            .push(format!("cannot mount {}: {trouble}", place.display()));
                        self.troubles.insert(id, trouble);
                    }
                }
            }
        }
        round
    }

    fn mount(&self, id: &str, point: Point, place: &Path, read_only: bool) -> Result<(), String> {
        if let Some(parent) = place.parent() {
            fs::create_dir_all(parent)
                .map_err(|e| format!("cannot make {}: {e}", parent.display()))?;
        }
        let request = MountRequest {
            id: id.to_owned(),
            point,
            mount_point: place.to_owned(),
            mode: None,
            read_only,
            group: None,
            label: String::new(),
        };
        self.mounts
            .mount(request)
            .map(|_| ())
            .map_err(|error| error.to_string())
    }

    /// Removes the empty folders that an unmounted fork leaves below the top.
    fn tidy(&self, place: &Path) {
        for folder in place
            .ancestors()
            .take_while(|folder| folder.starts_with(&self.top))
        {
            if fs::remove_dir(folder).is_err() {
                break;
            }
        }
    }
}

/// Removes the folders of namespaces that have become empty, and the top when nothing is left in it.
pub fn tidy_all(top: &Path) {
    for entry in fs::read_dir(top).into_iter().flatten().flatten() {
        let _ = fs::remove_dir(entry.path());
    }
    let _ = fs::remove_dir(top);
}

fn mount_id(namespace: &str, name: &str) -> String {
    format!("{namespace}.{name}")
}
