pub mod engine;
pub mod env;
pub mod terminal;
