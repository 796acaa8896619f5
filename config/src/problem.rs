//! What is wrong with a file, and where: the collector that lets one run report everything.

use std::ops::Range;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Most problems that one run reports: a file with more is not the file that was meant.
pub const PROBLEMS_MAX: usize = 100;

/// Most characters of the file's own text that a message repeats.
const QUOTED_CHARS_MAX: usize = 60;

/// One reason why the node does not start with this file.
///
/// Printed as `file:line:column: what; remedy`, the form that editors jump to.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{}:{line}:{column}: {what}; {remedy}", file.display())]
pub struct Problem {
    /// The file, as it was named to [`parse`](crate::parse).
    pub file: PathBuf,
    /// Line in the file, counted from 1.
    pub line: usize,
    /// Column in the line, in characters, counted from 1.
    pub column: usize,
    /// What is wrong, and in which section.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
}

/// Something that is allowed but may not be what was meant; the daemon logs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Line in the file, counted from 1.
    pub line: usize,
    /// Column in the line, in characters, counted from 1.
    pub column: usize,
    /// One sentence, without its full stop.
    pub text: String,
}

/// Gathers problems and notes of one file.
pub(crate) struct Problems<'a> {
    file: &'a Path,
    text: &'a str,
    /// Byte offset at which each line starts, so that a place is found without reading the text again.
    line_starts: Vec<usize>,
    list: Vec<(usize, Problem)>,
    notes: Vec<Note>,
    dropped: usize,
}

impl<'a> Problems<'a> {
    pub(crate) fn new(file: &'a Path, text: &'a str) -> Self {
        let line_starts = std::iter::once(0)
            .chain(text.match_indices('\n').map(|(at, _)| at + 1))
            .collect();
        Self {
            file,
            text,
            line_starts,
            list: Vec::new(),
            notes: Vec::new(),
            dropped: 0,
        }
    }

    /// Adds one problem at a byte range of the text.
    pub(crate) fn push(&mut self, at: &Range<usize>, what: impl Into<String>, remedy: impl Into<String>) {
        if self.is_full() {
            self.dropped += 1;
            return;
        }
        let (line, column) = self.place(at.start);
        self.list.push((
            at.start,
            Problem {
                file: self.file.to_path_buf(),
                line,
                column,
                what: what.into(),
                remedy: remedy.into(),
            },
        ));
    }

    /// Adds one note at a byte range of the text.
    pub(crate) fn note(&mut self, at: &Range<usize>, text: impl Into<String>) {
        if self.notes.len() < PROBLEMS_MAX {
            let (line, column) = self.place(at.start);
            self.notes.push(Note {
                line,
                column,
                text: text.into(),
            });
        }
    }

    /// The line of a place, for messages that point at a second one.
    pub(crate) fn line(&self, at: &Range<usize>) -> usize {
        self.place(at.start).0
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Whether further problems are only counted, so that nobody needs to word them well.
    pub(crate) fn is_full(&self) -> bool {
        self.list.len() >= PROBLEMS_MAX
    }

    pub(crate) fn file(&self) -> &'a Path {
        self.file
    }

    /// The notes if nothing is wrong, else the problems in the order of the file.
    pub(crate) fn finish(mut self) -> Result<Vec<Note>, Vec<Problem>> {
        if self.list.is_empty() {
            return Ok(self.notes);
        }
        self.list.sort_by_key(|(at, _)| *at);
        let mut list: Vec<Problem> = self.list.into_iter().map(|(_, problem)| problem).collect();
        if self.dropped > 0 {
            let last = list
                .last()
                .cloned()
                .expect("some were dropped only because the list was full");
            list.push(Problem {
                what: format!("{} more problems are not shown", self.dropped),
                remedy: "mend these first".to_owned(),
                ..last
            });
        }
        Err(list)
    }

