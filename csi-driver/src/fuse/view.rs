//! A volume seen as belonging to a group (`fsGroup`): a view, so that no file is written for it and a fork stays as
//! small as it is.

use storage_engine::{Attr, NodeKind, SetAttr};

/// How attributes are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct View {
    /// The group that every file is shown to belong to, with the owner's rights; `None` shows them as they are.
    pub group: Option<u32>,
}

impl View {
    /// The attributes as they are shown. The kernel checks permissions by these.
    pub fn show(self, attr: Attr) -> Attr {
        let Some(group) = self.group else { return attr };
        let mode = match attr.kind {
            // A link's own rights mean nothing.
            NodeKind::Symlink => attr.mode,
            _ => attr.mode | (attr.mode & 0o700) >> 3,
        };
        Attr {
            gid: group,
            mode,
            ..attr
        }
    }

    /// The change without what is of the view only: giving a file to the group that it is shown with.
    pub fn change(self, change: SetAttr) -> SetAttr {
        SetAttr {
            gid: change.gid.filter(|gid| Some(*gid) != self.group),
            ..change
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_has_the_owners_rights_and_giving_a_file_to_it_changes_nothing() {
        let time = storage_engine::Time { secs: 0, nanos: 0 };
        let attr = Attr {
            ino: storage_engine::Ino(5),
            kind: NodeKind::File,
            size: 0,
            allocated: 0,
            mode: 0o640,
            nlink: 1,
            uid: 1000,
            gid: 0,
            rdev: 0,
            atime: time,
            mtime: time,
            ctime: time,
            btime: time,
        };
        let view = View { group: Some(2000) };
        let shown = view.show(attr);
        assert_eq!((shown.mode, shown.gid), (0o660, 2000));
        assert_eq!(View::default().show(attr), attr);
        let change = |gid| SetAttr {
            gid: Some(gid),
            ..SetAttr::default()
        };
        assert_eq!(view.change(change(2000)).gid, None);
        assert_eq!(view.change(change(3)).gid, Some(3));
    }
}
