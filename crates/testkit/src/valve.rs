//! A valve in a connection: lets through as many bytes of what a server sends as a test allows.

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
    /// What may still pass; `None`: everything.
    budget: Option<usize>,
    /// What has passed.
    passed: usize,
    ended: bool,
    sockets: Vec<TcpStream>,
}

impl Valve {
    /// A valve before the server at `domain` (host and port) that lets `bytes` pass, then nothing.
    #[must_use]
    pub fn before(domain: &str, bytes: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen on a loopback port");
        let own = listener.local_addr().expect("an address").to_string();
        let state = State { budget: Some(bytes), ..State::default() };
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
        self.shared.lock().budget = None;
        self.shared.changed.notify_all();
    }

    /// Lets nothing pass after `bytes` more.
    pub fn allow(&self, bytes: usize) {
        self.shared.lock().budget = Some(bytes);
        self.shared.changed.notify_all();
    }

    /// Whether all that was allowed has passed.
    #[must_use]
    pub fn is_shut(&self) -> bool {
        self.shared.lock().budget == Some(0)
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
        loop {
            let read = from.read(&mut buffer)?;
            let mut rest = buffer.get(..read).unwrap_or_default();
            if rest.is_empty() {
                return Ok(());
            }
            while !rest.is_empty() {
                let Some(granted) = self.grant(rest.len()) else { return Ok(()) };
                let (now, later) = rest.split_at(granted);
                to.write_all(now)?;
                rest = later;
            }
        }
    }

    /// Waits until something may pass: at most `wanted` bytes. `None` when the valve is gone.
    fn grant(&self, wanted: usize) -> Option<usize> {
        let mut state = self.lock();
        while state.budget == Some(0) && !state.ended {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.ended {
            return None;
        }
        let granted = state.budget.map_or(wanted, |budget| budget.min(wanted));
        state.budget = state.budget.map(|budget| budget - granted);
        state.passed += granted;
        Some(granted)
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
        assert_eq!((&begin, valve.is_shut(), valve.passed()), (b"0123", true, 4));
        valve.open();
        let mut rest = String::new();
        client.read_to_string(&mut rest).expect("the rest");
        assert_eq!(rest, "456789");
        sender.join().expect("no panic");
    }
}
