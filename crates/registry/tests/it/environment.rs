//! What depends on the environment, in a process of its own: proxies, helpers, and with a proxy that knows them the
//! flows of public registries.

use std::env;
use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use testkit::registry::{Authority, ConnectProxy, Fault, Issue};

use super::*;

const REFERENCE: &str = "TEST_REFERENCE";
const CA_FILE: &str = "TEST_CA_FILE";
const LOGIN: &str = "TEST_LOGIN";
const CREDENTIALS_FILE: &str = "TEST_CREDENTIALS_FILE";
/// What the process prints before the reason when it fails.
const FAILED: &str = "FAILED: ";

/// Not a test of its own: others run it to fetch a whole image in another environment.
#[tokio::test]
#[ignore = "run by other tests"]
async fn fetch_whole_image() {
    let reference: Reference = env::var(REFERENCE).unwrap().parse().unwrap();
    let ca_files: Vec<PathBuf> = env::var_os(CA_FILE).map(PathBuf::from).into_iter().collect();
    let settings = RegistrySettings { ca_files, ..Default::default() };
    let registries = [(reference.domain().to_owned(), settings)].into();
    let credential_files = env::var_os(CREDENTIALS_FILE).map(PathBuf::from).into_iter().collect();
    let config = ClientConfig { registries, credential_files, ..config() };
    let login = env::var_os(LOGIN).map(|_| jane());
    let repository = Client::new(config).unwrap().repository(&reference, login);
    if let Err(error) = fetch_all(&repository, reference.selector()).await {
        panic!("{FAILED}{}", chain(&error));
    }
}

async fn fetch_all(repository: &Repository, selector: &Selector) -> Result<(), RegistryError> {
    let fetched = repository.manifest(selector).await?;
    let manifest: serde_json::Value = serde_json::from_slice(&fetched.bytes).unwrap();
    let blob = |json: &serde_json::Value| {
        let digest: Digest = json["digest"].as_str().unwrap().parse().unwrap();
        (digest, json["size"].as_u64().unwrap())
    };
    let (digest, bytes) = blob(&manifest["config"]);
    repository.document(&digest, bytes).await?;
    for (digest, bytes) in manifest["layers"].as_array().unwrap().iter().map(blob) {
        assert_eq!(Digest::of(&read(repository, &digest, bytes).await?), digest);
    }
    Ok(())
}

/// Fetches an image in a process with these variables and no others of ours; or says why not.
fn fetch_in(reference: &str, variables: &[(&str, &OsStr)]) -> Result<(), String> {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", "environment::fetch_whole_image", "--ignored"]);
    for name in ["https_proxy", "http_proxy", "all_proxy", "no_proxy"] {
        command.env_remove(name).env_remove(name.to_uppercase());
    }
    let output = command.env(REFERENCE, reference).envs(variables.iter().copied()).output();
    let output = output.unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    match (output.status.success(), text.split_once(FAILED)) {
        (true, _) if text.contains("1 passed") => Ok(()),
        (false, Some((_, reason))) => Err(reason.lines().next().unwrap_or_default().to_owned()),
        _ => panic!("{text}"),
    }
}

/// The internet of one test: servers with names, behind a proxy that has their certificates' authority beside it.
struct Internet {
    authority: Authority,
    directory: tempfile::TempDir,
}

impl Internet {
    fn new() -> Self {
        let (authority, directory) = (Authority::new(), tempfile::tempdir().unwrap());
        authority.write(&directory.path().join("ca.pem"));
        Self { authority, directory }
    }

    fn server(&self, name: &str) -> FakeRegistry {
        FakeRegistry::start_tls(&self.authority, &[name])
    }

    /// Fetches an image by a proxy to these servers; returns whom the proxy was asked for, too.
    fn fetch(
        &self,
        reference: &str,
        routes: &[(&str, SocketAddr)],
        more: &[(&str, &OsStr)],
    ) -> (Result<(), String>, Vec<String>) {
        let proxy = ConnectProxy::start(routes.iter().copied());
        let (url, ca_file) = (proxy.url(), self.directory.path().join("ca.pem"));
        let mut variables = vec![("HTTPS_PROXY", OsStr::new(&url)), (CA_FILE, ca_file.as_os_str())];
        variables.extend(more);
        (fetch_in(reference, &variables), proxy.asked())
    }
}

/// Leads requests for all blobs of an image elsewhere, as content delivery networks have it.
fn lead_blobs(from: &FakeRegistry, image: &Pushed, to: &str) {
    let layers = image.layers.iter().map(|layer| &layer.digest);
    for digest in layers.chain([&image.id]) {
        let target = format!("{to}/{digest}?Expires=1&Signature={SECRET}~%2B");
        from.always_fail(&format!("/blobs/{digest}"), Fault::Redirect(target));
    }
}

