//! Shows progress on a terminal: redraws the lines of the images under way, of their layers, and of the totals.
//!
//! [`render`] is pure, and returns the lines of a frame. [`Tty`] writes only the rows that changed, in one write per
//! frame. In a measurement, the crate indicatif wrote 13 to 76 times as many bytes, since indicatif redraws every
//! line in full width.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use terminal_size::{Height, Width, terminal_size_of};
use unicode_width::UnicodeWidthChar;

use crate::event::{Event, LayerState};
use crate::failure::is_opening;
use crate::palette::Palette;
use crate::present::board::{Board, Row};
use crate::present::lines::{MAX_HELD, worded, worded_ending};
use crate::present::presenter::{Level, Presenter, Update};
use crate::present::rate::Rate;
use crate::progress::Layer;
use crate::text::{amount, amounts};

/// The size of a terminal: columns, then rows.
pub type Size = (usize, usize);

/// Time between two frames. Engines send 8 to 10 events a second for each layer, so more frames would show nothing
/// new.
const FRAME: Duration = Duration::from_millis(100);
/// Minimum width of a progress bar in columns, without the brackets. Narrower bars are not shown.
const MIN_BAR: usize = 10;
/// Maximum width of a progress bar in columns, without the brackets.
const MAX_BAR: usize = 40;
/// Width in columns of a layer's line without the progress bar: indent, layer id, brackets, bytes, rate and blanks.
const BESIDE_BAR: usize = 2 + 12 + 2 + 2 + 2 + "999 of 999 MB".len() + 2 + "99.9 MB/s".len();

/// Returns the current size of the terminal on stderr. Called for each frame, since the user may resize the terminal.
pub fn terminal_size() -> Size {
    match terminal_size_of(io::stderr()) {
        Some((Width(columns @ 1..), Height(rows @ 1..))) => (columns.into(), rows.into()),
        _ => (80, 24),
    }
}

pub struct Tty<W: Write> {
    out: W,
    palette: Palette,
    size: fn() -> Size,
    board: Board,
    /// Permanent lines that the next frame writes above the redrawn lines.
    above: Vec<String>,
    /// The redrawn lines that the terminal shows now. The cursor is at the start of the row below these lines.
    shown: Vec<String>,
    /// Size of the terminal when `shown` was drawn.
    shown_size: Size,
    /// Widths in columns of the redrawn lines that the terminal scrolled off when the terminal became smaller, first
    /// line first. The terminal shows these lines again when the terminal becomes taller.
    scrolled_away: Vec<usize>,
    is_held: bool,
}

impl<W: Write> Tty<W> {
    pub fn new(out: W, palette: Palette, names: Vec<String>, size: fn() -> Size) -> Self {
        Self {
            out,
            palette,
            size,
            board: Board::new(names, Instant::now()),
            above: Vec::new(),
            shown: Vec::new(),
            shown_size: (0, 0),
            scrolled_away: Vec::new(),
            is_held: false,
        }
    }

    /// Draws a frame in one write: moves the cursor to the first redrawn row, writes the permanent lines and each
    /// changed row, and clears the rows below.
    fn draw(&mut self, lines: Vec<String>) {
        let size = (self.size)();
        let is_same = lines == self.shown && size == self.shown_size;
        if self.above.is_empty() && (is_same || (lines.is_empty() && self.shown.is_empty())) {
            return;
        }
        let rows = self.rows_taken(size);
        let is_kept = size == self.shown_size && self.above.is_empty();
        let is_redrawn = rows > 0 || !lines.is_empty();
        let mut frame = String::new();
        if is_redrawn {
            // Begins synchronized output: terminals that support this mode show the frame at once, and other
            // terminals ignore the sequence.
            frame += "\x1b[?2026h";
        }
        if rows > 0 {
            // Moves the cursor to the first redrawn row. The carriage return is needed if the terminal has echoed
            // Ctrl-C.
            frame += &format!("\r\x1b[{rows}A");
        }
        if !is_kept && rows > 0 {
            // Clears all redrawn rows, since the terminal was resized or permanent lines replace these rows. Clears
            // the first row separately, because tmux keeps text in its history if the whole screen is cleared at
            // once.
            frame += "\x1b[K\x1b[1B\x1b[J\x1b[1A";
        }
        if !self.above.is_empty() {
            // Forgets the redrawn lines that were scrolled off, since permanent lines now stand between the
            // scrolled-off lines and the new frame.
            self.scrolled_away.clear();
        }
        for line in self.above.drain(..) {
            frame += &line.replace('\n', "\r\n");
            frame += "\r\n";
        }
        for (row, line) in lines.iter().enumerate() {
            if !is_kept || self.shown.get(row) != Some(line) {
                frame += line;
                frame += "\x1b[K";
            }
            frame += "\r\n";
        }
        if is_kept && lines.len() < self.shown.len() {
            frame += "\x1b[J";
        }
        if is_redrawn {
            frame += "\x1b[?2026l";
        }
        let _ = self.out.write_all(frame.as_bytes()).and_then(|()| self.out.flush());
        (self.shown, self.shown_size) = (lines, size);
    }

