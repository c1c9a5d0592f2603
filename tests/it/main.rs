//! Drives the executable, in a scrubbed environment, against a fake engine that replays recordings.

mod auth;
mod cli;
mod conversation;
mod credentials;
mod documents;
mod engines;
mod healing;
mod hook;
mod hostile;
mod imports;
mod ls;
mod output;
mod push;
mod saving;
mod schema;
mod screen;
mod several;
mod support;
