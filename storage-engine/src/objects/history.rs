//! A tree over time: what each name stood for in each epoch of the history that is kept.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::files::place::MARKER;
use crate::files::types::NodeKind;
use crate::ids::{Epoch, Ino};
use crate::index::keys::{RecordKey, dirents_of};
use crate::index::lineage::{Lineage, Scan};
use crate::index::records::Record;
use crate::rocks::Index;
use crate::timeline::earliest_epoch;

use super::Objects;
use super::state::{Found, Identity, State};
use super::walk::{Entry, Tree};

/// A stretch of a timeline's history without a restore in it.
pub(super) struct Era {
    /// The lineage at its end.
    pub hops: Lineage,
    /// Its first epoch.
    pub from: Epoch,
    /// Its last epoch.
    pub to: Epoch,
}

impl Objects<'_> {
    /// The history that is kept, oldest first; never empty. Of a past state: that state alone. The open
    /// epoch is closed for it. Cost: a read for each ancestor and each restore.
    pub(super) fn eras(&self) -> Result<Vec<Era>> {
        let hops = Arc::clone(&self.volume.view()?.hops);
        if let Some(at) = hops.first().map(|h| h.hi)
            && at != Epoch::MAX
        {
            return Ok(vec![Era {
                hops,
                from: at,
                to: at,
            }]);
        }
        let engine = self.volume.engine();
        let newest = engine.tick()?;
        let inner = &engine.inner;
        let catalog = inner.catalog.read();
        let record = catalog.live_timeline(self.volume.timeline())?;
        let retained = earliest_epoch(record, inner.clock.now());
        let earliest = retained.min(newest);
        let mut borders = vec![Epoch::ZERO];
        borders.extend(record.origins.iter().map(|o| o.since));
        borders.push(newest);
        let mut eras = Vec::new();
        for border in borders.windows(2) {
            let (since, to) = (border[0], border[1]);
            let from = earliest.max(Epoch(since.0.saturating_add(1)));
            if from <= to && to >= record.created {
                let hops = inner.lineage(&catalog, record.id, to)?;
                eras.push(Era { hops, from, to });
            }
        }
        if eras.is_empty() {
            // Nothing was committed since the timeline was made.
            let hops = inner.lineage(&catalog, record.id, newest)?;
            eras.push(Era {
                hops,
                from: newest,
                to: newest,
            });
        }
        Ok(eras)
    }
}

/// A name stood for this inode from an epoch until before another one.
#[derive(Clone, Debug)]
pub(super) struct Span {
    era: usize,
    ino: Ino,
    from: Epoch,
    until: Epoch,
    /// Epoch of the newest change of the path by which it was reached then.
    named: Epoch,
}

/// The tree over time.
pub(super) struct Past<'a> {
    pub index: &'a Index,
    pub eras: &'a [Era],
}

/// What an object was from an epoch on; nothing: it was gone.
pub(super) type Change = (Epoch, Option<Identity>);

impl<'a> Past<'a> {
    /// The root directory.
    pub fn root(&self) -> Vec<Span> {
        (0..)
            .zip(self.eras)
            .map(|(era, e)| Span {
                era,
                ino: Ino::ROOT,
                from: e.from,
                until: Epoch(e.to.0.saturating_add(1)),
                named: Epoch::ZERO,
            })
            .collect()
    }

