//! Making the index anew from a log that may be damaged itself.

use std::path::Path;

use serde::Serialize;

use crate::engine::Options;
use crate::error::{Error, IoContext, Result};
use crate::fs::Access;
use crate::ids::Position;
use crate::log::frame::{self, Chain};
use crate::log::reader::{self, Applied, Found, Frame, SegmentFile};
use crate::log::segment::{SEGMENT_HEADER_BYTES, SegmentHeader, parse_segment_name, read_header};
use crate::rocks::{Applying, Index};
use crate::store::{self, Layout};
use crate::{Engine, flush};

/// A stretch of the log that could not be used.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Lost {
    /// The segment, relative to the data directory.
    pub path: String,
    /// Where in it, in bytes.
    pub offset: u64,
    /// Positions of the log from ...
    pub from: Position,
    /// ... to.
    pub to: Position,
    /// What is wrong, and what is lost by it.
    pub what: String,
}

/// What a repair did.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Repair {
    /// Commits that the new index holds.
    pub frames: u64,
    /// The log up to here is in it.
    pub position: Position,
    /// What could not be restored. Empty: the index is what it was.
    pub lost: Vec<Lost>,
}

impl Engine {
    /// Makes the index of a store that nobody owns anew from its log, as far as the log allows: commits that
    /// cannot be read are left out, and told. The log stays as it is, but for headers of segments that cannot be read. The old index is kept until the new one is
    /// complete. Afterwards the store opens; [`check`](Engine::check) tells what contradicts what then.
    ///
    /// # Errors
    /// `Locked`, `NotFound`, `UnsupportedFormat`, `Corrupt` for a `store.json` that cannot be read, `NoSpace`.
    /// Cost: the whole log, read once, and the index, written anew.
    pub fn repair(dir: impl AsRef<Path>, options: Options) -> Result<Repair> {
        let layout = Layout {
            root: dir.as_ref().to_owned(),
            fs: options.fs.clone(),
        };
        let _lock = store::lock(&layout)?;
        store::open(&layout, false, &*options.ids)?;
        let mut repair = Repair::default();
        let segments = segments(&layout, &mut repair)?;
        // RocksDB's files are its own matter, and not the file system's of the engine.
        let (new, old) = (layout.root.join("index.new"), layout.root.join("index.old"));
        for dir in [&new, &old] {
            if dir.exists() {
                std::fs::remove_dir_all(dir).context("remove", dir)?;
            }
        }
        {
            let index = Index::open(&new)?;
            replay(&layout, &segments, &index, &mut repair)?;
            index.flush(true)?;
        }
        let there = layout.index();
        if there.exists() {
            std::fs::rename(&there, &old).context("rename", &there)?;
        }
        std::fs::rename(&new, &there).context("rename", &new)?;
        layout.sync_dir(&layout.root)?;
        if old.exists() {
            std::fs::remove_dir_all(&old).context("remove", &old)?;
        }
        tracing::info!(
            frames = repair.frames,
            lost = repair.lost.len(),
            "made the index anew"
        );
        Ok(repair)
    }
}

impl Repair {
    fn lose(
        &mut self,
        layout: &Layout,
        segment: &SegmentFile,
        (from, to): (u64, u64),
        what: String,
    ) {
        let path = segment.path.strip_prefix(&layout.root);
        self.lost.push(Lost {
            path: path.unwrap_or(&segment.path).to_string_lossy().into_owned(),
            offset: from,
            from: Position(segment.header.base.0 + from),
            to: Position(segment.header.base.0 + to),
            what,
        });
    }
}

/// All segments that can be placed, in order. Of one with a damaged header the frames say where it belongs.
fn segments(layout: &Layout, repair: &mut Repair) -> Result<Vec<SegmentFile>> {
    let dir = layout.log();
    let mut all = Vec::new();
    for name in layout.fs.list(&dir).context("list", &dir)? {
        let Some(id) = name.to_str().and_then(parse_segment_name) else {
            continue;
        };
        let path = dir.join(&name);
        let file = layout.fs.open(&path, Access::Read).context("open", &path)?;
        let len = file.metadata().context("stat", &path)?.len;
        let header = read_header(&*file, len).map_err(|e| e.to_string());
        let mut segment = SegmentFile {
            path,
            header: SegmentHeader {
                id,
                base: Position(0),
                chain: [0; 32],
            },
            file,
            len,
            followed: false,
            compacted: None,
        };
        match header {
            Ok((header, compacted)) => {
                (segment.header, segment.compacted) = (header, compacted);
            }
            Err(why) => {
                let base = std::cell::Cell::new(None);
                reader::any_frame(&segment, SEGMENT_HEADER_BYTES as u64, |at, h| {
                    base.set(h.position.0.checked_sub(at));
                    base.get().is_some()
                })?;
                // Without a frame there was never anything in it.
                let Some(base) = base.get() else { continue };
                segment.header.base = Position(base);
                segment.header.chain = reader::UNKNOWN_CHAIN;
                let what = format!(
                    "{why}; it was written again: the frames say where the segment belongs"
                );
                repair.lose(layout, &segment, (0, SEGMENT_HEADER_BYTES as u64), what);
            }
        }
        all.push(segment);
    }
    all.sort_by_key(|s| s.header.base);
    Ok(all)
}

