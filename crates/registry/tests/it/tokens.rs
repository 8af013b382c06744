//! Token servers: what they are asked, who may be one, and how long a token is kept.

use registry::ErrorKind;
use testkit::registry::{Fault, Issue, TOKEN_PATH};

use super::*;

/// A registry with `app:1` that takes the token of a token server.
fn with_tokens(server: &FakeRegistry, issue: Issue) -> FakeRegistry {
    let registry = FakeRegistry::start();
    push(&registry);
    registry.require(bearer_access(&server.realm(), &issue.token));
    server.issue(issue);
    registry
}

fn for_jane(token: &str) -> Issue {
    Issue { user: Some(jane_secret()), ..Issue::to_anybody(token) }
}

#[tokio::test]
async fn a_token_is_got_for_nothing_and_used_for_all() {
    let server = FakeRegistry::start();
    let registry = with_tokens(&server, Issue::to_anybody("t"));
    let pushed = push(&registry);
    let repository = repository(&registry);
    fetch(&repository).await.unwrap();
    let layer = &pushed.layers[0];
    read(&repository, &layer.digest.parse().unwrap(), layer.bytes).await.unwrap();
    let token = Some("Bearer t".to_owned());
    assert_eq!(authorizations(&registry), [None, token.clone(), token]);
    let [request] = &server.requests()[..] else { panic!("one request: {:?}", server.requests()) };
    assert_eq!(
        (request.method.as_str(), request.path.as_str(), request.header("authorization")),
        ("GET", "/token?service=registry.example&scope=repository%3Aapp%3Apull", None)
    );
}

#[tokio::test]
async fn a_password_goes_to_the_token_server_only() {
    for as_access_token in [false, true] {
        let server = FakeRegistry::start();
        let registry = with_tokens(&server, Issue { as_access_token, ..for_jane("t") });
        fetch(&client().repository(&app(&registry), Some(jane()))).await.unwrap();
        assert_eq!(authorizations(&registry), [None, Some("Bearer t".to_owned())]);
        assert_eq!(authorizations(&server), [Some("Basic amFuZTpodW50ZXIy".to_owned())]);
    }
}

