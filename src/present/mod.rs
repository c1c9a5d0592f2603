//! Shows the progress of pushes on stderr. Each progress mode has a presenter, which receives the updates of all
//! images. Presenters do not use HTTP.
//!
//! Write errors are ignored, since a closed stderr must not fail a push.

mod board;
pub mod json;
mod lines;
pub mod plain;
pub mod presenter;
mod rate;
pub mod raw;
pub mod tty;

use std::io;

use crate::cli::ProgressMode;
use crate::palette::Palette;
use crate::present::json::Json;
use crate::present::plain::Plain;
use crate::present::presenter::Presenter;
use crate::present::raw::{Raw, Silent};
use crate::present::tty::{Tty, terminal_size};

/// The names under which presenters show an image.
pub struct ImageName {
    /// The familiar reference, for people.
    pub familiar: String,
    /// The canonical reference, for programs.
    pub canonical: String,
}

/// Returns the presenter of a progress mode. The presenter writes to stderr.
///
/// * `mode`: the progress mode; `Auto` is the same as `Plain`.
/// * `names`: the names of the images, in the order that the user typed.
pub fn for_mode(mode: ProgressMode, names: Vec<ImageName>) -> Box<dyn Presenter> {
    let (familiar, canonical) = names.into_iter().map(|name| (name.familiar, name.canonical)).unzip();
    let out = io::stderr();
    let palette = Palette::of(&out);
    match mode {
        ProgressMode::None => Box::new(Silent::new(out, palette, familiar)),
        ProgressMode::Tty => Box::new(Tty::new(out, palette, familiar, terminal_size)),
        ProgressMode::Json => Box::new(Json::new(out, canonical)),
        ProgressMode::Rawjson => Box::new(Raw::new(out, palette, familiar)),
        ProgressMode::Auto | ProgressMode::Plain => Box::new(Plain::new(out, palette, familiar)),
    }
}
