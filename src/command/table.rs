//! Tables in docker's style.

use std::io::Write as _;

use tabwriter::TabWriter;

/// What stands in a column that has nothing to say.
const NOTHING: &str = "-";

/// Columns as wide as what is in them, three blanks between, as docker's.
///
/// * `rows`: of as many cells as `header`, sanitized; an empty one is shown as `-`.
pub fn table<const COLUMNS: usize>(
    header: [&str; COLUMNS],
    rows: impl IntoIterator<Item = [String; COLUMNS]>,
) -> String {
    // docker's smallest column is 10 wide, with the blanks.
    let mut writer = TabWriter::new(Vec::new()).minwidth(7).padding(3);
    let mut text = header.join("\t") + "\n";
    for row in rows {
        let cells = row.map(|cell| if cell.is_empty() { NOTHING.to_owned() } else { cell });
        text += &(cells.join("\t") + "\n");
    }
    writer.write_all(text.as_bytes()).expect("memory takes it all");
    let bytes = writer.into_inner().expect("memory takes it all");
    String::from_utf8(bytes).expect("of text comes text")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
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