    /// Returns how many rows above the cursor the redrawn lines occupy in a terminal of the given size. A terminal
    /// that becomes narrower wraps lines that are too wide, and scrolls the top lines off if the rows do not suffice.
    /// A terminal that becomes taller shows the scrolled-off lines again. Nearly all terminals wrap lines after a
    /// resize; xterm does not.
    fn rows_taken(&mut self, (width, height): Size) -> usize {
        let rows = |columns: usize| columns.div_ceil(width.max(1)).max(1);
        let of_lines = |columns: &[usize]| columns.iter().map(|columns| rows(*columns)).sum::<usize>();
        let mut ours: Vec<usize> = self.shown.iter().map(|line| columns(line)).collect();
        if height > self.shown_size.1 {
            ours.splice(0..0, self.scrolled_away.drain(..));
        }
        let taken = of_lines(&ours);
        let mut without_room = taken.saturating_sub(height.saturating_sub(1));
        for columns in ours {
            if without_room == 0 {
                break;
            }
            without_room = without_room.saturating_sub(rows(columns));
            self.scrolled_away.push(columns);
        }
        taken
    }

    /// Adds a permanent line about one image, or about all images (`None`).
    fn keep(&mut self, at: Option<usize>, level: Level, line: &str) {
        if self.above.len() < MAX_HELD {
            let name = at.and_then(|at| self.board.name_among_others(at));
            self.above.push(worded(self.palette, name, level, line));
        }
    }
}

impl<W: Write> Presenter for Tty<W> {
    fn show(&mut self, at: usize, update: &Update<'_>) {
        self.board.show(at, update);
        match update {
            // The engine's first line of a push only repeats the reference, which the header of the image shows.
            Update::Event(Event::Note { text }) if is_opening(text) => {}
            Update::Event(Event::Note { text }) => self.keep(Some(at), Level::Note, text),
            Update::Wait(next, reason) => {
                let next = self.palette.warning(&next.to_string());
                self.keep(Some(at), Level::Note, &format!("{reason}; {next}"));
            }
            Update::Finished(ending) if !ending.text.is_empty() => {
                self.above.push(worded_ending(self.palette, ending));
            }
            _ => {}
        }
    }

    fn say(&mut self, at: Option<usize>, level: Level, line: &str) {
        if level == Level::Asking && self.is_held {
            let _ = self.out.write_all(format!("{line}\r\n").as_bytes());
        } else {
            self.keep(at, level, line);
        }
    }

    fn tick(&mut self, now: Instant) {
        self.board.measure(now);
        if !self.is_held {
            let size = (self.size)();
            self.draw(render(&self.board, size));
        }
    }

    fn period(&self) -> Option<Duration> {
        Some(FRAME)
    }

    fn hold(&mut self, is_asking: bool) {
        if is_asking {
            self.draw(Vec::new());
        }
        self.is_held = is_asking;
    }

    fn clear(&mut self) {
        self.draw(Vec::new());
    }
}

/// Clears the redrawn lines, because Ctrl-C or a panic may drop the presenter while the terminal shows a frame.
impl<W: Write> Drop for Tty<W> {
    fn drop(&mut self) {
        self.draw(Vec::new());
    }
}

/// The rows of an image under way.
struct Block<'a> {
    /// The row whose layers are shown: of several destinations, the one that has received most.
    fastest: &'a Row,
    /// The destinations that get the image in one upload by the engine; empty if the image goes to one destination alone.
    destinations: Vec<&'a Row>,
}

impl Block<'_> {
    fn header(&self, board: &Board, columns: usize) -> String {
        let name = self.fastest.image.as_ref().unwrap_or(&self.fastest.name);
        header(name, &board.stage(self.fastest), columns)
    }

    /// Returns the lines of the destinations.
    fn destinations(&self, board: &Board, columns: usize) -> impl Iterator<Item = String> {
        let line = move |row: &&Row| {
            format!("  {}", header(&row.name, &board.standing(row), columns.saturating_sub(2)))
        };
        self.destinations.iter().map(line)
    }
}

