//! Readers of past states: what they see is kept for as long as they live, whatever is deleted meanwhile.

use std::collections::HashMap;

use crate::ids::{Epoch, TimelineId};
use crate::sync::{Arc, Mutex};

/// What a reader needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Need {
    /// The state at this epoch.
    State(TimelineId, Epoch),
    /// Everything that the timeline held at this epoch or later.
    Since(TimelineId, Epoch),
}

/// All leases of a store.
#[derive(Default)]
pub(crate) struct Leases {
    held: Mutex<(u64, HashMap<u64, Need>)>,
}

/// Gives its need up when it is dropped.
pub(crate) struct Lease {
    leases: Arc<Leases>,
    id: u64,
}

impl Leases {
    /// Registers a need. To be safe from a collection that is just beginning, either the catalog is
    /// locked from the check that the state may be read to here, or the check comes after this.
    pub fn take(self: &Arc<Self>, need: Need) -> Lease {
        let mut held = self.held.lock();
        held.0 += 1;
        let id = held.0;
        held.1.insert(id, need);
        Lease {
            leases: Arc::clone(self),
            id,
        }
    }

    /// What is needed now.
    pub fn all(&self) -> Vec<Need> {
        self.held.lock().1.values().copied().collect()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.leases.held.lock().1.remove(&self.id);
    }
}
