//! Docker on this machine: its config directory, contexts, custom headers, and its hook for failed pushes.

pub mod config;
pub mod context;
pub mod edit;
pub mod file;
pub mod headers;
pub mod hook;
