use std::{io::Write, os::fd::OwnedFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use super::*;
use crate::v1::{
    CreateContainer, Hello, Request, SetUpPod, ToShim, request::Call,
    to_shim::Message as ToShimMessage,
};

fn pair() -> (OwnedFd, OwnedFd) {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).expect("socketpair")
}

fn hello() -> ToShim {
    ToShim {
        message: Some(ToShimMessage::Hello(Hello {
            version: 1,
            release: "0.1.0".to_owned(),
            pid: 7,
        })),
    }
}

/// A message whose encoding is a little longer than `bytes`.
fn request(bytes: usize) -> ToShim {
    let create = CreateContainer { bundle: "x".repeat(bytes), ..CreateContainer::default() };
    let request = Request { id: 7, call: Some(Call::CreateContainer(create)) };
    ToShim { message: Some(ToShimMessage::Request(request)) }
}

/// A pipe's write end to send, and the read end that tells whether it arrived.
fn pipe() -> (File, OwnedFd) {
    let (read, write) = nix::unistd::pipe().expect("pipe");
    (File::from(read), write)
}

fn says(read: &mut File, through: OwnedFd, text: &str) -> bool {
    File::from(through).write_all(text.as_bytes()).expect("write");
    let mut got = String::new();
    read.read_to_string(&mut got).expect("read");
    got == text
}

#[test]
fn a_message_arrives_with_its_descriptors() {
    let (a, b) = pair();
    let (mut read, write) = pipe();
    send(&a, &hello(), &[write.as_fd()]).expect("send");
    drop(write);
    let (message, mut fds) = recv::<ToShim>(&b).expect("recv").expect("message");
    assert_eq!(message, hello());
    assert_eq!(fds.len(), 1);
    assert!(says(&mut read, fds.remove(0), "through"));
}

#[test]
fn a_long_message_arrives_with_its_descriptors_in_order() {
    let (a, b) = pair();
    let (mut first, first_write) = pipe();
    let (mut second, second_write) = pipe();
    let long = request(3 * 1024 * 1024);
    send(&a, &long, &[first_write.as_fd(), second_write.as_fd()]).expect("send");
    drop((first_write, second_write));
    let (message, mut fds) = recv::<ToShim>(&b).expect("recv").expect("message");
    assert!(message == long, "the content has changed");
    assert_eq!(fds.len(), 2, "the memory file itself is not handed out");
    assert!(says(&mut second, fds.remove(1), "second"));
    assert!(says(&mut first, fds.remove(0), "first"));
}

#[test]
fn messages_around_the_packet_limit_arrive() {
    let (a, b) = pair();
    for bytes in PACKET_MAX_BYTES - 32..PACKET_MAX_BYTES + 32 {
        send(&a, &request(bytes), &[]).expect("send");
        let (message, fds) = recv::<ToShim>(&b).expect("recv").expect("message");
        assert!(message == request(bytes), "{bytes} bytes");
        assert!(fds.is_empty());
    }
}

#[test]
fn a_message_beyond_the_bound_is_not_sent() {
    let (a, b) = pair();
    let error = send(&a, &request(MESSAGE_MAX_BYTES), &[]).expect_err("too long");
    assert!(matches!(error, ShimApiError::TooLong { .. }), "{error}");
    assert!(recv::<ToShim>(&b).expect_err("nothing sent").would_block());
}

#[test]
fn a_memory_file_beyond_the_bound_is_not_read() {
    let (a, b) = pair();
    let file = tempfile::tempfile().expect("file");
    file.set_len(u64::try_from(MESSAGE_MAX_BYTES).expect("u64")).expect("set_len");
    seqpacket::send(&a, IN_MEMFD, &[file.as_fd()]).expect("send");
    let error = recv::<ToShim>(&b).expect_err("too long");
    assert!(matches!(error, ShimApiError::TooLong { bytes } if bytes == 32 << 20), "{error}");
}

#[test]
fn a_pipe_in_place_of_the_memory_file_does_not_block() {
    let (a, b) = pair();
    let (read, _write) = nix::unistd::pipe().expect("pipe");
    seqpacket::send(&a, IN_MEMFD, &[read.as_fd()]).expect("send");
    let error = recv::<ToShim>(&b).expect_err("no regular file");
    assert!(matches!(error, ShimApiError::ReadMemfd(_)), "{error}");
}

#[test]
fn a_missing_memory_file_is_an_error() {
    let (a, b) = pair();
    seqpacket::send(&a, IN_MEMFD, &[]).expect("send");
    assert!(matches!(recv::<ToShim>(&b), Err(ShimApiError::NoMemfd)));
}

#[test]
fn an_empty_message_is_not_sent() {
    let (a, _b) = pair();
    assert!(matches!(send(&a, &ToShim::default(), &[]), Err(ShimApiError::Empty)));
}

#[test]
fn a_closed_peer_is_the_end_and_an_idle_one_is_not() {
    let (a, b) = pair();
    assert!(recv::<ToShim>(&b).expect_err("idle").would_block());
    drop(a);
    assert!(recv::<ToShim>(&b).expect("closed").is_none());
}

#[test]
fn a_full_socket_says_so() {
    let (a, _b) = pair();
    let error = (0..100_000).find_map(|_| send(&a, &request(1000), &[]).err()).expect("full");
    assert!(error.would_block(), "{error}");
}

#[test]
fn garbage_is_an_error() {
    let (a, b) = pair();
    seqpacket::send(&a, &[0xff; 9], &[]).expect("send");
    assert!(matches!(recv::<ToShim>(&b), Err(ShimApiError::Decode { bytes: 9, .. })));
}

#[test]
fn maps_survive_the_journey() {
    let (a, b) = pair();
    let sysctls = [("net.ipv4.ip_forward".to_owned(), "1".to_owned())].into();
    let set_up = SetUpPod { sysctls, ..SetUpPod::default() };
    let request = Request { id: 1, call: Some(Call::SetUpPod(set_up)) };
    let sent = ToShim { message: Some(ToShimMessage::Request(request)) };
    send(&a, &sent, &[]).expect("send");
    let (received, _) = recv::<ToShim>(&b).expect("recv").expect("message");
    assert_eq!(received, sent);
}
