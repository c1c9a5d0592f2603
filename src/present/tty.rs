//! For a terminal: the layers on their way, redrawn in place, and a line of totals.
//!
//! [`render`] is pure; [`Tty`] writes what changed of it, in one write a frame. indicatif was
//! measured at 13 to 76 times the bytes, since it redraws every line in full width.

use std::io::{self, Write};
use std::time::Duration;

use terminal_size::{Height, Width, terminal_size_of};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::Presenter;
use super::plain::totals;
use crate::event::{Event, LayerState};
use crate::progress::{Layer, Progress};
use crate::text::human_size;

/// Columns and rows.
pub type Size = (usize, usize);

/// Engines send 8 to 10 events a second for each layer; faster redrawing shows nothing new.
const FRAME: Duration = Duration::from_millis(100);
const BAR: usize = 30;
/// Below this a bar leaves no room for the bytes.
const BAR_MIN_WIDTH: usize = 70;

/// The size of the terminal on stderr, read anew for each frame.
pub fn terminal_size() -> Size {
    match terminal_size_of(io::stderr()) {
        Some((Width(columns @ 1..), Height(rows @ 1..))) => (columns.into(), rows.into()),
        _ => (80, 24),
    }
}

pub struct Tty<W: Write> {
    out: W,
    size: fn() -> Size,
    /// What stands on the terminal, the cursor at the start of the line below.
    shown: Vec<String>,
    shown_width: usize,
}

impl<W: Write> Tty<W> {
    pub fn new(out: W, size: fn() -> Size) -> Self {
        Self { out, size, shown: Vec::new(), shown_width: 0 }
    }

    /// One write: up to the first row, each row that changed, and what is left over cleared.
    fn draw(&mut self, lines: Vec<String>) {
        let (width, _) = (self.size)();
        let same = lines == self.shown && width == self.shown_width;
        if same || (lines.is_empty() && self.shown.is_empty()) {
            return;
        }
        let rows = self.rows_shown(width);
        let kept = rows == self.shown.len();
        // Synchronized output: terminals that know it show the frame at once, others ignore it.
        let mut frame = String::from("\x1b[?2026h");
        if rows > 0 {
            // Ctrl-C may have been echoed where the cursor waits.
            frame += &format!("\r\x1b[{rows}A");
        }
        if !kept {
            // A narrower terminal has wrapped the lines.
            frame += "\x1b[J";
        }
        for (row, line) in lines.iter().enumerate() {
            if !kept || self.shown.get(row) != Some(line) {
                frame += line;
                frame += "\x1b[K";
            }
            frame += "\r\n";
        }
        if lines.len() < self.shown.len() {
            frame += "\x1b[J";
        }
        frame += "\x1b[?2026l";
        let _ = self.out.write_all(frame.as_bytes()).and_then(|()| self.out.flush());
        (self.shown, self.shown_width) = (lines, width);
    }

    fn rows_shown(&self, width: usize) -> usize {
        self.shown.iter().map(|line| line.width().div_ceil(width.max(1)).max(1)).sum()
    }

    /// A line that stays, above what is redrawn.
    fn print(&mut self, line: &str) {
        self.draw(Vec::new());
        let _ = write!(self.out, "{line}\r\n");
    }
}

impl<W: Write> Presenter for Tty<W> {
    fn event(&mut self, event: &Event, _: &Progress) {
        // The first line of every engine; the totals name the image.
        if let Event::Note { text } = event
            && !text.starts_with("The push refers to repository")
        {
            self.print(text);
        }
    }

    fn tick(&mut self, progress: &Progress) {
        let size = (self.size)();
        self.draw(render(progress, progress.elapsed(), size));
    }

    fn period(&self) -> Option<Duration> {
        Some(FRAME)
    }

    fn note(&mut self, line: &str) {
        self.print(line);
    }

    fn tell(&mut self, line: &str) {
        self.print(line);
    }

