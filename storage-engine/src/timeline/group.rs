//! Groups: several forks, or several snapshots, at one cutoff and in one frame; all or none of them.

use std::collections::HashSet;
use std::hash::Hash;

use crate::catalog::{Catalog, check_name};
use crate::engine::{Durability, Inner, Point};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Epoch, Position};
use crate::log::frame::{Chain, Row};

use super::{Cutoff, NO_TIMELINE};

/// The moment at which a group is made.
pub(super) struct Cut {
    /// The open epoch, which the group's commit carries.
    pub open: Epoch,
    /// The log behind the last frame before.
    pub chain: Chain,
    pub covered: Position,
}

/// A request of which several can be made at once.
pub(super) trait GroupRequest {
    type Id: Copy + Eq + Hash;
    type Record;

    fn name(&self) -> &str;
    fn id(&self) -> Option<Self::Id>;
    fn source(&self) -> Point;
    fn durability(&self) -> Durability;
    /// What an earlier, equal request has made.
    fn there(&self, inner: &Inner) -> Result<Option<Self::Id>>;
    /// What is to be written for it.
    fn record(&self, inner: &Inner, cut: &Cut, cutoff: Cutoff) -> Result<Self::Record>;
    fn id_of(record: &Self::Record) -> Self::Id;
    fn row(record: &Self::Record) -> Result<Row>;
    fn put(catalog: &mut Catalog, record: Self::Record);
}

impl Inner {
    /// Makes what of a group is not there yet. Returns the ids of all. Cost: one commit of a row for each,
    /// and one sync if one of them asks for it.
    pub(super) fn make_group<R: GroupRequest>(&self, requests: &[R]) -> Result<Vec<R::Id>> {
        check_distinct(requests)?;
        let _structure = self.structure.lock();
        let mut made = Vec::with_capacity(requests.len());
        for request in requests {
            made.push(request.there(self)?);
        }
        if made.iter().any(Option::is_none) {
            let mut epoch = self.exclusive_epoch();
            let closed = self.close_for(&mut epoch, requests.iter().map(GroupRequest::source));
            let cut = {
                let commit = self.commit.lock();
                Cut {
                    open: *epoch,
                    chain: commit.log.chain(),
                    covered: commit.log.end(),
                }
            };
            let mut records = Vec::new();
            {
                let catalog = self.catalog.read();
                for (request, made) in requests.iter().zip(&mut made) {
                    if made.is_none() {
                        let cutoff = self.cutoff(&catalog, request.source(), closed)?;
                        let record = request.record(self, &cut, cutoff)?;
                        *made = Some(R::id_of(&record));
                        records.push(record);
                    }
                }
            }
            let rows = records.iter().map(R::row).collect::<Result<Vec<_>>>()?;
            let position = self.commit_rows(*epoch, NO_TIMELINE, &rows)?;
            let mut catalog = self.catalog.write();
            for record in records {
                R::put(&mut catalog, record);
            }
            drop(catalog);
            drop(epoch);
            let durable = requests.iter().any(|r| r.durability() == Durability::Local);
            self.wait(
                position,
                if durable {
                    Durability::Local
                } else {
                    Durability::Memory
                },
            )?;
        }
        made.into_iter()
            .map(|id| {
                id.ok_or_else(|| {
                    Error::new(ErrorKind::OutcomeUnknown, "a part of a group was not made")
                })
            })
            .collect()
    }
}

/// Refuses names that cannot be, and two requests for one name or id.
fn check_distinct<R: GroupRequest>(requests: &[R]) -> Result<()> {
    let (mut names, mut ids) = (HashSet::new(), HashSet::new());
    for request in requests {
        check_name(request.name())?;
        let repeated_id = request.id().is_some_and(|id| !ids.insert(id));
        if !names.insert(request.name()) || repeated_id {
            return Err(Error::invalid(format!(
                "the name or id of {} is asked for twice",
                request.name()
            )));
        }
    }
    Ok(())
}
