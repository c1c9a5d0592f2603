//! Prints messages to stdout and stderr without a presenter.

use std::io::{self, Write as _};

use crate::error::Error;
use crate::palette::Palette;
use crate::text::sanitize;

/// Prints a line on stderr. Ignores write errors, since errors could only be reported on stderr too.
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

/// Turns the error of a closed pipe into success, since the reader of the pipe needs no more output.
///
/// Example: `docker regpush ls | head -1`.
pub fn unless_closed(written: io::Result<()>) -> Result<(), Error> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(Error::Output),
    }
}

/// Prints an error and its hint on stderr.
pub fn tell_error(error: &Error) {
    tell(&Palette::of(&io::stderr()).error(&worded(error)));
}

/// Formats an error, with its hint on a second line.
pub fn worded(error: &Error) -> String {
    let hint = error.hint().map(|hint| format!("\nhint: {}", sanitize(&hint)));
    format!("error: {}{}", error.message(), hint.unwrap_or_default())
}
