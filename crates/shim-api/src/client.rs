//! Placeholder, replaced by the daemon's client.
