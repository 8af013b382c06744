//! Debian's `docker-registry`, run by one test and filled by `skopeo`: the real programs, on a loopback port.

use std::{
    fs::{self, File, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::{Skip, image::ImageBuilder};

/// Who may read what is in a registry with passwords.
pub const USER: &str = "jane";
/// Her password.
pub const PASSWORD: &str = "correct:horse,battery";
/// Both for `htpasswd(1)`, by bcrypt with the smallest cost.
const HTPASSWD: &str = "jane:$2y$04$HZnxOQlUFZaVqtzPIWOMqOiKfLEfoI5GsClsbDT8HKP/Dp5fqoNOe\n";

const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";
const START_TIMEOUT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(10);

/// What a registry asks of its clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// [`USER`] and [`PASSWORD`].
    pub password: bool,
    /// TLS, and trust in [`DockerRegistry::authority`].
    pub tls: bool,
}

/// In which format an image is pushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// As the layout has it: OCI.
    Oci,
    /// Docker's manifest, version 2, schema 2.
    Docker,
}

/// A request that a registry has answered, from its access log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    /// Such as `GET`.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// The HTTP status.
    pub status: u16,
}

/// A running registry; dropping it ends it and deletes what it has.
#[derive(Debug)]
pub struct DockerRegistry {
    server: Child,
    directory: TempDir,
    access: Access,
    domain: String,
}

