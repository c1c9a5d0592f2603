//! Formats tables as docker does.

use unicode_width::UnicodeWidthStr as _;

/// The character shown in a cell without a value.
const NOTHING: &str = "-";
/// Minimum width of a table column, in character cells of the terminal, without the blanks between columns.
const MIN_WIDTH: usize = 7;

/// Formats a table as docker does. Each column is as wide as its widest cell, and three blanks separate columns.
///
/// * `rows`: the sanitized values of the cells, one array per row. An empty cell is shown as `-`.
pub fn table<const COLUMNS: usize>(
    header: [&str; COLUMNS],
    rows: impl IntoIterator<Item = [String; COLUMNS]>,
) -> String {
    let cell = |cell: String| if cell.is_empty() { NOTHING.to_owned() } else { cell };
    let rows = rows.into_iter().map(|row| row.map(cell));
    let rows: Vec<[String; COLUMNS]> = [header.map(str::to_owned)].into_iter().chain(rows).collect();
    let mut widths = [MIN_WIDTH; COLUMNS];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.width());
        }
    }
    let mut text = String::new();
    for row in &rows {
        for (at, cell) in row.iter().enumerate() {
            text += cell;
            let blanks = if at + 1 < COLUMNS { widths[at] - cell.width() + 3 } else { 0 };
            text.extend(std::iter::repeat_n(' ', blanks));
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aligns_columns() {
        let rows = [["a", "1", "x"], ["a long one", "", "ü"], ["您没有", "1234567", "z"]];
        let shown = table(["NAME", "SIZE", "LAST"], rows.map(|row| row.map(str::to_owned)));
        let want = "\
            NAME         SIZE      LAST\n\
            a            1         x\n\
            a long one   -         ü\n\
            您没有       1234567   z\n";
        assert_eq!(shown, want);
    }
}
