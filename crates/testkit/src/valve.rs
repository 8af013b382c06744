//! A valve in every connection to a server: lets through as many bytes of what it sends as a test allows.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
};

/// A listener that passes everything on to a server, and back as far as the valve is open. It ends when it is dropped.
#[derive(Debug)]
pub struct Valve {
    domain: String,
    shared: Arc<Shared>,
    listener: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    server: String,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// What may pass in each connection; `None`: everything.
    limit: Option<usize>,
    /// How often the limit was set.
    settings: u64,
    /// Whether a connection has reached the limit.
    shut: bool,
    /// What has passed in all connections.
    passed: usize,
    ended: bool,
    sockets: Vec<TcpStream>,
}

/// What has passed in one connection since the limit was set.
#[derive(Debug, Default)]
struct Counter {
    settings: u64,
    passed: usize,
}

impl Valve {
    /// A valve before the server at `domain` (host and port) that lets `bytes` pass in each connection, then nothing.
    #[must_use]
    pub fn before(domain: &str, bytes: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen on a loopback port");
        let own = listener.local_addr().expect("an address").to_string();
        let state = State { limit: Some(bytes), ..State::default() };
        let shared = Arc::new(Shared {
            server: domain.to_owned(),
            state: Mutex::new(state),
            changed: Condvar::new(),
        });
        let accepting = Arc::clone(&shared);
        let listener = Some(thread::spawn(move || accepting.accept(&listener)));
        Self { domain: own, shared, listener }
    }

    /// Host and port to use instead of the server's.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The reference of what is called `name` there, such as `app:1`.
    #[must_use]
    pub fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.domain)
    }

    /// Lets everything pass from now on.
    pub fn open(&self) {
        self.set_limit(None);
    }

    /// Lets nothing pass after `bytes` more in each connection.
    pub fn allow(&self, bytes: usize) {
        self.set_limit(Some(bytes));
    }

    fn set_limit(&self, limit: Option<usize>) {
        let mut state = self.shared.lock();
        state.limit = limit;
        state.settings += 1;
        state.shut = false;
        self.shared.changed.notify_all();
    }

    /// Whether all that was allowed has passed in some connection, which waits for more.
    #[must_use]
    pub fn is_shut(&self) -> bool {
        self.shared.lock().shut
    }

    /// Bytes that have passed from the server to its clients.
    #[must_use]
    pub fn passed(&self) -> usize {
        self.shared.lock().passed
    }

    /// Breaks all connections that there are.
    pub fn break_connections(&self) {
        for socket in self.shared.lock().sockets.drain(..) {
            // It may be closed already.
            socket.shutdown(Shutdown::Both).ok();
        }
    }
}

impl Drop for Valve {
    fn drop(&mut self) {
        self.shared.lock().ended = true;
        self.shared.changed.notify_all();
        self.break_connections();
        // Wakes the listener.
        drop(TcpStream::connect(&self.domain));
        if let Some(listener) = self.listener.take() {
            listener.join().expect("the valve does not panic");
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        for client in listener.incoming() {
            if self.lock().ended {
                return;
            }
            let Ok(client) = client else { continue };
            let shared = Arc::clone(self);
            // Ends with the connection.
            thread::spawn(move || shared.serve(&client).ok());
        }
    }

    /// A client that gives up or a server that is gone ends one connection only.
    fn serve(self: &Arc<Self>, client: &TcpStream) -> io::Result<()> {
        let server = TcpStream::connect(&self.server)?;
        self.lock().sockets.extend([client.try_clone()?, server.try_clone()?]);
        let (mut requests, mut to_server) = (client.try_clone()?, server.try_clone()?);
        thread::spawn(move || {
            io::copy(&mut requests, &mut to_server).ok();
            to_server.shutdown(Shutdown::Both).ok();
        });
        let passed = self.pass(&server, client);
        client.shutdown(Shutdown::Both).ok();
        server.shutdown(Shutdown::Both).ok();
        passed
    }

    fn pass(&self, mut from: &TcpStream, mut to: &TcpStream) -> io::Result<()> {
        let mut buffer = [0; 16 << 10];
        let mut counter = Counter::default();
        loop {
            let read = from.read(&mut buffer)?;
            let mut rest = buffer.get(..read).unwrap_or_default();
            if rest.is_empty() {
                return Ok(());
            }
            while !rest.is_empty() {
                let Some(granted) = self.grant(&mut counter, rest.len()) else { return Ok(()) };
                let (now, later) = rest.split_at(granted);
                to.write_all(now)?;
                rest = later;
            }
        }
    }

    /// Waits until something may pass: at most `wanted` bytes. `None` when the valve is gone.
    fn grant(&self, counter: &mut Counter, wanted: usize) -> Option<usize> {
        let mut state = self.lock();
        loop {
            if state.ended {
                return None;
            }
            if counter.settings != state.settings {
                *counter = Counter { settings: state.settings, passed: 0 };
            }
            let room = state.limit.map_or(wanted, |limit| limit - counter.passed);
            if room > 0 {
                let granted = room.min(wanted);
                counter.passed += granted;
                state.passed += granted;
                return Some(granted);
            }
            state.shut = true;
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_passes_than_is_allowed() {
        let server = TcpListener::bind("127.0.0.1:0").expect("listen");
        let domain = server.local_addr().expect("an address").to_string();
        let sender = thread::spawn(move || {
            let (mut client, _) = server.accept().expect("accept");
            client.write_all(b"0123456789").expect("send");
        });
        let valve = Valve::before(&domain, 4);
        let mut client = TcpStream::connect(valve.domain()).expect("connect");
        let mut begin = [0; 4];
        client.read_exact(&mut begin).expect("what is allowed");
        assert_eq!((&begin, valve.passed()), (b"0123", 4));
        while !valve.is_shut() {
            thread::yield_now();
        }
        valve.open();
        let mut rest = String::new();
        client.read_to_string(&mut rest).expect("the rest");
        assert_eq!(rest, "456789");
        sender.join().expect("no panic");
    }
}
