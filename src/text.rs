//! Sanitizes text from engines, registries and helpers for a terminal or a log, and formats sizes and times.
//!
//! Messages from registries are untrusted: they may contain escape sequences, line ends and whole HTML pages,
//! and the engine passes them on unchanged. Each message is sanitized once, where the message enters the
//! program.

use std::error::Error;
use std::time::Duration;

/// The greatest length of a sanitized message, in characters. Registries send HTML pages of 200 kB.
const MAX_CHARS: usize = 1000;

/// Converts text into one line: removes control characters, replaces white space with single spaces, and cuts
/// the line after 1000 characters.
///
/// Also removes the characters that reorder text on a terminal (Unicode TR #36, 2.10).
pub fn sanitize(text: &str) -> String {
    let mut line = String::with_capacity(text.len().min(MAX_CHARS));
    let mut chars = 0;
    for word in text.split(|c: char| c.is_whitespace()) {
        let mut kept = word.chars().filter(|c| is_harmless(*c)).peekable();
        if kept.peek().is_some() && chars > 0 {
            line.push(' ');
            chars += 1;
        }
        for c in kept {
            if chars >= MAX_CHARS {
                line.push('…');
                return line;
            }
            line.push(c);
            chars += 1;
        }
    }
    line
}

/// Converts an error message of an engine or a registry into one sanitized line. Replaces an HTML page, which proxies
/// send, with its title.
pub fn one_line(message: &str) -> String {
    // Go quotes pages, so a page may contain escaped line ends.
    let message = message.replace("\\r\\n", " ").replace("\\n", " ");
    // Changing only ASCII letters keeps the positions of bytes.
    let lower = message.to_ascii_lowercase();
    let Some(start) = ["<!doctype html", "<html"].iter().filter_map(|tag| lower.find(tag)).min() else {
        return sanitize(&message);
    };
    let title = ["title>", "h1>"].iter().find_map(|tag| {
        let begin = lower[start..].find(&format!("<{tag}"))? + start + tag.len() + 1;
        let end = lower[begin..].find(&format!("</{tag}"))? + begin;
        Some(&message[begin..end])
    });
    let before = message[..start].trim_end_matches(['"', ' ']);
    sanitize(&format!("{before} {}", title.unwrap_or("a web page")))
}

/// Returns an error and its causes on one sanitized line.
pub fn with_causes(error: &(dyn Error + 'static)) -> String {
    let causes = std::iter::successors(error.source(), |cause| (*cause).source());
    sanitize(&causes.fold(error.to_string(), |message, cause| format!("{message}: {cause}")))
}

/// Returns whether a character neither is a control character nor reorders text on a terminal.
pub fn is_harmless(c: char) -> bool {
    !c.is_control() && !is_reordering(c)
}

fn is_reordering(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// Returns a text without one line end, `\n` or `\r\n`. Keeps blanks, since a password may end in blanks.
pub fn without_line_end(text: &str) -> &str {
    text.strip_suffix('\n').map_or(text, |line| line.strip_suffix('\r').unwrap_or(line))
}

/// Formats a size in bytes as docker does: `12.34MB`, with four significant digits and powers of 1000.
pub fn human_size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "kB", "MB", "GB", "TB", "PB"];
    let mut size = bytes as f64;
    let mut unit = 0;
    while size >= 1000.0 && unit + 1 < UNITS.len() {
        size /= 1000.0;
        unit += 1;
    }
    let digits = match size {
        s if s < 10.0 => 3,
        s if s < 100.0 => 2,
        s if s < 1000.0 => 1,
        _ => 0,
    };
    let number = format!("{size:.digits$}");
    let number =
        if number.contains('.') { number.trim_end_matches('0').trim_end_matches('.') } else { &number };
    format!("{number}{}", UNITS[unit])
}

/// Formats a size in bytes for progress displays: `12.4 MB`, with three significant digits and powers of
/// 1000.
pub fn amount(bytes: u64) -> String {
    let (scale, unit) = unit(bytes);
    format!("{} {unit}", digits(bytes as f64 / scale))
}

/// Formats two sizes in bytes as `310 of 740 MB`. The size `all` determines the unit of both numbers.
pub fn amounts(part: u64, all: u64) -> String {
    let (scale, unit) = unit(all);
    format!("{} of {} {unit}", digits(part as f64 / scale), digits(all as f64 / scale))
}