#[tokio::test]
async fn an_identity_token_is_exchanged_for_a_token() {
    let server = FakeRegistry::start();
    let issue = Issue { refresh_token: Some(SECRET.to_owned()), ..Issue::to_anybody("t") };
    let registry = with_tokens(&server, Issue { as_access_token: true, ..issue });
    let identity = |token: &str| Some(Credentials::IdentityToken(token.to_owned()));
    fetch(&client().repository(&app(&registry), identity(SECRET))).await.unwrap();
    assert_eq!(authorizations(&registry), [None, Some("Bearer t".to_owned())]);
    let [request] = &server.requests()[..] else { panic!("one request: {:?}", server.requests()) };
    assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", TOKEN_PATH));
    assert_eq!(request.header("authorization"), None);
    for field in [
        "grant_type=refresh_token",
        "refresh_token=hunter2",
        "service=registry.example",
        "scope=repository%3Aapp%3Apull",
        "client_id=usnea",
    ] {
        assert!(request.body.split('&').any(|one| one == field), "{field} in {}", request.body);
    }
    let error = fetch(&client().repository(&app(&registry), identity("other"))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    // What was posted is not posted again.
    for fault in [Fault::Status(503), Fault::HangUp] {
        let asked = server.requests().len();
        server.fail(TOKEN_PATH, [fault]);
        let repository = client().repository(&app(&registry), identity(SECRET));
        let error = fetch(&repository).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(chain(&error).contains(&server.domain()), "{error}");
        assert_eq!(server.requests().len(), asked + 1);
    }
    // A registry with passwords has no use for it, and does not get it.
    registry.require(basic_access());
    let asked = registry.requests().len();
    let error = fetch(&client().repository(&app(&registry), identity(SECRET))).await.unwrap_err();
    assert!(chain(&error).contains("a user and a password"), "{error}");
    assert!(authorizations(&registry)[asked..].iter().all(Option::is_none));
}

#[tokio::test]
async fn a_refused_password_is_no_reason_to_go_on_without() {
    let server = FakeRegistry::start();
    let registry = with_tokens(&server, for_jane("t"));
    let wrong = Credentials::Basic { username: "jane".to_owned(), password: "x".to_owned() };
    let error = fetch(&client().repository(&app(&registry), Some(wrong))).await.unwrap_err();
    assert_eq!((error.kind(), server.requests().len()), (ErrorKind::Denied, 1));
    let text = chain(&error);
    assert!(text.contains(&server.domain()) && text.contains("check the user"), "{text}");
}

#[tokio::test]
async fn a_token_is_kept_as_long_as_it_is_good() {
    for (expires_in, tokens) in [(None, 1), (Some(300), 1), (Some(1), 3), (Some(u64::MAX), 1)] {
        let server = FakeRegistry::start();
        let registry = with_tokens(&server, Issue { expires_in, ..Issue::to_anybody("t") });
        let repository = repository(&registry);
        for _ in 0..3 {
            fetch(&repository).await.unwrap();
        }
        assert_eq!(server.requests().len(), tokens, "{expires_in:?}");
    }
}

#[tokio::test]
async fn a_token_that_is_taken_no_longer_is_replaced_once() {
    let server = FakeRegistry::start();
    let registry = with_tokens(&server, Issue::to_anybody("old"));
    let repository = repository(&registry);
    fetch(&repository).await.unwrap();
    registry.require(bearer_access(&server.realm(), "new"));
    server.issue(Issue::to_anybody("new"));
    fetch(&repository).await.unwrap();
    assert_eq!(server.requests().len(), 2);
    registry.require(bearer_access(&server.realm(), "never issued"));
    let error = fetch(&repository).await.unwrap_err();
    assert_eq!((error.kind(), server.requests().len()), (ErrorKind::Denied, 3));
}

#[tokio::test]
async fn a_token_for_one_repository_is_not_sent_for_another() {
    let server = FakeRegistry::start();
    let registry = with_tokens(&server, Issue::to_anybody("t"));
    let client = client();
    for name in ["app:1", "other:1"] {
        registry.push(&ImageBuilder::empty(), name);
        let reference = registry.reference(name).parse().unwrap();
        fetch(&client.repository(&reference, None)).await.unwrap();
    }
    let scopes: Vec<_> = server.requests().into_iter().map(|request| request.path).collect();
    assert_eq!(scopes.len(), 2);
    assert!(scopes[1].ends_with("scope=repository%3Aother%3Apull"), "{scopes:?}");
}

#[tokio::test]
async fn a_password_does_not_go_to_a_token_server_elsewhere() {
    let server = FakeRegistry::start_on("127.0.0.2");
    let registry = with_tokens(&server, for_jane("t"));
    let error = fetch(&client().repository(&app(&registry), Some(jane()))).await.unwrap_err();
    let text = chain(&error);
    assert!(matches!(error, RegistryError::AuthHost { .. }), "{error:?}");
    assert_eq!((error.kind(), server.requests().len()), (ErrorKind::Config, 0));
    for part in ["auth_hosts", &server.domain(), &format!("[registry.{:?}]", registry.domain())] {
        assert!(text.contains(part), "{part} in {text}");
    }
    for listed in [server.domain(), "127.0.0.2".to_owned()] {
        let settings = RegistrySettings { auth_hosts: vec![listed], ..Default::default() };
        let client = client_with(&registry, settings);
        fetch(&client.repository(&app(&registry), Some(jane()))).await.unwrap();
    }
    assert_eq!(server.requests().len(), 2);
}

#[tokio::test]
async fn whoever_has_no_password_may_get_a_token_elsewhere() {
    let server = FakeRegistry::start_on("127.0.0.2");
    let registry = with_tokens(&server, Issue::to_anybody("t"));
    fetch(&repository(&registry)).await.unwrap();
    assert!(got_no_authorization(&server));
}

#[tokio::test]
async fn bad_realms_are_refused() {
    for (realm, reason) in [
        ("http://169.254.169.254/token", "it is a link-local address"),
        ("http://[fe80::1]/token", "it is a link-local address"),
        ("ftp://127.0.0.1/token", "the token server has no URL"),
        ("http://", "the token server has no URL"),
    ] {
        let registry = FakeRegistry::start();
        push(&registry);
        registry.require(bearer_access(realm, "t"));
        let error = fetch(&repository(&registry)).await.unwrap_err();
        assert!(chain(&error).contains(reason), "{realm}: {error}");
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }
}

#[tokio::test]
async fn a_user_in_the_realm_is_nobody() {
    let registry = FakeRegistry::start();
    push(&registry);
    let realm = registry.realm().replace("http://", "http://someone:else@");
    registry.require(bearer_access(&realm, "t"));
    registry.issue(Issue::to_anybody("t"));
    fetch(&repository(&registry)).await.unwrap();
    let requests = registry.requests();
    let request = requests.iter().find(|one| one.path.starts_with(TOKEN_PATH)).unwrap();
    assert_eq!(request.header("authorization"), None);
}

#[tokio::test]
async fn a_token_server_that_fails_is_asked_again() {
    let server = FakeRegistry::start();
    let registry = with_tokens(&server, Issue::to_anybody("t"));
    server.fail(TOKEN_PATH, [Fault::Status(503), Fault::HangUp]);
    fetch(&repository(&registry)).await.unwrap();
    assert_eq!(server.requests().len(), 3);
    server.always_fail(TOKEN_PATH, Fault::Status(503));
    let error = fetch(&repository(&registry)).await.unwrap_err();
    assert_eq!((error.kind(), server.requests().len()), (ErrorKind::Unavailable, 8));
    let text = chain(&error);
    assert!(text.contains(&server.domain()) && text.contains("token"), "{text}");
}

#[tokio::test]
async fn answers_that_are_no_tokens_are_refused() {
    for fault in [
        Fault::Content(b"{}".to_vec()),
        Fault::Content(SECRET.into()),
        Fault::Content(format!(r#"{{"token":"{SECRET}\r\nX: y"}}"#).into_bytes()),
        Fault::Content(format!(r#"{{"token":["{SECRET}"]}}"#).into_bytes()),
        Fault::Endless,
        Fault::Redirect("http://127.0.0.2/token".to_owned()),
    ] {
        let server = FakeRegistry::start();
        let registry = with_tokens(&server, Issue::to_anybody("t"));
        server.always_fail(TOKEN_PATH, fault.clone());
        let error = fetch(&client().repository(&app(&registry), None)).await.unwrap_err();
        chain(&error);
        assert_eq!(error.kind(), ErrorKind::Invalid, "{fault:?}: {error:?}");
        assert_eq!(server.requests().len(), 1, "{fault:?}");
    }
}