/// Applies every frame that can be read.
fn replay(
    layout: &Layout,
    segments: &[SegmentFile],
    index: &Index,
    repair: &mut Repair,
) -> Result<()> {
    let mut chain: Option<Chain> = Some([0; 32]);
    let mut end = Position(0);
    let mut unflushed = flush::Unflushed::at(end, flush::LOG_BYTES);
    for (n, segment) in segments.iter().enumerate() {
        let base = segment.header.base;
        let last = n + 1 == segments.len();
        if base > end {
            let what = format!("the log before it is missing from position {end} on");
            repair.lose(layout, segment, (0, 0), what);
            chain = None;
        }
        if let Some(header) = &segment.compacted {
            let replayed = reader::replay_compacted(segment, header, |step| {
                if step.is_frame {
                    repair.frames += 1;
                }
                repair.position = step.applied.position;
                let size = index.apply(&Applying {
                    timeline: step.timeline,
                    epoch: step.epoch,
                    frame: step.frame,
                    rows: &step.rows,
                    applied: step.applied,
                })?;
                if unflushed.add(size, step.applied.position) {
                    index.flush(true)?;
                    unflushed.written_out(step.applied.position);
                }
                Ok(())
            });
            match replayed {
                Ok(_) => {}
                Err(e) if e.kind() == crate::ErrorKind::Corrupt => {
                    let what = format!("{e}: what was left of them is lost");
                    let length = header.end.0.saturating_sub(base.0);
                    repair.lose(layout, segment, (0, length), what);
                }
                Err(e) => return Err(e),
            }
            chain = Some(header.end_chain);
            end = end.max(header.end);
            continue;
        }
        if segment.header.chain == reader::UNKNOWN_CHAIN {
            let header = SegmentHeader {
                chain: chain.unwrap_or_default(),
                ..segment.header
            };
            let path = &segment.path;
            let file = layout.fs.open(path, Access::Write).context("open", path)?;
            file.write_all_at(&header.encode(), 0)
                .context("write", path)?;
            file.sync_all().context("sync", path)?;
        }
        let stop = segments.get(n + 1).map_or(segment.len, |next| {
            next.header.base.0.saturating_sub(base.0).min(segment.len)
        });
        let mut offset = SEGMENT_HEADER_BYTES as u64;
        end = end.max(Position(base.0 + offset));
        let mut apply = |frame: &Frame, repair: &mut Repair| -> Result<()> {
            let applied = Applied {
                position: Position(frame.header.position.0 + frame.header.total()),
                chain: frame.header.chain,
            };
            let size = index.apply(&Applying {
                timeline: frame.header.timeline,
                epoch: frame.header.epoch,
                frame: frame.header.position,
                rows: &frame.rows,
                applied,
            })?;
            repair.frames += 1;
            repair.position = applied.position;
            if unflushed.add(size, applied.position) {
                index.flush(true)?;
                unflushed.written_out(applied.position);
            }
            Ok(())
        };
        while offset < stop {
            let found = reader::read_frame(segment, offset, chain.as_ref(), !last)?;
            match found {
                Found::Frame(frame) => {
                    apply(&frame, repair)?;
                    chain = Some(frame.header.chain);
                    offset += frame.header.total();
                }
                Found::BadData(frame)
                    if !last || follows(segment, offset + frame.header.total())? =>
                {
                    let next = offset + frame.header.total();
                    let what = format!(
                        "{}: files that it stores may be damaged; reading them tells",
                        reader::BAD_DATA
                    );
                    repair.lose(layout, segment, (offset, next), what);
                    apply(&frame, repair)?;
                    chain = Some(frame.header.chain);
                    offset = next;
                }
                Found::End if last => break,
                Found::End | Found::Bad(_) | Found::BadData(_) => {
                    let why = match found {
                        Found::Bad(why) => why,
                        Found::BadData(_) => reader::BAD_DATA,
                        _ => "there is no frame",
                    };
                    // Behind a place that does not fit, what fits its own position is taken.
                    let from = if chain.take().is_some() && why.contains("continue") {
                        offset
                    } else {
                        offset + frame::ALIGN as u64
                    };
                    let next = reader::any_frame(segment, from, |at, h| {
                        h.position.0 == base.0 + at && at < stop
                    })?;
                    if next.is_none() && last {
                        // The torn end of the log, as after every crash: opening cuts it.
                        break;
                    }
                    let next = next.unwrap_or(stop);
                    let what = if next == offset {
                        format!("{why}: commits before it are missing or were changed")
                    } else {
                        format!("{why}: the commits from here to there are lost")
                    };
                    repair.lose(layout, segment, (offset, next), what);
                    offset = next;
                }
            }
        }
        end = end.max(Position(base.0 + offset));
    }
    if repair.frames == 0 && !segments.is_empty() {
        return Err(Error::corrupt("no commit of the log can be read"));
    }
    Ok(())
}

/// Whether an intact frame stands at or behind an offset: then what is before is not the torn end.
fn follows(segment: &SegmentFile, offset: u64) -> Result<bool> {
    let base = segment.header.base.0;
    Ok(reader::any_frame(segment, offset, |at, h| h.position.0 == base + at)?.is_some())
}
