//! A registry of one test, on a loopback port: serves OCI layouts, on demand with a password or without ever finishing.

use std::{
    collections::HashMap,
    fs,
    io::{self, BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;
use testkit::image::ImageBuilder;

const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
/// `me:secret`, as HTTP's basic authentication has it.
const ME_SECRET: &str = "Basic bWU6c2VjcmV0";
/// The first byte of a TLS handshake.
const TLS: u8 = 0x16;
const POLL: Duration = Duration::from_millis(10);

/// A running registry; ends when it is dropped.
pub(crate) struct Registry {
    domain: String,
    served: Arc<Served>,
    server: Option<JoinHandle<()>>,
}

struct Served {
    directory: TempDir,
    /// Digest of the manifest by `repository:tag`.
    tags: Mutex<HashMap<String, String>>,
    /// Wants the credentials `me:secret`.
    private: bool,
    /// Sends half of each blob and waits.
    stalls: AtomicBool,
    ends: AtomicBool,
}

impl Registry {
    /// A registry for everybody.
    pub(crate) fn public() -> Self {
        Self::start(false)
    }

    /// A registry that wants the credentials `me:secret`.
    pub(crate) fn private() -> Self {
        Self::start(true)
    }

    fn start(private: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
        let domain = listener.local_addr().expect("an address").to_string();
        let served = Arc::new(Served {
            directory: tempfile::tempdir().expect("temporary directory"),
            tags: Mutex::default(),
            private,
            stalls: AtomicBool::new(false),
            ends: AtomicBool::new(false),
        });
        let server = {
            let served = Arc::clone(&served);
            thread::spawn(move || serve(&listener, &served))
        };
        Self { domain, served, server: Some(server) }
    }

    /// Host and port.
    pub(crate) fn domain(&self) -> &str {
        &self.domain
    }

    /// From now on only the first half of each blob is sent.
    pub(crate) fn stall(&self) {
        self.served.stalls.store(true, Ordering::SeqCst);
    }

    /// Serves an image by `name`, which is `repository:tag`; returns its whole reference and its id.
    pub(crate) fn push(&self, name: &str, image: &ImageBuilder) -> (String, String) {
        let directory = self.served.directory.path();
        let id = image.write_layout(directory, name);
        let index = fs::read(directory.join("index.json")).expect("an index");
        let index: Value = serde_json::from_slice(&index).expect("JSON");
        let digest = index["manifests"][0]["digest"].as_str().expect("a digest");
        let mut tags = self.served.tags.lock().expect("no panic");
        tags.insert(name.to_owned(), digest.to_owned());
        (format!("{}/{name}", self.domain), id)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.served.ends.store(true, Ordering::SeqCst);
        // Wakes the server.
        drop(TcpStream::connect(&self.domain));
        if let Some(server) = self.server.take() {
            server.join().expect("the server does not panic");
        }
    }
}

fn serve(listener: &TcpListener, served: &Arc<Served>) {
    for connection in listener.incoming() {
        if served.ends.load(Ordering::SeqCst) {
            return;
        }
        let (Ok(connection), served) = (connection, Arc::clone(served)) else { return };
        // What fails is that the client has gone.
        thread::spawn(move || served.answer(&connection).ok());
    }
}

impl Served {
    fn answer(&self, connection: &TcpStream) -> io::Result<()> {
        let mut reader = BufReader::new(connection);
        // Clients try TLS first.
        if reader.fill_buf()?.first() == Some(&TLS) {
            return Ok(());
        }
        let mut head = Vec::new();
        while head.last().is_none_or(|line: &String| !line.is_empty()) {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            head.push(line.trim_end().to_owned());
        }
        let authorized = head.iter().any(|line| {
            let header = line.split_once(": ");
            header.is_some_and(|(name, value)| {
                name.eq_ignore_ascii_case("authorization") && value == ME_SECRET
            })
        });
        if self.private && !authorized {
            return respond(
                connection,
                "401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"x\"",
                b"",
            );
        }
        let path = head[0].split(' ').nth(1).unwrap_or("");
        match self.find(path).map(fs::read) {
            Some(Ok(content)) if path.contains("/manifests/") => {
                respond(connection, &format!("200 OK\r\nContent-Type: {MANIFEST_TYPE}"), &content)
            }
            Some(Ok(content)) if is_layer(&content) && self.stalls.load(Ordering::SeqCst) => {
                self.send_half(connection, &content)
            }
            Some(Ok(content)) => respond(connection, "200 OK", &content),
            _ if path == "/v2/" => respond(connection, "200 OK", b"{}"),
            _ => respond(connection, "404 Not Found", b"{}"),
        }
    }

    /// The file behind `/v2/REPOSITORY/manifests/TAG`, `…/manifests/DIGEST` or `…/blobs/DIGEST`.
    fn find(&self, path: &str) -> Option<PathBuf> {
        let (repository, what) = path.strip_prefix("/v2/")?.rsplit_once('/')?;
        let repository = repository.rsplit_once('/')?.0;
        let tags = self.tags.lock().expect("no panic");
        let digest = tags.get(&format!("{repository}:{what}")).map_or(what, String::as_str);
        let hex = digest.strip_prefix("sha256:")?;
        Some(self.directory.path().join("blobs/sha256").join(Path::new(hex).file_name()?))
    }

    fn send_half(&self, mut connection: &TcpStream, content: &[u8]) -> io::Result<()> {
        let length = content.len();
        write!(connection, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n")?;
        connection.write_all(&content[..length / 2])?;
        while !self.ends.load(Ordering::SeqCst) {
            thread::sleep(POLL);
        }
        Ok(())
    }
}

/// Layers are packed, everything else is JSON.
fn is_layer(content: &[u8]) -> bool {
    content.first() != Some(&b'{')
}

fn respond(mut connection: &TcpStream, head: &str, content: &[u8]) -> io::Result<()> {
    let length = content.len();
    let fixed = format!("Content-Length: {length}\r\nConnection: close\r\n\r\n");
    write!(connection, "HTTP/1.1 {head}\r\n{fixed}")?;
    connection.write_all(content)
}