/// Groups the images under way. The destinations of an image that the engine uploads once are one group.
fn blocks(board: &Board) -> Vec<Block<'_>> {
    let mut blocks: Vec<Block<'_>> = Vec::new();
    for row in board.under_way() {
        let own = blocks.iter_mut().find(|block| row.image.is_some() && block.fastest.image == row.image);
        match own {
            Some(block) => {
                block.destinations.push(row);
                if row.progress.bytes().0 > block.fastest.progress.bytes().0 {
                    block.fastest = row;
                }
            }
            None => {
                let destinations = row.image.iter().map(|_| row).collect();
                blocks.push(Block { fastest: row, destinations });
            }
        }
    }
    blocks
}

/// Returns the lines of a frame: the images under way, each with its active layers and its destinations, if there are several,
/// then the totals. The frame has fewer rows than the terminal, so that no line scrolls off. Each line has fewer columns than
/// the terminal, so that no line wraps.
pub fn render(board: &Board, (width, height): Size) -> Vec<String> {
    let blocks = blocks(board);
    if blocks.is_empty() {
        return Vec::new();
    }
    let columns = width.saturating_sub(1);
    // Reserves one row for the totals, and one row for the cursor below the totals.
    let room = height.saturating_sub(2);
    let needed: usize = blocks.iter().map(|block| 1 + block.destinations.len()).sum();
    let fastest: Vec<&Row> = blocks.iter().map(|block| block.fastest).collect();
    let shares = shares(&fastest, room.saturating_sub(needed));
    let mut lines = Vec::new();
    for (block, share) in blocks.iter().zip(shares) {
        lines.push(block.header(board, columns));
        let layers: Vec<(&Layer, Rate)> = block.fastest.active_layers().collect();
        let (shown, more) = split(layers.len(), share);
        lines.extend(layers[..shown].iter().map(|(layer, rate)| layer_line(layer, *rate, columns)));
        if more > 0 && share > 0 {
            lines.push(format!("  … and {more} more layers"));
        }
        lines.extend(block.destinations(board, columns));
    }
    if needed > room {
        let (shown, more) = split(lines.len(), room);
        lines.truncate(shown);
        if room > 0 {
            let are_images = blocks.iter().all(|block| block.destinations.is_empty());
            lines.push(format!("… and {more} more {}", if are_images { "images" } else { "lines" }));
        }
    }
    lines.push(fitting(board.totals(), columns));
    lines.iter().map(|line| cut(line, columns)).collect()
}

/// Returns how many images or layers are shown in `rows`, and how many are only counted. The line with the count
/// takes one row.
fn split(things: usize, rows: usize) -> (usize, usize) {
    if things <= rows {
        return (things, 0);
    }
    let shown = rows.saturating_sub(1);
    (shown, things - shown)
}

/// Distributes `room` rows equally among the images, for the lines of layers. No image gets more rows than the
/// image has active layers.
fn shares(images: &[&Row], mut room: usize) -> Vec<usize> {
    let wanted: Vec<usize> = images.iter().map(|row| row.active_layers().count()).collect();
    let mut shares = vec![0; images.len()];
    while room > 0 {
        let before = room;
        for (share, wanted) in shares.iter_mut().zip(&wanted) {
            if room > 0 && *share < *wanted {
                *share += 1;
                room -= 1;
            }
        }
        if room == before {
            break;
        }
    }
    shares
}

/// Returns the line of an image. If the name is too long, cuts off the start of the name, since the tag is at the
/// end.
fn header(name: &str, stage: &str, width: usize) -> String {
    let room = width.saturating_sub(columns(stage) + 2);
    if columns(name) <= room {
        return format!("{name}  {stage}");
    }
    let mut start = name.len();
    let mut used = 1;
    for (at, c) in name.char_indices().rev() {
        used += c.width().unwrap_or(0);
        if used > room {
            break;
        }
        start = at;
    }
    format!("…{}  {stage}", &name[start..])
}

