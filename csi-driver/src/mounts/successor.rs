//! Taking over the mounts that another process served.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::end::remove_directory;
use super::error::MountsError;
use super::live::{Connection, Live};
use super::state::{ShownPoint, State};
use super::{Inner, Mounts, TakenOver, info};
use crate::fuse::device::Device;
use crate::fuse::mountinfo;
use crate::fuse::negotiate::Negotiated;
use crate::keeper::wire::Record;

impl Mounts {
    /// Serves every mount that the keeper holds, as the successor of whoever served them. Programs on them go on;
    /// requests that the predecessor had read are sent again by the kernel and answered without being applied twice.
    ///
    /// Cost: about 1 ms per mount.
    ///
    /// # Errors
    /// The keeper does not answer. What cannot be served (its timeline is gone) is unmounted by force and listed.
    pub fn take_over(&self) -> Result<Vec<TakenOver>, MountsError> {
        let mut all = Vec::new();
        for record in self.inner.keeper.list()? {
            let id = record.id.clone();
            if self.inner.live.lock().contains_key(&id) {
                continue;
            }
            let outcome = self.inner.take_over_one(&record);
            if let Err(error) = &outcome {
                tracing::warn!(mount = %id, %error, "a mount cannot be taken over and is given up");
                self.inner.give_up(&record);
            }
            all.push(TakenOver {
                id,
                outcome: outcome.map(|live| info(&live)),
            });
        }
        Ok(all)
    }
}

impl Inner {
    fn take_over_one(self: &Arc<Inner>, record: &Record) -> Result<Arc<Live>, MountsError> {
        let state: State =
            serde_json::from_value(record.state.clone()).map_err(|error| MountsError::Record {
                id: record.id.clone(),
                error: error.to_string(),
            })?;
        let unfinished = || MountsError::Record {
            id: record.id.clone(),
            error: "its mounting was not finished".into(),
        };
        let negotiated: Negotiated = state.negotiated.ok_or_else(unfinished)?;
        let writes = |state: &State| match (state.read_only, state.point) {
            (false, ShownPoint::Now(timeline)) => Some(timeline),
            _ => None,
        };
        self.reserve(&record.id, writes(&state))?;
        let result = self.resume(record, state, negotiated);
        if result.is_err() {
            self.live.lock().remove(&record.id);
        }
        result
    }

    fn resume(
        self: &Arc<Inner>,
        record: &Record,
        state: State,
        negotiated: Negotiated,
    ) -> Result<Arc<Live>, MountsError> {
        let (_, device, backing) = self.keeper.take(&record.id)?;
        let point = PathBuf::from(&record.mount_point);
        let line = mountinfo::mounted_at(&point).ok().flatten();
        let own = line.filter(|line| line.device == record.device);
        let live = Live::serve(
            &self.engine,
            Connection {
                id: record.id.clone(),
                mount_point: point,
                device_number: record.device.clone(),
                mount_number: own.map_or(0, |line| line.id),
                state,
                negotiated,
                device: Arc::new(Device::from_descriptor(device)),
                backing,
                taken_over: true,
            },
        )?;
        self.adopt(Arc::clone(&live))?;
        Ok(live)
    }

    /// A mount nobody can serve: processes that wait on it get errors.
    fn give_up(&self, record: &Record) {
        let _ = self
            .keeper
            .unmount(&record.id, true, true, Duration::from_secs(10));
        let _ = self.keeper.forget(&record.id);
        let made = record
            .state
            .get("made_directory")
            .and_then(serde_json::Value::as_bool)
            .unwrap_or(false);
        if made {
            remove_directory(Path::new(&record.mount_point));
        }
    }
}
