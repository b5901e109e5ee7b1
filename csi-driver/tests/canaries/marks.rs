//! Canaries: texts that stand nowhere else, found again by their number.

use std::collections::{BTreeSet, HashMap};
use std::io::Write;
use std::sync::{Arc, Mutex};

/// Before the number of a canary. Letters and digits only, so that it may be a name of an object, a label or a path.
const BEFORE: &str = "qxcanary";
/// Digits of the number.
const DIGITS: usize = 5;

/// What a canary stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    /// A map `secrets` of a call: its keys and values.
    Secret,
    /// An annotation of an object.
    Annotation,
    /// Any other text of a call or an object. It may be told: an error names what it is about.
    Text,
}

/// All canaries, by number.
#[derive(Default)]
pub struct Marks {
    all: Vec<(Sort, String)>,
}

impl Marks {
    /// A new canary for a field.
    pub fn mark(&mut self, sort: Sort, field: &str) -> String {
        self.all.push((sort, field.to_owned()));
        format!("{BEFORE}{:0DIGITS$}", self.all.len() - 1)
    }

    pub fn text(&mut self, field: &str) -> String {
        self.mark(Sort::Text, field)
    }

    /// A map of one entry that is all canary.
    pub fn map(&mut self, sort: Sort, field: &str) -> HashMap<String, String> {
        HashMap::from([(self.mark(sort, field), self.mark(sort, field))])
    }

    pub fn secrets(&mut self, call: &str) -> HashMap<String, String> {
        self.map(Sort::Secret, &format!("{call}.secrets"))
    }

    pub fn of(&self, sort: Sort) -> impl Iterator<Item = usize> + '_ {
        let matching = move |(number, (found, _)): (usize, &(Sort, String))| {
            (*found == sort).then_some(number)
        };
        self.all.iter().enumerate().filter_map(matching)
    }

    pub fn field(&self, number: usize) -> &str {
        &self.all[number].1
    }

    pub fn len(&self) -> usize {
        self.all.len()
    }
}

/// The canaries in a text.
#[derive(Default)]
pub struct Tally {
    found: BTreeSet<usize>,
    pub lines: usize,
}

impl Tally {
    pub fn of(text: &[u8]) -> Self {
        let mut tally = Tally::default();
        tally.add(text);
        tally
    }

    pub fn add(&mut self, text: &[u8]) {
        self.lines += text.iter().filter(|byte| **byte == b'\n').count();
        let size = BEFORE.len() + DIGITS;
        for window in text.windows(size) {
            let number: Option<usize> = window
                .strip_prefix(BEFORE.as_bytes())
                .and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
            self.found.extend(number);
        }
    }

    pub fn has(&self, number: usize) -> bool {
        self.found.contains(&number)
    }
}

/// Everything that this process logs from now on, at every level.
pub fn capture() -> Arc<Mutex<Vec<u8>>> {
    #[derive(Clone)]
    struct Sink(Arc<Mutex<Vec<u8>>>);
    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let captured = Sink(Arc::default());
    let writer = captured.clone();
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new("trace"))
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .init();
    captured.0
}

#[test]
fn a_canary_is_found_again_wherever_it_stands() {
    let mut marks = Marks::default();
    let (one, two) = (marks.text("a"), marks.mark(Sort::Secret, "b"));
    let tally = Tally::of(format!("x{one}y\n{two}").as_bytes());
    assert!(tally.has(0) && tally.has(1) && !tally.has(2) && tally.lines == 1);
    assert_eq!(marks.of(Sort::Secret).collect::<Vec<_>>(), [1]);
    assert!(!Tally::of(&one.as_bytes()[1..]).has(0));
}
