//! `anabranch get`.

use std::io;

use clap::{Args, ValueEnum};
use csi_driver::owner::name::Kind;
use csi_driver::owner::output::Collected;
use csi_driver::owner::{Command, Event, Failure, Outcome};
use serde_json::{Value, json};

use crate::screen::{Table, line, print};
use crate::session::Session;

/// Lists objects with their status, those of manifests and those made by command.
#[derive(Args)]
pub struct Get {
    /// buckets, snapshots, forks or all.
    kind: String,
    /// Only the one of this name.
    name: Option<String>,
    /// Those of every namespace.
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// How they are printed.
    #[arg(short, long, value_enum, default_value_t = Form::Text)]
    output: Form,
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// A table.
    Text,
    /// A table with more columns.
    Wide,
    /// The whole objects.
    Yaml,
    /// The whole objects.
    Json,
    /// kind/name, a line each.
    Name,
}

impl Get {
    pub fn run(&self, session: &Session) -> Outcome {
        let (kind, name) = match self.kind.split_once('/') {
            Some((kind, name)) if self.name.is_none() => (kind.to_owned(), Some(name.to_owned())),
            _ => (self.kind.clone(), self.name.clone()),
        };
        let kinds: Vec<Kind> = match kind.as_str() {
            "all" | "anabranch" if name.is_none() => Kind::ALL.to_vec(),
            word => vec![Kind::parse(word).ok_or_else(|| {
                Failure::usage(format!("{word:?} is no kind of object"))
                    .then("Kinds are buckets, snapshots, forks and all.")
            })?],
        };
        let namespace =
            (!self.all_namespaces || name.is_some()).then(|| session.namespace().to_owned());
        let mut found: Vec<(Kind, Vec<Value>)> = Vec::new();
        for kind in kinds {
            let command = Command::Get {
                kind,
                name: name.clone(),
                namespace: namespace.clone(),
            };
            let mut events = Collected::default();
            session.execute(&command, &mut io::empty(), &mut events)?;
            let rows = events.0.into_iter().filter_map(|event| match event {
                Event::Row(row) => Some(row),
                _ => None,
            });
            found.push((kind, rows.collect()));
        }
        match self.output {
            Form::Text | Form::Wide => self.tables(session, &found),
            Form::Name => found
                .iter()
                .flat_map(|(kind, objects)| objects.iter().map(move |object| (kind, object)))
                .try_for_each(|(kind, object)| {
                    line(&format!("{kind}/{}", text(object, "/metadata/name")))
                }),
            Form::Json | Form::Yaml => {
                let mut items: Vec<Value> =
                    found.into_iter().flat_map(|(_, objects)| objects).collect();
                let all = match (&name, items.len()) {
                    (Some(_), 1) => items.remove(0),
                    _ => json!({"apiVersion": "v1", "kind": "List", "items": items}),
                };
                print(&if self.output == Form::Json {
                    pretty(&all)?
                } else {
                    yaml(&all)?
                })
            }
        }
    }

    fn tables(&self, session: &Session, found: &[(Kind, Vec<Value>)]) -> Outcome {
        let wide = self.output == Form::Wide;
        let mut texts = Vec::new();
        for (kind, objects) in found {
            if objects.is_empty() {
                continue;
            }
            let columns = columns(*kind, wide);
            let mut header: Vec<&str> = if self.all_namespaces {
                vec!["NAMESPACE", "NAME"]
            } else {
                vec!["NAME"]
            };
            header.extend(columns.iter().map(|(title, _)| *title));
            let mut table = Table::new(&header);
            for object in objects {
                let mut cells = Vec::new();
                if self.all_namespaces {
                    cells.push(text(object, "/metadata/namespace"));
                }
                let name = text(object, "/metadata/name");
                cells.push(if found.len() > 1 {
                    format!("{kind}/{name}")
                } else {
                    name
                });
                cells.extend(columns.iter().map(|(_, from)| cell(session, object, from)));
                table.row(cells);
            }
            texts.push(table.text());
        }
        if texts.is_empty() {
            let place = if self.all_namespaces {
                String::new()
            } else {
                format!(" in the namespace {}", session.namespace())
            };
            eprintln!("Nothing found{place}.");
            return Ok(());
        }
        print(&texts.join("\n"))
    }
}

