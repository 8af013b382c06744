//! Slow registries fail, slow takers do not.

use std::time::Instant;

use registry::ErrorKind;
use testkit::registry::Fault;

use super::*;

const STALL: Duration = Duration::from_millis(300);

/// For failures that come too late, on a machine that has other things to do.
const LATE: Duration = Duration::from_secs(10);

fn impatient(registry: &FakeRegistry, stall: Duration) -> Repository {
    let client = Client::new(ClientConfig { stall, ..config() }).unwrap();
    client.repository(&app(registry), None)
}

#[tokio::test]
async fn a_trickle_is_a_failure() {
    for fault in [Fault::Trickle(Duration::from_millis(20)), Fault::Stall(0), Fault::Stall(1000)] {
        let registry = FakeRegistry::start();
        let (digest, size, _) = add_blob(&registry, 100_000);
        registry.add_manifest("app:1", "application/vnd.oci.image.index.v1+json", &bytes(10_000));
        registry.always_fail("/v2/app/", fault.clone());
        let repository = impatient(&registry, STALL);
        let started = Instant::now();
        let error = read(&repository, &digest, size).await.unwrap_err();
        assert!(matches!(error, RegistryError::Stalled { .. }), "{fault:?}: {error:?}");
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        let error = fetch(&repository).await.unwrap_err();
        assert!(matches!(error, RegistryError::Stalled { .. }), "{fault:?}: {error:?}");
        assert!(chain(&error).contains("app:1"), "{error}");
        let time = started.elapsed();
        assert!(time >= 2 * STALL && time < LATE, "{time:?}");
    }
}

#[tokio::test]
async fn a_registry_that_does_not_answer_is_not_waited_for_longer() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let domain = listener.local_addr().unwrap().to_string();
    let client = Client::new(ClientConfig { stall: STALL, ..config() }).unwrap();
    let reference = format!("{domain}/app:1").parse().unwrap();
    let started = Instant::now();
    let error = fetch(&client.repository(&reference, None)).await.unwrap_err();
    assert!(matches!(error, RegistryError::Stalled { .. }), "{error:?}");
    assert!(started.elapsed() < LATE, "{:?}", started.elapsed());
}

#[tokio::test]
async fn whoever_takes_bytes_slowly_gets_them_all() {
    let registry = FakeRegistry::start();
    // More than fits into all buffers between.
    let (digest, size, content) = add_blob(&registry, 16 << 20);
    let stall = 2 * STALL;
    let mut blob = impatient(&registry, stall).blob(&digest, size).await.unwrap();
    let mut read = blob.chunk().await.unwrap().unwrap().to_vec();
    tokio::time::sleep(stall * 3 / 2).await;
    while let Some(chunk) = blob.chunk().await.unwrap() {
        read.extend_from_slice(&chunk);
        if read.len() < 1 << 20 {
            tokio::time::sleep(STALL / 10).await;
        }
    }
    assert!(read == content, "other bytes");
    assert_eq!(registry.count("/blobs/"), 1);
}