impl DockerRegistry {
    /// Starts an empty registry and waits until it listens.
    ///
    /// # Errors
    /// When the programs are not installed.
    ///
    /// # Panics
    /// When it does not start; its log is in the message.
    pub fn start(access: Access) -> Result<Self, Skip> {
        for program in ["docker-registry", "skopeo"] {
            let found = Command::new(program).arg("--version").output();
            found.map_err(|error| Skip::because(format!("{program} (scripts/setup): {error}")))?;
        }
        let directory = tempfile::Builder::new().prefix("usnea-registry-").tempdir_in("/tmp");
        let directory = directory.expect("make a directory in /tmp");
        // The daemon's user reads the certificate.
        fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).expect("chmod");
        let config = directory.path().join("config.json");
        write(&config, configuration(directory.path(), access).to_string().as_bytes());
        write(&directory.path().join("htpasswd"), HTPASSWD.as_bytes());
        if access.tls {
            write_certificates(directory.path());
        }
        let log = File::create(directory.path().join("log")).expect("create the log");
        let server = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .env_clear()
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("duplicate a descriptor"))
            .stderr(log)
            .spawn()
            .expect("start docker-registry");
        let mut registry = Self { server, directory, access, domain: String::new() };
        registry.domain = registry.wait_until_it_listens();
        Ok(registry)
    }

    /// The port is the kernel's choice, and the log names it.
    fn wait_until_it_listens(&mut self) -> String {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            let log = self.log();
            let address = log.split_once("listening on ").map(|(_, rest)| {
                rest.chars().take_while(|c| c.is_ascii_digit() || matches!(c, '.' | ':'))
            });
            if let Some(address) = address {
                return address.collect();
            }
            let ended = self.server.try_wait().expect("wait for docker-registry");
            assert!(ended.is_none() && Instant::now() < deadline, "docker-registry: {log}");
            sleep(POLL);
        }
    }

    /// Host and port, as references begin: `127.0.0.1:34567`.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The URL for `mirrors`.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.access.tls { "https" } else { "http" };
        format!("{scheme}://{}", self.domain)
    }

    /// The reference of what is called `name` here, such as `app:1`.
    #[must_use]
    pub fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.domain)
    }

    /// The certificate, in PEM, of the authority that this registry's is from.
    #[must_use]
    pub fn authority(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// Everything that it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// The requests of everybody but skopeo that were answered so far, in the order of their end.
    #[must_use]
    pub fn answered(&self) -> Vec<Answered> {
        let log = self.log();
        log.lines().filter(|line| !line.contains("skopeo")).filter_map(parse_answered).collect()
    }

    /// How many requests for blobs were answered with success so far.
    #[must_use]
    pub fn blobs_sent(&self) -> usize {
        let is_blob = |answered: &&Answered| {
            answered.method == "GET" && answered.path.contains("/blobs/") && answered.status < 300
        };
        self.answered().iter().filter(is_blob).count()
    }

    /// Pushes an image as `name`, such as `app:1`, and returns its id.
    pub fn push(&self, image: &ImageBuilder, name: &str) -> String {
        self.push_as(Format::Oci, image, name)
    }

    /// Pushes an image as `name` in a format, and returns its id.
    pub fn push_as(&self, format: Format, image: &ImageBuilder, name: &str) -> String {
        let layout = tempfile::tempdir().expect("temporary directory");
        let id = image.write_layout(layout.path(), name);
        self.copy(&layout_name(layout.path()), format, name);
        id
    }

    /// Pushes an index of images, each with its `platform` as OCI has it, and returns their ids.
    pub fn push_index(
        &self,
        format: Format,
        images: &[(Value, &ImageBuilder)],
        name: &str,
    ) -> Vec<String> {
        let layout = tempfile::tempdir().expect("temporary directory");
        let mut ids = Vec::new();
        let mut manifests = Vec::new();
        for (platform, image) in images {
            ids.push(image.write_layout(layout.path(), name));
            let mut manifest = read_index(layout.path())["manifests"][0].take();
            manifest["platform"] = platform.clone();
            manifests.push(manifest);
        }
        write_index_of_index(layout.path(), &manifests);
        self.copy(&layout_name(layout.path()), format, name);
        ids
    }

    /// Gives what is called `from` another name, too.
    pub fn tag(&self, from: &str, to: &str) {
        self.copy(&format!("docker://{}", self.reference(from)), Format::Oci, to);
    }

    /// The digest of the manifest or index that is called `name`, such as `app:1`.
    #[must_use]
    pub fn digest(&self, name: &str) -> String {
        let (repository, tag) = name.rsplit_once(':').expect("a tag");
        let link = format!(
            "storage/docker/registry/v2/repositories/{repository}/_manifests/tags/{tag}/current/link"
        );
        let path = self.directory.path().join(link);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name} was not pushed: {error}"))
    }

    /// The manifest or index that is called `name`, such as `app:1`.
    #[must_use]
    pub fn manifest(&self, name: &str) -> Value {
        let text = fs::read(self.blob(&self.digest(name))).expect("a manifest");
        serde_json::from_slice(&text).expect("JSON")
    }

    /// The file that has the blob of this digest. It is sent as it is: only clients compare it with the digest.
    #[must_use]
    pub fn blob(&self, digest: &str) -> PathBuf {
        let hex = digest.strip_prefix("sha256:").expect("a digest");
        let begin = hex.get(..2).expect("a digest");
        let path = format!("storage/docker/registry/v2/blobs/sha256/{begin}/{hex}/data");
        self.directory.path().join(path)
    }

    fn copy(&self, source: &str, format: Format, name: &str) {
        let mut command = Command::new("skopeo");
        command.args(["--insecure-policy", "copy", "--all", "--quiet"]);
        command.args(["--src-tls-verify=false", "--dest-tls-verify=false"]);
        if format == Format::Docker {
            command.args(["--format", "v2s2"]);
        }
        if self.access.password {
            let credentials = format!("{USER}:{PASSWORD}");
            if source.starts_with("docker:") {
                command.args(["--src-creds", &credentials]);
            }
            command.args(["--dest-creds", &credentials]);
        }
        command.args([source, &format!("docker://{}", self.reference(name))]);
        let output = command.stdin(Stdio::null()).output().expect("run skopeo");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command:?}: {stderr}\n{}", self.log());
    }
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        // It keeps nothing that has to be saved.
        let killed = self.server.kill().and_then(|()| self.server.wait());
        if let Err(error) = killed {
            panic!("end docker-registry: {error}");
        }
    }
}