fn layer_line(layer: &Layer, rate: Rate, width: usize) -> String {
    let LayerState::Pushing { .. } = layer.state else {
        return format!("  {}  {}", layer.id, layer.state);
    };
    let bar_width = width.saturating_sub(BESIDE_BAR).min(MAX_BAR);
    let (bar, bytes) = match layer.total {
        0 => (String::new(), amount(layer.current)),
        total => {
            let current = layer.current.min(total);
            let filled = (u128::from(current) * bar_width as u128 / u128::from(total)) as usize;
            let bar = format!("[{:<bar_width$}]  ", "#".repeat(filled));
            (if bar_width < MIN_BAR { String::new() } else { bar }, amounts(current, total))
        }
    };
    let mut parts = vec![format!("  {}", layer.id), format!("{bar}{bytes}")];
    if rate.per_second() > 0 && (layer.total == 0 || layer.current < layer.total) {
        parts.push(format!("{}/s", amount(rate.per_second())));
    }
    fitting(parts, width)
}

/// Joins segments to a line, from the first one on, as long as the line fits into the width.
fn fitting(parts: Vec<String>, width: usize) -> String {
    let mut parts = parts.into_iter();
    let mut line = parts.next().unwrap_or_default();
    for part in parts {
        if columns(&line) + 2 + columns(&part) > width {
            break;
        }
        line = format!("{line}  {part}");
    }
    line
}

/// Returns the width of a line in columns of the terminal: the sum over its code points. A character of several code
/// points, such as some emoji, may occupy fewer columns than this sum.
fn columns(line: &str) -> usize {
    line.chars().map(|c| c.width().unwrap_or(0)).sum()
}

