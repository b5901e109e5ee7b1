//! Manifests of tests.

/// A claim of the chart's class, empty.
pub fn claim(name: &str, mode: &str, size: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {{name: {name}}}\nspec: {{storageClassName: anabranch, \
         accessModes: [{mode}], resources: {{requests: {{storage: {size}}}}}}}\n"
    )
}

/// A claim that starts as a fork of an object of ours.
pub fn claim_of(name: &str, mode: &str, kind: &str, source: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {{name: {name}}}\nspec: {{storageClassName: anabranch, \
         accessModes: [{mode}], resources: {{requests: {{storage: 64Mi}}}}, \
         dataSourceRef: {{apiGroup: anabranch.dev, kind: {kind}, name: {source}}}}}\n"
    )
}

/// A pod that runs a shell script and then sleeps, with volumes at `/NAME`: each its name and its source, as YAML.
pub fn pod(name: &str, script: &str, volumes: &[(&str, &str)]) -> String {
    let mounts: Vec<_> = volumes
        .iter()
        .map(|(volume, _)| format!("{{name: {volume}, mountPath: /{volume}}}"))
        .collect();
    let sources: Vec<_> = volumes
        .iter()
        .map(|(volume, source)| format!("{{name: {volume}, {source}}}"))
        .collect();
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n    \
         - name: main\n      image: busybox:1.37\n      command: [sh, -c, {script:?}]\n      volumeMounts: [{}]\n  volumes: [{}]\n",
        mounts.join(", "),
        sources.join(", ")
    )
}

/// The source of a volume: a claim.
pub fn of_claim(claim: &str) -> String {
    format!("persistentVolumeClaim: {{claimName: {claim}}}")
}

/// A pod with one claim at `/data` that only sleeps.
pub fn sleeper(name: &str, claim: &str) -> String {
    pod(name, "sleep 1d", &[("data", &of_claim(claim))])
}