    fn finish(&mut self) {
        self.draw(Vec::new());
    }
}

/// Ctrl-C drops the push in the middle of a frame.
impl<W: Write> Drop for Tty<W> {
    fn drop(&mut self) {
        self.draw(Vec::new());
    }
}

/// The lines of a frame: layers that are on their way, then the totals. One row less than the
/// terminal has, so that nothing scrolls, and no line as wide as it, so that none wraps.
pub fn render(progress: &Progress, elapsed: Duration, (width, height): Size) -> Vec<String> {
    let room = height.saturating_sub(2);
    let active: Vec<&Layer> = progress.layers().iter().filter(|layer| is_active(layer)).collect();
    let mut lines: Vec<String> = if active.len() <= room {
        active.iter().map(|layer| layer_line(layer, width)).collect()
    } else {
        let shown = room.saturating_sub(1);
        let more = format!("… and {} more layers", active.len() - shown);
        active[..shown]
            .iter()
            .map(|layer| layer_line(layer, width))
            .chain([more].into_iter().take(room))
            .collect()
    };
    lines.push(format!("{}  {} s", totals(progress, elapsed), elapsed.as_secs()));
    lines.iter().map(|line| cut(line, width.saturating_sub(1))).collect()
}

fn is_active(layer: &Layer) -> bool {
    !layer.state.is_final() && !matches!(layer.state, LayerState::Waiting | LayerState::Preparing)
}

fn layer_line(layer: &Layer, width: usize) -> String {
    let LayerState::Pushing { .. } = layer.state else {
        return format!("{}: {}", layer.id, layer.state);
    };
    let bytes = match layer.total {
        0 => human_size(layer.current),
        total => format!("{} of {}", human_size(layer.current.min(total)), human_size(total)),
    };
    let bar = match layer.total {
        0 => String::new(),
        _ if width < BAR_MIN_WIDTH => String::new(),
        total => {
            let filled = (u128::from(layer.current.min(total)) * BAR as u128 / u128::from(total)) as usize;
            format!("[{:<BAR$}] ", "#".repeat(filled))
        }
    };
    format!("{}: Pushing {bar}{bytes}", layer.id)
}

