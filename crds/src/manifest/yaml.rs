//! YAML documents as trees that know the line of every node.
//!
//! Scalars are read as kubectl reads them (its YAML library knows `yes`, `no`, `on` and `off` as truth values), and a key
//! that is written twice is an error, as with kubectl's strict validation.

use std::collections::BTreeMap;

use granit_parser::{Event, Parser, ScalarStyle, ScanError, Span};
use serde_json::{Map, Number, Value};

/// Most nodes of one document, aliases expanded: an alias of aliases of aliases must not fill the memory.
const NODES_MAX: usize = 100_000;
/// Deepest nesting of one document, aliases expanded.
const DEPTH_MAX: usize = 100;

/// One part of a text between document markers.
pub(super) struct Chunk<'a> {
    /// Line of its first character, from 1.
    pub(super) line: usize,
    pub(super) text: &'a str,
}

/// Splits a text at its document markers: lines that begin with `---` or `...`. YAML allows them nowhere else, so one
/// broken document does not hide the others.
pub(super) fn split(text: &str) -> Vec<Chunk<'_>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut chunks = Vec::new();
    let mut start = (0, 1);
    let mut content = false;
    let mut offset = 0;
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let marker = |marker| {
            line.strip_prefix(marker).is_some_and(|rest: &str| {
                rest.trim_end().is_empty() || rest.starts_with([' ', '\t'])
            })
        };
        let (begins, ends) = (marker("---"), marker("..."));
        if begins && content {
            chunks.push(Chunk {
                line: start.1,
                text: &text[start.0..offset],
            });
            start = (offset, number + 1);
            content = false;
        }
        offset += line.len();
        if ends {
            chunks.push(Chunk {
                line: start.1,
                text: &text[start.0..offset],
            });
            start = (offset, number + 2);
            content = false;
        } else {
            // Comments and directives before a marker belong to the document that it begins.
            let trimmed = line.trim();
            content |= begins
                || !(trimmed.is_empty() || trimmed.starts_with('#') || line.starts_with('%'));
        }
    }
    chunks.push(Chunk {
        line: start.1,
        text: &text[start.0..],
    });
    chunks
}

/// A node, and the line on which it stands.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) line: usize,
    pub(super) kind: NodeKind,
    height: usize,
    size: usize,
}

#[derive(Clone, Debug)]
pub(super) enum NodeKind {
    Scalar(Value),
    Sequence(Vec<Node>),
    Mapping(Vec<(String, Node)>),
}

/// Why a document cannot be read: at which line, in which field, and what.
#[derive(Debug)]
pub(super) struct YamlError {
    pub(super) line: usize,
    pub(super) path: String,
    pub(super) message: String,
    pub(super) allowed: &'static str,
}

impl YamlError {
    fn new(line: usize, message: impl Into<String>, allowed: &'static str) -> Self {
        YamlError {
            line,
            path: String::new(),
            message: message.into(),
            allowed,
        }
    }
}

impl Node {
    fn scalar(line: usize, value: Value) -> Self {
        Node {
            line,
            kind: NodeKind::Scalar(value),
            height: 1,
            size: 1,
        }
    }

    fn sequence(line: usize, items: Vec<Node>) -> Self {
        let (height, size) = extent(items.iter());
        Node {
            line,
            kind: NodeKind::Sequence(items),
            height,
            size,
        }
    }

    fn mapping(line: usize, fields: Vec<(String, Node)>) -> Self {
        let (height, size) = extent(fields.iter().map(|(_, node)| node));
        Node {
            line,
            kind: NodeKind::Mapping(fields),
            height,
            size,
        }
    }

    /// The same without lines.
    pub(super) fn value(&self) -> Value {
        match &self.kind {
            NodeKind::Scalar(value) => value.clone(),
            NodeKind::Sequence(items) => items.iter().map(Node::value).collect(),
            NodeKind::Mapping(fields) => Value::Object(
                fields
                    .iter()
                    .map(|(key, node)| (key.clone(), node.value()))
                    .collect::<Map<_, _>>(),
            ),
        }
    }

    /// The line of a field, given by its path (`spec.source`, `metadata.labels[app]`, `items[0]`), or of the deepest
    /// mapping on the way that is there.
    pub(super) fn line_of(&self, path: &str) -> usize {
        let mut node = self;
        let mut line = node.line;
        for step in path
            .split(['.', '['])
            .map(|step| step.trim_end_matches(']'))
        {
            let next = match &node.kind {
                NodeKind::Mapping(fields) => fields
                    .iter()
                    .find(|(key, _)| key == step)
                    .map(|(_, node)| node),
                NodeKind::Sequence(items) => {
                    step.parse().ok().and_then(|index: usize| items.get(index))
                }
                NodeKind::Scalar(_) => None,
            };
            match next {
                Some(next) => node = next,
                None => break,
            }
            line = node.line;
        }
        line
    }
}

