//! Colours messages on a terminal, with the colours of buildx and docker compose.

use anstream::stream::RawStream;
use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};

/// Colours text for an output stream, if the stream shows colours. The default palette adds no colours.
#[derive(Clone, Copy, Debug, Default)]
pub struct Palette {
    is_on: bool,
}

impl Palette {
    /// Returns the palette for a stream. The palette adds colours if the stream is a terminal, unless
    /// `NO_COLOR`, `CLICOLOR=0` or `TERM=dumb` is set.
    pub fn of<S: RawStream>(stream: &S) -> Self {
        Self { is_on: stream.is_terminal() && AutoStream::choice(stream) != ColorChoice::Never }
    }

    pub fn done(self, text: &str) -> String {
        self.paint(AnsiColor::Green.on_default(), text)
    }

    pub fn warning(self, text: &str) -> String {
        self.paint(AnsiColor::Yellow.on_default(), text)
    }

    pub fn error(self, text: &str) -> String {
        self.paint(AnsiColor::Red.on_default(), text)
    }

    /// Dims text that few readers need, such as digests.
    pub fn dim(self, text: &str) -> String {
        self.paint(Style::new().dimmed(), text)
    }

    /// Applies a style to the first line of a message. The second line is a hint, which gets no style.
    fn paint(self, style: Style, text: &str) -> String {
        if !self.is_on {
            return text.to_owned();
        }
        let (line, rest) = text.split_at(text.find('\n').unwrap_or(text.len()));
        format!("{style}{line}{style:#}{rest}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paints_the_first_line_if_it_is_on() {
        let on = Palette { is_on: true };
        assert_eq!(on.error("error: x\nhint: y"), "\u{1b}[31merror: x\u{1b}[0m\nhint: y");
        assert_eq!(on.dim("@sha256:0"), "\u{1b}[2m@sha256:0\u{1b}[0m");
        assert_eq!(Palette::default().done("pushed"), "pushed");
    }
}
