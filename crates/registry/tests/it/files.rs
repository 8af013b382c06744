//! Credentials from files; helpers are in `environment`.

use std::path::PathBuf;

use registry::ErrorKind;
use testkit::registry::Issue;

use super::*;

/// A client with files of this content.
fn client_of(directory: &tempfile::TempDir, contents: &[String]) -> Client {
    let write = |(number, content): (usize, &String)| -> PathBuf {
        let file = directory.path().join(format!("{number}.json"));
        std::fs::write(&file, content).unwrap();
        file
    };
    let files = contents.iter().enumerate().map(write);
    let credential_files =
        [directory.path().join("absent.json")].into_iter().chain(files).collect();
    Client::new(ClientConfig { credential_files, ..config() }).unwrap()
}

#[tokio::test]
async fn every_form_of_an_entry_logs_in() {
    let server = FakeRegistry::start();
    let registry = FakeRegistry::start();
    push(&registry);
    let domain = registry.domain();
    let by_token = bearer_access(&server.realm(), "t");
    server.issue(Issue { refresh_token: Some(SECRET.to_owned()), ..Issue::to_anybody("t") });
    let directory = tempfile::tempdir().unwrap();
    for (access, key, entry) in [
        (basic_access(), domain.clone(), r#"{"auth":"amFuZTpodW50ZXIy"}"#),
        (basic_access(), format!("https://{domain}/v1/"), r#"{"auth":"amFuZTpodW50ZXIy"}"#),
        (basic_access(), format!("{domain}/app"), r#"{"username":"jane","password":"hunter2"}"#),
        (by_token, domain.clone(), r#"{"identitytoken":"hunter2","auth":"PHRva2VuPjo="}"#),
        (bearer_access("x:", SECRET), domain.clone(), r#"{"registrytoken":"hunter2"}"#),
    ] {
        registry.require(access);
        let file = format!(r#"{{"auths": {{"{key}": {entry}}}}}"#);
        let client = client_of(&directory, &["{}".to_owned(), file.clone()]);
        let fetched = fetch(&client.repository(&app(&registry), None)).await;
        assert!(fetched.is_ok(), "{file}: {fetched:?}");
    }
}

#[tokio::test]
async fn the_first_file_that_knows_a_registry_counts() {
    let registry = FakeRegistry::start();
    push(&registry);
    registry.require(basic_access());
    let entry = |password: &str| {
        let domain = registry.domain();
        format!(r#"{{"auths": {{"{domain}": {{"username":"jane","password":"{password}"}}}}}}"#)
    };
    let directory = tempfile::tempdir().unwrap();
    let client = client_of(&directory, &[entry("wrong"), entry(SECRET)]);
    let error = fetch(&client.repository(&app(&registry), None)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    // Credentials of the call come before all files.
    fetch(&client.repository(&app(&registry), Some(jane()))).await.unwrap();
    // A file that was changed is read again.
    let client = client_of(&directory, &[entry(SECRET)]);
    fetch(&client.repository(&app(&registry), None)).await.unwrap();
}

#[tokio::test]
async fn files_are_read_only_when_a_registry_asks_and_a_broken_one_is_named() {
    let registry = FakeRegistry::start();
    push(&registry);
    let directory = tempfile::tempdir().unwrap();
    for content in [SECRET.to_owned(), format!(r#"{{"auths": "{SECRET}"}}"#), "{".to_owned()] {
        let client = client_of(&directory, std::slice::from_ref(&content));
        let repository = client.repository(&app(&registry), None);
        registry.require(Access::Anonymous);
        fetch(&repository).await.unwrap();
        registry.require(basic_access());
        let error = fetch(&repository).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(chain(&error).contains("0.json"), "{error}");
    }
}

#[tokio::test]
async fn what_is_for_others_is_not_sent() {
    let registry = FakeRegistry::start();
    push(&registry);
    registry.require(basic_access());
    let port = registry.address().port();
    let directory = tempfile::tempdir().unwrap();
    for key in ["127.0.0.1", &format!("127.0.0.2:{port}"), "docker.io", "", &registry.domain()[1..]]
    {
        let entry = format!(r#"{{"auths": {{"{key}": {{"auth":"amFuZTpodW50ZXIy"}}}}}}"#);
        let client = client_of(&directory, &[entry]);
        let error = fetch(&client.repository(&app(&registry), None)).await.unwrap_err();
        assert!(chain(&error).contains("needs credentials"), "{key}: {error}");
    }
    assert!(got_no_authorization(&registry));
}
