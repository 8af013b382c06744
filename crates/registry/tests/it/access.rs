//! Users, passwords and what may not happen to them.

use registry::ErrorKind;
use testkit::registry::Fault;

use super::*;

fn challenge(values: &[&str]) -> Fault {
    let header = |value: &&str| ("WWW-Authenticate".to_owned(), (*value).to_owned());
    Fault::Answer(401, values.iter().map(header).collect(), Vec::new())
}

#[tokio::test]
async fn a_password_is_sent_when_asked_for_and_from_then_on() {
    let registry = FakeRegistry::start();
    let pushed = push(&registry);
    registry.require(basic_access());
    let client = client();
    let repository = client.repository(&app(&registry), Some(jane()));
    fetch(&repository).await.unwrap();
    let layer = &pushed.layers[0];
    read(&repository, &layer.digest.parse().unwrap(), layer.bytes).await.unwrap();
    let sent = authorizations(&registry);
    assert_eq!(sent.len(), 3);
    assert_eq!(sent[0], None, "not before it was asked for");
    assert_eq!(sent[1].as_deref(), Some("Basic amFuZTpodW50ZXIy"));
    assert_eq!(sent[2], sent[1]);
    // What was granted to Jane is not granted to others.
    for other in [None, Some(Credentials::Basic { username: "joe".into(), password: "x".into() })] {
        let error = fetch(&client.repository(&app(&registry), other)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied);
    }
}

#[tokio::test]
async fn refusals_say_what_to_do() {
    let registry = FakeRegistry::start();
    push(&registry);
    let other = Access::Basic { username: "jane".to_owned(), password: "other".to_owned() };
    registry.require(other);
    let error = fetch(&client().repository(&app(&registry), Some(jane()))).await.unwrap_err();
    let text = chain(&error);
    assert_eq!((error.kind(), registry.requests().len()), (ErrorKind::Denied, 2));
    for part in [registry.domain().as_str(), "app:1", "check the user", "UNAUTHORIZED"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let error = fetch(&repository(&registry)).await.unwrap_err();
    assert!(chain(&error).contains("needs credentials"), "{error}");
}

#[tokio::test]
async fn of_several_challenges_one_is_answered_that_can_be() {
    for challenges in [
        &["Basic realm=\"a, Bearer realm=b\""][..],
        &["Negotiate", "Basic realm=x, charset=\"UTF-8\""],
        &["Digest realm=\"x\", nonce=\"y=\", Basic realm=\"z\""],
        &["BASIC"],
        &["Bearer service=\"without-a-realm\"", "basic realm=\"z\""],
    ] {
        let registry = FakeRegistry::start();
        push(&registry);
        registry.fail("/manifests/", [challenge(challenges)]);
        fetch(&client().repository(&app(&registry), Some(jane()))).await.unwrap();
        let sent = authorizations(&registry);
        assert_eq!(sent, [None, Some("Basic amFuZTpodW50ZXIy".to_owned())], "{challenges:?}");
    }
}

#[tokio::test]
async fn a_challenge_that_cannot_be_answered_is_a_refusal() {
    for challenges in [&[][..], &["Negotiate"], &["nonsense=\"\\", "=,=,"], &["Bearer realm="]] {
        let registry = FakeRegistry::start();
        push(&registry);
        registry.always_fail("/manifests/", challenge(challenges));
        let error = fetch(&client().repository(&app(&registry), Some(jane()))).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied, "{challenges:?}");
        assert!(got_no_authorization(&registry), "{challenges:?}");
    }
}

#[tokio::test]
async fn a_registry_token_is_sent_unasked_and_once() {
    let registry = FakeRegistry::start();
    push(&registry);
    registry.require(bearer_access(&registry.realm(), SECRET));
    let token = |text: &str| Some(Credentials::RegistryToken(text.to_owned()));
    fetch(&client().repository(&app(&registry), token(SECRET))).await.unwrap();
    assert_eq!(authorizations(&registry), [Some(format!("Bearer {SECRET}"))]);
    let error = fetch(&client().repository(&app(&registry), token("other"))).await.unwrap_err();
    assert_eq!((error.kind(), registry.requests().len()), (ErrorKind::Denied, 2));
}

#[tokio::test]
async fn a_token_that_no_header_can_carry_is_not_sent() {
    let registry = FakeRegistry::start();
    push(&registry);
    let token = Credentials::RegistryToken(format!("{SECRET}\r\nX-Other: y"));
    let error = fetch(&client().repository(&app(&registry), Some(token))).await.unwrap_err();
    assert!(matches!(error, RegistryError::Credentials { .. }), "{error:?}");
    chain(&error);
    assert_eq!((error.kind(), registry.requests().len()), (ErrorKind::Config, 0));
    // Within a password it is nothing special.
    let both = ("jane\n".to_owned(), format!("{SECRET}\r\n"));
    registry.require(Access::Basic { username: both.0.clone(), password: both.1.clone() });
    let basic = Credentials::Basic { username: both.0, password: both.1 };
    fetch(&client().repository(&app(&registry), Some(basic))).await.unwrap();
}

#[test]
fn credentials_are_shown_without_secrets() {
    let shown = [
        format!("{:?}", jane()),
        format!("{:?}", Credentials::IdentityToken(SECRET.to_owned())),
        format!("{:?}", Credentials::RegistryToken(SECRET.to_owned())),
    ];
    assert!(shown.iter().all(|text| !text.contains(SECRET)), "{shown:?}");
}
