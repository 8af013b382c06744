//! As much of HTTP/1.1 as a registry needs.
//!
//! Source: RFC 9112.

use std::{
    io::{self, BufRead, Read, Write},
    thread::sleep,
    time::Duration,
};

use super::fault::Fault;

const MAX_LINE_BYTES: u64 = 64 << 10;
const MAX_BODY_BYTES: u64 = 1 << 20;
const CHUNK: [u8; 4096] = [0; 4096];
const POLL: Duration = Duration::from_millis(5);

/// A request that a registry has got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Such as `GET`.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// Names in lower case, and values.
    pub headers: Vec<(String, String)>,
    /// The content, of a POST.
    pub body: String,
}

impl Request {
    /// The first header of that name, which is in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Reads a request; `None` when the client has left.
    pub(super) fn read(reader: &mut impl BufRead) -> io::Result<Option<Self>> {
        let Some(first) = read_line(reader)? else { return Ok(None) };
        let mut words = first.split(' ').map(str::to_owned);
        let (Some(method), Some(path)) = (words.next(), words.next()) else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        let mut headers = Vec::new();
        while let Some(line) = read_line(reader)?.filter(|line| !line.is_empty()) {
            let (name, value) = line.split_once(':').ok_or(io::ErrorKind::InvalidData)?;
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let mut request = Self { method, path, headers, body: String::new() };
        let length = request.header("content-length").and_then(|value| value.parse().ok());
        let length: u64 = length.unwrap_or_default();
        reader.take(length.min(MAX_BODY_BYTES)).read_to_string(&mut request.body)?;
        Ok(Some(request))
    }
}

fn read_line(reader: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut line = String::new();
    let count = reader.take(MAX_LINE_BYTES).read_line(&mut line)?;
    Ok((count > 0).then(|| line.trim_end().to_owned()))
}

/// An answer to be.
#[derive(Clone, Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl Reply {
    pub(super) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: body.into() }
    }

    /// An error as registries explain it (OCI distribution specification, "Error Codes").
    pub(super) fn error(status: u16, code: &str) -> Self {
        let body = format!(r#"{{"errors":[{{"code":"{code}","message":"said the registry"}}]}}"#);
        Self::new(status, body).header("Content-Type", "application/json")
    }

    pub(super) fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// Makes it as wrong as a fault that concerns status, headers or content wants it.
    pub(super) fn spoiled(self, fault: Option<&Fault>) -> Self {
        match fault {
            Some(Fault::Status(status)) => Self::error(*status, "TOLD_SO"),
            Some(Fault::RetryAfter(status, after)) => {
                Self::error(*status, "TOLD_SO").header("Retry-After", after.as_str())
            }
            Some(Fault::Answer(status, headers, body)) => {
                Self { status: *status, headers: headers.clone(), body: body.clone() }
            }
            Some(Fault::Redirect(to)) => Self::new(307, "").header("Location", to.as_str()),
            Some(Fault::Content(body)) => Self { body: body.clone(), ..self },
            Some(Fault::ContentRange(range)) => {
                Self::new(206, self.body).header("Content-Range", range.as_str())
            }
            _ => self,
        }
    }

    /// Writes the answer as a fault wants it; returns whether the connection may be used again.
    pub(super) fn write(
        &self,
        out: &mut dyn Write,
        fault: Option<&Fault>,
        ends: &dyn Fn() -> bool,
    ) -> io::Result<bool> {
        let length = u64::try_from(self.body.len()).expect("sizes fit");
        match fault {
            Some(Fault::Truncated(count)) => {
                self.write_head(out, Some(length))?;
                out.write_all(self.body.get(..*count).unwrap_or(&self.body))?;
            }
            Some(Fault::ContentLength(said)) => {
                self.write_head(out, Some(*said))?;
                out.write_all(&self.body)?;
            }
            Some(Fault::Endless) => self.write_endless(out, ends)?,
            Some(Fault::Chunked(count)) => {
                self.write_head(out, None)?;
                write_chunk(out, self.body.get(..*count).unwrap_or(&self.body))?;
                write_chunk(out, &[])?;
                return Ok(true);
            }
            Some(Fault::Trickle(pause)) => {
                self.write_head(out, Some(length))?;
                for byte in &self.body {
                    out.write_all(&[*byte])?;
                    out.flush()?;
                    wait(*pause, ends);
                }
            }
            Some(Fault::Stall(count)) => {
                self.write_head(out, Some(length))?;
                out.write_all(self.body.get(..*count).unwrap_or(&self.body))?;
                out.flush()?;
                wait(Duration::MAX, ends);
            }
            _ => {
                self.write_head(out, Some(length))?;
                out.write_all(&self.body)?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn write_endless(&self, out: &mut dyn Write, ends: &dyn Fn() -> bool) -> io::Result<()> {
        self.write_head(out, None)?;
        write_chunk(out, &self.body)?;
        while !ends() {
            write_chunk(out, &CHUNK)?;
        }
        Ok(())
    }

    /// Without a length the content comes in chunks.
    fn write_head(&self, out: &mut dyn Write, length: Option<u64>) -> io::Result<()> {
        write!(out, "HTTP/1.1 {} Reason\r\n", self.status)?;
        for (name, value) in &self.headers {
            write!(out, "{name}: {value}\r\n")?;
        }
        match length {
            Some(length) => write!(out, "Content-Length: {length}\r\n\r\n"),
            None => write!(out, "Transfer-Encoding: chunked\r\n\r\n"),
        }
    }
}

/// An empty chunk is the last one.
fn write_chunk(out: &mut dyn Write, bytes: &[u8]) -> io::Result<()> {
    write!(out, "{:x}\r\n", bytes.len())?;
    out.write_all(bytes)?;
    out.write_all(b"\r\n")
}

/// Waits, but not longer than the registry lives.
fn wait(time: Duration, ends: &dyn Fn() -> bool) {
    let mut left = time;
    while !left.is_zero() && !ends() {
        let nap = left.min(POLL);
        sleep(nap);
        left -= nap;
    }
}
