//! Writes to stdout and stderr outside of a presenter.

use std::io::{self, Write as _};

use crate::error::Error;
use crate::palette::Palette;
use crate::text::sanitize;

/// Prints a line on stderr. Ignores errors, since there is no other place to report them.
pub fn tell(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

pub fn warn(warning: &str) {
    tell(&Palette::of(&io::stderr()).warning(&format!("warning: {warning}")));
}

pub fn print(text: &str) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    unless_closed(out.write_all(text.as_bytes()).and_then(|()| out.flush()))
}

/// Turns a closed pipe into success: its reader needs no more output (`docker regpush ls | head -1`).
pub fn unless_closed(written: io::Result<()>) -> Result<(), Error> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(Error::Output),
    }
}

/// Prints an error and its hint.
pub fn tell_error(error: &Error) {
    tell(&Palette::of(&io::stderr()).error(&worded(error)));
}

/// Formats an error, with its hint on a second line.
pub fn worded(error: &Error) -> String {
    let hint = error.hint().map(|hint| format!("\nhint: {}", sanitize(&hint)));
    format!("error: {}{}", error.message(), hint.unwrap_or_default())
}