fn extent<'a>(nodes: impl Iterator<Item = &'a Node>) -> (usize, usize) {
    nodes.fold((1, 1), |(height, size), node| {
        (height.max(node.height + 1), size + node.size)
    })
}

/// A collection that is being read.
struct Open {
    line: usize,
    anchor: usize,
    /// Key that waits for its value, with its line.
    key: Option<(String, usize)>,
    parts: Parts,
}

enum Parts {
    Sequence(Vec<Node>),
    Mapping {
        fields: Vec<(String, Node)>,
        merged: Vec<(String, Node)>,
    },
}

/// Reads one chunk: its document, or none when there are only comments.
pub(super) fn read(chunk: &Chunk<'_>) -> Result<Option<Node>, YamlError> {
    let mut reader = Reader {
        first_line: chunk.line,
        open: Vec::new(),
        anchors: BTreeMap::new(),
        size: 0,
        root: None,
    };
    for event in Parser::new_from_str(chunk.text) {
        reader.event(event)?;
    }
    Ok(reader.root)
}

struct Reader {
    first_line: usize,
    open: Vec<Open>,
    anchors: BTreeMap<usize, Node>,
    size: usize,
    root: Option<Node>,
}

impl Reader {
    fn event(&mut self, event: Result<(Event<'_>, Span), ScanError>) -> Result<(), YamlError> {
        let line = |line: usize| line.max(1) + self.first_line - 1;
        let (event, span) = match event {
            Ok(event) => event,
            Err(error) => {
                let line = line(error.marker().line());
                return Err(YamlError::new(
                    line,
                    format!("this is not YAML: {}", error.info()),
                    "YAML",
                ));
            }
        };
        let line = line(span.start.line());
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let tag = tag.map(|tag| {
                    tag.core_suffix()
                        .map_or_else(|| tag.original(), str::to_owned)
                });
                let plain = style == ScalarStyle::Plain;
                let awaits_key = self.open.last().is_some_and(|open| {
                    matches!(open.parts, Parts::Mapping { .. }) && open.key.is_none()
                });
                let node = if awaits_key {
                    Node::scalar(line, Value::String(text.into_owned()))
                } else {
                    Node::scalar(
                        line,
                        resolve(text.into_owned(), plain, tag.as_deref(), line)?,
                    )
                };
                self.close(node, anchor)
            }
            Event::Alias(anchor) => match self.anchors.get(&anchor) {
                Some(node) => {
                    let mut node = node.clone();
                    node.line = line;
                    self.close(node, 0)
                }
                None => Err(YamlError::new(
                    line,
                    "an alias stands inside its own anchor",
                    "an alias after its anchor",
                )),
            },
            Event::SequenceStart(_, anchor, _) => {
                self.open(line, anchor, Parts::Sequence(Vec::new()))
            }
            Event::MappingStart(_, anchor, _) => self.open(
                line,
                anchor,
                Parts::Mapping {
                    fields: Vec::new(),
                    merged: Vec::new(),
                },
            ),
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(open) = self.open.pop() else {
                    return Ok(());
                };
                let node = match open.parts {
                    Parts::Sequence(items) => Node::sequence(open.line, items),
                    Parts::Mapping { mut fields, merged } => {
                        for (key, node) in merged {
                            if !fields.iter().any(|(known, _)| *known == key) {
                                fields.push((key, node));
                            }
                        }
                        Node::mapping(open.line, fields)
                    }
                };
                self.close(node, open.anchor)
            }
            _ => Ok(()),
        }
    }

    fn open(&mut self, line: usize, anchor: usize, parts: Parts) -> Result<(), YamlError> {
        self.open.push(Open {
            line,
            anchor,
            key: None,
            parts,
        });
        self.bounds(line, 0)
    }

    fn bounds(&self, line: usize, height: usize) -> Result<(), YamlError> {
        if self.open.len() + height > DEPTH_MAX {
            return Err(YamlError::new(
                line,
                "the document is nested too deeply",
                "at most 100 levels",
            ));
        }
        if self.size > NODES_MAX {
            return Err(YamlError::new(
                line,
                "the document is too large",
                "at most 100000 values",
            ));
        }
        Ok(())
    }

    /// Puts a whole node where it belongs.
    fn close(&mut self, node: Node, anchor: usize) -> Result<(), YamlError> {
        self.size += node.size;
        self.bounds(node.line, node.height)?;
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        let path = self.path();
        let Some(open) = self.open.last_mut() else {
            self.root.get_or_insert(node);
            return Ok(());
        };
        let (fields, merged) = match &mut open.parts {
            Parts::Sequence(items) => {
                items.push(node);
                return Ok(());
            }
            Parts::Mapping { fields, merged } => (fields, merged),
        };
        match open.key.take() {
            None => match node.kind {
                NodeKind::Scalar(Value::String(key)) => {
                    open.key = Some((key, node.line));
                    Ok(())
                }
                _ => Err(YamlError {
                    path,
                    ..YamlError::new(node.line, "a key is not a text", "a text as the key")
                }),
            },
            Some((key, line)) if key == "<<" => merge(merged, node).map_err(|()| YamlError {
                path,
                ..YamlError::new(line, "<< merges mappings only", "an alias of a mapping")
            }),
            Some((key, line)) => {
                if let Some((_, first)) = fields.iter().find(|(known, _)| *known == key) {
                    let message = format!(
                        "the field {key} is given twice, before on line {}",
                        first.line
                    );
                    let path = if path.is_empty() {
                        key
                    } else {
                        format!("{path}.{key}")
                    };
                    return Err(YamlError {
                        path,
                        ..YamlError::new(line, message, "each field once")
                    });
                }
                // A field is found by the line of its key, where its value may be on the next.
                fields.push((key, Node { line, ..node }));
                Ok(())
            }
        }
    }

    /// Path of the collection that is being read.
    fn path(&self) -> String {
        let mut path = String::new();
        for open in &self.open {
            match (&open.parts, &open.key) {
                (Parts::Mapping { .. }, Some((key, _))) if path.is_empty() => path.push_str(key),
                (Parts::Mapping { .. }, Some((key, _))) => path = format!("{path}.{key}"),
                (Parts::Sequence(items), _) => path = format!("{path}[{}]", items.len()),
                (Parts::Mapping { .. }, None) => {}
            }
        }
        // The last key is that of the field in hand, not of its mapping.
        match self.open.last() {
            Some(Open {
                parts: Parts::Mapping { .. },
                key: Some((key, _)),
                ..
            }) => {
                path.truncate(path.len().saturating_sub(key.len()));
                path.trim_end_matches('.').to_owned()
            }
            _ => path,
        }
    }
}

