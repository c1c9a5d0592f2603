//! Writes lines to stderr, and holds lines back while a prompt uses the terminal.

use std::io::Write;

use crate::palette::Palette;
use crate::present::presenter::{Ending, Level};

/// Maximum number of lines that are held back during a prompt. Further lines are dropped.
pub const MAX_HELD: usize = 1000;

/// Writes lines to `out`. During a prompt, lines are stored in `held`, and written after the prompt.
pub struct Lines<W> {
    pub out: W,
    pub palette: Palette,
    held: Option<Vec<String>>,
}

impl<W: Write> Lines<W> {
    pub(super) fn new(out: W, palette: Palette) -> Self {
        Self { out, palette, held: None }
    }

    pub(super) fn line(&mut self, line: &str) {
        match &mut self.held {
            Some(held) if held.len() < MAX_HELD => held.push(line.to_owned()),
            Some(_) => {}
            None => self.line_now(line),
        }
    }

    pub(super) fn line_now(&mut self, line: &str) {
        // Writes the line and the line end in one write, since other processes may write to stderr at the same time.
        let _ = self.out.write_all(format!("{line}\n").as_bytes());
    }

    pub(super) fn hold(&mut self, is_asking: bool) {
        let held = if is_asking { self.held.replace(Vec::new()) } else { self.held.take() };
        for line in held.into_iter().flatten() {
            self.line_now(&line);
        }
    }
}

/// Formats a line for people. `name` is the image that the line is about, if given, and is shown in
/// notes and warnings.
pub fn worded(palette: Palette, name: Option<&str>, level: Level, line: &str) -> String {
    let about = name.map(|name| format!("{name}: ")).unwrap_or_default();
    match level {
        Level::Warning => palette.warning(&format!("warning: {about}{line}")),
        Level::Note => format!("{about}{line}"),
        Level::Notice | Level::Asking => line.to_owned(),
    }
}

/// Returns the message about the result of a push, in the colour for success or failure.
pub fn worded_ending(palette: Palette, ending: &Ending<'_>) -> String {
    if ending.is_failure { palette.error(ending.text) } else { palette.done(ending.text) }
}
