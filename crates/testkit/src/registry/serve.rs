//! Connections, and what is answered to which request.

use std::{
    collections::HashMap,
    io::{self, BufRead, BufReader, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
};

use rustls::ServerConfig;
use serde_json::json;

use super::{
    Access, Issue, TOKEN_PATH,
    content::Content,
    fault::{Fault, Faults},
    http::{Reply, Request},
    tls::Connection,
};

/// The first byte of a TLS handshake.
const HANDSHAKE: u8 = 0x16;

/// What a registry's threads share.
#[derive(Debug, Default)]
pub(super) struct Served {
    pub(super) content: Mutex<Content>,
    pub(super) access: Mutex<Access>,
    pub(super) issue: Mutex<Option<Issue>>,
    pub(super) requests: Mutex<Vec<Request>>,
    pub(super) protocols: Mutex<Vec<String>>,
    faults: Mutex<Faults>,
    connections: AtomicUsize,
    handshakes: AtomicUsize,
    /// To end the threads that wait for a client; by order of arrival.
    open: Mutex<HashMap<usize, TcpStream>>,
    ends: AtomicBool,
}

/// Serves whoever connects, each in a thread.
pub(super) fn listen(
    listener: TcpListener,
    served: &Arc<Served>,
    tls: Option<Arc<ServerConfig>>,
) -> JoinHandle<()> {
    let served = Arc::clone(served);
    thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            if served.ends.load(Ordering::SeqCst) {
                return;
            }
            let (Ok(stream), served, tls) = (stream, Arc::clone(&served), tls.clone()) else {
                continue;
            };
            thread::spawn(move || {
                served.remember(number, &stream);
                // What fails is that the client leaves, which is its right.
                served.talk(stream, tls).ok();
                served.lock(&served.open).remove(&number);
            });
        }
    })
}

impl Served {
    fn lock<'a, T>(&self, mutex: &'a Mutex<T>) -> MutexGuard<'a, T> {
        mutex.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn faults(&self) -> MutexGuard<'_, Faults> {
        self.lock(&self.faults)
    }

    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    pub(super) fn handshakes(&self) -> usize {
        self.handshakes.load(Ordering::SeqCst)
    }

    fn remember(&self, number: usize, stream: &TcpStream) {
        if let Ok(stream) = stream.try_clone() {
            self.lock(&self.open).insert(number, stream);
        }
    }

    /// Ends all threads.
    pub(super) fn end(&self, address: SocketAddr) {
        self.ends.store(true, Ordering::SeqCst);
        // Wakes the one that listens.
        drop(TcpStream::connect(address));
        for stream in self.lock(&self.open).values() {
            // It may have ended itself.
            stream.shutdown(Shutdown::Both).ok();
        }
    }

    fn talk(&self, stream: TcpStream, tls: Option<Arc<ServerConfig>>) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let connection = match tls {
            Some(config) => {
                let (connection, offered) = Connection::accept(stream, config)?;
                self.lock(&self.protocols).extend(offered);
                connection
            }
            None => Connection::Plain(stream),
        };
        let mut reader = BufReader::new(connection);
        // Clients try TLS first, and are told by the end of the connection.
        if reader.fill_buf()?.first() == Some(&HANDSHAKE) {
            self.handshakes.fetch_add(1, Ordering::SeqCst);
            return Ok(());
        }
        let mut first = true;
        while let Some(request) = Request::read(&mut reader)? {
            if std::mem::take(&mut first) {
                self.connections.fetch_add(1, Ordering::SeqCst);
            }
            self.lock(&self.requests).push(request.clone());
            if !self.serve(&request, reader.get_mut())? {
                break;
            }
        }
        Ok(())
    }

    /// Answers; returns whether the connection may be used again.
    fn serve(&self, request: &Request, out: &mut Connection) -> io::Result<bool> {
        let refusal = self.refusal(request);
        let fault = match &refusal {
            Some(_) => None,
            None => self.faults().next(&request.path),
        };
        if fault == Some(Fault::HangUp) {
            return Ok(false);
        }
        let ignores_range = matches!(fault, Some(Fault::IgnoreRange));
        let range = request.header("range").filter(|_| !ignores_range);
        let reply = refusal.unwrap_or_else(|| self.reply(request, range));
        let reply = reply.spoiled(fault.as_ref());
        let ends = || self.ends.load(Ordering::SeqCst);
        let goes_on = reply.write(out, fault.as_ref(), &ends)?;
        out.flush()?;
        Ok(goes_on)
    }

    /// The answer to those who may not come in.
    fn refusal(&self, request: &Request) -> Option<Reply> {
        if request.path.starts_with(TOKEN_PATH) {
            return None;
        }
        let (expected, challenge) = match &*self.lock(&self.access) {
            Access::Anonymous => return None,
            Access::Basic { username, password } => {
                (basic(username, password), "Basic realm=\"fake\"".to_owned())
            }
            Access::Bearer { realm, service, token } => {
                let scope = scope(&request.path);
                let challenge =
                    format!("Bearer realm=\"{realm}\",service=\"{service}\",scope=\"{scope}\"");
                (format!("Bearer {token}"), challenge)
            }
        };
        let known = request.header("authorization") == Some(&expected);
        let refusal = || Reply::error(401, "UNAUTHORIZED").header("WWW-Authenticate", challenge);
        (!known).then(refusal)
    }

    fn reply(&self, request: &Request, range: Option<&str>) -> Reply {
        let path = request.path.split('?').next().unwrap_or_default();
        if path == TOKEN_PATH {
            return self.token(request);
        }
        let Some((_, path)) = path.split_once("/v2/") else {
            return Reply::error(404, "UNSUPPORTED");
        };
        if path.is_empty() {
            return Reply::new(200, "{}");
        }
        let content = self.lock(&self.content);
        if let Some((repository, reference)) = path.split_once("/manifests/") {
            let accepted = request.header("accept").unwrap_or("*/*");
            return manifest(&content, repository, reference, accepted);
        }
        let blob = path.split_once("/blobs/").and_then(|(_, digest)| content.blob(digest));
        blob.map_or_else(|| Reply::error(404, "BLOB_UNKNOWN"), |blob| part(blob, range))
    }

    fn token(&self, request: &Request) -> Reply {
        let Some(issue) = self.lock(&self.issue).clone() else {
            return Reply::error(404, "UNSUPPORTED");
        };
        let by_user = issue.user.as_ref().map(|(username, password)| basic(username, password));
        let known = match (&issue.refresh_token, by_user) {
            (Some(token), _) if request.method == "POST" => {
                request.body.split('&').any(|field| field == format!("refresh_token={token}"))
            }
            (Some(_), None) => false,
            (_, Some(expected)) => request.header("authorization") == Some(&expected),
            (None, None) => true,
        };
        if !known {
            return Reply::error(401, "UNAUTHORIZED");
        }
        let name = if issue.as_access_token { "access_token" } else { "token" };
        let mut answer = json!({ name: issue.token });
        if let Some(seconds) = issue.expires_in {
            answer["expires_in"] = seconds.into();
        }
        Reply::new(200, answer.to_string())
    }
}