/// The columns of a kind, as its custom resource has them: a title and where the value stands.
fn columns(kind: Kind, wide: bool) -> Vec<(&'static str, &'static str)> {
    let summary = |title, field| (title, field);
    let (mut all, more): (Vec<_>, Vec<_>) = match kind {
        Kind::Bucket => (
            vec![
                summary("SOURCE", "/status/summary/source"),
                ("READY", "ready"),
                summary("STATUS", "/status/summary/state"),
                summary(">SIZE", "/status/summary/size"),
                summary(">DIVERGENT", "/status/summary/divergent"),
                ("AGE", "age"),
            ],
            vec![
                ("RETAIN", "/spec/history/retain"),
                ("MESSAGE", "/status/summary/message"),
            ],
        ),
        Kind::Snapshot => (
            vec![
                summary("SOURCE", "/status/summary/source"),
                ("READY", "ready"),
                summary("STATUS", "/status/summary/state"),
                summary(">SIZE", "/status/summary/size"),
                summary("EXPIRES", "/status/summary/expires"),
                ("AGE", "age"),
            ],
            vec![
                ("TAKEN", "/status/time"),
                ("EPOCH", "/status/epoch"),
                ("DIGEST", "/status/digest"),
                ("MESSAGE", "/status/summary/message"),
            ],
        ),
        Kind::Fork => (
            vec![
                summary("SOURCE", "/status/summary/source"),
                ("READY", "ready"),
                summary("FORKS", "/status/summary/forks"),
                summary("STATUS", "/status/summary/state"),
                summary(">DIVERGENT", "/status/summary/divergent"),
                summary("MOUNTED", "/status/summary/mounted"),
                summary("EXPIRES", "/status/summary/expires"),
                ("AGE", "age"),
            ],
            vec![
                ("SHARED", "/status/summary/shared"),
                ("FORKED-AT", "/status/time"),
                ("MESSAGE", "/status/summary/message"),
            ],
        ),
    };
    if wide {
        all.extend(more);
    }
    all
}

fn cell(session: &Session, object: &Value, from: &str) -> String {
    let found = match from {
        "ready" => object
            .pointer("/status/conditions")
            .and_then(Value::as_array)
            .and_then(|all| all.iter().find(|condition| condition["type"] == "Ready"))
            .map(|condition| condition["status"].as_str().unwrap_or_default().to_owned())
            .unwrap_or_default(),
        "age" => text(object, "/metadata/creationTimestamp")
            .parse::<jiff::Timestamp>()
            .ok()
            .and_then(|time| u64::try_from(time.as_nanosecond()).ok())
            .map(|nanos| {
                csi_driver::owner::instant::age(storage_engine::Epoch(nanos), session.now())
            })
            .unwrap_or_default(),
        pointer => text(object, pointer),
    };
    if found.is_empty() {
        "-".to_owned()
    } else {
        found
    }
}

fn text(object: &Value, pointer: &str) -> String {
    match object.pointer(pointer) {
        Some(Value::String(text)) => text.clone(),
        None | Some(Value::Null) => String::new(),
        Some(other) => other.to_string(),
    }
}

fn pretty(value: &Value) -> Outcome<String> {
    let text =
        serde_json::to_string_pretty(value).map_err(|e| Failure::new("Internal", e.to_string()))?;
    Ok(text + "\n")
}

fn yaml(value: &Value) -> Outcome<String> {
    crds::yaml::to_string(value).map_err(|e| Failure::new("Internal", e.to_string()))
}