/// JSON is YAML, too.
///
/// Source: configuration.md of docker-registry.
fn configuration(directory: &Path, access: Access) -> Value {
    let mut config = json!({
        "version": 0.1,
        "log": { "level": "info" },
        "storage": { "filesystem": { "rootdirectory": directory.join("storage") } },
        "http": { "addr": "127.0.0.1:0", "secret": "of no use to anybody" },
    });
    if access.tls {
        config["http"]["tls"] = json!({
            "certificate": directory.join("cert.pem"), "key": directory.join("key.pem"),
        });
    }
    if access.password {
        let file = directory.join("htpasswd");
        config["auth"] = json!({ "htpasswd": { "realm": "usnea-test", "path": file } });
    }
    config
}

/// An authority's certificate, and one from it for this machine's loopback names.
fn write_certificates(directory: &Path) {
    let mut authority = CertificateParams::new(Vec::new()).expect("no names");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_key = KeyPair::generate().expect("a key");
    let certificate = authority.self_signed(&authority_key).expect("sign");
    write(&directory.join("ca.pem"), certificate.pem().as_bytes());
    let names = ["127.0.0.1", "localhost"].map(str::to_owned);
    let server = CertificateParams::new(names).expect("names");
    let key = KeyPair::generate().expect("a key");
    let issuer = Issuer::new(authority, authority_key);
    let certificate = server.signed_by(&key, &issuer).expect("sign");
    write(&directory.join("cert.pem"), certificate.pem().as_bytes());
    write(&directory.join("key.pem"), key.serialize_pem().as_bytes());
}

fn layout_name(layout: &Path) -> String {
    format!("oci:{}", layout.display())
}

fn read_index(layout: &Path) -> Value {
    let text = fs::read(layout.join("index.json")).expect("an index");
    serde_json::from_slice(&text).expect("JSON")
}

/// Makes the layout hold one thing: an index of `manifests`.
fn write_index_of_index(layout: &Path, manifests: &[Value]) {
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": manifests });
    let index = index.to_string();
    let hash = Sha256::digest(index.as_bytes());
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    write(&layout.join("blobs/sha256").join(&hex), index.as_bytes());
    let descriptor = json!({
        "mediaType": INDEX_TYPE, "digest": format!("sha256:{hex}"), "size": index.len(),
    });
    let outer = json!({ "schemaVersion": 2, "manifests": [descriptor] });
    write(&layout.join("index.json"), outer.to_string().as_bytes());
}

/// `127.0.0.1 - - [time] "GET /v2/ HTTP/1.1" 200 2 "" "agent"`
fn parse_answered(line: &str) -> Option<Answered> {
    let mut quoted = line.split('"').skip(1);
    let mut request = quoted.next()?.strip_suffix(" HTTP/1.1")?.split(' ');
    let (method, path) = (request.next()?.to_owned(), request.next()?.to_owned());
    let status = quoted.next()?.split_whitespace().next()?.parse().ok()?;
    Some(Answered { method, path, status })
}

fn write(path: &Path, content: &[u8]) {
    fs::write(path, content).unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_access_log_is_understood() {
        let line = r#"127.0.0.1 - - [24/Nov/2026:10:09:21 +0000] "GET /v2/a/blobs/x?ns=y HTTP/1.1" 206 7 "" "usnea/0.1""#;
        let expected = Answered {
            method: "GET".to_owned(),
            path: "/v2/a/blobs/x?ns=y".to_owned(),
            status: 206,
        };
        assert_eq!(parse_answered(line), Some(expected));
        let other = r#"time="2026" level=info msg="response completed" http.request.method=GET"#;
        assert_eq!(parse_answered(other), None);
    }
}
