//! What the tests of several files share.

use std::path::Path;

use crate::{Config, Problem, parse};

/// The least that a file must say.
pub(crate) const LEAST: &str = "[[listen]]\naddress = \"127.0.0.1:4420\"\n";

/// Three memory drives in group `g0`, behind [`LEAST`]: ten lines follow its two.
pub(crate) const GROUP: &str = r#"[[listen]]
address = "127.0.0.1:4420"
[[drive]]
name = "d0"
memory_mib = 64
[[drive]]
name = "d1"
memory_mib = 64
[[drive]]
name = "d2"
memory_mib = 64
[[group]]
name = "g0"
drives = ["d0", "d1", "d2"]
"#;

pub(crate) fn good(text: &str) -> Config {
    parse(text, Path::new("/etc/braid/node.toml")).unwrap_or_else(|problems| panic!("{problems:#?}"))
}

pub(crate) fn bad(text: &str) -> Vec<Problem> {
    match parse(text, Path::new("/etc/braid/node.toml")) {
        Ok(_) => panic!("accepted: {text}"),
        Err(problems) => problems,
    }
}

/// The only problem of a text: its line, column and message.
pub(crate) fn only(text: &str) -> (usize, usize, String) {
    let problems = bad(text);
    assert_eq!(problems.len(), 1, "one problem: {problems:#?}");
    (
        problems[0].line,
        problems[0].column,
        format!("{}; {}", problems[0].what, problems[0].remedy),
    )
}

/// Checks that a text has one problem, at a line, whose message has these words.
#[track_caller]
pub(crate) fn refuses(text: &str, line: usize, words: &[&str]) {
    let (at_line, _, message) = only(text);
    assert_eq!(at_line, line, "{message}");
    for word in words {
        assert!(message.contains(word), "{word:?} is not in: {message}");
    }
}
