//! Unpacks image layers in a confined process.