fn merge(merged: &mut Vec<(String, Node)>, node: Node) -> Result<(), ()> {
    match node.kind {
        NodeKind::Mapping(fields) => {
            for (key, node) in fields {
                if !merged.iter().any(|(known, _)| *known == key) {
                    merged.push((key, node));
                }
            }
            Ok(())
        }
        NodeKind::Sequence(items) => items.into_iter().try_for_each(|item| merge(merged, item)),
        NodeKind::Scalar(_) => Err(()),
    }
}

/// What a scalar means.
fn resolve(text: String, plain: bool, tag: Option<&str>, line: usize) -> Result<Value, YamlError> {
    match tag {
        None if plain => Ok(resolve_plain(text)),
        None | Some("str" | "!") => Ok(Value::String(text)),
        Some("int" | "float" | "bool" | "null" | "timestamp") => Ok(resolve_plain(text)),
        Some(tag) => Err(YamlError::new(
            line,
            format!("the tag {tag} is unknown"),
            "values without tags",
        )),
    }
}

fn resolve_plain(text: String) -> Value {
    match text.as_str() {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => {
            return Value::Bool(true);
        }
        "false" | "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => {
            return Value::Bool(false);
        }
        _ => {}
    }
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(&text);
    // Readers differ on what a leading zero means (octal or decimal): such a number stays a text.
    let ambiguous = unsigned.len() > 1 && unsigned.starts_with('0') && !unsigned.contains('.');
    if !ambiguous && !unsigned.is_empty() && unsigned.bytes().all(|byte| byte.is_ascii_digit()) {
        if let Ok(number) = text.parse::<i64>() {
            return number.into();
        }
        if let Ok(number) = text.parse::<u64>() {
            return number.into();
        }
    }
    let float = unsigned.starts_with(|c: char| c.is_ascii_digit())
        && unsigned
            .bytes()
            .all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'e' | b'E' | b'+' | b'-'));
    if float
        && !ambiguous
        && let Some(number) = text.parse().ok().and_then(Number::from_f64)
    {
        return Value::Number(number);
    }
    Value::String(text)
}