fn app_image() -> ImageBuilder {
    ImageBuilder::empty().layer(Layer::default().file("a", 0o644, &bytes(50_000)))
}

#[test]
fn docker_hub_gives_tokens_and_leads_to_its_delivery_network() {
    for login in [false, true] {
        let internet = Internet::new();
        let hub = internet.server("registry-1.docker.io");
        let tokens = internet.server("auth.docker.io");
        let delivery = internet.server("production.cloudflare.docker.com");
        let image = hub.push(&app_image(), "library/app:latest");
        delivery.push(&app_image(), "library/app:latest");
        lead_blobs(&hub, &image, "https://production.cloudflare.docker.com/v2/registry-v2/blobs");
        hub.require(Access::Bearer {
            realm: "https://auth.docker.io/token".to_owned(),
            service: "registry.docker.io".to_owned(),
            token: "hub-token".to_owned(),
        });
        let user = login.then(jane_secret);
        let expires_in = Some(300);
        tokens.issue(Issue { user, expires_in, ..Issue::to_anybody("hub-token") });
        let routes = [
            ("registry-1.docker.io", hub.address()),
            ("auth.docker.io", tokens.address()),
            ("production.cloudflare.docker.com", delivery.address()),
        ];
        let variables = [(LOGIN, OsStr::new("jane"))];
        let (result, asked) = internet.fetch("app", &routes, if login { &variables } else { &[] });
        assert_eq!(result, Ok(()));
        assert!(asked.contains(&"registry-1.docker.io:443".to_owned()), "{asked:?}");
        let [request] = &tokens.requests()[..] else {
            panic!("one token: {:?}", tokens.requests())
        };
        let expected = "/token?service=registry.docker.io&scope=repository%3Alibrary%2Fapp%3Apull";
        assert_eq!((request.method.as_str(), request.path.as_str()), ("GET", expected));
        assert_eq!(request.header("authorization").is_some(), login);
        let token = Some("Bearer hub-token".to_owned());
        assert_eq!(authorizations(&hub), [None, token.clone(), token.clone(), token]);
        assert_eq!(delivery.requests().len(), 2);
        assert!(got_no_authorization(&delivery));
    }
}

#[test]
fn registry_k8s_io_leads_to_buckets() {
    let internet = Internet::new();
    let front = internet.server("registry.k8s.io");
    let backend = internet.server("us-west1-docker.pkg.dev");
    let bucket = internet.server("prod-registry.s3.amazonaws.com");
    let image = backend.push(&app_image(), "k8s-artifacts-prod/images/app:1");
    let manifest = "https://us-west1-docker.pkg.dev/v2/k8s-artifacts-prod/images/app/manifests/1";
    front.always_fail("/manifests/1", Fault::Redirect(manifest.to_owned()));
    lead_blobs(&front, &image, "https://prod-registry.s3.amazonaws.com/v2/x/blobs");
    // A bucket has no use for an authorization, and refuses one.
    bucket.push(&app_image(), "x:1");
    let routes = [
        ("registry.k8s.io", front.address()),
        ("us-west1-docker.pkg.dev", backend.address()),
        ("prod-registry.s3.amazonaws.com", bucket.address()),
    ];
    // Credentials that somebody has for it are of no use and go nowhere.
    let login = [(LOGIN, OsStr::new("jane"))];
    let (result, _) = internet.fetch("registry.k8s.io/app:1", &routes, &login);
    assert_eq!(result, Ok(()));
    assert_eq!([&front, &backend, &bucket].map(|one| one.requests().len()), [3, 1, 2]);
    assert!([&front, &backend, &bucket].into_iter().all(got_no_authorization));
}

#[test]
fn nobody_elsewhere_leads_to_this_machine() {
    let inside = FakeRegistry::start();
    let port = inside.address().port();
    for target in ["127.0.0.1", "localhost", "[::1]", "0.0.0.0", "169.254.169.254"] {
        let internet = Internet::new();
        let registry = internet.server("registry.example");
        registry.push(&app_image(), "app:1");
        let routes = [("registry.example", registry.address())];
        let url = format!("https://{target}:{port}/v2/app/manifests/1");
        registry.fail("/manifests/", [Fault::Redirect(url.clone())]);
        let (result, asked) = internet.fetch("registry.example/app:1", &routes, &[]);
        let reason = result.unwrap_err();
        assert!(reason.contains(target) && reason.contains("is refused"), "{target}: {reason}");
        assert_eq!(asked, ["registry.example:443"]);
        registry.require(bearer_access(&url, "t"));
        let (result, _) = internet.fetch("registry.example/app:1", &routes, &[]);
        let reason = result.unwrap_err();
        assert!(reason.contains(target) && reason.contains("is refused"), "{target}: {reason}");
    }
    assert_eq!((inside.requests(), inside.connections()), (Vec::new(), 0));
}

