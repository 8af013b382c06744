//! Manifests and configurations: what is asked for, what is verified.

use registry::ErrorKind;
use testkit::registry::Fault;

use super::*;

const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";
const TYPES: [&str; 4] = [
    INDEX_TYPE,
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];

#[tokio::test]
async fn an_image_is_fetched_by_tag_and_by_digest() {
    let registry = FakeRegistry::start();
    let pushed = push(&registry);
    let repository = repository(&registry);
    let by_tag = repository.manifest(&Selector::Tag("1".to_owned())).await.unwrap();
    assert_eq!(by_tag.digest.to_string(), pushed.manifest);
    assert_eq!(by_tag.media_type.as_deref(), Some(TYPES[1]));
    let by_digest = repository.manifest(&Selector::Digest(by_tag.digest)).await.unwrap();
    assert_eq!(by_digest, by_tag);
    let layer = &pushed.layers[0];
    let content = read(&repository, &layer.digest.parse().unwrap(), layer.bytes).await.unwrap();
    assert_eq!(Digest::of(&content).to_string(), layer.digest);
}

#[tokio::test]
async fn all_types_of_manifests_and_indexes_are_understood() {
    let registry = FakeRegistry::start();
    for media_type in TYPES {
        registry.add_manifest("app:1", media_type, media_type.as_bytes());
        let fetched = repository(&registry).manifest(&Selector::Tag("1".to_owned())).await;
        assert_eq!(fetched.unwrap().media_type.as_deref(), Some(media_type));
    }
    let accepted = registry.requests()[0].header("accept").unwrap().to_owned();
    assert_eq!(accepted.split(", ").count(), TYPES.len(), "{accepted}");
    assert!(accepted.starts_with(INDEX_TYPE), "indexes are preferred: {accepted}");
}

#[tokio::test]
async fn a_manifest_that_is_not_what_its_digest_says_is_refused() {
    let registry = FakeRegistry::start();
    let pushed = push(&registry);
    registry.always_fail("/manifests/", Fault::Content(b"{}".to_vec()));
    let selector = Selector::Digest(pushed.manifest.parse().unwrap());
    let error = repository(&registry).manifest(&selector).await.unwrap_err();
    assert!(matches!(error, RegistryError::Digest { .. }), "{error:?}");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_eq!(registry.count("/manifests/"), 1, "asking again does not help");
    let text = chain(&error);
    assert!(text.contains(&registry.domain()) && text.contains(&pushed.manifest), "{text}");
}

#[tokio::test]
async fn a_manifest_is_at_most_4_mib() {
    let registry = FakeRegistry::start();
    let limit = 4 << 20;
    registry.add_manifest("app:1", INDEX_TYPE, &vec![b' '; limit]);
    assert_eq!(fetch(&repository(&registry)).await.unwrap().len(), limit);
    registry.add_manifest("app:1", INDEX_TYPE, &vec![b' '; limit + 1]);
    for fault in [
        None,
        Some(Fault::Chunked(usize::MAX)),
        Some(Fault::Endless),
        // Nothing of these 100 MiB is waited for.
        Some(Fault::ContentLength(100 << 20)),
    ] {
        registry.fail("/manifests/", fault.clone());
        let error = fetch(&repository(&registry)).await.unwrap_err();
        assert!(matches!(error, RegistryError::TooLarge { .. }), "{fault:?}: {error:?}");
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }
}

#[tokio::test]
async fn a_configuration_has_its_size_and_its_digest() {
    let registry = FakeRegistry::start();
    let (digest, size, content) = add_blob(&registry, 1000);
    let repository = repository(&registry);
    assert_eq!(repository.document(&digest, size).await.unwrap(), content);
    for (wrong, fault) in [
        (size - 1, None),
        (size + 1, None),
        (1, Some(Fault::Chunked(usize::MAX))),
        (size + 1, Some(Fault::Chunked(usize::MAX))),
    ] {
        registry.fail("/blobs/", fault.clone());
        let error = repository.document(&digest, wrong).await.unwrap_err();
        assert!(matches!(error, RegistryError::Size { .. }), "{wrong} {fault:?}: {error:?}");
    }
    registry.fail("/blobs/", [Fault::Content(vec![0; 1000])]);
    let error = repository.document(&digest, size).await.unwrap_err();
    assert!(matches!(error, RegistryError::Digest { .. }), "{error:?}");
    let asked = registry.requests().len();
    let error = repository.document(&digest, 5 << 20).await.unwrap_err();
    assert!(matches!(error, RegistryError::TooLarge { .. }), "{error:?}");
    assert_eq!(registry.requests().len(), asked, "it is not even asked for");
}

#[tokio::test]
async fn what_is_not_there_is_not_found() {
    let registry = FakeRegistry::start();
    let error = fetch(&repository(&registry)).await.unwrap_err();
    assert_eq!((error.kind(), registry.requests().len()), (ErrorKind::NotFound, 1));
    let text = chain(&error);
    for part in [registry.domain().as_str(), "app:1", "MANIFEST_UNKNOWN", "said the registry"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let (digest, _, _) = add_blob(&FakeRegistry::start(), 10);
    let error = repository(&registry).blob(&digest, 10).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn what_a_registry_says_is_shown_without_tricks() {
    let registry = FakeRegistry::start();
    let message = format!("a\\n\\u001b[31m{}", "long ".repeat(500));
    let body = format!(r#"{{"errors":[{{"code":"DENIED","message":"{message}"}}]}}"#);
    for body in [body.into_bytes(), b"<html>".to_vec(), vec![b'['; 1 << 20]] {
        registry.fail("/manifests/", [Fault::Answer(403, Vec::new(), body)]);
        let error = fetch(&repository(&registry)).await.unwrap_err();
        let text = chain(&error);
        assert_eq!(error.kind(), ErrorKind::Denied);
        assert!(text.len() < 500 && !text.contains(char::is_control), "{text:?}");
    }
}
