//! A registry that serves images of the tests' own, and misbehaves as told.
//!
//! [`FakeRegistry`] speaks the read side of the OCI distribution protocol in HTTP/1.1 on a loopback port of its own, and
//! ends when it is dropped. It is for what no real registry does on demand: broken transfers, wrong answers,
//! redirects to anywhere, token servers elsewhere. For everything else there is [`crate::docker_registry`].
//!
//! ```no_run
//! use testkit::image::ImageBuilder;
//! use testkit::registry::{Fault, FakeRegistry};
//!
//! let registry = FakeRegistry::start();
//! let image = registry.push(&ImageBuilder::busybox(), "app:1");
//! // The first request for a blob is answered with 503, the next one ends after 100 bytes.
//! registry.fail("/blobs/", [Fault::Status(503), Fault::Truncated(100)]);
//! println!("pull {}, which is {}", registry.reference("app:1"), image.id);
//! // …
//! assert!(registry.requests().iter().all(|request| request.header("authorization").is_none()));
//! ```
//!
//! Several registries on different hosts: [`FakeRegistry::start_on`] with `127.0.0.2` and so on. Hosts with other
//! names: [`ConnectProxy`], for a process whose environment names it as its proxy. TLS: [`Authority`].

mod content;
mod fault;
mod http;
mod proxy;
mod serve;
mod tls;

use std::{
    net::{SocketAddr, TcpListener},
    sync::{Arc, PoisonError},
    thread::JoinHandle,
};

use serde_json::Value;

use crate::image::ImageBuilder;
use content::Content;
use serve::Served;

pub use fault::Fault;
pub use http::Request;
pub use proxy::ConnectProxy;
pub use tls::Authority;

/// The path at which a registry that issues tokens does so.
pub const TOKEN_PATH: &str = "/token";

/// What a registry asks of its clients, except at [`TOKEN_PATH`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// Nothing.
    #[default]
    Anonymous,
    /// A user and a password with each request.
    Basic {
        /// The user.
        username: String,
        /// The password.
        password: String,
    },
    /// One certain token.
    Bearer {
        /// The token server's URL, as the challenge has it.
        realm: String,
        /// Who the token is for, as the challenge has it.
        service: String,
        /// The token that is taken.
        token: String,
    },
}

/// Whom a registry gives a token at [`TOKEN_PATH`], and which.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issue {
    /// The token.
    pub token: String,
    /// Seconds it is said to be good for; left out if `None`.
    pub expires_in: Option<u64>,
    /// The user and password it is for; anybody if `None`.
    pub user: Option<(String, String)>,
    /// The refresh token it is given for, by POST.
    pub refresh_token: Option<String>,
    /// Call it `access_token` instead of `token`.
    pub as_access_token: bool,
}

impl Issue {
    /// A token for anybody.
    pub fn to_anybody(token: impl Into<String>) -> Self {
        Self {
            token: token.into(),
            expires_in: None,
            user: None,
            refresh_token: None,
            as_access_token: false,
        }
    }
}

/// An image in a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// The image's id: the digest of its configuration.
    pub id: String,
    /// The manifest's digest.
    pub manifest: String,
    /// The layers' blobs, base layer first.
    pub layers: Vec<PushedLayer>,
}

/// A layer's blob in a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PushedLayer {
    /// Its digest.
    pub digest: String,
    /// Its size.
    pub bytes: u64,
}

/// A running registry; ends when it is dropped.
#[derive(Debug)]
pub struct FakeRegistry {
    address: SocketAddr,
    scheme: &'static str,
    served: Arc<Served>,
    listener: Option<JoinHandle<()>>,
}

impl FakeRegistry {
    /// Starts an empty registry on 127.0.0.1 that speaks http.
    #[must_use]
    pub fn start() -> Self {
        Self::start_on("127.0.0.1")
    }

    /// Starts an empty registry on another loopback address, such as `127.0.0.2` or `[::1]`.
    ///
    /// # Panics
    /// When it cannot listen there.
    #[must_use]
    pub fn start_on(host: &str) -> Self {
        Self::listen(host, None)
    }

    /// Starts an empty registry on 127.0.0.1 that speaks https, as `names` (host names or addresses).
    ///
    /// # Panics
    /// When it cannot listen.
    #[must_use]
    pub fn start_tls(authority: &Authority, names: &[&str]) -> Self {
        Self::listen("127.0.0.1", Some(authority.server_config(names)))
    }

    fn listen(host: &str, tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        let listener = TcpListener::bind(format!("{host}:0"))
            .unwrap_or_else(|error| panic!("listen on {host}: {error}"));
        let address = listener.local_addr().expect("a listener has an address");
        let scheme = if tls.is_some() { "https" } else { "http" };
        let served = Arc::new(Served::default());
        let thread = serve::listen(listener, &served, tls);
        Self { address, scheme, served, listener: Some(thread) }
    }

