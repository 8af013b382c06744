//! A proxy that leads names of the internet to registries of a test.

use std::{
    collections::HashMap,
    io::{self, BufReader, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use super::http::Request;

/// A proxy for `https_proxy`; ends when it is dropped.
///
/// Source: RFC 9110, 9.3.6 (CONNECT).
#[derive(Debug)]
pub struct ConnectProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    listener: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    /// Where a host is.
    routes: HashMap<String, SocketAddr>,
    asked: Mutex<Vec<String>>,
    ends: AtomicBool,
}

impl ConnectProxy {
    /// Starts a proxy that knows these hosts, whatever their port, and no others.
    ///
    /// # Panics
    /// When it cannot listen.
    #[must_use]
    pub fn start<'a>(routes: impl IntoIterator<Item = (&'a str, SocketAddr)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
        let address = listener.local_addr().expect("a listener has an address");
        let routes = routes.into_iter().map(|(host, to)| (host.to_owned(), to)).collect();
        let (asked, ends) = (Mutex::default(), AtomicBool::new(false));
        let shared = Arc::new(Shared { routes, asked, ends });
        let thread = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || serve(&listener, &shared))
        };
        Self { address, shared, listener: Some(thread) }
    }

    /// Its URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The hosts and ports that were asked for, in this order.
    #[must_use]
    pub fn asked(&self) -> Vec<String> {
        self.shared.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for ConnectProxy {
    fn drop(&mut self) {
        self.shared.ends.store(true, Ordering::SeqCst);
        // Wakes the one that listens. Those that pass bytes on end with their connections.
        drop(TcpStream::connect(self.address));
        if let Some(listener) = self.listener.take() {
            drop(listener.join());
        }
    }
}

fn serve(listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        if shared.ends.load(Ordering::SeqCst) {
            return;
        }
        let (Ok(stream), shared) = (stream, Arc::clone(shared)) else { continue };
        // What fails is that one side leaves.
        thread::spawn(move || shared.connect(&stream).ok());
    }
}

impl Shared {
    fn connect(&self, mut client: &TcpStream) -> io::Result<()> {
        let mut reader = BufReader::new(client);
        let Some(request) = Request::read(&mut reader)? else { return Ok(()) };
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).push(request.path.clone());
        let host = request.path.rsplit_once(':').map_or("", |(host, _)| host);
        let route = self.routes.get(host).filter(|_| request.method == "CONNECT");
        let Some(address) = route else {
            return client.write_all(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n");
        };
        let server = TcpStream::connect(address)?;
        client.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
        let back = {
            let (server, client) = (server.try_clone()?, client.try_clone()?);
            thread::spawn(move || pass(&server, &client))
        };
        pass(client, &server);
        drop(back.join());
        Ok(())
    }
}

/// Passes bytes on until one side ends.
fn pass(mut from: &TcpStream, mut to: &TcpStream) {
    io::copy(&mut from, &mut to).ok();
    to.shutdown(Shutdown::Write).ok();
}
