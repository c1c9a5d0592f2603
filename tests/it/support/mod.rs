pub mod body;
pub mod engine;
pub mod env;
pub mod schema;
pub mod terminal;