    /// Address and port.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Host and port, as references begin.
    #[must_use]
    pub fn domain(&self) -> String {
        self.address.to_string()
    }

    /// The whole reference of `name`, which is `repository:tag`.
    #[must_use]
    pub fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    /// The URL of `path`, which begins with `/`.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", self.scheme, self.address)
    }

    /// Serves an image by `name`, which is `repository:tag`.
    ///
    /// # Panics
    /// When the image cannot be made.
    pub fn push(&self, image: &ImageBuilder, name: &str) -> Pushed {
        let directory = tempfile::tempdir().expect("temporary directory");
        let id = image.write_layout(directory.path(), name);
        let read = |path: &str| {
            std::fs::read(directory.path().join(path)).expect("the layout was just written")
        };
        let blob = |digest: &str| read(&format!("blobs/{}", digest.replace(':', "/")));
        let index: Value = serde_json::from_slice(&read("index.json")).expect("JSON");
        let descriptor = &index["manifests"][0];
        let manifest = text(descriptor, "digest");
        let content = blob(&manifest);
        let parsed: Value = serde_json::from_slice(&content).expect("JSON");
        let layers = parsed["layers"].as_array().expect("layers");
        let layers = layers.iter().map(|layer| {
            self.add_blob(&blob(&text(layer, "digest")));
            let bytes = layer["size"].as_u64().expect("a size");
            PushedLayer { digest: text(layer, "digest"), bytes }
        });
        let layers = layers.collect();
        self.add_blob(&blob(&text(&parsed["config"], "digest")));
        self.add_manifest(name, &text(descriptor, "mediaType"), &content);
        Pushed { id, manifest, layers }
    }

    /// Serves a blob in all repositories; returns its digest.
    pub fn add_blob(&self, content: &[u8]) -> String {
        self.content(|served| served.add_blob(content))
    }

    /// Serves a manifest or index by `name`, which is `repository:tag`, and by its digest, which is returned.
    pub fn add_manifest(&self, name: &str, media_type: &str, content: &[u8]) -> String {
        self.content(|served| served.add_manifest(name, media_type, content))
    }

    fn content<T>(&self, change: impl FnOnce(&mut Content) -> T) -> T {
        change(&mut self.served.content.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What is asked of clients from now on.
    pub fn require(&self, access: Access) {
        *self.served.access.lock().unwrap_or_else(PoisonError::into_inner) = access;
    }

    /// The token that is given at [`TOKEN_PATH`] from now on.
    pub fn issue(&self, issue: Issue) {
        *self.served.issue.lock().unwrap_or_else(PoisonError::into_inner) = Some(issue);
    }

    /// The URL of [`TOKEN_PATH`].
    #[must_use]
    pub fn realm(&self) -> String {
        self.url(TOKEN_PATH)
    }

    /// Lets the next requests whose path contains `path` fail, one fault each, after [`Access`] was checked. Those
    /// after them are answered well.
    pub fn fail(&self, path: &str, faults: impl IntoIterator<Item = Fault>) {
        self.served.faults().add(path, faults, false);
    }

    /// Lets all requests whose path contains `path` fail, after [`Access`] was checked.
    pub fn always_fail(&self, path: &str, fault: Fault) {
        self.served.faults().add(path, [fault], true);
    }

    /// From now on nothing fails that does not have to.
    pub fn heal(&self) {
        self.served.faults().clear();
    }

    /// All requests so far, in the order in which they came.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.served.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many requests so far had `path` in their path.
    #[must_use]
    pub fn count(&self, path: &str) -> usize {
        self.requests().iter().filter(|request| request.path.contains(path)).count()
    }

    /// Over how many connections the requests came.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.served.connections()
    }

    /// How often a client tried TLS in vain, because the registry speaks http.
    #[must_use]
    pub fn handshakes(&self) -> usize {
        self.served.handshakes()
    }

    /// The protocols that clients offered with TLS (ALPN), of all connections.
    #[must_use]
    pub fn offered_protocols(&self) -> Vec<String> {
        self.served.protocols.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for FakeRegistry {
    fn drop(&mut self) {
        self.served.end(self.address);
        if let Some(listener) = self.listener.take() {
            // A panic of a thread of its own has failed the test already, by a missing answer.
            drop(listener.join());
        }
    }
}

fn text(json: &Value, field: &str) -> String {
    json[field].as_str().unwrap_or_else(|| panic!("no {field} in {json}")).to_owned()
}

#[cfg(test)]
mod tests;
