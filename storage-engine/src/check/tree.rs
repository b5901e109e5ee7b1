//! One state as a tree: inodes, names, links, chunks and attributes against each other.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::files::types::NodeKind;
use crate::ids::{FileId, Ino, TimelineId};
use crate::index::keys::{RecordKey, tag};
use crate::index::lineage::Scan;
use crate::index::records::{self, CHUNK_BYTES, Chunk, Inode, NO_OBJECT, Record};

use super::Check;
use super::report::FindingKind;
use super::states::State;

/// What a walk counted.
#[derive(Clone, Copy, Default)]
pub(super) struct Counted {
    pub logical: u64,
    pub allocated: u64,
    pub inodes: u64,
    /// Whether everything could be read.
    pub complete: bool,
}

/// An inode, and what the other records say of it.
struct Node {
    kind: NodeKind,
    has_xattrs: bool,
    orphan: bool,
    /// Whether the name that the inode gives as its first one exists.
    home_seen: bool,
    nlink: u32,
    entries: u32,
    names: u32,
    subdirs: u32,
    dirents: u32,
    size: u64,
    allocated: u64,
    stored: u64,
    parent: u64,
    /// Hash of (parent, name).
    home: u64,
    /// Sums of the hashes of the further names: as directories have them, and as backlinks do.
    further: u64,
    backlinks: u64,
    object: FileId,
    reachable: Reach,
}

#[derive(Clone, Copy, PartialEq)]
enum Reach {
    Unknown,
    Asking,
    Yes,
    No,
}

impl Node {
    fn of(inode: &Inode) -> Self {
        Self {
            kind: inode.kind,
            has_xattrs: inode.has_xattrs,
            orphan: false,
            home_seen: false,
            nlink: inode.nlink,
            entries: inode.entries,
            names: 0,
            subdirs: 0,
            dirents: 0,
            size: inode.size,
            allocated: inode.allocated,
            stored: 0,
            parent: inode.parent.0,
            home: name_hash(inode.parent, &inode.name),
            further: 0,
            backlinks: 0,
            object: inode.object,
            reachable: Reach::Unknown,
        }
    }
}

fn name_hash(parent: Ino, name: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    (parent.0, name).hash(&mut hasher);
    hasher.finish()
}

/// A tree under examination.
struct Tree<'s> {
    state: &'s State,
    nodes: HashMap<u64, Node>,
    counted: Counted,
}

