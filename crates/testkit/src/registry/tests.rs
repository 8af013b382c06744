//! The registry itself, by the plainest client.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Instant,
};

use super::*;
use crate::image::Layer;

/// One request over a connection of its own; the answer as text.
fn get(registry: &FakeRegistry, path: &str, headers: &str) -> String {
    let mut stream = TcpStream::connect(registry.address()).expect("connect");
    write!(stream, "GET {path} HTTP/1.1\r\n{headers}\r\n").expect("write");
    stream.shutdown(std::net::Shutdown::Write).expect("shut down");
    let mut answer = Vec::new();
    // A connection that ends early is what some ask for.
    stream.read_to_end(&mut answer).ok();
    String::from_utf8_lossy(&answer).into_owned()
}

fn image() -> ImageBuilder {
    ImageBuilder::empty().layer(Layer::default().file("a", 0o644, b"text"))
}

#[test]
fn an_image_is_served_by_tag_and_digest() {
    let registry = FakeRegistry::start();
    let pushed = registry.push(&image(), "team/app:1");
    for reference in ["1", &pushed.manifest] {
        let answer = get(&registry, &format!("/v2/team/app/manifests/{reference}?ns=x"), "");
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert!(answer.contains(&pushed.layers[0].digest) && answer.contains(&pushed.id));
    }
    let answer = get(&registry, "/v2/team/app/manifests/1", "Accept: text/plain\r\n");
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    assert!(get(&registry, "/v2/app/manifests/1", "").starts_with("HTTP/1.1 404 "));
    assert_eq!(registry.requests()[2].header("accept"), Some("text/plain"));
    assert_eq!((registry.count("/manifests/"), registry.connections()), (4, 4));
}

#[test]
fn blobs_come_in_parts() {
    let registry = FakeRegistry::start();
    let path = format!("/v2/x/blobs/{}", registry.add_blob(b"0123456789"));
    assert!(get(&registry, &path, "").ends_with("\r\n\r\n0123456789"));
    let part = get(&registry, &path, "Range: bytes=7-\r\n");
    assert!(part.starts_with("HTTP/1.1 206 ") && part.ends_with("\r\n\r\n789"), "{part}");
    assert!(part.contains("Content-Range: bytes 7-9/10"), "{part}");
    assert!(get(&registry, &path, "Range: bytes=10-\r\n").starts_with("HTTP/1.1 416 "));
}

#[test]
fn faults_come_in_turn_and_end() {
    let registry = FakeRegistry::start();
    let path = format!("/v2/x/blobs/{}", registry.add_blob(b"0123456789"));
    let whole = get(&registry, &path, "");
    registry.fail("/blobs/", [Fault::Status(503), Fault::Truncated(3), Fault::HangUp]);
    assert!(get(&registry, &path, "").starts_with("HTTP/1.1 503 "));
    assert!(get(&registry, &path, "").ends_with("Content-Length: 10\r\n\r\n012"));
    assert_eq!(get(&registry, &path, ""), "");
    assert_eq!(get(&registry, &path, ""), whole);
    registry.always_fail(&path, Fault::Redirect("http://127.0.0.2/".to_owned()));
    for _ in 0..2 {
        assert!(get(&registry, &path, "").contains("Location: http://127.0.0.2/\r\n"));
    }
    registry.heal();
    assert_eq!(get(&registry, &path, ""), whole);
}

#[test]
fn strangers_are_challenged() {
    let registry = FakeRegistry::start();
    let (username, password) = ("me".to_owned(), "secret".to_owned());
    registry.require(Access::Basic { username, password });
    let answer = get(&registry, "/v2/", "");
    assert!(answer.contains("401 ") && answer.contains("WWW-Authenticate: Basic "), "{answer}");
    assert!(get(&registry, "/v2/", "authorization: Basic bWU6c2VjcmV0\r\n").contains("200 "));
    let (realm, service) = (registry.realm(), "fake".to_owned());
    registry.require(Access::Bearer { realm, service, token: "t".to_owned() });
    let answer = get(&registry, "/v2/team/app/manifests/1", "");
    assert!(answer.contains("scope=\"repository:team/app:pull\""), "{answer}");
    assert!(get(&registry, "/v2/", "Authorization: Bearer t\r\n").contains("200 "));
    registry.issue(Issue {
        user: Some(("me".to_owned(), "secret".to_owned())),
        ..Issue::to_anybody("t")
    });
    assert!(get(&registry, "/token?scope=x", "").contains("401 "));
    let answer = get(&registry, "/token?scope=x", "Authorization: Basic bWU6c2VjcmV0\r\n");
    assert!(answer.ends_with(r#"{"token":"t"}"#), "{answer}");
}

#[test]
fn a_registry_ends_while_clients_wait() {
    let registry = FakeRegistry::start();
    let path = format!("/v2/x/blobs/{}", registry.add_blob(b"0123456789"));
    registry.always_fail("/blobs/", Fault::Stall(1));
    let mut stream = TcpStream::connect(registry.address()).expect("connect");
    write!(stream, "GET {path} HTTP/1.1\r\n\r\n").expect("write");
    let mut byte = [0];
    stream.read_exact(&mut byte).expect("an answer has begun");
    let started = Instant::now();
    drop(registry);
    stream.read_to_end(&mut Vec::new()).ok();
    assert!(started.elapsed().as_secs() < 5, "it has not ended");
}