    fn state(&self, era: usize) -> Result<State<'a>> {
        let era = self
            .eras
            .get(era)
            .ok_or_else(|| Error::invalid("the history has no such part"))?;
        Ok(State {
            index: self.index,
            hops: &era.hops,
        })
    }

    /// What a name in a directory stood for, while that was there.
    fn entry(&self, dirs: &[Span], name: &[u8]) -> Result<Option<Entry<Vec<Span>, Vec<Span>>>> {
        let (mut files, mut subdirs) = (Vec::new(), Vec::new());
        for dir in dirs {
            let state = self.state(dir.era)?;
            let hops = state.hops_at(dir.from);
            let first = State {
                index: self.index,
                hops: &hops,
            };
            let mut at = first
                .entry(dir.ino, name)?
                .map(|(ino, kind, since)| (ino, kind, dir.from, since.max(dir.named)));
            let key = RecordKey::Dirent(dir.ino, name.to_vec());
            let later = state.changes(&key, Epoch(dir.from.0.saturating_add(1)), dir.until)?;
            let mut close = |at: Option<(Ino, NodeKind, Epoch, Epoch)>, until: Epoch| {
                let Some((ino, kind, from, named)) = at else {
                    return;
                };
                let span = Span {
                    era: dir.era,
                    ino,
                    from,
                    until,
                    named,
                };
                match kind {
                    NodeKind::File => files.push(span),
                    NodeKind::Directory => subdirs.push(span),
                    _ => {}
                }
            };
            for (epoch, record) in later {
                close(at.take(), epoch);
                at = match record {
                    Some(Record::Dirent { ino, kind }) => Some((ino, kind, epoch, epoch)),
                    None => None,
                    Some(_) => return Err(Error::corrupt("a dirent record holds something else")),
                };
            }
            close(at, dir.until);
        }
        let some = |spans: Vec<Span>| (!spans.is_empty()).then_some(spans);
        let (file, dir) = (some(files), some(subdirs));
        if file.is_none() && dir.is_none() {
            return Ok(None);
        }
        Ok(Some(Entry {
            name: name.to_vec(),
            file,
            dir,
        }))
    }

    /// All versions of an object, oldest first. Cost: the versions of its inodes, and of each the entity
    /// tag's.
    pub fn versions(&self, spans: &[Span], marker: bool) -> Result<Vec<Change>> {
        let mut out: Vec<Change> = Vec::new();
        let mut until = None;
        for span in spans {
            if let Some(until) = until.filter(|u| *u < span.from) {
                record(&mut out, until, None);
            }
            let state = self.state(span.era)?;
            let changes = state.changes(
                &RecordKey::Inode(span.ino),
                Epoch(span.from.0.saturating_add(1)),
                span.until,
            )?;
            let epochs = std::iter::once(span.from).chain(changes.into_iter().map(|(e, _)| e));
            for epoch in epochs {
                let hops = state.hops_at(epoch);
                let then = State {
                    index: self.index,
                    hops: &hops,
                };
                let Some((inode, changed)) = then.inode(span.ino)? else {
                    record(&mut out, epoch, None);
                    continue;
                };
                if marker && !then.is_marker(span.ino, &inode)? {
                    record(&mut out, epoch, None);
                    continue;
                }
                let identity = then.identity(span.ino, &inode)?;
                let mut began = epoch;
                if epoch == span.from {
                    let found = Found {
                        ino: span.ino,
                        inode,
                        named: span.named,
                        changed,
                    };
                    began = then.version(&found, &identity)?;
                }
                record(&mut out, began, Some(identity));
            }
            until = Some(span.until);
        }
        let end = self.eras.last().map(|e| e.to);
        if let (Some(until), Some(end)) = (until, end)
            && until <= end
        {
            record(&mut out, until, None);
        }
        Ok(out)
    }
}

/// Adds what an object was from an epoch on, unless it was so before.
fn record(out: &mut Vec<Change>, epoch: Epoch, now: Option<Identity>) {
    let same = match (out.last().and_then(|(_, before)| before.as_ref()), &now) {
        (None, None) => true,
        (Some(before), Some(now)) => before.same(now),
        _ => false,
    };
    if !same {
        out.push((epoch, now));
    }
}

/// Listings of all states of a directory, side by side.
pub(super) struct Names<'a> {
    dirs: Vec<Span>,
    from: Vec<u8>,
    scans: Vec<(Scan<'a>, Option<Vec<u8>>)>,
}

impl Names<'_> {
    /// The next name that any of them has, or ever had.
    fn next(&mut self) -> Result<Option<Vec<u8>>> {
        let mut least: Option<Vec<u8>> = None;
        for (scan, head) in &mut self.scans {
            if head.is_none() {
                while let Some((key, ..)) = scan.next_row()? {
                    if let RecordKey::Dirent(_, name) = RecordKey::decode(&key)?
                        && name >= self.from
                    {
                        *head = Some(name);
                        break;
                    }
                }
            }
            if let Some(name) = head
                && least.as_ref().is_none_or(|l| *name < *l)
            {
                least = Some(name.clone());
            }
        }
        for (_, head) in &mut self.scans {
            if *head == least {
                *head = None;
            }
        }
        Ok(least)
    }
}

impl<'a> Tree for Past<'a> {
    type File = Vec<Span>;
    type Dir = Vec<Span>;
    type Cursor = Names<'a>;

    fn open(&self, dirs: &Vec<Span>, from: &[u8]) -> Result<Names<'a>> {
        let mut scans = Vec::with_capacity(dirs.len());
        for dir in dirs {
            let hops = self
                .state(dir.era)?
                .hops_at(Epoch(dir.until.0.saturating_sub(1)));
            let prefix = dirents_of(dir.ino);
            let start = [prefix.as_slice(), from].concat();
            scans.push((Scan::new(self.index, &hops, &prefix, &start), None));
        }
        Ok(Names {
            dirs: dirs.clone(),
            from: from.to_vec(),
            scans,
        })
    }

    fn next(&self, names: &mut Names<'a>) -> Result<Option<Entry<Vec<Span>, Vec<Span>>>> {
        while let Some(name) = names.next()? {
            if let Some(entry) = self.entry(&names.dirs, &name)? {
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }

    fn find(&self, dirs: &Vec<Span>, name: &[u8]) -> Result<Option<Entry<Vec<Span>, Vec<Span>>>> {
        self.entry(dirs, name)
    }

    /// Whether it is one is seen when its versions are looked at; here, whether it ever was.
    fn marker(&self, dirs: &Vec<Span>) -> Result<Option<Vec<Span>>> {
        for dir in dirs {
            let relative = RecordKey::Xattr(dir.ino, MARKER.to_vec()).encode();
            for hop in self.state(dir.era)?.hops {
                if self
                    .index
                    .newest(hop.timeline, &relative, hop.lo, hop.hi)?
                    .is_some()
                {
                    return Ok(Some(dirs.clone()));
                }
            }
        }
        Ok(None)
    }
}
