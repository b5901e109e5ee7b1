//! Deleting objects.

use crate::commit::Txn;
use crate::engine::Durability;
use crate::error::{Error, Result};
use crate::ids::Ino;
use crate::index::records::Inode;

use super::Objects;
use super::key::Key;
use super::put::check;
use super::types::Condition;

impl Objects<'_> {
    /// Deletes an object, and says whether there was one: deleting what is not there is no error. The
    /// directories that puts have made for it go with the last key in them. Of a directory that is a key,
    /// only the key is deleted while others are below it. Cost: one commit, a read for each component, a
    /// sync.
    ///
    /// # Errors
    /// `InvalidArgument` (the key), `ReadOnly`; with a condition also what it says.
    pub fn delete(&self, key: &str) -> Result<bool> {
        self.delete_if(key, &Condition::Any, Durability::Local)
    }

    /// The same, under a condition and as durable as asked for. With [`Condition::Etag`], an object that
    /// is not there is an error.
    pub fn delete_if(
        &self,
        key: &str,
        condition: &Condition,
        durability: Durability,
    ) -> Result<bool> {
        let parsed = Key::parse(key)?;
        let allow = |txn: &Txn<'_>, old: Option<(Ino, &Inode)>| check(condition, key, txn, old);
        let position = if parsed.marker {
            self.volume.remove_directory(&parsed.path, &allow)?
        } else {
            self.volume.remove_file(&parsed.path, &allow)?
        };
        match position {
            Some(position) => {
                self.volume.inner().wait(position, durability)?;
                Ok(true)
            }
            None if matches!(condition, Condition::Etag(_)) => {
                Err(Error::not_found(format!("{key:?}")))
            }
            None => Ok(false),
        }
    }
}