/// A manifest for those who understand it.
fn manifest(content: &Content, repository: &str, reference: &str, accepted: &str) -> Reply {
    let manifest = content.manifest(repository, reference);
    let understood = |media_type: &str| accepted == "*/*" || accepted.contains(media_type);
    match manifest.filter(|manifest| understood(&manifest.media_type)) {
        Some(manifest) => Reply::new(200, manifest.content.as_slice())
            .header("Content-Type", manifest.media_type.as_str())
            .header("Docker-Content-Digest", manifest.digest.as_str()),
        None => Reply::error(404, "MANIFEST_UNKNOWN"),
    }
}

/// What a range `bytes=FIRST-` has of a blob.
fn part(blob: &[u8], range: Option<&str>) -> Reply {
    let first = range.and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-'));
    let Some(first) = first.and_then(|first| first.parse::<usize>().ok()) else {
        return Reply::new(200, blob);
    };
    let size = blob.len();
    match blob.get(first..).filter(|rest| !rest.is_empty()) {
        Some(rest) => {
            let range = format!("bytes {first}-{}/{size}", size - 1);
            Reply::new(206, rest).header("Content-Range", range)
        }
        None => Reply::error(416, "RANGE_INVALID"),
    }
}

/// What a token has to be for.
fn scope(path: &str) -> String {
    let repository = path.split_once("/v2/").map_or("", |(_, rest)| rest);
    let ends = ["/manifests/", "/blobs/"].iter().filter_map(|part| repository.find(part));
    let repository = repository.get(..ends.min().unwrap_or_default()).unwrap_or_default();
    format!("repository:{repository}:pull")
}

/// The header `Authorization` for a user (RFC 7617).
fn basic(username: &str, password: &str) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let pair = format!("{username}:{password}");
    let mut text = String::from("Basic ");
    for group in pair.as_bytes().chunks(3) {
        let byte = |index: usize| u32::from(group.get(index).copied().unwrap_or_default());
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for index in 0..4 {
            let digit = usize::try_from(bits >> (18 - 6 * index) & 63).expect("six bits");
            text.push(if index <= group.len() { char::from(ALPHABET[digit]) } else { '=' });
        }
    }
    text
}
