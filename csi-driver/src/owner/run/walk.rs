//! Paths inside a timeline, with its symbolic links followed inside it.

use storage_engine::{Attr, ErrorKind, Ino, NodeKind, Volume};

use crate::owner::failure::{Failure, Outcome};
use crate::owner::name::present;

/// Most symbolic links on the way to a file, as in the kernel.
const MOST_LINKS: usize = 40;

/// Finds the inode at a path. A last component that is a symbolic link is followed only with `follow`.
pub(super) fn walk(volume: &Volume, path: &[u8], follow: bool) -> Outcome<Attr> {
    let mut pending = components(path);
    let mut at: Vec<Attr> = vec![volume.attr(Ino::ROOT)?];
    let mut links = 0;
    while let Some(name) = pending.pop() {
        if name == b".." {
            if at.len() > 1 {
                at.pop();
            }
            continue;
        }
        let Some(parent) = at.last() else { break };
        if parent.kind != NodeKind::Directory {
            return Err(Failure::new(
                "NotADirectory",
                format!("{}: a part of the path is not a directory", text(path)),
            ));
        }
        let attr = volume
            .lookup(parent.ino, &name)
            .map_err(|e| match e.kind() {
                ErrorKind::NotFound => Failure::not_found(format!("{} does not exist", text(path))),
                _ => Failure::from(e),
            })?;
        if attr.kind == NodeKind::Symlink && (follow || !pending.is_empty()) {
            links += 1;
            if links > MOST_LINKS {
                return Err(Failure::new(
                    "InvalidArgument",
                    format!("{}: too many symbolic links", text(path)),
                ));
            }
            let target = volume.read_link(attr.ino)?;
            if target.starts_with(b"/") {
                at.truncate(1);
            }
            pending.extend(components(&target));
            continue;
        }
        at.push(attr);
    }
    at.pop()
        .ok_or_else(|| Failure::not_found(format!("{} does not exist", text(path))))
}

/// The path without links on the way to it, and what is there; the last component is followed too where it leads
/// somewhere. Parts that do not exist stay as they are written.
pub(super) fn canonical(volume: &Volume, path: &[u8]) -> Outcome<(Vec<u8>, Option<NodeKind>)> {
    let mut pending = components(path);
    let mut at: Vec<(Vec<u8>, Attr)> = vec![(Vec::new(), volume.attr(Ino::ROOT)?)];
    let mut links = 0;
    let joined = |at: &[(Vec<u8>, Attr)], rest: &[Vec<u8>]| -> Vec<u8> {
        let names = at.iter().skip(1).map(|(name, _)| name);
        let mut path = Vec::new();
        for name in names.chain(rest.iter().rev()) {
            path.push(b'/');
            path.extend_from_slice(name);
        }
        path
    };
    while let Some(name) = pending.pop() {
        if name == b".." {
            if at.len() > 1 {
                at.pop();
            }
            continue;
        }
        let Some((_, parent)) = at.last() else { break };
        let found = match parent.kind {
            NodeKind::Directory => present(volume.lookup(parent.ino, &name))?,
            _ => None,
        };
        let Some(attr) = found else {
            pending.push(name);
            if pending.iter().any(|part| part == b"..") {
                return Err(Failure::not_found(format!("{} does not exist", text(path))));
            }
            return Ok((joined(&at, &pending), None));
        };
        if attr.kind == NodeKind::Symlink {
            links += 1;
            let target = volume.read_link(attr.ino)?;
            // A link that leads nowhere, or in a circle, is what it is.
            if pending.is_empty() && walk(volume, path, true).is_err() {
                at.push((name, attr));
                continue;
            }
            if links > MOST_LINKS {
                return Err(Failure::new(
                    "InvalidArgument",
                    format!("{}: too many symbolic links", text(path)),
                ));
            }
            if target.starts_with(b"/") {
                at.truncate(1);
            }
            pending.extend(components(&target));
            continue;
        }
        at.push((name, attr));
    }
    let kind = at.last().map(|(_, attr)| attr.kind);
    Ok((joined(&at, &[]), kind))
}

/// The parts of a path, the last one first.
fn components(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|b| *b == b'/')
        .rev()
        .filter(|part| !part.is_empty() && *part != b".")
        .map(<[u8]>::to_vec)
        .collect()
}

/// Splits a path into its directory and its last part; `None` for the root.
pub(super) fn split_last(path: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let mut parts = components(path);
    if parts.is_empty() {
        return None;
    }
    let last = parts.remove(0);
    let mut directory = Vec::new();
    for part in parts.iter().rev() {
        directory.push(b'/');
        directory.extend_from_slice(part);
    }
    Some((directory, last))
}

pub(super) fn text(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

/// Joins a directory's path and a name.
pub(super) fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = directory.strip_suffix(b"/").unwrap_or(directory).to_vec();
    path.push(b'/');
    path.extend_from_slice(name);
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_split_and_join() {
        assert_eq!(
            split_last(b"/a//b/./c"),
            Some((b"/a/b".to_vec(), b"c".to_vec()))
        );
        assert_eq!(split_last(b"/c"), Some((b"".to_vec(), b"c".to_vec())));
        assert_eq!(split_last(b"/"), None);
        assert_eq!(join(b"/", b"a"), b"/a");
        assert_eq!(join(b"/a", b"b"), b"/a/b");
    }
}
