//! The chart, rendered by helm and taken by a real API server that refuses unknown fields.

use std::path::Path;
use std::process::Command;

use e2e::cluster::{Parts, helm};
use kube::api::{
    Api, ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams, ValidationDirective,
};
use serde_json::Value;

use crate::support::{Fixture, SYSTEM, fixture};

/// Renders the chart; the error is what helm says.
fn render(helm: &Path, settings: &[&str]) -> Result<Vec<Value>, String> {
    let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/anabranch");
    let mut command = Command::new(helm);
    command
        .args(["template", "anabranch"])
        .arg(chart)
        .args(["--namespace", SYSTEM]);
    for setting in settings {
        command.args(["--set", setting]);
    }
    let output = command
        .env("HELM_CACHE_HOME", std::env::temp_dir())
        .output()
        .unwrap();
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let text = String::from_utf8(output.stdout).unwrap();
    let documents = text.split("\n---").filter(|document| {
        document
            .lines()
            .any(|line| !line.trim().is_empty() && !line.starts_with('#') && line.trim() != "---")
    });
    Ok(documents
        .map(|document| serde_saphyr::from_str(document.trim_start_matches("---")).unwrap())
        .collect())
}

/// Applies an object as helm does, and refuses what the API server does not know.
async fn install(f: &Fixture, mut object: Value) -> Result<(), String> {
    let api_version = object["apiVersion"].as_str().unwrap().to_owned();
    let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
    let kind = object["kind"].as_str().unwrap().to_owned();
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, &kind));
    let namespaced = ![
        "ClusterRole",
        "ClusterRoleBinding",
        "CSIDriver",
        "CustomResourceDefinition",
        "StorageClass",
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicyBinding",
    ]
    .contains(&kind.as_str());
    let api: Api<DynamicObject> = if namespaced {
        object["metadata"]["namespace"] = SYSTEM.into();
        Api::namespaced_with(f.client.clone(), SYSTEM, &resource)
    } else {
        Api::all_with(f.client.clone(), &resource)
    };
    let name = object["metadata"]["name"].as_str().unwrap().to_owned();
    let params = PatchParams {
        field_validation: Some(ValidationDirective::Strict),
        // A hook: helm makes it anew each time, and a Job that stands cannot be changed.
        dry_run: kind == "Job",
        ..PatchParams::apply("helm").force()
    };
    let applied = api.patch(&name, &params, &Patch::Apply(&object)).await;
    applied
        .map(drop)
        .map_err(|error| format!("{kind} {name}: {error}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_chart_is_taken_by_an_api_server_with_every_value() {
    let Some(f) = fixture("chart", Parts::default()).await else {
        return;
    };
    let helm = match helm() {
        Ok(helm) => helm,
        Err(failure) => {
            assert!(!e2e::in_ci(), "{failure}");
            eprintln!("not run: chart: {failure}");
            return;
        }
    };
    let everything = [
        "node.importRoots={/srv/datasets,/srv/more}",
        "imagePullSecrets[0].name=registry",
        "metrics.serviceMonitor=true",
        "csi.snapshots.enabled=true",
        "csi.storageClass.default=true",
        // Another class: the parameters of one that stands cannot be changed.
        "csi.storageClass.name=kept",
        "csi.storageClass.parameters.retain=1h",
        "keeper.abandonAfter=10m",
        "operator.replicas=1",
        "operator.nodeSelector.disk=ssd",
        "image.tag=1.2.3",
    ];
    for (what, settings) in [("the defaults", &[][..]), ("every value", &everything[..])] {
        let objects = render(&helm, settings).unwrap();
        let mut kinds: Vec<String> = Vec::new();
        for object in objects {
            let kind = object["kind"].as_str().unwrap().to_owned();
            kinds.push(kind.clone());
            // Of the Prometheus operator and of the snapshot controller, which are not here.
            let foreign = ["ServiceMonitor", "VolumeSnapshotClass"];
            if !foreign.contains(&kind.as_str()) {
                install(&f, object).await.unwrap();
            }
        }
        kinds.sort();
        kinds.dedup();
        println!("chart with {what}: {}", kinds.join(", "));
        for kind in [
            "CSIDriver",
            "StorageClass",
            "CustomResourceDefinition",
            "Deployment",
            "DaemonSet",
            "Job",
            "NetworkPolicy",
            "PodDisruptionBudget",
            "ValidatingAdmissionPolicy",
            "ServiceAccount",
        ] {
            assert!(kinds.iter().any(|found| found == kind), "{kind} is missing");
        }
    }
    for (wrong, named) in [
        ("node.importRoot={/a}", "importRoot"),
        ("operator.replicas=0", "replicas"),
        ("node.dataDir=relative", "dataDir"),
        ("keeper.abandonAfter=soon", "abandonAfter"),
        ("sidecars.provisioner.version=v1", "version"),
        ("csi.storageClass.parameters.bytes=1Gi", "bytes"),
    ] {
        let refused = render(&helm, &[wrong]).unwrap_err();
        assert!(refused.contains(named), "{refused}");
    }
}
