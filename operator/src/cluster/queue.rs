//! What is to be looked at, and when: one entry for each object, so that a burst of changes of one is one look.
//!
//! An object is never given to two workers at once: what is added while it is being worked on is due when that ends. Nothing
//! here polls: a queue with nothing due sleeps until the next due time or addition.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::Hash;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

/// A queue of keys with due times. Shared by reference; any number of workers.
pub struct Queue<K> {
    state: Mutex<State<K>>,
    changed: Notify,
}

struct State<K> {
    /// By due time, then by order of addition.
    due: BTreeMap<(Instant, u64), K>,
    /// Where a key stands in `due`.
    places: HashMap<K, (Instant, u64)>,
    running: HashSet<K>,
    /// When keys that are being worked on are due again.
    again: HashMap<K, Instant>,
    /// Those of them for which a failure is no reason to wait.
    changed: HashSet<K>,
    attempts: HashMap<K, u32>,
    counter: u64,
    closed: bool,
}

/// First pause after a failure, doubled with each failure in a row.
const PAUSE_FIRST: Duration = Duration::from_millis(200);
/// Longest pause after failures.
const PAUSE_MAX: Duration = Duration::from_secs(60);

impl<K: Clone + Eq + Hash> Default for Queue<K> {
    fn default() -> Self {
        Queue {
            state: Mutex::new(State {
                due: BTreeMap::new(),
                places: HashMap::new(),
                running: HashSet::new(),
                again: HashMap::new(),
                changed: HashSet::new(),
                attempts: HashMap::new(),
                counter: 0,
                closed: false,
            }),
            changed: Notify::new(),
        }
    }
}

impl<K: Clone + Eq + Hash> Queue<K> {
    /// Makes a key due now.
    pub fn add(&self, key: K) {
        self.add_at(key, Instant::now());
    }

    /// Makes a key due at a time, unless it is due earlier.
    pub fn add_at(&self, key: K, at: Instant) {
        self.state.lock().add_at(key, at);
        // One worker takes it; when it was waiting for a later time, it looks again.
        self.changed.notify_one();
    }

    /// Makes a key due now because what is to be done has changed: it waits for no pause, also when the work that goes on at the
    /// moment fails.
    pub fn add_changed(&self, key: K) {
        let mut state = self.state.lock();
        if state.running.contains(&key) {
            state.changed.insert(key.clone());
        }
        state.add_at(key, Instant::now());
        drop(state);
        self.changed.notify_one();
    }

    /// Makes a key due now, or when its pause after a failure is over.
    pub fn add_in_turn(&self, key: K) {
        let mut state = self.state.lock();
        if state.attempts.contains_key(&key) && state.places.contains_key(&key) {
            return;
        }
        state.add_at(key, Instant::now());
        drop(state);
        self.changed.notify_one();
    }

    /// Waits for the next key that is due. None when the queue is closed. Whoever took it calls [`Queue::done`].
    pub async fn take(&self) -> Option<K> {
        loop {
            // Registered before looking: what is added in between wakes it.
            let changed = self.changed.notified();
            let next = {
                let mut state = self.state.lock();
                if state.closed {
                    self.changed.notify_one();
                    return None;
                }
                match state.due.first_key_value() {
                    Some((&(at, _), _)) if at <= Instant::now() => {
                        if let Some((_, key)) = state.due.pop_first() {
                            state.places.remove(&key);
                            state.running.insert(key.clone());
                            if !state.due.is_empty() {
                                self.changed.notify_one();
                            }
                            return Some(key);
                        }
                        None
                    }
                    Some((&(at, _), _)) => Some(at),
                    None => None,
                }
            };
            match next {
                Some(at) => {
                    tokio::select! {
                        () = tokio::time::sleep_until(at) => {}
                        () = changed => {}
                    }
                }
                None => changed.await,
            }
        }
    }

    /// Says that the work on a key has ended well; `next` is when it is due without anything happening.
    pub fn done(&self, key: &K, next: Option<Instant>) {
        let mut state = self.state.lock();
        state.attempts.remove(key);
        state.finish(key, next);
        drop(state);
        self.changed.notify_one();
    }

    /// Says that the work on a key has failed; it is due again after a pause that grows with each failure in a row.
    /// Returns the pause.
    pub fn failed(&self, key: &K) -> Duration {
        let mut state = self.state.lock();
        let attempts = state.attempts.entry(key.clone()).or_default();
        let pause = PAUSE_FIRST
            .saturating_mul(1u32.checked_shl(*attempts).unwrap_or(u32::MAX))
            .min(PAUSE_MAX);
        *attempts = attempts.saturating_add(1);
        // What was added meanwhile waits for the pause, too, unless there is something else to be done now.
        if !state.changed.contains(key) {
            state.again.remove(key);
        }
        state.finish(key, Some(Instant::now() + pause));
        drop(state);
        self.changed.notify_one();
        pause
    }

    /// Ends all waiting: every [`Queue::take`] returns none from now on.
    pub fn close(&self) {
        self.state.lock().closed = true;
        self.changed.notify_one();
    }

    /// Keys that are due now or being worked on.
    pub fn depth(&self) -> usize {
        let state = self.state.lock();
        let now = Instant::now();
        state.running.len() + state.due.range(..=(now, u64::MAX)).count()
    }
}

