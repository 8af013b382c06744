//! Blobs: sizes, broken transfers, and how they are resumed.

use registry::ErrorKind;
use testkit::registry::Fault;

use super::*;

const LENGTH: usize = 100_000;

/// What is fetched while one fault after the other happens, and from which byte on it was asked for.
async fn fetch_with(
    faults: impl IntoIterator<Item = Fault>,
) -> (Result<Vec<u8>, RegistryError>, Vec<String>) {
    let registry = FakeRegistry::start();
    let (digest, size, content) = add_blob(&registry, LENGTH);
    registry.fail("/blobs/", faults);
    let result = read(&repository(&registry), &digest, size).await;
    if let Ok(read) = &result {
        assert!(*read == content, "other bytes");
    }
    let requests = registry.requests();
    let ranges = requests.iter().map(|one| one.header("range").unwrap_or("").to_owned());
    (result, ranges.collect())
}

#[tokio::test]
async fn a_broken_transfer_goes_on_where_it_stopped() {
    let (result, ranges) =
        fetch_with([Fault::Truncated(60_000), Fault::Truncated(30_000), Fault::HangUp]).await;
    result.unwrap();
    assert_eq!(ranges, ["", "bytes=60000-", "bytes=90000-", "bytes=90000-"]);
}

#[tokio::test]
async fn a_registry_that_starts_anew_is_listened_to_again() {
    let (result, ranges) = fetch_with([Fault::Truncated(60_000), Fault::IgnoreRange]).await;
    result.unwrap();
    assert_eq!(ranges, ["", "bytes=60000-"]);
    // It breaks off before it gets to what is new.
    let (result, ranges) = fetch_with([
        Fault::Truncated(60_000),
        Fault::Answer(200, Vec::new(), bytes(LENGTH)),
        Fault::HangUp,
    ])
    .await;
    result.unwrap();
    assert_eq!(ranges.len(), 2);
}

#[tokio::test]
async fn another_part_than_asked_for_is_refused() {
    for range in ["bytes 0-99999/100000", "bytes 60001-99999/100000", "nonsense", "bytes */100000"]
    {
        let faults = [Fault::Truncated(60_000), Fault::ContentRange(range.to_owned())];
        let (result, _) = fetch_with(faults).await;
        let error = result.unwrap_err();
        assert!(matches!(error, RegistryError::Protocol { .. }), "{range}: {error:?}");
    }
    let of_another = Fault::ContentRange("bytes 60000-99999/100001".to_owned());
    let (result, _) = fetch_with([Fault::Truncated(60_000), of_another]).await;
    let error = result.unwrap_err();
    assert!(matches!(error, RegistryError::Size { actual: 100_001, .. }), "{error:?}");
    let (result, _) = fetch_with([Fault::Truncated(60_000), Fault::Status(416)]).await;
    let error = result.unwrap_err();
    assert!(chain(&error).contains("416"), "{error:?}");
    assert_eq!(error.kind(), ErrorKind::Invalid);
}

#[tokio::test]
async fn a_length_that_contradicts_the_manifest_is_refused_at_once() {
    for said in [1, 99_999, 100_001, 1 << 40] {
        let registry = FakeRegistry::start();
        let (digest, size, _) = add_blob(&registry, LENGTH);
        registry.always_fail("/blobs/", Fault::ContentLength(said));
        let error = repository(&registry).blob(&digest, size).await.unwrap_err();
        assert!(matches!(error, RegistryError::Size { .. }), "{said}: {error:?}");
        assert_eq!((error.kind(), registry.requests().len()), (ErrorKind::Invalid, 1));
    }
}

#[tokio::test]
async fn no_more_than_the_size_is_taken() {
    let (result, ranges) = fetch_with([Fault::Endless]).await;
    let error = result.unwrap_err();
    assert!(matches!(error, RegistryError::Size { .. }), "{error:?}");
    assert_eq!(ranges.len(), 1);
}

#[tokio::test]
async fn a_blob_whose_size_is_not_announced_ends_at_its_size() {
    let (result, _) = fetch_with([Fault::Chunked(usize::MAX)]).await;
    result.unwrap();
    // It ends well, but too early: the rest is asked for.
    let (result, ranges) = fetch_with([Fault::Chunked(50_000)]).await;
    result.unwrap();
    assert_eq!(ranges, ["", "bytes=50000-"]);
    let (result, ranges) = fetch_with(vec![Fault::Chunked(0); 20]).await;
    let error = result.unwrap_err();
    assert!(matches!(error, RegistryError::Size { actual: 0, .. }), "{error:?}");
    assert_eq!(ranges.len(), 5);
}

#[tokio::test]
async fn attempts_count_anew_after_progress() {
    let faults = std::iter::repeat_n(Fault::Truncated(20_000), 4).chain(vec![Fault::HangUp; 4]);
    let (result, ranges) = fetch_with(faults).await;
    result.unwrap();
    assert_eq!(ranges.len(), 9, "{ranges:?}");
    let (result, ranges) = fetch_with(vec![Fault::Truncated(0); 20]).await;
    assert_eq!(result.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(ranges.len(), 5);
}

#[tokio::test]
async fn a_byte_per_connection_is_no_progress() {
    let (result, ranges) = fetch_with(vec![Fault::Truncated(1); 1000]).await;
    let error = result.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(ranges.len(), 5);
    assert_eq!(ranges[4], "bytes=4-");
}

#[tokio::test]
async fn an_empty_blob_is_one() {
    let registry = FakeRegistry::start();
    let (digest, size, _) = add_blob(&registry, 0);
    let mut blob = repository(&registry).blob(&digest, size).await.unwrap();
    for _ in 0..2 {
        assert!(blob.chunk().await.unwrap().is_none());
    }
}

#[tokio::test]
async fn one_connection_serves_one_request_after_the_other() {
    let registry = FakeRegistry::start();
    let pushed = push(&registry);
    let repository = repository(&registry);
    for _ in 0..3 {
        fetch(&repository).await.unwrap();
        let layer = &pushed.layers[0];
        read(&repository, &layer.digest.parse().unwrap(), layer.bytes).await.unwrap();
    }
    assert_eq!((registry.requests().len(), registry.connections()), (6, 1));
}