    /// Line and column of a byte offset, counted from 1, columns in characters.
    fn place(&self, at: usize) -> (usize, usize) {
        let mut end = at.min(self.text.len());
        while !self.text.is_char_boundary(end) {
            end -= 1; // Ends at 0 at the latest, which is a boundary.
        }
        let line = self.line_starts.partition_point(|start| *start <= end);
        let line_start = self.line_starts[line - 1]; // The first line starts at 0, so `line` is at least 1.
        (line, self.text[line_start..end].chars().count() + 1)
    }
}

/// The file's own text, quoted, with control characters escaped and cut to a length fit for a message.
pub(crate) fn quoted(text: &str) -> String {
    let mut shown: String = text.chars().take(QUOTED_CHARS_MAX).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    format!("{shown:?}")
}

/// The candidate that `text` most likely was meant to be, if one is near enough.
///
/// Near enough is at most a third of the letters changed, so that short keys are not guessed wildly.
pub(crate) fn nearest<'c>(text: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    let text: Vec<char> = text.chars().take(QUOTED_CHARS_MAX).map(folded).collect();
    candidates
        .into_iter()
        .map(|candidate| {
            (
                distance(&text, &candidate.chars().map(folded).collect::<Vec<_>>()),
                candidate,
            )
        })
        .filter(|(changes, candidate)| *changes <= candidate.chars().count().max(3) / 3)
        .min_by_key(|(changes, _)| *changes)
        .map(|(_, candidate)| candidate)
}

/// Case and the kind of dash never tell two of our keys apart.
fn folded(letter: char) -> char {
    if letter == '-' {
        '_'
    } else {
        letter.to_ascii_lowercase()
    }
}

/// Letters to insert, remove, replace or swap with their neighbour to turn `a` into `b`.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_count_lines_and_characters_from_one() {
        let problems = Problems::new(Path::new("f"), "a\nü = 1\n");
        assert_eq!(problems.place(0), (1, 1));
        assert_eq!(problems.place(2), (2, 1));
        assert_eq!(problems.place(3), (2, 1), "inside the two bytes of ü");
        assert_eq!(problems.place(4), (2, 2));
        assert_eq!(problems.place(999), (3, 1), "past the end is the end");
    }

    #[test]
    fn problems_are_bounded_and_sorted() {
        let text = "x".repeat(500);
        let mut problems = Problems::new(Path::new("f"), &text);
        for at in (0..300).rev() {
            problems.push(&(at..at), "wrong", "mend it");
        }
        let list = problems.finish().expect_err("there are problems");
        assert_eq!(list.len(), PROBLEMS_MAX + 1);
        assert!(list.windows(2).all(|pair| pair[0].column <= pair[1].column));
        assert!(list[PROBLEMS_MAX].what.contains("200 more problems"));
    }

    #[test]
    fn nearest_finds_typing_errors_and_leaves_strangers_alone() {
        let keys = ["size_mib", "path", "name", "memory_mib"];
        assert_eq!(nearest("size-mib", keys), Some("size_mib"));
        assert_eq!(nearest("pahts", keys), None);
        assert_eq!(nearest("paht", keys), Some("path"));
        assert_eq!(nearest("memory_mb", keys), Some("memory_mib"));
        assert_eq!(nearest("colour", keys), None);
        assert_eq!(nearest("", keys), None);
    }

    #[test]
    fn a_problem_reads_like_a_compilers_message() {
        let mut problems = Problems::new(Path::new("dir/node.toml"), "a = 1\n  b = 2\n");
        problems.push(&(8..9), "b is 2", "set it to 1");
        let list = problems.finish().expect_err("there is one");
        assert_eq!(list[0].to_string(), "dir/node.toml:2:3: b is 2; set it to 1");
    }

    #[test]
    fn quoted_text_is_cut_and_escaped() {
        assert_eq!(quoted("a\u{1b}[31m"), "\"a\\u{1b}[31m\"");
        assert!(quoted(&"y".repeat(1000)).chars().count() < 70);
    }
}
