//! The examples for a cluster: objects of ours beside those of Kubernetes and of others (`make lint` looks at these).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crds::manifest::{self, ErrorSort};
use crds::{Kind, Object, names};
use serde_json::Value;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples")
}

/// Every YAML file below a folder, by its path from `examples`, with its text.
fn files(below: &Path, into: &mut Vec<(String, String)>) {
    for entry in std::fs::read_dir(below).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, into);
        } else if path
            .extension()
            .is_some_and(|extension| extension == "yaml")
        {
            let name = path.strip_prefix(folder()).unwrap().display().to_string();
            into.push((name, std::fs::read_to_string(&path).unwrap()));
        }
    }
    into.sort();
}

/// Every mapping within a value that has this key.
fn with<'a>(value: &'a Value, key: &str, into: &mut Vec<&'a Value>) {
    match value {
        Value::Object(fields) => {
            if fields.contains_key(key) {
                into.push(value);
            }
            fields.values().for_each(|inner| with(inner, key, into));
        }
        Value::Array(items) => items.iter().for_each(|inner| with(inner, key, into)),
        _ => {}
    }
}

fn kind_of(field: &str) -> Kind {
    match field {
        "bucket" => Kind::Bucket,
        "snapshot" => Kind::Snapshot,
        "fork" => Kind::Fork,
        other => panic!("{other} names no source"),
    }
}

#[test]
fn the_examples_for_a_cluster_are_valid_and_name_what_another_makes() {
    let mut texts = Vec::new();
    files(&folder().join("cluster"), &mut texts);
    assert!(texts.len() >= 10, "{texts:#?}");
    let (mut made, mut named) = (BTreeSet::new(), Vec::new());
    let (mut ours, mut foreign, mut inline, mut sources) = (0, 0, 0, 0);
    for (file, text) in &texts {
        let loaded = manifest::load([(file.as_str(), text.as_str())]);
        for error in &loaded.errors {
            assert_eq!(error.error.sort, ErrorSort::Foreign, "{file}: {error:#?}");
        }
        foreign += loaded.errors.len();
        for placed in &loaded.objects {
            ours += 1;
            let key = placed.object.key();
            made.insert((key.kind, key.name.clone()));
            if let Object::Fork(fork) = &placed.object {
                let source = &fork.spec.source;
                for (field, name) in [
                    ("bucket", &source.bucket),
                    ("snapshot", &source.snapshot),
                    ("fork", &source.fork),
                ] {
                    named.extend(name.iter().map(|name| (kind_of(field), name.clone(), file)));
                }
            }
        }
        for document in text.split("\n---\n") {
            let value: Value = serde_saphyr::from_str(document).unwrap();
            let mut volumes = Vec::new();
            with(&value, "csi", &mut volumes);
            for volume in volumes {
                inline += 1;
                let csi = &volume["csi"];
                assert_eq!(csi["driver"], names::DRIVER, "{file}");
                let attributes = csi["volumeAttributes"].as_object().unwrap();
                let (limits, of): (Vec<_>, Vec<_>) = attributes
                    .iter()
                    .partition(|(name, _)| ["bytes", "inodes"].contains(&name.as_str()));
                let [(field, name)] = of[..] else {
                    panic!("{file}: an inline volume forks one thing: {csi}");
                };
                // Attributes are texts, also those that are numbers.
                assert!(limits.iter().all(|(_, value)| value.is_string()), "{csi}");
                named.push((kind_of(field), name.as_str().unwrap().to_owned(), file));
            }
            let mut claims = Vec::new();
            with(&value, "dataSourceRef", &mut claims);
            for claim in claims {
                sources += 1;
                let source = &claim["dataSourceRef"];
                assert_eq!(source["apiGroup"], names::GROUP, "{file}");
                let kind: Kind = source["kind"].as_str().unwrap().parse().unwrap();
                named.push((kind, source["name"].as_str().unwrap().to_owned(), file));
            }
        }
    }
    for (kind, name, file) in named {
        assert!(
            made.contains(&(kind, name.clone())),
            "{file} forks {kind} {name}, which no example makes"
        );
    }
    assert!(ours >= 4 && inline >= 2 && sources >= 4);
    println!(
        "{} files: {ours} objects of ours, {foreign} of others; {inline} inline volumes, {sources} claims made from ours",
        texts.len()
    );
}

#[test]
fn the_page_of_the_examples_names_each_of_them() {
    let page = std::fs::read_to_string(folder().join("README.md")).unwrap();
    let mut texts = Vec::new();
    files(&folder(), &mut texts);
    for (file, _) in texts {
        assert!(page.contains(&format!("]({file})")), "{file}");
    }
}