#[test]
fn no_proxy_is_asked_for_a_loopback_registry() {
    let registry = FakeRegistry::start();
    registry.push(&app_image(), "app:1");
    let proxy = ConnectProxy::start([]);
    let url = proxy.url();
    let names = ["HTTPS_PROXY", "https_proxy", "http_proxy", "ALL_PROXY"];
    let variables = names.map(|name| (name, OsStr::new(&url)));
    assert_eq!(fetch_in(&registry.reference("app:1"), &variables), Ok(()));
    assert_eq!(proxy.asked(), [""; 0]);
}

/// A directory with a program `docker-credential-NAME` for each name and script.
fn helpers(scripts: &[(&str, String)]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (name, script) in scripts {
        let file = directory.path().join(format!("docker-credential-{name}"));
        fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o755)).unwrap();
    }
    directory
}

/// Fetches an image with helpers and a file with credentials.
fn fetch_helped(registry: &FakeRegistry, helpers: &Path, content: &str) -> Result<(), String> {
    let file = helpers.join("config.json");
    fs::write(&file, content).unwrap();
    let path = format!("{}:{}", helpers.display(), env::var("PATH").unwrap());
    let variables = [("PATH", OsStr::new(&path)), (CREDENTIALS_FILE, file.as_os_str())];
    fetch_in(&registry.reference("app:1"), &variables)
}

#[test]
fn helpers_know_passwords_and_identity_tokens() {
    let (registry, tokens) = (FakeRegistry::start(), FakeRegistry::start());
    registry.push(&app_image(), "app:1");
    tokens.issue(Issue { refresh_token: Some(SECRET.to_owned()), ..Issue::to_anybody("t") });
    let domain = registry.domain();
    let answer = |user: &str| {
        format!(
            "test \"$1\" = get && test \"$(cat)\" = {domain} && \
             echo '{{\"ServerURL\":\"\",\"Username\":\"{user}\",\"Secret\":\"{SECRET}\"}}'"
        )
    };
    let helpers = helpers(&[("user", answer("jane")), ("token", answer("<token>"))]);
    for (access, helper) in
        [(basic_access(), "user"), (bearer_access(&tokens.realm(), "t"), "token")]
    {
        registry.require(access);
        for content in [
            format!(r#"{{"credHelpers": {{"{domain}": "{helper}"}}, "credsStore": "absent"}}"#),
            format!(r#"{{"credHelpers": {{"https://{domain}/v1/": "{helper}"}}}}"#),
            format!(r#"{{"credsStore": "{helper}", "auths": {{"{domain}": {{}}}}}}"#),
        ] {
            assert_eq!(fetch_helped(&registry, helpers.path(), &content), Ok(()), "{content}");
        }
    }
}

#[test]
fn helpers_that_do_not_work() {
    let registry = FakeRegistry::start();
    registry.push(&app_image(), "app:1");
    registry.require(basic_access());
    let nothing = "echo credentials not found in native keychain; exit 1".to_owned();
    let helpers = helpers(&[
        ("nothing", nothing),
        ("fails", format!("echo {SECRET}; exit 3")),
        ("garbage", format!("echo {SECRET}")),
        ("endless", "exec yes".to_owned()),
    ]);
    for (helper, reason) in [
        ("nothing", "needs credentials"),
        ("fails", "needs credentials"),
        ("absent", "needs credentials"),
        ("garbage", "docker-credential-garbage: answers no JSON"),
        ("endless", "docker-credential-endless: answers more than 65536 bytes"),
        ("../evil", "is no name of a program"),
        ("a b", "is no name of a program"),
        ("", "is no name of a program"),
    ] {
        let content = format!(r#"{{"credHelpers": {{"{}": "{helper}"}}}}"#, registry.domain());
        let result = fetch_helped(&registry, helpers.path(), &content);
        let said = result.unwrap_err();
        assert!(said.contains(reason), "{helper:?}: {said}");
    }
    assert!(got_no_authorization(&registry));
    // Anonymous is enough where it is.
    registry.require(Access::Anonymous);
    let content = r#"{"credsStore": "absent"}"#;
    assert_eq!(fetch_helped(&registry, helpers.path(), content), Ok(()));
}
