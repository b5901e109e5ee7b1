//! Certificates, keys and tokens of one cluster.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

use super::Failure;

/// What clients need to know of a cluster.
pub(crate) struct Pki {
    /// The certificate of the authority, DER.
    pub(super) ca_der: Vec<u8>,
    ca_file: PathBuf,
    /// By the name of the user.
    tokens: BTreeMap<String, String>,
}

impl Pki {
    /// Makes everything anew and writes what the servers read into the folder. The server has these names and addresses
    /// besides those of the machine itself; the other users, each with its group, have tokens too (see [`Self::token`]).
    pub(crate) fn make(
        folder: &Path,
        names: &[&str],
        users: &[(&str, &str)],
    ) -> Result<Self, Failure> {
        let key = KeyPair::generate()?;
        let mut ca = CertificateParams::new(Vec::new())?;
        ca.distinguished_name
            .push(DnType::CommonName, "anabranch-test-ca");
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        let certificate = ca.self_signed(&key)?;
        let issuer = Issuer::new(ca, key);

        let server_key = KeyPair::generate()?;
        let own = ["127.0.0.1", "localhost", "kubernetes.default.svc"];
        let names = own.iter().chain(names).map(|name| (*name).to_owned());
        let mut server = CertificateParams::new(names.collect::<Vec<_>>())?;
        server
            .distinguished_name
            .push(DnType::CommonName, "kube-apiserver");
        let server = server.signed_by(&server_key, &issuer)?;
        secret(folder, "apiserver.crt", &server.pem())?;
        secret(folder, "apiserver.key", &server_key.serialize_pem())?;

        let accounts = KeyPair::generate()?;
        secret(folder, "accounts.key", &accounts.serialize_pem())?;
        secret(folder, "accounts.pub", &accounts.public_key_pem())?;

        let ca_file = secret(folder, "ca.crt", &certificate.pem())?;
        let mut tokens = BTreeMap::new();
        let mut lines = String::new();
        for (user, group) in [("admin", "system:masters")].iter().chain(users) {
            // As hard to guess as a key: it is made from one.
            let token: String = KeyPair::generate()?
                .public_key_raw()
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect();
            lines.push_str(&format!("{token},{user},{user},\"{group}\"\n"));
            tokens.insert((*user).to_owned(), token);
        }
        secret(folder, "tokens.csv", &lines)?;
        Ok(Pki {
            ca_der: certificate.der().to_vec(),
            ca_file,
            tokens,
        })
    }

    /// The token of a user; empty for one that has none.
    pub(crate) fn token(&self, user: &str) -> &str {
        self.tokens.get(user).map_or("", String::as_str)
    }

    /// A kubeconfig of a user who has a token.
    pub(crate) fn kubeconfig_of(&self, server: &str, user: &str) -> String {
        self.config(server, self.token(user), "")
    }

    /// A kubeconfig of the administrator, speaking for a user where one is named.
    pub(super) fn kubeconfig(&self, server: &str, user: Option<&str>) -> String {
        let speaks_for = match user {
            Some(user) => format!(", as: {user:?}, as-groups: {:?}", groups(user)),
            None => String::new(),
        };
        self.config(server, self.token("admin"), &speaks_for)
    }

    fn config(&self, server: &str, token: &str, speaks_for: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: test\n\
             clusters: [{{name: test, cluster: {{server: {server:?}, certificate-authority: {:?}}}}}]\n\
             users: [{{name: admin, user: {{token: {token:?}{speaks_for}}}}}]\n\
             contexts: [{{name: test, context: {{cluster: test, user: admin}}}}]\n",
            self.ca_file.display().to_string(),
        )
    }
}

/// The groups that the API server gives a user by itself.
pub(super) fn groups(user: &str) -> Vec<String> {
    let account = user.starts_with("system:serviceaccount:");
    let groups = ["system:authenticated"]
        .into_iter()
        .chain(account.then_some("system:serviceaccounts"));
    groups.map(str::to_owned).collect()
}

fn secret(folder: &Path, name: &str, text: &str) -> Result<PathBuf, Failure> {
    let path = folder.join(name);
    fs::write(&path, text)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    Ok(path)
}
