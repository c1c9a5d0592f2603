//! stdout and stderr, outside of a presenter.

use std::io::{self, Write as _};

use crate::error::Error;
use crate::text::sanitize;

/// A line on stderr. Nobody is left to tell where that is closed.
pub fn tell(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

pub fn warn(warning: &str) {
    tell(&format!("warning: {warning}"));
}

pub fn print(text: &str) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    unless_closed(out.write_all(text.as_bytes()).and_then(|()| out.flush()))
}

/// A closed pipe is not an error: the reader wants no more (`docker regpush ls | head -1`).
pub fn unless_closed(written: io::Result<()>) -> Result<(), Error> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(Error::Output),
    }
}

/// Says what went wrong, and what to do about it.
pub fn tell_error(error: &Error) {
    tell(&worded(error));
}

/// The error, and in a second line its hint.
pub fn worded(error: &Error) -> String {
    let hint = error.hint().map(|hint| format!("\nhint: {}", sanitize(&hint)));
    format!("error: {}{}", error.message(), hint.unwrap_or_default())
}