/// At most so many columns; a wide character that does not fit whole is left out.
fn cut(line: &str, columns: usize) -> String {
    let mut used = 0;
    let fits = |c: &char| {
        used += c.width().unwrap_or(0);
        used <= columns
    };
    line.chars().take_while(fits).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fold(states: impl IntoIterator<Item = (String, LayerState)>) -> Progress {
        let mut progress = Progress::default();
        for (id, state) in states {
            progress.apply(&Event::Layer { id, state });
        }
        progress
    }

    fn some_layers() -> Progress {
        fold([
            ("91efb8fa70ba".to_owned(), LayerState::Pushing { current: 2_753_536, total: 20_971_520 }),
            ("5ddfb8fa70bb".to_owned(), LayerState::Waiting),
            ("a0efb8fa70bc".to_owned(), LayerState::AlreadyExists),
            ("b1efb8fa70bd".to_owned(), LayerState::Retrying { seconds: 4 }),
            ("c2efb8fa70be".to_owned(), LayerState::Pushing { current: 12, total: 10 }),
        ])
    }

    #[test]
    fn a_line_for_each_layer_on_its_way_and_one_of_totals() {
        let lines = render(&some_layers(), Duration::from_secs(2), (80, 24)).join("\n");
        insta::assert_snapshot!(lines, @r"
        91efb8fa70ba: Pushing [###                           ] 2.754MB of 20.97MB
        b1efb8fa70bd: Retrying in 4 seconds
        c2efb8fa70be: Pushing [##############################] 10B of 10B
        1 of 5 layers  13 %  2.754MB of 20.97MB  1.377MB/s  2 s
        ");
    }

    #[test]
    fn a_narrow_terminal_gets_no_bar_and_no_wrapped_line() {
        let lines = render(&some_layers(), Duration::from_secs(2), (40, 24)).join("\n");
        insta::assert_snapshot!(lines, @r"
        91efb8fa70ba: Pushing 2.754MB of 20.97M
        b1efb8fa70bd: Retrying in 4 seconds
        c2efb8fa70be: Pushing 10B of 10B
        1 of 5 layers  13 %  2.754MB of 20.97MB
        ");
    }

    #[test]
    fn never_more_lines_than_the_terminal_has() {
        let layers = (0..100).map(|n| (format!("{n:012}"), LayerState::Pushing { current: 1, total: 2 }));
        let progress = fold(layers);
        for height in 0..40 {
            let lines = render(&progress, Duration::ZERO, (80, height));
            assert!(lines.len() <= height.saturating_sub(1).max(1), "{height}: {lines:?}");
        }
        let lines = render(&progress, Duration::ZERO, (80, 5));
        insta::assert_snapshot!(lines.join("\n"), @r"
        000000000000: Pushing [###############               ] 1B of 2B
        000000000001: Pushing [###############               ] 1B of 2B
        … and 98 more layers
        0 of 100 layers  50 %  100B of 200B  0 s
        ");
    }

    #[test]
    fn wide_characters_count_as_wide() {
        assert_eq!(cut("您没有权限", 5), "您没");
        assert_eq!(cut("abc", 5), "abc");
    }

    #[test]
    fn the_screen_shows_the_last_frame_and_the_lines_above_it() {
        let mut tty = Tty::new(Vec::new(), || (80, 24));
        let mut progress = some_layers();
        tty.tick(&progress);
        tty.note("a line that stays");
        progress.apply(&Event::Layer { id: "91efb8fa70ba".to_owned(), state: LayerState::Pushed });
        tty.tick(&progress);
        let mut screen = vt100::Parser::new(24.try_into().unwrap(), 80.try_into().unwrap(), 0);
        screen.process(&std::mem::take(&mut tty.out));
        let shown = screen.screen().contents();
        let rows: Vec<&str> = shown.lines().collect();
        assert_eq!(rows[0], "a line that stays");
        assert_eq!(rows[1], "b1efb8fa70bd: Retrying in 4 seconds");
        assert!(rows[3].starts_with("2 of 5 layers"), "{rows:?}");
        assert_eq!(screen.screen().cursor_position(), (4, 0), "the cursor waits below");

        tty.finish();
        screen.process(&tty.out);
        assert_eq!(screen.screen().contents(), "a line that stays");
    }

    #[test]
    fn a_frame_writes_only_the_rows_that_changed() {
        let mut tty = Tty::new(Vec::new(), || (80, 24));
        let mut progress = some_layers();
        tty.tick(&progress);
        tty.out.clear();
        progress.apply(&Event::Layer {
            id: "b1efb8fa70bd".to_owned(),
            state: LayerState::Retrying { seconds: 3 },
        });
        tty.tick(&progress);
        let frame = String::from_utf8(tty.out.clone()).unwrap();
        assert!(frame.contains("Retrying in 3") && !frame.contains("91efb8fa70ba"), "{frame:?}");
    }

    /// Standing where the frame stood, so that what is printed next is readable.
    #[test]
    fn a_panic_leaves_a_clean_screen() {
        let out = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let kept = std::sync::Arc::clone(&out);
        let panicked = std::panic::catch_unwind(move || {
            let mut tty = Tty::new(Shared(kept), || (80, 24));
            tty.tick(&some_layers());
            panic!("in the middle of a push");
        });
        assert!(panicked.is_err());
        let mut screen = vt100::Parser::new(24.try_into().unwrap(), 80.try_into().unwrap(), 0);
        screen.process(&out.lock().unwrap());
        assert_eq!(screen.screen().contents(), "");
        assert_eq!(screen.screen().cursor_position(), (0, 0));
    }

    struct Shared(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().map_err(|_| io::ErrorKind::Other)?.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
}