/// Chooses the largest unit in which a size rounds to at least 1. Returns the number of bytes in this unit,
/// and the name of the unit.
fn unit(bytes: u64) -> (f64, &'static str) {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    let mut scale = 1.0;
    let mut at = 0;
    // From 999.5 kB on, a size is printed as `1 MB`, not as `1000 kB`.
    while bytes as f64 / scale >= 999.5 && at + 1 < UNITS.len() {
        scale *= 1000.0;
        at += 1;
    }
    (scale, UNITS[at])
}

fn digits(value: f64) -> String {
    let decimals = match value {
        v if v < 9.995 => 2,
        v if v < 99.95 => 1,
        _ => 0,
    };
    let number = format!("{value:.decimals$}");
    match number.contains('.') {
        true => number.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => number,
    }
}

/// Formats a duration as `36s`, `4m` or `3h`, rounded down.
pub fn span(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..100 => format!("{seconds}s"),
        seconds @ 100..6000 => format!("{}m", seconds / 60),
        seconds => format!("{}h", seconds / 3600),
    }
}

/// Formats a number of things: `1 layer`, `3 layers`.
///
/// * `thing`: a noun whose plural ends with `s`.
pub fn counted(number: usize, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_in_singular_and_plural() {
        let shown = [0, 1, 2].map(|number| counted(number, "layer"));
        assert_eq!(shown, ["0 layers", "1 layer", "2 layers"]);
    }

    #[test]
    fn amounts_share_the_unit_of_the_total() {
        let table = [
            (310_000_000, 740_000_000, "310 of 740 MB"),
            (2_753_536, 20_971_520, "2.75 of 21 MB"),
            (0, 20_971_520, "0 of 21 MB"),
            (50_000, 20_971_520, "0.05 of 21 MB"),
            (999_999, 999_999, "1 of 1 MB"),
            (12, 10, "12 of 10 B"),
            (u64::MAX, u64::MAX, "18.4 of 18.4 EB"),
        ];
        for (part, all, want) in table {
            assert_eq!(amounts(part, all), want);
        }
        assert_eq!([amount(0), amount(999), amount(12_400_000)], ["0 B", "999 B", "12.4 MB"]);
    }

    #[test]
    fn formats_durations_in_one_unit() {
        let table = [(0, "0s"), (99, "99s"), (100, "1m"), (5999, "99m"), (7300, "2h")];
        for (seconds, want) in table {
            assert_eq!(span(Duration::from_secs(seconds)), want);
        }
    }

    #[test]
    fn replaces_a_page_with_its_title() {
        let table = [
            ("denied: no", "denied: no"),
            (
                "unauthorized: <html>\r\n<head><title>401 Authorization Required</title></head></html>",
                "unauthorized: 401 Authorization Required",
            ),
            (r#"value: "<html>\r\n<head><TITLE>405 Not Allowed</TITLE>\r\n""#, "value: 405 Not Allowed"),
            ("<!DOCTYPE html><html><body><h1>Bad</h1>", "Bad"),
            ("x <html>é", "x a web page"),
        ];
        for (message, want) in table {
            assert_eq!(one_line(message), want, "{message}");
        }
    }

    #[test]
    fn strips_control_characters() {
        let table = [
            ("plain text", "plain text"),
            ("denied: \x1b[2J\x1b[31mred\x1b[0m\r\nlatest: digest", "denied: [2J[31mred[0m latest: digest"),
            ("\x1b]0;title\x07x\u{9b}31m", "]0;titlex31m"),
            ("  a \t b\n\nc ", "a b c"),
            ("user\u{202e}drowssap", "userdrowssap"),
            ("\x1b \x07 x", "x"),
            ("您没有权限", "您没有权限"),
            ("", ""),
        ];
        for (input, want) in table {
            assert_eq!(sanitize(input), want, "{input:?}");
        }
    }

    #[test]
    fn truncates_long_texts() {
        let line = sanitize(&"x".repeat(200_000));
        assert_eq!(line.chars().count(), MAX_CHARS + 1);
        assert!(line.ends_with('…'));
    }

    #[test]
    fn formats_sizes_as_docker_does() {
        let table = [
            (0, "0B"),
            (512, "512B"),
            (1024, "1.024kB"),
            (2_753_536, "2.754MB"),
            (20_971_520, "20.97MB"),
            (459_543_410, "459.5MB"),
            (1_000_000, "1MB"),
            (100_000, "100kB"),
            (u64::MAX, "18447PB"),
        ];
        for (bytes, want) in table {
            assert_eq!(human_size(bytes), want);
        }
    }
}
