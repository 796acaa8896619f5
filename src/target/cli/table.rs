//! Aligned columns of text.

use std::fmt::Write;

/// Where a column's text stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// Rows of cells below a line of headings. Without any row there are no headings either.
#[derive(Clone, Debug)]
pub struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns; empty headings for all: no line of headings.
    pub fn new(columns: &[(&'static str, Align)]) -> Self {
        assert!(!columns.is_empty());
        Self {
            columns: columns.to_vec(),
            rows: Vec::new(),
        }
    }

    /// Adds a row. Panics if it has not as many cells as there are columns.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        assert_eq!(N, self.columns.len(), "one cell for each column");
        self.rows.push(cells.into_iter().map(printable).collect());
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The table as lines, each with its end and without white space before it.
    pub fn text(&self) -> String {
        if self.rows.is_empty() {
            return String::new();
        }
        let headings: Vec<String> = self
            .columns
            .iter()
            .map(|(heading, _)| (*heading).to_owned())
            .collect();
        let headings = headings
            .iter()
            .any(|heading| !heading.is_empty())
            .then_some(&headings);
        let lines = || headings.into_iter().chain(&self.rows);
        let width_of = |column: usize| {
            lines()
                .map(|cells| cells[column].chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.columns.len()).map(width_of).collect();
        let mut text = String::new();
        for cells in lines() {
            let mut line = String::new();
            for ((cell, width), (_, align)) in cells.iter().zip(&widths).zip(&self.columns) {
                let written = match align {
                    Align::Left => write!(line, "{cell:<width$}  "),
                    Align::Right => write!(line, "{cell:>width$}  "),
                };
                written.expect("writing to a string does not fail");
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// Text from outside as a terminal may have it: no escape sequence and no line break gets through.
fn printable(cell: String) -> String {
    if cell.chars().any(char::is_control) {
        cell.escape_debug().to_string()
    } else {
        cell
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_end_with_text() {
        let mut table = Table::new(&[
            ("NAME", Align::Left),
            ("SIZE", Align::Right),
            ("STATE", Align::Left),
        ]);
        assert_eq!(table.text(), "");
        table.row(["a".into(), "1".into(), "ok".into()]);
        table.row(["long-name".into(), "12345".into(), String::new()]);
        assert_eq!(
            table.text(),
            "NAME        SIZE  STATE\na              1  ok\nlong-name  12345\n"
        );
    }

    #[test]
    fn without_headings_there_is_no_line_of_them() {
        let mut table = Table::new(&[("", Align::Left), ("", Align::Left)]);
        table.row(["a".into(), "b".into()]);
        assert_eq!(table.text(), "a  b\n");
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        let mut table = Table::new(&[("", Align::Left)]);
        table.row(["a\u{1b}[31m\nb".into()]);
        assert_eq!(table.text(), "a\\u{1b}[31m\\nb\n");
    }
}
