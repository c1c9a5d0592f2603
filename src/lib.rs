//! `docker regpush`: pushes local images through a Docker engine, and asks for credentials if the registry
//! requires them.
//!
//! Imports point one way, and `tests/it/imports.rs` has the table of them. Presenters do not use HTTP, the engine
//! does not use the terminal, and [`engine`] and [`registry`] do not know each other.

pub mod cli;
pub mod command;
pub mod credentials;
pub mod docker;
pub mod engine;
pub mod error;
pub mod event;
pub mod failure;
pub mod net;
pub mod oci;
pub mod palette;
pub mod platform;
pub mod plugin;
pub mod present;
pub mod print;
pub mod progress;
pub mod push;
pub mod reference;
pub mod registry;
pub mod retry;
pub mod secret;
pub mod setup;
pub mod text;
