//! Pushes images to registries: [`batch`] pushes an image to all its destinations, and [`image`] to one destination.

mod announce;
pub mod batch;
pub mod conversation;
mod credentials;
mod diagnose;
pub mod dry_run;
pub mod error;
mod existing;
pub mod gate;
pub mod image;
pub mod login;
mod naming;
pub mod outcome;
pub mod platforms;
pub mod pool;
mod preflight;
mod save;
pub mod session;
mod subject;
pub mod suggest;
pub mod target;
mod upload;
mod verify;
