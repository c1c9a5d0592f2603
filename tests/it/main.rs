//! Runs the executable in a clean environment, with a fake engine that replays recorded responses.

mod auth;
mod buildx;
mod cli;
mod conversation;
mod credentials;
mod diagnosis;
mod docker_29;
mod documents;
mod engines;
mod healing;
mod hook;
mod hostile;
mod imports;
mod ls;
mod output;
mod password_command;
mod preflight;
mod push;
mod refusals;
mod relay;
mod remarks;
mod saving;
mod schema;
mod screen;
mod several;
mod support;
