//! One namespace of a node's cluster, and what a test does in it.

use super::{Node, eventually};
use crate::cluster::Failure;

/// A namespace.
pub struct Space<'a> {
    node: &'a Node,
    name: String,
}

/// Longest wait of one `kubectl wait`.
const WAIT: &str = "--timeout=120s";

impl<'a> Space<'a> {
    /// Makes the namespace.
    ///
    /// # Errors
    /// When it is there already, or the API server refuses.
    pub fn make(node: &'a Node, name: &str) -> Result<Self, Failure> {
        node.kubectl(&["create", "namespace", name])?;
        // Pods need the account that a controller makes.
        eventually("the account of pods", || {
            node.kubectl(&["-n", name, "get", "serviceaccount", "default"])
        })?;
        Ok(Space {
            node,
            name: name.to_owned(),
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `kubectl` in it.
    ///
    /// # Errors
    /// When it fails, with what it said.
    pub fn kubectl(&self, args: &[&str]) -> Result<String, Failure> {
        self.node.kubectl(&[&["-n", &self.name], args].concat())
    }

    /// Applies manifests to it.
    ///
    /// # Errors
    /// When `kubectl` fails, with what it said.
    pub fn apply(&self, manifests: &str) -> Result<String, Failure> {
        self.node.apply_with(&["-n", &self.name], manifests)
    }

    /// Applies a file of the folder `examples`, as it stands but for what is replaced in it.
    ///
    /// # Errors
    /// When it cannot be read, has nothing of what is to be replaced, or `kubectl` fails.
    pub fn example(&self, file: &str, replace: &[(&str, &str)]) -> Result<String, Failure> {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../examples")
            .join(file);
        let mut text = std::fs::read_to_string(&path)?;
        for (from, to) in replace {
            if !text.contains(from) {
                return Err(format!("{file} has no {from:?}").into());
            }
            text = text.replace(from, to);
        }
        self.apply(&text)
    }

    /// Waits until the objects, such as `pod/a`, say that this condition holds.
    ///
    /// # Errors
    /// When one does not in time, with what is said of it.
    pub fn wait(&self, condition: &str, objects: &[&str]) -> Result<(), Failure> {
        let condition = format!("--for={condition}");
        let failed = match self.kubectl(&[&["wait", &condition, WAIT], objects].concat()) {
            Ok(_) => return Ok(()),
            Err(failure) => failure,
        };
        let said = self
            .kubectl(&[&["describe"], objects].concat())
            .unwrap_or_default();
        Err(format!("{failed}\n{said}").into())
    }

    /// Waits until the objects are ready.
    ///
    /// # Errors
    /// When one is not in time.
    pub fn ready(&self, objects: &[&str]) -> Result<(), Failure> {
        self.wait("condition=Ready", objects)
    }

    /// Deletes objects and waits until they are gone.
    ///
    /// # Errors
    /// When one is not in time.
    pub fn delete(&self, objects: &[&str]) -> Result<(), Failure> {
        self.kubectl(&[&["delete", "--grace-period=1", WAIT], objects].concat())?;
        Ok(())
    }

    /// Runs a shell command in a pod and gives what it prints, without the last line end.
    ///
    /// # Errors
    /// When it fails, with what it said.
    pub fn sh(&self, pod: &str, script: &str) -> Result<String, Failure> {
        let text = self.kubectl(&["exec", pod, "--", "sh", "-c", script])?;
        Ok(text.trim_end().to_owned())
    }

    /// One field of an object, by its JSON path.
    ///
    /// # Errors
    /// When there is no such object.
    pub fn field(&self, object: &str, path: &str) -> Result<String, Failure> {
        self.kubectl(&["get", object, "-o", &format!("jsonpath={{{path}}}")])
    }

    /// Names of all objects of a kind.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub fn names(&self, kind: &str) -> Result<Vec<String>, Failure> {
        let text = self.kubectl(&["get", kind, "-o", "jsonpath={.items[*].metadata.name}"])?;
        Ok(text.split_whitespace().map(str::to_owned).collect())
    }

    /// Ends the pods, whose programs know no signal, without their time of grace, and then the namespace.
    ///
    /// # Errors
    /// When it is not gone in time, with what is left.
    pub fn end_quickly(self) -> Result<(), Failure> {
        self.kubectl(&[
            "delete",
            "pods",
            "--all",
            "--grace-period=1",
            "--wait=false",
        ])?;
        self.end()
    }

    /// Deletes the namespace and waits until it is gone, with everything in it.
    ///
    /// # Errors
    /// When it is not in time, with what is left.
    pub fn end(self) -> Result<(), Failure> {
        let Err(failure) = self
            .node
            .kubectl(&["delete", "namespace", &self.name, WAIT])
        else {
            return Ok(());
        };
        let left = self.kubectl(&["get", "pods,pvc,anabranch", "-o", "yaml"]);
        Err(format!("{failure}\nleft: {}", left.unwrap_or_default()).into())
    }
}
