pub mod body;
pub mod client;
pub mod engine;
pub mod env;
pub mod registry;
pub mod schema;
pub mod terminal;
pub mod wait;
