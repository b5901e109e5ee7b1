//! What a running command says: the same events whether they are printed at once or travel through the
//! owner's socket first.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::failure::{Failure, Outcome};

/// One thing that a command says.
///
/// The answer of a command is one JSON object: the fields of `Begin`, then `entries` with one element for
/// each `Row`, then the fields of `End`. Commands whose answer has no entries send no `Row` and only `Begin`.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Fields known at the start.
    Begin(Map<String, Value>),
    /// One element of `entries`.
    Row(Value),
    /// Fields known at the end, such as totals.
    End(Map<String, Value>),
    /// Bytes of a file, in order.
    Bytes(Vec<u8>),
    /// How far long work has come.
    Progress(Progress),
}

/// How far long work has come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// What is being done, as in "importing bucket/base".
    pub what: String,
    /// Files or other items done.
    pub items: u64,
    /// Items there are, once that is known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub total_items: Option<u64>,
    /// Bytes done.
    pub bytes: u64,
    /// Bytes there are, once that is known or can be estimated.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub total_bytes: Option<u64>,
}

/// Where events go. An error means that nobody listens any more: the command gives up.
pub trait Output {
    /// Takes one event.
    fn event(&mut self, event: Event) -> Outcome;
}

impl dyn Output + '_ {
    /// Says the fields of the start.
    pub fn begin(&mut self, fields: &impl Serialize) -> Outcome {
        let fields = object(fields)?;
        self.event(Event::Begin(fields))
    }

    /// Says one entry.
    pub fn row(&mut self, row: &impl Serialize) -> Outcome {
        let row = serde_json::to_value(row).map_err(|e| unspeakable(&e))?;
        self.event(Event::Row(row))
    }

    /// Says the fields of the end.
    pub fn end(&mut self, fields: &impl Serialize) -> Outcome {
        let fields = object(fields)?;
        self.event(Event::End(fields))
    }
}

/// Reads a row or a set of fields back into its type.
pub fn typed<T: DeserializeOwned>(value: Value) -> Outcome<T> {
    serde_json::from_value(value)
        .map_err(|e| Failure::owner(format!("the answer is not in the expected form: {e}")))
}

fn object(fields: &impl Serialize) -> Outcome<Map<String, Value>> {
    match serde_json::to_value(fields).map_err(|e| unspeakable(&e))? {
        Value::Object(map) => Ok(map),
        _ => Err(Failure::new("Internal", "an answer is not an object")),
    }
}

fn unspeakable(error: &serde_json::Error) -> Failure {
    Failure::new(
        "Internal",
        format!("an answer cannot be written as JSON: {error}"),
    )
}

/// Keeps every event, for tests and for callers that want the whole answer.
#[derive(Debug, Default)]
pub struct Collected(pub Vec<Event>);

impl Output for Collected {
    fn event(&mut self, event: Event) -> Outcome {
        self.0.push(event);
        Ok(())
    }
}
