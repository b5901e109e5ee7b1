//! Certificates, keys and tokens of one cluster.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

use super::Failure;

/// What clients need to know of a cluster.
pub(super) struct Pki {
    /// The certificate of the authority, DER.
    pub(super) ca_der: Vec<u8>,
    ca_file: PathBuf,
    /// Token of the administrator.
    pub(super) admin_token: String,
}

impl Pki {
    /// Makes everything anew and writes what the servers read into the folder.
    pub(super) fn make(folder: &Path) -> Result<Self, Failure> {
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
        let names = ["127.0.0.1", "localhost", "kubernetes.default.svc"].map(str::to_owned);
        let mut server = CertificateParams::new(names.to_vec())?;
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
        // As hard to guess as a key: it is made from one.
        let admin_token: String = KeyPair::generate()?
            .public_key_raw()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        secret(
            folder,
            "tokens.csv",
            &format!("{admin_token},admin,admin,\"system:masters\"\n"),
        )?;
        Ok(Pki {
            ca_der: certificate.der().to_vec(),
            ca_file,
            admin_token,
        })
    }

    /// A kubeconfig of the administrator, speaking for a user where one is named.
    pub(super) fn kubeconfig(&self, server: &str, user: Option<&str>) -> String {
        let speaks_for = match user {
            Some(user) => format!(", as: {user:?}, as-groups: {:?}", groups(user)),
            None => String::new(),
        };
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: test\n\
             clusters: [{{name: test, cluster: {{server: {server:?}, certificate-authority: {:?}}}}}]\n\
             users: [{{name: admin, user: {{token: {:?}{speaks_for}}}}}]\n\
             contexts: [{{name: test, context: {{cluster: test, user: admin}}}}]\n",
            self.ca_file.display().to_string(),
            self.admin_token,
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
