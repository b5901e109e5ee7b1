//! Whether a process works: its parts beat while they are at something, and a part that stops beating is stuck.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// What the endpoints say.
#[derive(Default)]
pub struct Health {
    /// Whether everything was read once.
    pub ready: AtomicBool,
    beats: Mutex<Vec<Arc<Beat>>>,
}

impl Health {
    /// A new part, at rest. Once it has begun something, it has to beat at least so often until it rests.
    pub fn part(&self, what: impl Into<String>, within: Duration) -> Arc<Beat> {
        let beat = Arc::new(Beat {
            what: what.into(),
            within,
            last: Mutex::new(None),
        });
        self.beats.lock().push(beat.clone());
        beat
    }

    /// Which part is stuck, in a sentence; none when all of them work.
    pub fn stuck(&self) -> Option<String> {
        self.beats.lock().iter().find_map(|beat| {
            let since = beat.last.lock().as_ref()?.elapsed();
            (since > beat.within)
                .then(|| format!("{} has been stuck for {} s", beat.what, since.as_secs()))
        })
    }
}

/// The beat of one part.
pub struct Beat {
    what: String,
    within: Duration,
    /// None at rest.
    last: Mutex<Option<Instant>>,
}

impl Beat {
    /// It begins something.
    pub fn begin(&self) {
        *self.last.lock() = Some(Instant::now());
    }

    /// It goes on with what it has begun.
    pub fn go_on(&self) {
        if let Some(last) = &mut *self.last.lock() {
            *last = Instant::now();
        }
    }

    /// It waits for something to do.
    pub fn rest(&self) {
        *self.last.lock() = None;
    }
}

tokio::task_local! {
    /// The part that a task is.
    static PART: Arc<Beat>;
}

/// Runs a task as a part: each answer of the API server is a beat of it.
pub async fn as_part<T>(beat: Arc<Beat>, task: impl Future<Output = T>) -> T {
    PART.scope(beat, task).await
}

/// The part that this task is has got an answer.
pub fn goes_on() {
    // Not every task is a part.
    let _ = PART.try_with(|beat| beat.go_on());
}

/// What a task that panicked said.
pub fn panicked(payload: &(dyn std::any::Any + Send)) -> String {
    let text = payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_that_stops_in_the_middle_is_stuck_and_one_at_rest_is_not() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let health = Health::default();
            let (one, two) = (
                health.part("worker 1", Duration::from_secs(120)),
                health.part("worker 2", Duration::from_secs(120)),
            );
            tokio::time::advance(Duration::from_secs(1000)).await;
            assert_eq!(health.stuck(), None);
            one.begin();
            two.begin();
            tokio::time::advance(Duration::from_secs(100)).await;
            as_part(two.clone(), async { goes_on() }).await;
            goes_on();
            tokio::time::advance(Duration::from_secs(100)).await;
            assert_eq!(
                health.stuck().as_deref(),
                Some("worker 1 has been stuck for 200 s")
            );
            one.rest();
            assert_eq!(health.stuck(), None);
            // What goes on by itself has begun nothing.
            one.go_on();
            two.rest();
            tokio::time::advance(Duration::from_secs(1000)).await;
            assert_eq!(health.stuck(), None);
        });
    }
}
