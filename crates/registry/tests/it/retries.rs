//! What is asked for again, how often, and what is not.

use std::time::{Instant, SystemTime};

use registry::ErrorKind;
use testkit::registry::Fault;

use super::*;

#[tokio::test]
async fn what_may_pass_is_tried_again() {
    for fault in [
        Fault::Status(500),
        Fault::Status(502),
        Fault::Status(503),
        Fault::Status(429),
        Fault::HangUp,
        Fault::Truncated(10),
    ] {
        let registry = FakeRegistry::start();
        push(&registry);
        registry.fail("/manifests/", vec![fault.clone(); 4]);
        fetch(&repository(&registry)).await.unwrap();
        assert_eq!(registry.requests().len(), 5, "{fault:?}");
        registry.fail("/manifests/", vec![fault.clone(); 20]);
        let error = fetch(&repository(&registry)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{fault:?}: {error:?}");
        assert_eq!(registry.requests().len(), 10, "{fault:?}");
        let text = chain(&error);
        assert!(text.contains(&registry.domain()) && text.contains("app:1"), "{text}");
    }
}

#[tokio::test]
async fn what_will_not_pass_is_not_tried_again() {
    for (status, kind) in [
        (400, ErrorKind::Invalid),
        (401, ErrorKind::Denied),
        (403, ErrorKind::Denied),
        (404, ErrorKind::NotFound),
        (410, ErrorKind::Invalid),
        (304, ErrorKind::Invalid),
    ] {
        let registry = FakeRegistry::start();
        push(&registry);
        registry.always_fail("/manifests/", Fault::Status(status));
        let error = fetch(&repository(&registry)).await.unwrap_err();
        assert_eq!((error.kind(), registry.requests().len()), (kind, 1), "{status}");
    }
}

#[tokio::test]
async fn a_registry_may_ask_for_some_patience_but_not_for_years() {
    let in_a_year = SystemTime::now() + Duration::from_secs(365 * 86_400);
    for after in ["1000000000".to_owned(), httpdate::fmt_http_date(in_a_year)] {
        let registry = FakeRegistry::start();
        push(&registry);
        registry.fail("/manifests/", vec![Fault::RetryAfter(429, after.clone()); 2]);
        let started = Instant::now();
        fetch(&repository(&registry)).await.unwrap();
        let time = started.elapsed();
        let least = 2 * config().retry.longest_retry_after;
        assert!(time >= least && time < Duration::from_secs(10), "{after}: {time:?}");
    }
}

#[tokio::test]
async fn a_registry_that_is_not_there_is_unavailable() {
    let reference = app(&FakeRegistry::start());
    let error = fetch(&client().repository(&reference, None)).await.unwrap_err();
    assert!(matches!(error, RegistryError::Connection { .. }), "{error:?}");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let text = chain(&error);
    assert!(text.contains(reference.domain()) && text.contains("refused"), "{text}");
    let reference = "registry.invalid/app:1".parse().unwrap();
    let error = fetch(&client().repository(&reference, None)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}
