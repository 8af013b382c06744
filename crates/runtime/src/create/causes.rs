//! Where libcontainer's causes go.
//!
//! Its errors say which phase failed, not why; the why is logged, by three processes of which two are forks. Their
//! error events are collected in a memory file that all three share, and never reach the container's standard error.

use std::{
    fmt::{self, Write as _},
    fs::File,
    io::Write as _,
    os::unix::fs::FileExt,
};

use nix::sys::memfd::{MFdFlags, memfd_create};
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    level_filters::LevelFilter,
    span,
};

use crate::error::RuntimeError;

/// Longer events are cut. The text travels in one report.
const EVENT_BYTES: usize = 512;
const TOTAL_BYTES: usize = 4096;

/// The error events that this process and its forks have logged.
#[derive(Debug)]
pub(super) struct Causes(File);

impl Causes {
    /// Begins to collect, until the process ends.
    pub(super) fn collect() -> Result<Self, RuntimeError> {
        let file: File = memfd_create("causes", MFdFlags::MFD_CLOEXEC)
            .map_err(RuntimeError::system("memfd_create"))?
            .into();
        let ours = file.try_clone().map_err(RuntimeError::file("duplicate", "memfd:causes"))?;
        // Only a second subscriber is refused, and then the first one collects.
        tracing::subscriber::set_global_default(Collector(ours)).ok();
        Ok(Self(file))
    }

    /// All events so far, joined by `; `, the earliest first.
    pub(super) fn text(&self) -> String {
        let mut bytes = vec![0; TOTAL_BYTES];
        let length = self.0.read_at(&mut bytes, 0).unwrap_or(0);
        bytes.truncate(length);
        String::from_utf8_lossy(&bytes).trim_end().replace('\n', "; ")
    }
}

/// Writes error events to a file, one a line. Forks share its offset.
struct Collector(File);

impl Subscriber for Collector {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() == Level::ERROR
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::ERROR)
    }

    fn event(&self, event: &Event<'_>) {
        let mut line = Line::default();
        event.record(&mut line);
        // A write that fails loses a cause; there is no other place to tell it.
        (&self.0).write_all(line.finish().as_bytes()).ok();
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Line {
    fn finish(self) -> String {
        let line = (self.message + &self.fields).replace('\n', " ");
        let fits = line.char_indices().take_while(|(at, _)| *at < EVENT_BYTES).count();
        let mut line: String = line.chars().take(fits).collect();
        line.push('\n');
        line
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a string cannot fail.
        if field.name() == "message" {
            write!(self.message, "{value:?}").ok();
        } else {
            write!(self.fields, " {}={value:?}", field.name()).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_events_are_kept_with_their_fields_and_others_are_not() {
        let file: File = memfd_create("test", MFdFlags::MFD_CLOEXEC).expect("memfd").into();
        let causes = Causes(file.try_clone().expect("dup"));
        tracing::subscriber::with_default(Collector(file), || {
            tracing::error!(err = ?"EPERM", "failed to\nmount");
            tracing::warn!("not this");
            tracing::error!("{}", "x".repeat(2 * EVENT_BYTES));
        });
        let text = causes.text();
        assert!(text.starts_with("failed to mount err=\"EPERM\"; xxx"), "{text}");
        assert!(!text.contains("not this"));
        assert_eq!(text.len(), "failed to mount err=\"EPERM\"; ".len() + EVENT_BYTES);
    }
}
