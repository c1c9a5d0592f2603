//! `docker regpush`: pushes local images through a Docker engine, and prompts for credentials if the registry
//! requires authentication.
//!
//! Modules import each other in one direction only; `tests/it/imports.rs` lists the allowed imports. [`present`] does
//! not use HTTP, [`engine`] does not use the terminal, and [`engine`] and [`registry`] do not import each other.

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
pub mod relay;
pub mod retry;
pub mod secret;
pub mod setup;
pub mod text;
