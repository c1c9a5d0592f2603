//! Docker on this machine: its config directory, its contexts, and what it asks of a plugin.

pub mod config;
pub mod context;
pub mod edit;
pub mod file;
pub mod headers;
pub mod hook;
