//! Schemes and certificates.

use registry::ErrorKind;
use testkit::registry::{Authority, Fault};

use super::*;

/// Settings that trust an authority, while the directory exists.
fn trusting(authority: &Authority) -> (tempfile::TempDir, RegistrySettings) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ca.pem");
    authority.write(&file);
    (directory, RegistrySettings { ca_files: vec![file], ..Default::default() })
}

#[tokio::test]
async fn a_registry_is_trusted_by_the_authority_that_is_set_for_it() {
    let authority = Authority::new();
    let registry = FakeRegistry::start_tls(&authority, &["127.0.0.1"]);
    push(&registry);
    let (_directory, settings) = trusting(&authority);
    fetch(&client_with(&registry, settings).repository(&app(&registry), None)).await.unwrap();
    assert_eq!(registry.offered_protocols(), ["h2", "http/1.1"]);
}

#[tokio::test]
async fn no_other_certificate_is_accepted_and_none_is_a_reason_for_http() {
    let (authority, other) = (Authority::new(), Authority::new());
    let (_directory, right) = trusting(&authority);
    let (_other_directory, wrong) = trusting(&other);
    for (name, settings) in [
        ("127.0.0.1", wrong),
        ("127.0.0.1", RegistrySettings::default()),
        ("127.0.0.2", right.clone()),
        ("localhost", right),
    ] {
        let registry = FakeRegistry::start_tls(&authority, &[name]);
        push(&registry);
        let client = client_with(&registry, settings);
        let error = fetch(&client.repository(&app(&registry), Some(jane()))).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
        let text = chain(&error);
        assert!(text.contains("ca_files") && text.contains("certificate"), "{text}");
        assert_eq!(registry.requests(), []);
        assert_eq!(registry.offered_protocols().len(), 2, "it is not tried again");
    }
}

#[tokio::test]
async fn files_without_certificates_are_refused_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ca.pem");
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for content in [None, Some(""), Some("text"), Some(broken)] {
        if let Some(content) = content {
            std::fs::write(&file, content).unwrap();
        }
        let settings = RegistrySettings { ca_files: vec![file.clone()], ..Default::default() };
        let registries = [("a.io".to_owned(), settings)].into();
        let error = Client::new(ClientConfig { registries, ..config() }).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(chain(&error).contains("ca.pem"), "{error}");
    }
}

#[tokio::test]
async fn a_loopback_registry_is_asked_by_https_first_and_then_as_it_turned_out() {
    let registry = FakeRegistry::start();
    push(&registry);
    let client = client();
    for _ in 0..2 {
        fetch(&client.repository(&app(&registry), None)).await.unwrap();
    }
    assert_eq!((registry.connections(), registry.handshakes()), (1, 1));
    // What expects TLS by now answers plain requests like this.
    registry.fail("/manifests/", [Fault::Status(400)]);
    fetch(&client.repository(&app(&registry), None)).await.unwrap_err();
    assert_eq!(registry.handshakes(), 1);
    fetch(&client.repository(&app(&registry), None)).await.unwrap();
    assert_eq!(registry.handshakes(), 2, "it is tried again");
}

#[tokio::test]
async fn a_token_server_that_is_not_there_is_no_reason_for_http() {
    let authority = Authority::new();
    let registry = FakeRegistry::start_tls(&authority, &["127.0.0.1"]);
    push(&registry);
    let gone = FakeRegistry::start().domain();
    registry.require(bearer_access(&format!("https://{gone}/token"), "t"));
    let (_directory, settings) = trusting(&authority);
    let error = fetch(&client_with(&registry, settings).repository(&app(&registry), None)).await;
    let error = error.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(chain(&error).contains(&gone), "{error:?}");
}

#[tokio::test]
async fn http_is_spoken_without_trying_where_it_is_set() {
    let registry = FakeRegistry::start();
    push(&registry);
    let settings = RegistrySettings { plain_http: true, ..Default::default() };
    fetch(&client_with(&registry, settings).repository(&app(&registry), None)).await.unwrap();
    let authority = Authority::new();
    let encrypted = FakeRegistry::start_tls(&authority, &["127.0.0.1"]);
    let settings = RegistrySettings { plain_http: true, ..Default::default() };
    let client = client_with(&encrypted, settings);
    let error = fetch(&client.repository(&app(&encrypted), None)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
}
