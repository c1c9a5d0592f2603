//! Reads and changes Docker's settings on this machine: config directory, contexts, custom HTTP headers, and
//! the hook for failed pushes.

pub mod config;
pub mod context;
pub mod edit;
pub mod file;
pub mod headers;
pub mod hook;
