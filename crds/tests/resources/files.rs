//! What is committed beside the code: generated definitions, examples, the README.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crds::{Kind, Object, crdfiles, manifest, names, schema};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

#[test]
fn the_committed_definitions_are_what_the_types_say() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("yaml");
    crdfiles::compare(&crdfiles::generate().unwrap(), &folder).unwrap();
}

#[test]
fn a_drift_is_named_with_its_cure() {
    let folder = tempfile::tempdir().unwrap();
    let files = crdfiles::generate().unwrap();
    for (name, text) in &files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    crdfiles::compare(&files, folder.path()).unwrap();
    let name = files.keys().next().unwrap();
    std::fs::write(
        folder.path().join(name),
        files[name].replace("kind: BucketFork", "kind: BucketSpoon"),
    )
    .unwrap();
    std::fs::write(folder.path().join("stray.yaml"), "").unwrap();
    let message = crdfiles::compare(&files, folder.path()).unwrap_err();
    for part in [
        name.as_str(),
        "differs from line",
        "stray.yaml belongs to no kind",
        "--bin crdgen",
    ] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn the_names_of_the_definitions_stand_in_one_file() {
    let definitions = schema::definitions().unwrap();
    let kinds: Vec<_> = definitions
        .iter()
        .map(|crd| crd.spec.names.kind.as_str())
        .collect();
    assert_eq!(kinds, names::KINDS);
    assert_eq!(kinds, Kind::ALL.map(Kind::as_str));
    assert_eq!(
        names::API_VERSION,
        format!("{}/{}", names::GROUP, names::VERSION)
    );
    let mut short = BTreeSet::new();
    for crd in &definitions {
        assert_eq!(crd.spec.group, names::GROUP);
        assert_eq!(crd.spec.versions.len(), 1);
        assert_eq!(crd.spec.versions[0].name, names::VERSION);
        assert_eq!(
            crd.spec.names.categories.as_deref(),
            Some(&[names::CATEGORY.to_owned()][..])
        );
        for name in crd.spec.names.short_names.iter().flatten() {
            assert!(short.insert(name.clone()), "{name} is short for two kinds");
            // Names that other products use for their buckets, snapshots and forks.
            assert!(name.starts_with('a'), "{name}");
        }
    }
    let count =
        schema::of_kind(names::KIND_FORK).unwrap()["properties"]["spec"]["properties"]["count"]
            .clone();
    assert_eq!(count["maximum"].as_f64(), Some(f64::from(names::COUNT_MAX)));
    for rule in [
        &crds::rules::BUCKET_NAME,
        &crds::rules::SNAPSHOT_NAME,
        &crds::rules::FORK_NAME,
    ] {
        assert!(rule.cel.ends_with(&format!("<= {}", names::NAME_MAX)));
    }
}

#[test]
fn every_column_shows_a_field_that_is_there() {
    for crd in schema::definitions().unwrap() {
        let kind = &crd.spec.names.kind;
        let schema = schema::of_kind(kind).unwrap();
        for column in crd.spec.versions[0]
            .additional_printer_columns
            .iter()
            .flatten()
        {
            if column.json_path == ".metadata.creationTimestamp" {
                continue;
            }
            let path = column.json_path.split("[?").next().unwrap();
            let field = path
                .split('.')
                .skip(1)
                .fold(schema, |schema, field| &schema["properties"][field]);
            assert!(
                field.is_object(),
                "{kind}: {} shows nothing: {}",
                column.name,
                column.json_path
            );
        }
    }
}

/// Every example is there, is valid, and together they show every field that people write.
#[test]
fn the_examples_are_valid_and_show_every_field() {
    let mut texts = Vec::new();
    for entry in std::fs::read_dir(root().join("examples")).unwrap() {
        let path = entry.unwrap().path();
        if path
            .extension()
            .is_some_and(|extension| extension == "yaml")
        {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            texts.push((name, std::fs::read_to_string(path).unwrap()));
        }
    }
    let names: BTreeSet<_> = texts.iter().map(|(name, _)| name.as_str()).collect();
    for kind in ["bucket", "snapshot", "fork"] {
        for extent in ["minimal", "full"] {
            assert!(
                names.contains(format!("{kind}-{extent}.yaml").as_str()),
                "{kind} {extent} has no example"
            );
        }
    }
    for (name, text) in &texts {
        let loaded = manifest::load([(name.as_str(), text.as_str())]);
        assert!(loaded.errors.is_empty(), "{:#?}", loaded.errors);
        // A comment in a full example stands for a choice: as a field it is known, too.
        for placed in loaded
            .objects
            .iter()
            .filter(|_| name.ends_with("-full.yaml"))
        {
            let spec =
                &schema::of_kind(placed.object.kind().as_str()).unwrap()["properties"]["spec"];
            assert_shown(spec, text, name);
        }
    }
    let quickstart = &texts
        .iter()
        .find(|(name, _)| name == "quickstart.yaml")
        .unwrap()
        .1;
    let objects: Vec<_> = manifest::parse(quickstart)
        .into_iter()
        .map(|document| document.result.unwrap())
        .collect();
    assert!(
        matches!(&objects[..], [Object::Bucket(_), Object::Snapshot(_), Object::Fork(fork)] if fork.spec.count == Some(10))
    );
}

fn assert_shown(schema: &serde_json::Value, text: &str, name: &str) {
    for (field, schema) in schema["properties"].as_object().into_iter().flatten() {
        assert!(
            text.contains(&format!("{field}:")),
            "{name} does not show {field}"
        );
        assert_shown(schema, text, name);
    }
}

/// Manifests in the README are valid.
#[test]
fn the_manifests_of_the_readme_are_valid() {
    let Ok(readme) = std::fs::read_to_string(root().join("README.md")) else {
        println!("not run: there is no README.md yet");
        return;
    };
    for (number, block) in readme.split("```yaml\n").skip(1).enumerate() {
        let block = block.split("```").next().unwrap();
        if block.lines().any(|line| line.starts_with("apiVersion:")) {
            let loaded = manifest::load([("README.md", block)]);
            assert!(
                loaded.errors.is_empty(),
                "YAML block {} of README.md: {:#?}",
                number + 1,
                loaded.errors
            );
        }
    }
}
