//! Closes the epoch by a timer while some timeline retains its history, so that past instants are readable to that
//! precision.

use std::time::Duration;

use storage_engine::Engine;

use crate::owner::{Failure, Outcome};

/// Between two closings of the epoch: the precision of a past instant.
const TICK: Duration = Duration::from_secs(1);

/// Starts the timer; it ends with the engine. Costs a look at the settings of each timeline in a second.
///
/// # Errors
/// The system starts no thread.
pub fn keep(engine: Engine) -> Outcome {
    let tick = move || {
        loop {
            std::thread::sleep(TICK);
            if engine.retains_history()
                && let Err(error) = engine.tick()
            {
                // Closed: this process is ending. Anything else shows in the next command, too.
                tracing::debug!(%error, "cannot close the epoch");
                return;
            }
        }
    };
    std::thread::Builder::new()
        .name("retention".to_owned())
        .spawn(tick)
        .map(drop)
        .map_err(|error| Failure::new("Io", format!("cannot start a thread: {error}")))
}
