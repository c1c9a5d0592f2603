//! Drives the executable, in a scrubbed environment, against a fake engine that replays recordings.

mod cli;
mod conversation;
mod credentials;
mod engines;
mod hook;
mod output;
mod push;
mod saving;
mod support;