impl Check<'_> {
    /// Walks a state in key order: inodes, names, chunks, attributes and the rest.
    pub(super) fn check_tree(&mut self, state: &State) -> Counted {
        let mut tree = Tree {
            state,
            nodes: HashMap::new(),
            counted: Counted {
                complete: true,
                ..Counted::default()
            },
        };
        self.each(&mut tree, tag::INODE, Self::inode);
        self.each(&mut tree, tag::DIRENT, Self::dirent);
        self.each(&mut tree, tag::CHUNK, Self::chunk);
        self.each(&mut tree, tag::XATTR, Self::xattr);
        self.each(&mut tree, tag::ORPHAN, Self::orphan);
        self.each(&mut tree, tag::BACKLINK, Self::backlink);
        self.next_ino(&tree);
        let mut inos: Vec<u64> = tree.nodes.keys().copied().collect();
        inos.sort_unstable();
        if !tree.nodes.contains_key(&Ino::ROOT.0) {
            self.wrong(state, None, "it has no root directory".into());
        }
        for ino in inos {
            self.settle_node(&mut tree, Ino(ino));
        }
        tree.counted.inodes = tree.nodes.len() as u64;
        tree.counted
    }

    /// Calls `visit` with each record of a kind.
    fn each(
        &mut self,
        tree: &mut Tree<'_>,
        tag: u8,
        visit: fn(&mut Self, &mut Tree<'_>, RecordKey, Record, TimelineId),
    ) {
        let prefix = [tag];
        let inner = self.inner;
        let state = tree.state;
        let mut scan = Scan::new(&inner.index, &state.hops, &prefix, &prefix);
        loop {
            let (key, row, hop) = match scan.next_row() {
                Ok(Some((key, _, row, hop))) => (key, row, hop),
                Ok(None) => return,
                Err(e) => {
                    tree.counted.complete = false;
                    let at = self.findings.error(
                        FindingKind::IndexUnreadable,
                        state.place(None, None),
                        e.to_string(),
                    );
                    self.findings.affects(at, state.label.clone());
                    return;
                }
            };
            let decoded = RecordKey::decode(&key)
                .and_then(|key| Ok(records::decode(&key, &row)?.map(|record| (key, record))));
            match decoded {
                Ok(Some((key, record))) => visit(self, tree, key, record, state.hops[hop].timeline),
                Ok(None) => {}
                Err(e) => {
                    tree.counted.complete = false;
                    let at = self.findings.error(
                        FindingKind::Undecodable,
                        super::log::key_place(
                            "record",
                            &[&state.hops[hop].timeline.0[..], &key].concat(),
                        ),
                        e.to_string(),
                    );
                    self.findings.affects(at, state.label.clone());
                }
            }
        }
    }

    fn wrong(&mut self, state: &State, ino: Option<Ino>, what: String) {
        let path = ino.and_then(|ino| self.path(state, ino));
        let at = self
            .findings
            .error(FindingKind::Tree, state.place(ino, path), what);
        self.findings.affects(at, state.label.clone());
    }

    fn inode(&mut self, tree: &mut Tree<'_>, key: RecordKey, record: Record, _: TimelineId) {
        let (RecordKey::Inode(ino), Record::Inode(inode)) = (key, record) else {
            return;
        };
        let state = tree.state;
        if inode.kind == NodeKind::File {
            tree.counted.logical += inode.size;
        } else if inode.size != 0 || inode.allocated != 0 || inode.object != NO_OBJECT {
            self.wrong(state, Some(ino), "it is no file and has a size".into());
        }
        if (inode.kind == NodeKind::Symlink) == inode.target.is_empty() {
            let what = "its target does not fit what it is";
            self.wrong(state, Some(ino), what.into());
        }
        if inode.kind != NodeKind::Directory && inode.entries != 0 {
            self.wrong(
                state,
                Some(ino),
                "it is no directory and has entries".into(),
            );
        }
        if [inode.atime, inode.mtime, inode.ctime, inode.btime]
            .iter()
            .any(|t| t.nanos >= 1_000_000_000)
        {
            self.wrong(
                state,
                Some(ino),
                "one of its times has 10^9 nanoseconds or more".into(),
            );
        }
        if inode.object != NO_OBJECT
            && let Some((place, what)) = self.object_problem(inode.object, inode.size)
        {
            let at = self.findings.error(FindingKind::Object, place, what);
            let path = self
                .path(state, ino)
                .unwrap_or_else(|| format!("inode {ino}"));
            self.findings
                .affects(at, format!("{}: {path}", state.label));
        }
        tree.nodes.insert(ino.0, Node::of(&inode));
    }

    fn dirent(&mut self, tree: &mut Tree<'_>, key: RecordKey, record: Record, _: TimelineId) {
        let (RecordKey::Dirent(parent, name), Record::Dirent { ino, kind }) = (key, record) else {
            return;
        };
        let state = tree.state;
        let shown = String::from_utf8_lossy(&name).into_owned();
        if crate::files::check_name(&name).is_err() {
            self.wrong(
                state,
                Some(parent),
                format!("it has the impossible entry {shown:?}"),
            );
        }
        match tree.nodes.get_mut(&parent.0) {
            Some(dir) if dir.kind == NodeKind::Directory => {
                dir.dirents += 1;
                dir.subdirs += u32::from(kind == NodeKind::Directory);
                if dir.nlink == 0 {
                    let what = format!("it was removed and still has the entry {shown:?}");
                    self.wrong(state, Some(parent), what);
                }
            }
            Some(_) => {
                let what = format!("it is no directory and has the entry {shown:?}");
                self.wrong(state, Some(parent), what);
            }
            None => {
                let what = format!("it does not exist and has the entry {shown:?}");
                self.wrong(state, Some(parent), what);
            }
        }
        match tree.nodes.get_mut(&ino.0) {
            Some(node) => {
                node.names += 1;
                let hash = name_hash(parent, &name);
                if hash == node.home {
                    node.home_seen = true;
                } else {
                    node.further = node.further.wrapping_add(hash);
                }
                if node.kind != kind {
                    let what = format!(
                        "its entry {shown:?} names inode {ino} as another kind than that inode is"
                    );
                    self.wrong(state, Some(parent), what);
                }
            }
            None => {
                let what = format!("its entry {shown:?} names inode {ino}, which does not exist");
                self.wrong(state, Some(parent), what);
            }
        }
    }

    fn chunk(&mut self, tree: &mut Tree<'_>, key: RecordKey, record: Record, _: TimelineId) {
        let (RecordKey::Chunk(ino, n), Record::Chunk(chunk)) = (key, record) else {
            return;
        };
        let state = tree.state;
        let (bytes, end) = match &chunk {
            Chunk::Inline { bytes, .. } => (bytes.len() as u64, bytes.len() as u64),
            Chunk::Extents(extents) => {
                for e in extents {
                    self.visit(e);
                }
                (
                    extents.iter().map(|e| u64::from(e.take)).sum(),
                    extents
                        .last()
                        .map_or(0, |e| u64::from(e.at) + u64::from(e.take)),
                )
            }
        };
        tree.counted.allocated += bytes;
        let start = u64::from(n) * CHUNK_BYTES;
        let Some(node) = tree.nodes.get_mut(&ino.0) else {
            let what = format!("chunk {n} is stored for an inode that does not exist");
            return self.wrong(state, Some(ino), what);
        };
        node.stored += bytes;
        let problem = if node.kind != NodeKind::File {
            Some(format!("it is no file and has chunk {n}"))
        } else if start + end > node.size {
            Some(format!(
                "chunk {n} goes to {}, the file ends at {}",
                start + end,
                node.size
            ))
        } else if node.object != NO_OBJECT
            && !matches!(&chunk, Chunk::Extents(list) if list.iter().all(|e|
                e.file == node.object && e.offset + u64::from(e.skip) == start + u64::from(e.at)))
        {
            Some(format!(
                "chunk {n} is not where its object file has those bytes"
            ))
        } else {
            None
        };
        if let Some(what) = problem {
            self.wrong(state, Some(ino), what);
        }
    }

    fn xattr(&mut self, tree: &mut Tree<'_>, key: RecordKey, _: Record, _: TimelineId) {
        let RecordKey::Xattr(ino, name) = key else {
            return;
        };
        let name = String::from_utf8_lossy(&name).into_owned();
        let problem = match tree.nodes.get(&ino.0) {
            None => format!("attribute {name} is stored for an inode that does not exist"),
            Some(node) if !node.has_xattrs => {
                format!("attribute {name} is stored, the inode says that it has none")
            }
            Some(_) => return,
        };
        self.wrong(tree.state, Some(ino), problem);
    }

    fn orphan(&mut self, tree: &mut Tree<'_>, key: RecordKey, _: Record, _: TimelineId) {
        let RecordKey::Orphan(ino) = key else {
            return;
        };
        match tree.nodes.get_mut(&ino.0) {
            Some(node) => node.orphan = true,
            None => self.wrong(
                tree.state,
                Some(ino),
                "it is listed as unlinked and does not exist".into(),
            ),
        }
    }

    fn backlink(&mut self, tree: &mut Tree<'_>, key: RecordKey, _: Record, _: TimelineId) {
        let RecordKey::Backlink { ino, parent, name } = key else {
            return;
        };
        match tree.nodes.get_mut(&ino.0) {
            Some(node) => {
                node.backlinks = node.backlinks.wrapping_add(name_hash(parent, &name));
            }
            None => {
                let name = String::from_utf8_lossy(&name).into_owned();
                let what = format!("it does not exist and has the further name {name:?}");
                self.wrong(tree.state, Some(ino), what);
            }
        }
    }

    fn next_ino(&mut self, tree: &Tree<'_>) {
        let largest = tree.nodes.keys().copied().max().unwrap_or(0);
        let next =
            crate::index::lineage::get(&self.inner.index, &tree.state.hops, &RecordKey::NextIno);
        let next = match next.map(|seen| seen.map(|s| s.record)) {
            Ok(Some(Record::NextIno(next))) => next,
            Ok(None) => Ino::ROOT.0 + 1,
            // Reported where all rows were read.
            Ok(Some(_)) | Err(_) => return,
        };
        if next <= largest {
            let what = format!("inode {largest} exists, and the next one made would be {next}");
            self.wrong(tree.state, None, what);
        }
    }

    /// What the records say of one inode, put together.
    fn settle_node(&mut self, tree: &mut Tree<'_>, ino: Ino) {
        let reachable = reach(&mut tree.nodes, ino.0);
        let state = tree.state;
        let Some(node) = tree.nodes.get(&ino.0) else {
            return;
        };
        let mut problems = Vec::new();
        let is_dir = node.kind == NodeKind::Directory;
        if ino == Ino::ROOT {
            if !is_dir || node.parent != ino.0 || node.names != 0 || node.orphan {
                problems.push("it is the root and not a directory without a name".to_owned());
            }
        } else if node.nlink == 0 {
            if !node.orphan {
                problems.push("it has no link and is not listed as unlinked".to_owned());
            }
            if node.names > 0 {
                problems.push(format!("it has no link and {} names", node.names));
            }
        } else {
            if node.orphan {
                problems.push(format!(
                    "it has {} links and is listed as unlinked",
                    node.nlink
                ));
            }
            if !reachable {
                problems.push("no path from the root leads to it".to_owned());
            }
            if !node.home_seen {
                problems.push("the first name that it gives does not exist".to_owned());
            }
            if is_dir && node.names != 1 {
                problems.push(format!("it is a directory with {} names", node.names));
            }
        }
        let links = if is_dir { 2 + node.subdirs } else { node.names };
        if node.nlink > 0 && node.nlink != links {
            problems.push(format!(
                "it counts {} links, a recount gives {links}",
                node.nlink
            ));
        }
        if node.entries != node.dirents {
            problems.push(format!(
                "it counts {} entries, a recount gives {}",
                node.entries, node.dirents
            ));
        }
        if node.further != node.backlinks {
            problems.push("its further names are not those that its backlinks give".to_owned());
        }
        if node.stored != node.allocated {
            problems.push(format!(
                "it counts {} bytes allocated, a recount gives {}",
                node.allocated, node.stored
            ));
        }
        for what in problems {
            self.wrong(state, Some(ino), what);
        }
    }
}

/// Whether first names lead from this inode up to the root. Each inode is asked once.
fn reach(nodes: &mut HashMap<u64, Node>, ino: u64) -> bool {
    let mut path = Vec::new();
    let mut at = ino;
    let answer = loop {
        let Some(node) = nodes.get_mut(&at) else {
            break Reach::No;
        };
        if at == Ino::ROOT.0 {
            break Reach::Yes;
        }
        match node.reachable {
            // Asked for a second time on the way up: it goes round.
            Reach::Asking => break Reach::No,
            Reach::Unknown => {}
            known => break known,
        }
        if !node.home_seen || (at != ino && node.kind != NodeKind::Directory) {
            node.reachable = Reach::No;
            break Reach::No;
        }
        node.reachable = Reach::Asking;
        path.push(at);
        at = node.parent;
    };
    for at in path {
        if let Some(node) = nodes.get_mut(&at) {
            node.reachable = answer;
        }
    }
    answer == Reach::Yes
}
