//! Where a registry may lead a request, and what goes along.

use registry::ErrorKind;
use testkit::registry::{Authority, Fault};

use super::*;

fn blob_path(digest: &Digest) -> String {
    format!("/v2/app/blobs/{digest}")
}

/// A registry with a password, and a blob that it has elsewhere.
fn led_to(elsewhere: &FakeRegistry) -> (FakeRegistry, Digest, u64) {
    let registry = FakeRegistry::start();
    registry.require(basic_access());
    let (digest, size, _) = add_blob(elsewhere, 100_000);
    let target = elsewhere.url(&format!("{}?Signature={SECRET}", blob_path(&digest)));
    registry.always_fail("/blobs/", Fault::Redirect(target));
    (registry, digest, size)
}

#[tokio::test]
async fn no_other_host_or_port_gets_the_password() {
    for elsewhere in [FakeRegistry::start(), FakeRegistry::start_on("127.0.0.2")] {
        let (registry, digest, size) = led_to(&elsewhere);
        let repository = client().repository(&app(&registry), Some(jane()));
        read(&repository, &digest, size).await.unwrap();
        assert!(authorizations(&registry)[1].is_some());
        assert!(elsewhere.requests().len() == 1 && got_no_authorization(&elsewhere));
        // Not even when it asks.
        elsewhere.require(basic_access());
        let error = read(&repository, &digest, size).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied);
        assert!(elsewhere.requests().len() == 2 && got_no_authorization(&elsewhere));
        assert!(chain(&error).contains(&elsewhere.domain()), "{error}");
    }
}

#[tokio::test]
async fn no_other_host_gets_a_token() {
    let elsewhere = FakeRegistry::start_on("127.0.0.2");
    let (registry, digest, size) = led_to(&elsewhere);
    registry.require(bearer_access(&registry.realm(), SECRET));
    let token = Credentials::RegistryToken(SECRET.to_owned());
    read(&client().repository(&app(&registry), Some(token)), &digest, size).await.unwrap();
    assert!(got_no_authorization(&elsewhere));
}

#[tokio::test]
async fn whoever_is_led_back_is_a_stranger() {
    let elsewhere = FakeRegistry::start_on("127.0.0.2");
    let (registry, digest, size) = led_to(&elsewhere);
    let chosen = registry.url("/v2/private/blobs/chosen-elsewhere");
    elsewhere.always_fail("/blobs/", Fault::Redirect(chosen));
    let repository = client().repository(&app(&registry), Some(jane()));
    let error = read(&repository, &digest, size).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    let requests = registry.requests();
    let led: Vec<_> = requests.iter().filter(|one| one.path.contains("private")).collect();
    assert!(!led.is_empty(), "{requests:?}");
    assert!(led.iter().all(|request| request.header("authorization").is_none()), "{led:?}");
}

#[tokio::test]
async fn a_transfer_is_resumed_from_the_beginning_of_the_way() {
    let elsewhere = FakeRegistry::start_on("127.0.0.2");
    let (registry, digest, size) = led_to(&elsewhere);
    elsewhere.fail("/blobs/", [Fault::Truncated(50_000)]);
    let repository = client().repository(&app(&registry), Some(jane()));
    assert_eq!(read(&repository, &digest, size).await.unwrap().len(), 100_000);
    // A signed URL may be too old by then.
    assert_eq!((registry.requests().len(), elsewhere.requests().len()), (3, 2));
    assert_eq!(elsewhere.requests()[1].header("range"), Some("bytes=50000-"));
}

#[tokio::test]
async fn circles_and_long_ways_are_not_followed() {
    let registry = FakeRegistry::start();
    let (digest, size, _) = add_blob(&registry, 10);
    registry.always_fail("/blobs/", Fault::Redirect(blob_path(&digest)));
    let error = read(&repository(&registry), &digest, size).await.unwrap_err();
    assert!(chain(&error).contains("circle"), "{error}");
    assert_eq!((error.kind(), registry.requests().len()), (ErrorKind::Invalid, 1));
    for (hops, requests) in [(5, 6), (6, 6)] {
        let registry = FakeRegistry::start();
        let (digest, size, content) = add_blob(&registry, 10);
        registry.always_fail("/blobs/", Fault::Redirect("/hop-1".to_owned()));
        for hop in 1..hops {
            let next = Fault::Redirect(format!("/hop-{}", hop + 1));
            registry.always_fail(&format!("/hop-{hop}"), next);
        }
        registry.always_fail(&format!("/hop-{hops}"), Fault::Answer(200, Vec::new(), content));
        let result = read(&repository(&registry), &digest, size).await;
        assert_eq!((result.is_ok(), registry.requests().len()), (hops == 5, requests));
    }
}

#[tokio::test]
async fn metadata_services_are_out_of_reach() {
    for target in [
        "http://169.254.169.254/latest/meta-data",
        "http://[fe80::1]/",
        "http://[::ffff:169.254.169.254]/",
        "//169.254.1.1/",
        "file:///etc/passwd",
        "gopher://127.0.0.1/",
    ] {
        let registry = FakeRegistry::start();
        push(&registry);
        registry.always_fail("/manifests/", Fault::Redirect(target.to_owned()));
        let error = fetch(&repository(&registry)).await.unwrap_err();
        assert!(matches!(error, RegistryError::Redirect { .. }), "{target}: {error:?}");
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }
}

#[tokio::test]
async fn nothing_leads_from_https_to_http() {
    let authority = Authority::new();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ca.pem");
    authority.write(&file);
    let registry = FakeRegistry::start_tls(&authority, &["127.0.0.1"]);
    push(&registry);
    let plain = FakeRegistry::start();
    push(&plain);
    let settings = RegistrySettings {
        ca_files: vec![file],
        auth_hosts: vec!["127.0.0.1".to_owned()],
        ..Default::default()
    };
    let client = client_with(&registry, settings);
    registry.fail("/manifests/", [Fault::Redirect(plain.url("/v2/app/manifests/1"))]);
    let error = fetch(&client.repository(&app(&registry), None)).await.unwrap_err();
    assert!(chain(&error).contains("not encrypted"), "{error}");
    registry.require(bearer_access(&plain.realm(), "t"));
    for credentials in [None, Some(jane())] {
        let repository = client.repository(&app(&registry), credentials);
        let error = fetch(&repository).await.unwrap_err();
        assert!(chain(&error).contains("not encrypted"), "{error}");
    }
    assert_eq!(plain.requests(), []);
}

#[tokio::test]
async fn a_broken_target_is_an_error_without_its_signature() {
    let elsewhere = FakeRegistry::start();
    let (registry, digest, size) = led_to(&elsewhere);
    drop(elsewhere);
    let repository = client().repository(&app(&registry), Some(jane()));
    let error = read(&repository, &digest, size).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    chain(&error);
    // That it was not reached is no sign that the registry speaks another scheme.
    assert_eq!(registry.requests().len(), 6, "a challenge, and five attempts");
}