/// Cuts a line to the given number of columns. Omits a wide character that would exceed this number.
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
    use crate::present::presenter::Ending;
    use crate::retry::NextAttempt;

    fn layer(id: &str, state: LayerState) -> Event {
        Event::Layer { id: id.to_owned(), state }
    }

    fn pushing(id: &str, current: u64, total: u64) -> Event {
        layer(id, LayerState::Pushing { current, total })
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    /// Sets up one image with some layers under way, 2 s after the start of the push.
    fn some_layers(board: &mut Board, start: Instant) {
        board.show(0, &Update::Push);
        for current in [0, 2_753_536] {
            board.show(0, &Update::Event(&pushing("91efb8fa70ba", current, 20_971_520)));
            board.measure(start + Duration::from_secs(if current == 0 { 1 } else { 2 }));
        }
        for (id, state) in [
            ("5ddfb8fa70bb", LayerState::Waiting),
            ("a0efb8fa70bc", LayerState::AlreadyExists),
            ("b1efb8fa70bd", LayerState::Retrying { seconds: 4 }),
            ("c2efb8fa70be", LayerState::Pushing { current: 12, total: 10 }),
        ] {
            board.show(0, &Update::Event(&layer(id, state)));
        }
    }

    fn board() -> Board {
        let start = Instant::now();
        let mut board = Board::new(names(&["registry.example.com/team/app:1"]), start);
        some_layers(&mut board, start);
        board
    }

    fn many(images: usize, layers: usize) -> Board {
        let start = Instant::now();
        let list = (1..=images).map(|n| format!("registry.example.com/team/app:{n}")).collect();
        let mut board = Board::new(list, start);
        for image in 0..images {
            board.show(image, &Update::Push);
            for n in 0..layers {
                board.show(image, &Update::Event(&pushing(&format!("{n:012}"), 1, 2)));
            }
        }
        board.measure(start);
        board
    }

    #[test]
    fn shows_an_image_its_layers_and_the_totals() {
        insta::assert_snapshot!(render(&board(), (80, 24)).join("\n"), @r"
        registry.example.com/team/app:1  1 of 5 layers
          91efb8fa70ba  [####                               ]  2.75 of 21 MB  2.75 MB/s
          b1efb8fa70bd  Retrying in 4 seconds
          c2efb8fa70be  [###################################]  10 of 10 B
        42 %  2.75 of 21 MB so far  2.75 MB/s  1s
        ");
        insta::assert_snapshot!(render(&board(), (200, 24)).join("\n"), @r"
        registry.example.com/team/app:1  1 of 5 layers
          91efb8fa70ba  [#####                                   ]  2.75 of 21 MB  2.75 MB/s
          b1efb8fa70bd  Retrying in 4 seconds
          c2efb8fa70be  [########################################]  10 of 10 B
        42 %  2.75 of 21 MB so far  2.75 MB/s  1s
        ");
    }

    #[test]
    fn omits_bars_and_wraps_nothing_on_narrow_terminals() {
        insta::assert_snapshot!(render(&board(), (40, 24)).join("\n"), @r"
        ….example.com/team/app:1  1 of 5 layers
          91efb8fa70ba  2.75 of 21 MB
          b1efb8fa70bd  Retrying in 4 seconds
          c2efb8fa70be  10 of 10 B
        42 %  2.75 of 21 MB so far  2.75 MB/s
        ");
    }

    /// Sets up an image for three registries, of which the second is the fastest, and the third has not begun.
    fn shared() -> Board {
        let hosts = ["one.example.com/app:1", "two.example.com/app:1", "three.example.com/app:1"];
        let start = Instant::now();
        let mut board = Board::new(names(&hosts), start);
        for at in 0..3 {
            board.show(at, &Update::Shared("app:1"));
            board.show(at, &Update::Push);
        }
        for (second, sent) in [(1, [0, 0]), (2, [2_000_000, 5_000_000])] {
            for (at, current) in sent.into_iter().enumerate() {
                board.show(at, &Update::Event(&pushing("91efb8fa70ba", current, 20_000_000)));
            }
            board.measure(start + Duration::from_secs(second));
        }
        board
    }

    #[test]
    fn shows_an_image_once_for_several_registries() {
        insta::assert_snapshot!(render(&shared(), (80, 24)).join("\n"), @r"
        app:1  0 of 1 layer
          91efb8fa70ba  [########                           ]  5 of 20 MB  5 MB/s
          one.example.com/app:1  10 %  2 of 20 MB  2 MB/s  9s left  0 of 1 layer
          two.example.com/app:1  25 %  5 of 20 MB  5 MB/s  3s left  0 of 1 layer
          three.example.com/app:1  in progress for 1s
        0 of 3 images  17 %  7 of 40 MB  7 MB/s  9s left
        ");
        insta::assert_snapshot!(render(&shared(), (80, 5)).join("\n"), @r"
        app:1  0 of 1 layer
          one.example.com/app:1  10 %  2 of 20 MB  2 MB/s  9s left  0 of 1 layer
        … and 2 more lines
        0 of 3 images  17 %  7 of 40 MB  7 MB/s  9s left
        ");
    }

    #[test]
    fn fits_the_width_and_height_of_the_terminal() {
        let sizes = [(1, 3), (1, 40), (1, 120), (4, 7), (20, 5), (20, 0)];
        let boards = sizes.into_iter().map(|(images, layers)| many(images, layers)).chain([shared()]);
        for board in boards {
            for height in 0..60 {
                for width in [1, 2, 10, 40, 80, 200] {
                    let lines = render(&board, (width, height));
                    let limit = height.saturating_sub(1).max(1);
                    assert!(lines.len() <= limit, "{width}x{height}: {lines:#?}");
                    assert!(lines.iter().all(|line| columns(line) < width.max(2)), "{width}: {lines:#?}");
                }
            }
        }
        insta::assert_snapshot!(render(&many(1, 100), (80, 6)).join("\n"), @r"
        registry.example.com/team/app:1  0 of 100 layers
          000000000000  [#################                  ]  1 of 2 B
          000000000001  [#################                  ]  1 of 2 B
          … and 98 more layers
        50 %  100 of 200 B  0s
        ");
        insta::assert_snapshot!(render(&many(3, 7), (80, 12)).join("\n"), @r"
        registry.example.com/team/app:1  0 of 7 layers
          000000000000  [#################                  ]  1 of 2 B
          000000000001  [#################                  ]  1 of 2 B
          … and 5 more layers
        registry.example.com/team/app:2  0 of 7 layers
          000000000000  [#################                  ]  1 of 2 B
          … and 6 more layers
        registry.example.com/team/app:3  0 of 7 layers
          000000000000  [#################                  ]  1 of 2 B
          … and 6 more layers
        0 of 3 images  50 %  21 of 42 B
        ");
        insta::assert_snapshot!(render(&many(20, 5), (80, 8)).join("\n"), @r"
        registry.example.com/team/app:1  0 of 5 layers
        registry.example.com/team/app:2  0 of 5 layers
        registry.example.com/team/app:3  0 of 5 layers
        registry.example.com/team/app:4  0 of 5 layers
        registry.example.com/team/app:5  0 of 5 layers
        … and 15 more images
        0 of 20 images  50 %  100 of 200 B
        ");
    }

    #[test]
    fn shows_the_wait_before_the_next_attempt() {
        let mut board = board();
        let next = NextAttempt { number: 2, of: 6, wait: Duration::from_secs(60) };
        board.show(0, &Update::Wait(&next, "reset"));
        board.measure(Instant::now());
        let lines = render(&board, (80, 24));
        assert_eq!(lines[0], "registry.example.com/team/app:1  attempt 2 of 6 in 60s");
        assert_eq!(lines.len(), 2, "hides the layers of a failed attempt: {lines:?}");
    }

    #[test]
    fn counts_wide_characters_as_two_columns() {
        assert_eq!(cut("您没有权限", 5), "您没");
        assert_eq!(cut("abc", 5), "abc");
        assert_eq!(cut("e\u{301}e\u{301}e", 2), "e\u{301}e\u{301}", "a combining mark takes no column");
        assert_eq!(header("localhost:5000/app:1", "1 of 2 layers", 24), "…00/app:1  1 of 2 layers");
    }

    fn screen(columns: u16, rows: u16) -> vt100::Parser {
        vt100::Parser::new(rows.try_into().unwrap(), columns.try_into().unwrap(), 0)
    }

    #[test]
    fn shows_the_last_frame_below_permanent_lines() {
        let mut tty = Tty::new(Vec::new(), Palette::default(), names(&["app:1"]), || (80, 24));
        let start = Instant::now();
        some_layers(&mut tty.board, start);
        tty.tick(start);
        tty.say(Some(0), Level::Note, "a line that stays");
        assert!(
            !String::from_utf8_lossy(&tty.out).contains("stays"),
            "the line is printed with the next frame"
        );
        tty.show(0, &Update::Event(&layer("91efb8fa70ba", LayerState::Pushed)));
        tty.tick(start);
        let mut screen = screen(80, 24);
        screen.process(&std::mem::take(&mut tty.out));
        let shown = screen.screen().contents();
        let rows: Vec<&str> = shown.lines().collect();
        assert_eq!(rows[..2], ["a line that stays", "app:1  2 of 5 layers"]);
        assert_eq!(rows[2], "  b1efb8fa70bd  Retrying in 4 seconds");
        assert_eq!(screen.screen().cursor_position(), (5, 0), "the cursor is below the frame");

        tty.show(0, &Update::Finished(Ending { is_failure: true, text: "error: no\nhint: try", json: "" }));
        tty.clear();
        screen.process(&tty.out);
        assert_eq!(screen.screen().contents(), "a line that stays\nerror: no\nhint: try");
    }

    #[test]
    fn writes_only_the_rows_that_changed() {
        let mut tty = Tty::new(Vec::new(), Palette::default(), names(&["app:1"]), || (80, 24));
        let start = Instant::now();
        some_layers(&mut tty.board, start);
        tty.tick(start);
        tty.out.clear();
        tty.show(0, &Update::Event(&layer("b1efb8fa70bd", LayerState::Retrying { seconds: 3 })));
        tty.tick(start);
        let frame = String::from_utf8(tty.out.clone()).unwrap();
        assert!(frame.contains("Retrying in 3") && !frame.contains("c2efb8fa70be"), "{frame:?}");
        tty.out.clear();
        tty.tick(start);
        assert!(tty.out.is_empty(), "an unchanged frame is not written");
    }

    #[test]
    fn draws_nothing_during_a_prompt() {
        let mut tty = Tty::new(Vec::new(), Palette::default(), names(&["app:1"]), || (80, 24));
        let start = Instant::now();
        some_layers(&mut tty.board, start);
        tty.tick(start);
        tty.hold(true);
        let mut screen = screen(80, 24);
        screen.process(&std::mem::take(&mut tty.out));
        assert_eq!(screen.screen().contents(), "");
        tty.say(Some(0), Level::Note, "for later");
        tty.tick(start);
        assert!(tty.out.is_empty(), "{:?}", tty.out);
        tty.say(Some(0), Level::Asking, "that was wrong");
        tty.hold(false);
        tty.tick(start);
        screen.process(&tty.out);
        let shown = screen.screen().contents();
        assert!(shown.starts_with("that was wrong\nfor later\napp:1  "), "{shown}");
    }

    /// After a panic, the cursor must be where the frame began, so that the panic message is readable.
    #[test]
    fn clears_the_frame_on_a_panic() {
        let out = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let kept = std::sync::Arc::clone(&out);
        let panicked = std::panic::catch_unwind(move || {
            let mut tty = Tty::new(Shared(kept), Palette::default(), names(&["app:1"]), || (80, 24));
            let start = Instant::now();
            some_layers(&mut tty.board, start);
            tty.tick(start);
            panic!("in the middle of a push");
        });
        assert!(panicked.is_err());
        let mut screen = screen(80, 24);
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