impl<K: Clone + Eq + Hash> State<K> {
    fn add_at(&mut self, key: K, at: Instant) {
        if self.running.contains(&key) {
            self.again
                .entry(key)
                .and_modify(|due| *due = (*due).min(at))
                .or_insert(at);
            return;
        }
        if let Some(place) = self.places.get(&key) {
            if place.0 <= at {
                return;
            }
            let place = *place;
            self.due.remove(&place);
        }
        self.counter += 1;
        self.places.insert(key.clone(), (at, self.counter));
        self.due.insert((at, self.counter), key);
    }

    fn finish(&mut self, key: &K, next: Option<Instant>) {
        self.running.remove(key);
        self.changed.remove(key);
        let again = self.again.remove(key);
        if let Some(at) = again.into_iter().chain(next).min() {
            self.add_at(key.clone(), at);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    }

    #[test]
    fn a_burst_of_changes_is_one_look_and_one_more_for_what_came_meanwhile() {
        runtime().block_on(async {
            let queue = Queue::default();
            for _ in 0..100 {
                queue.add("a");
            }
            assert_eq!(queue.take().await, Some("a"));
            for _ in 0..100 {
                queue.add("a");
            }
            // Nobody else gets it while it is being worked on.
            queue.add("b");
            assert_eq!(queue.take().await, Some("b"));
            assert_eq!(queue.depth(), 2);
            queue.done(&"b", None);
            queue.done(&"a", None);
            assert_eq!(queue.take().await, Some("a"));
            queue.done(&"a", None);
            assert_eq!(queue.depth(), 0);
            queue.close();
            assert_eq!(queue.take().await, None);
        });
    }

    #[test]
    fn what_is_due_later_is_brought_forward_and_never_put_off() {
        runtime().block_on(async {
            let queue = Queue::default();
            let now = Instant::now();
            queue.add_at("a", now + Duration::from_secs(3600));
            queue.add_at("b", now + Duration::from_millis(20));
            queue.add_at("b", now + Duration::from_secs(3600));
            assert_eq!(queue.take().await, Some("b"));
            assert!(Instant::now() >= now + Duration::from_millis(20));
            queue.add("a");
            assert_eq!(queue.take().await, Some("a"));
        });
    }

    #[test]
    fn pauses_grow_with_failures_in_a_row_and_end_with_a_success() {
        runtime().block_on(async {
            tokio::time::pause();
            let queue = Queue::default();
            queue.add("a");
            let mut pauses = Vec::new();
            for _ in 0..12 {
                let key = queue.take().await.unwrap();
                pauses.push(queue.failed(&key).as_millis());
            }
            assert_eq!(pauses[..4], [200, 400, 800, 1600]);
            assert!(pauses[9..].iter().all(|pause| *pause == 60_000));
            let key = queue.take().await.unwrap();
            queue.done(&key, None);
            queue.add("a");
            let key = queue.take().await.unwrap();
            assert_eq!(queue.failed(&key), PAUSE_FIRST);
        });
    }

    #[test]
    fn a_pause_is_cut_short_only_by_a_change_of_what_is_to_be_done() {
        runtime().block_on(async {
            tokio::time::pause();
            let queue = Queue::default();
            let start = Instant::now();
            queue.add("a");
            for _ in 0..5 {
                let key = queue.take().await.unwrap();
                // What is heard while it is worked on, and after, does not cut the pause short.
                queue.add_in_turn(key);
                queue.failed(&key);
                queue.add_in_turn(key);
            }
            assert_eq!(start.elapsed().as_millis() / 100, 2 + 4 + 8 + 16);
            let start = Instant::now();
            queue.add_changed("a");
            let key = queue.take().await.unwrap();
            assert_eq!(start.elapsed(), Duration::ZERO);
            // A change while it is worked on is looked at at once, though this attempt failed; the pauses go on growing.
            queue.add_changed(key);
            assert_eq!(queue.failed(&key).as_millis(), 6400);
            let key = queue.take().await.unwrap();
            assert_eq!(start.elapsed(), Duration::ZERO);
            queue.failed(&key);
            queue.take().await.unwrap();
            assert_eq!(start.elapsed().as_millis() / 100, 128);
            // Without a failure everything is due at once.
            queue.done(&key, None);
            queue.add_in_turn("a");
            queue.take().await.unwrap();
            assert_eq!(start.elapsed().as_millis() / 100, 128);
        });
    }

    #[test]
    fn many_workers_take_everything_once() {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(4)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let queue = Arc::new(Queue::default());
            let seen = Arc::new(Mutex::new(HashMap::<u32, u32>::new()));
            let workers: Vec<_> = (0..8)
                .map(|_| {
                    let (queue, seen) = (queue.clone(), seen.clone());
                    tokio::spawn(async move {
                        while let Some(key) = queue.take().await {
                            *seen.lock().entry(key).or_default() += 1;
                            tokio::task::yield_now().await;
                            queue.done(&key, None);
                        }
                    })
                })
                .collect();
            for key in 0..1000 {
                queue.add(key);
            }
            while queue.depth() > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            queue.close();
            for worker in workers {
                worker.await.unwrap();
            }
            let seen = seen.lock();
            assert_eq!(seen.len(), 1000);
            assert!(seen.values().all(|times| *times == 1));
        });
    }
}
