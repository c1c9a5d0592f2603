//! `docker regpush`: pushes local images through a Docker engine, and asks for a login when the
//! registry refuses one. Arrows point one way: pure modules know no network, presenters no HTTP,
//! the engine no terminal.

pub mod cli;
pub mod command;
pub mod credentials;
pub mod docker;
pub mod dry_run;
pub mod engine;
pub mod error;
pub mod event;
pub mod failure;
pub mod gate;
pub mod login;
pub mod net;
pub mod oci;
pub mod platform;
pub mod plugin;
pub mod present;
pub mod print;
pub mod progress;
pub mod push;
pub mod reference;
pub mod registry;
pub mod remote;
pub mod retry;
pub mod secret;
pub mod setup;
pub mod target;
pub mod text;
pub mod watchdog;
