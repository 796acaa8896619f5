//! Values that several sections have: names, paths, NQNs, sizes.

use std::ops::Range;
use std::path::{Path, PathBuf};

use nvme::nqn::Nqn;

use crate::NAME_BYTES_MAX;
use crate::problem::{Problems, quoted};
use crate::section::{Found, Section};

/// The `name` of a section and where to point when it is the matter; the section is called by it from here on.
pub(crate) fn name<'a>(
    section: &mut Section<'a, '_>,
    kind: &str,
    example: &str,
    problems: &mut Problems<'_>,
) -> (Option<&'a str>, Range<usize>) {
    match section.text("name", problems) {
        Found::Value(name, at) => {
            let good = check_name(name, &at, section.title(), problems);
            if good {
                section.set_title(format!("[[{kind}]] {name:?}"));
            }
            (good.then_some(name), at)
        }
        Found::Absent => {
            section.missing("name", &format!("name = {example:?}"), problems);
            (None, section.at().clone())
        }
        Found::Wrong => (None, section.at().clone()),
    }
}

pub(crate) fn check_name(name: &str, at: &Range<usize>, title: &str, problems: &mut Problems<'_>) -> bool {
    let letters = name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    // A dot first would make a hidden socket, or a path of its own as `..`.
    let good = letters && (1..=NAME_BYTES_MAX).contains(&name.len()) && !name.starts_with('.');
    if !good {
        let what = format!("{title}: name = {} is no name", quoted(name));
        let remedy = format!(
            "write 1 to {NAME_BYTES_MAX} letters, digits, '-', '_' and '.', and do not start with a dot"
        );
        problems.push(at, what, remedy);
    }
    good
}

/// A path, resolved against the folder of the file.
pub(crate) fn path(
    text: &str,
    at: &Range<usize>,
    section: &Section<'_, '_>,
    key: &str,
    problems: &mut Problems<'_>,
) -> Option<PathBuf> {
    if text.is_empty() || text.contains('\0') || text.len() > 4095 {
        let what = format!("{}: {key} = {} is no path", section.title(), quoted(text));
        problems.push(at, what, "write the path of a file, at most 4095 bytes");
        return None;
    }
    let folder = problems.file().parent().unwrap_or(Path::new(""));
    Some(folder.join(text))
}

pub(crate) fn power_of_two(
    found: Found<u32>,
    key: &str,
    section: &Section<'_, '_>,
    problems: &mut Problems<'_>,
) -> Found<u32> {
    match found {
        Found::Value(number, at) if !number.is_power_of_two() => {
            let what = format!("{}: {key} = {number} is no power of two", section.title());
            let above = number.next_power_of_two();
            problems.push(&at, what, format!("write {} or {above}", above / 2));
            Found::Wrong
        }
        found @ (Found::Value(..) | Found::Absent | Found::Wrong) => found,
    }
}

pub(crate) fn parse_nqn(
    text: &str,
    at: &Range<usize>,
    section: &Section<'_, '_>,
    key: &str,
    problems: &mut Problems<'_>,
) -> Option<Nqn> {
    match Nqn::parse(text) {
        Ok(nqn) => Some(nqn),
        Err(error) => {
            let what = format!("{}: {key}: {} is no NQN: {error}", section.title(), quoted(text));
            problems.push(at, what, "write for example \"nqn.2026-01.io.example:node-a\"");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{LEAST, good, refuses};

    /// `LEAST` and a section after it; the section's first key stands in line 4.
    fn with(section: &str) -> String {
        format!("{LEAST}{section}")
    }

    #[test]
    fn names_that_could_leave_their_folder_are_refused() {
        for name in [
            "",
            "..",
            ".hidden",
            "a/b",
            "a b",
            "ü",
            "a\\u0000b",
            "a23456789012345678901234567890123",
        ] {
            refuses(
                &with(&format!("[node]\nname = \"{name}\"\n")),
                4,
                &["is no name", "letters, digits"],
            );
        }
        good(&with("[node]\nname = \"a2345678901234567890123456789012\"\n"));
    }

    #[test]
    fn nqns_are_checked_where_they_stand() {
        refuses(
            &with("[subsystem]\nnqn = \"iqn.x\"\n"),
            4,
            &["nqn: \"iqn.x\" is no NQN", "nqn.yyyy-mm."],
        );
        let discovery = "[subsystem]\nnqn = \"nqn.2014-08.org.nvmexpress.discovery\"\n";
        refuses(&with(discovery), 4, &["every discovery service"]);
        refuses(
            &with("[subsystem]\nhosts = [\n\"x\"]\n"),
            5,
            &["hosts: \"x\" is no NQN"],
        );
    }

    #[test]
    fn sizes_must_be_powers_of_two() {
        refuses(
            &with("[subsystem]\nmax_transfer_kib = 200\n"),
            4,
            &["no power of two", "128 or 256"],
        );
        good(&with("[subsystem]\nmax_transfer_kib = 8\n"));
        good(&with("[subsystem]\nmax_transfer_kib = 1024\n"));
    }
}
