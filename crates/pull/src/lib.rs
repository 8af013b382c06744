//! Pulls images.
