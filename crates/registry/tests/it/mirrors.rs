//! Mirrors: in which order they are asked, when they are passed over, and what they do not get.

use registry::ErrorKind;
use testkit::registry::Fault;
use url::Url;

use super::*;

fn url(text: &str) -> Url {
    text.parse().unwrap()
}

fn mirrored_by(mirrors: &[&FakeRegistry]) -> RegistrySettings {
    let mirrors = mirrors.iter().map(|mirror| url(&mirror.url(""))).collect();
    RegistrySettings { mirrors, ..Default::default() }
}

/// The repository `app` of a registry with mirrors.
fn repository_of(registry: &FakeRegistry, mirrors: &[&FakeRegistry]) -> Repository {
    client_with(registry, mirrored_by(mirrors)).repository(&app(registry), None)
}

#[tokio::test]
async fn the_first_mirror_that_has_it_is_asked() {
    let [registry, first, second] = std::array::from_fn(|_| FakeRegistry::start());
    for one in [&registry, &first, &second] {
        push(one);
    }
    fetch(&repository_of(&registry, &[&first, &second])).await.unwrap();
    assert_eq!([&registry, &first, &second].map(|one| one.requests().len()), [0, 1, 0]);
    let expected = format!("/v2/app/manifests/1?ns={}", registry.domain().replace(':', "%3A"));
    assert_eq!(first.requests()[0].path, expected);
}

#[tokio::test]
async fn a_mirror_may_be_below_a_path() {
    let (registry, mirror) = (FakeRegistry::start(), FakeRegistry::start());
    push(&mirror);
    for path in ["/proxy/k8s", "/proxy/k8s/"] {
        let mirrors = vec![url(&mirror.url(path))];
        let client = client_with(&registry, RegistrySettings { mirrors, ..Default::default() });
        fetch(&client.repository(&app(&registry), None)).await.unwrap();
        let requests = mirror.requests();
        assert!(requests.last().unwrap().path.starts_with("/proxy/k8s/v2/app/manifests/1?ns="));
    }
}

#[tokio::test]
async fn a_mirror_that_does_not_deliver_is_passed_over() {
    let pushed = push(&FakeRegistry::start());
    let by_digest = Selector::Digest(pushed.manifest.parse().unwrap());
    for fault in [
        Fault::Status(404),
        Fault::Status(403),
        Fault::Status(500),
        Fault::Status(429),
        Fault::HangUp,
        Fault::Truncated(10),
        Fault::Content(b"{}".to_vec()),
        Fault::Redirect("http://169.254.169.254/".to_owned()),
    ] {
        let (registry, mirror) = (FakeRegistry::start(), FakeRegistry::start());
        push(&registry);
        push(&mirror);
        mirror.always_fail("/manifests/", fault.clone());
        repository_of(&registry, &[&mirror]).manifest(&by_digest).await.unwrap();
        let asked = mirror.requests().len();
        assert!((1..=2).contains(&asked), "{fault:?}: {asked}");
        assert_eq!(registry.requests().len(), 1, "{fault:?}");
    }
}

#[tokio::test]
async fn a_mirror_that_is_not_there_is_passed_over_and_then_left_alone() {
    let registry = FakeRegistry::start();
    let pushed = push(&registry);
    let (gone, without) = (FakeRegistry::start(), FakeRegistry::start());
    let settings = mirrored_by(&[&gone, &without]);
    drop(gone);
    let repository = client_with(&registry, settings).repository(&app(&registry), None);
    for _ in 0..3 {
        fetch(&repository).await.unwrap();
    }
    // Whoever answered is asked first from then on.
    assert_eq!((without.requests().len(), registry.requests().len()), (1, 3));
    // When it fails, others get another chance.
    let without = {
        registry.always_fail("", Fault::Status(404));
        without
    };
    push(&without);
    fetch(&repository).await.unwrap();
    let layer = &pushed.layers[0];
    read(&repository, &layer.digest.parse().unwrap(), layer.bytes).await.unwrap();
}

#[tokio::test]
async fn when_nobody_has_it_the_registrys_word_counts() {
    let (registry, mirror) = (FakeRegistry::start(), FakeRegistry::start());
    mirror.always_fail("", Fault::Status(403));
    let error = fetch(&repository_of(&registry, &[&mirror])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(chain(&error).contains(&registry.domain()), "{error}");
}

#[tokio::test]
async fn a_transfer_from_a_mirror_goes_on_elsewhere() {
    for faults in [
        vec![Fault::Truncated(60_000), Fault::Status(404)],
        vec![Fault::Truncated(60_000), Fault::Truncated(0), Fault::Truncated(0)],
        vec![Fault::Stall(60_000)],
        vec![Fault::Truncated(60_000), Fault::ContentRange("bytes 1-2/3".to_owned())],
        vec![Fault::ContentLength(17)],
        vec![Fault::Truncated(60_000), Fault::Status(416)],
    ] {
        let (registry, mirror) = (FakeRegistry::start(), FakeRegistry::start());
        let (digest, size, content) = add_blob(&registry, 100_000);
        add_blob(&mirror, 100_000);
        mirror.fail("/blobs/", faults.clone());
        let registries = [(registry.domain(), mirrored_by(&[&mirror]))].into();
        let stall = Duration::from_millis(600);
        let client = Client::new(ClientConfig { registries, stall, ..config() }).unwrap();
        let repository = client.repository(&app(&registry), None);
        let read = read(&repository, &digest, size).await.unwrap();
        assert!(read == content, "{faults:?}");
        assert_eq!(registry.requests().len(), 1, "{faults:?}");
    }
}

#[tokio::test]
async fn a_mirror_on_another_host_does_not_get_the_credentials_of_the_call() {
    for access in [basic_access(), bearer_access("http://127.0.0.1:9/token", SECRET)] {
        for credentials in [jane(), Credentials::RegistryToken(SECRET.to_owned())] {
            let registry = FakeRegistry::start();
            let mirror = FakeRegistry::start_on("127.0.0.2");
            push(&registry);
            push(&mirror);
            mirror.require(access.clone());
            let client = client_with(&registry, mirrored_by(&[&mirror]));
            fetch(&client.repository(&app(&registry), Some(credentials))).await.unwrap();
            assert!(!mirror.requests().is_empty() && got_no_authorization(&mirror));
        }
    }
}

#[tokio::test]
async fn a_mirror_gets_the_credentials_that_are_on_file_for_it() {
    let registry = FakeRegistry::start();
    let mirror = FakeRegistry::start_on("127.0.0.2");
    push(&mirror);
    mirror.require(basic_access());
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.json");
    let entry =
        |domain: String| format!(r#""{domain}": {{"username":"jane","password":"{SECRET}"}}"#);
    let registries = [(registry.domain(), mirrored_by(&[&mirror]))];
    for (domain, expected) in [(mirror.domain(), true), (registry.domain(), false)] {
        std::fs::write(&file, format!(r#"{{"auths": {{{}}}}}"#, entry(domain))).unwrap();
        let (registries, credential_files) = (registries.clone().into(), vec![file.clone()]);
        let config = ClientConfig { registries, credential_files, ..config() };
        // The credentials of the call are for the registry, and change nothing.
        for credentials in [None, Some(jane())] {
            let client = Client::new(config.clone()).unwrap();
            let result = fetch(&client.repository(&app(&registry), credentials)).await;
            assert_eq!(result.is_ok(), expected);
        }
    }
    assert!(got_no_authorization(&registry));
}
