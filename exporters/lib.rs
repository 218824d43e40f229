//! Where rows go: one folder per exporter, one line per exporter here.
//!
//! An exporter sees snapshots and nothing else: no probe, no kernel, no socket. Whoever drives it (the HTTP server, a
//! push loop) owns timing and transport, so that every exporter can be tested on plain values.

pub mod prometheus;
