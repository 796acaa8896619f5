//! Goal: what the style guide asks for and no lint knows stays true.
//! Method: reads every source file of the workspace, blanks comments and literals, and looks for what is banned.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Longest file in lines.
const FILE_LINES_MAX: usize = 1000;

/// Folders with code of ours. `fuzz` is outside the workspace but inside the rules.
const CODE_FOLDERS: [&str; 8] = [
    "src", "nvme", "reactor", "rdma", "config", "tests", "benches", "fuzz",
];

/// The modules of the root package in the order in which they may import: each only from its left.
const MODULE_ORDER: [&[&str]; 6] = [
    &["drive::block"],
    &["drive"],
    &["icl"],
    &["amf"],
    &["vdisk"],
    &["sim", "target"],
];

/// Files that define wire formats, and so name the documents that define them.
const WIRE_FORMATS: [&str; 11] = [
    "nvme/src/access.rs",
    "nvme/src/command.rs",
    "nvme/src/fabrics.rs",
    "nvme/src/feature.rs",
    "nvme/src/identify.rs",
    "nvme/src/io.rs",
    "nvme/src/log.rs",
    "nvme/src/nqn.rs",
    "nvme/src/status.rs",
    "nvme/src/tcp/pdu.rs",
    "rdma/src/connect.rs",
];

/// Words that say nothing about what a thing is. A specification may use one (NVMe/TCP has a Common
/// Header), so `common` is banned for modules and files only.
const BANNED_WORDS: [&str; 7] = [
    "util", "utils", "common", "helper", "helpers", "manager", "managers",
];

/// What breaks a rule, and what to do.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    file: PathBuf,
    line: usize,
    what: String,
    remedy: &'static str,
}

impl fmt::Display for Finding {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "{}:{}: {}; {}",
            self.file.display(),
            self.line,
            self.what,
            self.remedy
        )
    }
}

/// One file of code.
struct Source {
    /// Path from the root of the workspace.
    file: PathBuf,
    text: String,
    /// `text` with comments and literals blanked; line for line the same.
    code: String,
}

impl Source {
    fn new(file: impl Into<PathBuf>, text: &str) -> Self {
        Self {
            file: file.into(),
            text: text.to_owned(),
            code: blank(text),
        }
    }

    fn lies_in(&self, folder: &str) -> bool {
        self.file.starts_with(folder)
    }

    /// Line number, counted from 1, at which the unit tests at the foot start.
    fn tests_line(&self) -> usize {
        let is_foot =
            |pair: &[&str]| pair[0].trim() == "#[cfg(test)]" && pair[1].trim_start().starts_with("mod ");
        let lines: Vec<&str> = self.code.lines().collect();
        lines
            .windows(2)
            .position(is_foot)
            .map_or(usize::MAX, |index| index + 1)
    }

    /// Findings at each line of code in which `look` finds something.
    fn find(&self, remedy: &'static str, look: impl Fn(usize, &str) -> Option<String>) -> Vec<Finding> {
        let lines = self.code.lines().enumerate();
        lines
            .filter_map(|(index, line)| {
                let what = look(index + 1, line)?;
                Some(Finding {
                    file: self.file.clone(),
                    line: index + 1,
                    what,
                    remedy,
                })
            })
            .collect()
    }

    fn whole(&self, what: String, remedy: &'static str) -> Finding {
        Finding {
            file: self.file.clone(),
            line: 1,
            what,
            remedy,
        }
    }
}

/// Replaces comments and the insides of literals by blanks, and keeps line ends.
fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let end = literal_or_comment_end(bytes, at);
        if end > at {
            out.extend(
                bytes[at..end]
                    .iter()
                    .map(|byte| if *byte == b'\n' { b'\n' } else { b' ' }),
            );
            at = end;
        } else {
            out.push(bytes[at]);
            at += 1;
        }
    }
    String::from_utf8(out).expect("whole literals were replaced, so that no character was cut")
}

/// Where the comment or literal that starts at `at` ends; `at` itself if none does.
fn literal_or_comment_end(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at..];
    let until = |needle: &[u8], from: usize| {
        let found = rest[from..]
            .windows(needle.len())
            .position(|window| window == needle);
        found.map_or(bytes.len(), |offset| at + from + offset + needle.len())
    };
    if rest.starts_with(b"//") {
        return until(b"\n", 2).max(at + 2);
    }
    if rest.starts_with(b"/*") {
        return block_comment_end(bytes, at);
    }
    let in_word = at > 0 && is_word(bytes[at - 1]);
    let raw = rest
        .strip_prefix(b"br")
        .or(rest.strip_prefix(b"r"))
        .filter(|_| !in_word);
    if let Some(after) = raw {
        let hashes = after.iter().take_while(|byte| **byte == b'#').count();
        if after.get(hashes) == Some(&b'"') {
            let close = [b"\"".as_slice(), &vec![b'#'; hashes]].concat();
            return until(&close, rest.len() - after.len() + hashes + 1);
        }
    }
    match rest[0] {
        b'"' => escaped_end(bytes, at, b'"'),
        // A lifetime has no closing quote after one character.
        b'\'' if rest.get(1) == Some(&b'\\') => escaped_end(bytes, at, b'\''),
        b'\'' => {
            let width = rest.get(1).map_or(1, |byte| match byte.leading_ones() {
                0 => 1,
                ones => usize::try_from(ones).expect("at most eight"),
            });
            if rest.get(1 + width) == Some(&b'\'') {
                at + width + 2
            } else {
                at
            }
        }
        _ => at,
    }
}

fn block_comment_end(bytes: &[u8], start: usize) -> usize {
    let (mut depth, mut at) = (0, start);
    while at < bytes.len() {
        if bytes[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if bytes[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    at
}

fn escaped_end(bytes: &[u8], start: usize, quote: u8) -> usize {
    let mut at = start + 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// The identifiers and keywords of a line.
fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|letter: char| !(letter.is_alphanumeric() || letter == '_'))
        .filter(|word| !word.is_empty())
}

/// The parts of an identifier, in lower case: `HostManager` and `host_manager` have the same two.
fn parts(name: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    for letter in name.chars() {
        if letter == '_' || letter.is_uppercase() {
            parts.push(String::new());
        }
        if letter != '_' {
            parts
                .last_mut()
                .expect("never empty")
                .extend(letter.to_lowercase());
        }
    }
    parts.retain(|part| !part.is_empty());
    parts
}

fn unsafe_code(source: &Source) -> Vec<Finding> {
    if source.lies_in("reactor") || source.lies_in("rdma") {
        return Vec::new();
    }
    source.find(
        "unsafe code lives in reactor/ and rdma/ only: move it there behind a safe function",
        |_, line| {
            words(line)
                .any(|word| word == "unsafe")
                .then(|| "`unsafe`".to_owned())
        },
    )
}

fn lint_allowed(source: &Source) -> Vec<Finding> {
    source.find(
        "write #[expect(lint, reason = \"..\")], which goes away with its cause",
        |_, line| {
            let plain: String = line.split_whitespace().collect();
            (plain.contains("#[allow(") || plain.contains("#![allow("))
                .then(|| "`allow` of a lint".to_owned())
        },
    )
}

fn unfinished(source: &Source) -> Vec<Finding> {
    source.find("finish it, or leave it out", |_, line| {
        let plain: String = line.split_whitespace().collect();
        let marks = ["todo!(", "unimplemented!(", "dbg!(", "#[ignore]", "#[ignore="];
        let mark = marks.into_iter().find(|mark| plain.contains(mark))?;
        Some(format!("`{mark}`"))
    })
}

fn too_long(source: &Source) -> Vec<Finding> {
    let lines = source.text.lines().count();
    let what = format!("{lines} lines, {FILE_LINES_MAX} are allowed");
    let finding = source.whole(what, "one file, one noun: split it into a folder of modules");
    if lines > FILE_LINES_MAX {
        vec![finding]
    } else {
        Vec::new()
    }
}

fn banned_names(source: &Source) -> Vec<Finding> {
    const REMEDY: &str = "name it after what it is or does";
    let is_banned = |name: &str| {
        parts(name)
            .iter()
            .any(|part| BANNED_WORDS.contains(&part.as_str()))
    };
    let mut findings = source.find(REMEDY, |_, line| {
        let words: Vec<&str> = words(line).collect();
        words.windows(2).find_map(|pair| {
            let defines = [
                "mod", "struct", "enum", "union", "trait", "type", "fn", "const", "static",
            ];
            // `get_mut` is the standard library's own name for it.
            let getter = pair[0] == "fn" && pair[1].starts_with("get_") && pair[1] != "get_mut";
            let from_specification = pair[0] != "mod" && parts(pair[1]).iter().any(|part| part == "common");
            let banned = defines.contains(&pair[0]) && is_banned(pair[1]) && !from_specification;
            (getter || banned).then(|| format!("the name `{}`", pair[1]))
        })
    });
    let in_path = |part: &std::ffi::OsStr| {
        part.to_str()
            .is_some_and(|part| part.split(['.', '-']).any(is_banned))
    };
    if source.file.iter().any(in_path) {
        findings.push(source.whole("its path has a banned word".to_owned(), REMEDY));
    }
    findings
}

/// Sleeping hides races; pure code gets its time in events.
fn sleeps(source: &Source) -> Vec<Finding> {
    let pure = source.lies_in("nvme/src") || source.lies_in("config/src") || source.lies_in("src");
    if !pure || source.lies_in("src/target") || source.lies_in("src/main.rs") {
        return Vec::new();
    }
    let tests_line = source.tests_line();
    source.find("take `now` from the event and ask for a timer", |number, line| {
        (number < tests_line && words(line).any(|word| word == "sleep" || word == "park_timeout"))
            .then(|| "sleeps".to_owned())
    })
}

fn missing_source_line(source: &Source) -> Vec<Finding> {
    let is_wire_format = WIRE_FORMATS.iter().any(|file| source.file == Path::new(file));
    if !is_wire_format
        || source
            .text
            .lines()
            .any(|line| line.trim_start().starts_with("/// Source: "))
    {
        return Vec::new();
    }
    let what = "defines a wire format without naming its document".to_owned();
    vec![source.whole(
        what,
        "add `/// Source: title, revision, section or figure` of what you opened",
    )]
}

/// The module path below the root of a file of the root package: `src/amf/lock/word.rs` is `amf::lock::word`.
fn module_path(file: &Path) -> Option<Vec<String>> {
    let path = file.strip_prefix("src").ok()?.with_extension("");
    let mut parts: Vec<String> = path
        .iter()
        .map(|part| part.to_string_lossy().into_owned())
        .collect();
    if parts.last().is_some_and(|last| last == "mod") {
        parts.pop();
    }
    (parts != ["lib"] && parts != ["main"]).then_some(parts)
}

/// Where a module path stands in `MODULE_ORDER`: the longest entry that it lies in.
fn rank(path: &[String]) -> Option<usize> {
    let path = path.join("::");
    let lies_in = |module: &&str| path == **module || path.starts_with(&format!("{module}::"));
    MODULE_ORDER
        .iter()
        .position(|modules| modules.iter().any(lies_in))
}

fn import_order(source: &Source) -> Vec<Finding> {
    let Some(own) = module_path(&source.file) else {
        return Vec::new();
    };
    const REMEDY: &str =
        "a module imports only from its left in: block, drive, icl, amf, vdisk, sim or target";
    let Some(own_rank) = rank(&own) else {
        return vec![source.whole(
            format!("module {} has no place in the order", own.join("::")),
            REMEDY,
        )];
    };
    let tests_line = source.tests_line();
    source.find(REMEDY, |number, line| {
        let depth = own.len() + usize::from(number > tests_line);
        let imports = crate_paths(line).into_iter().chain(root_paths(line, depth));
        imports.into_iter().find_map(|path| {
            let path: Vec<String> = path.split("::").map(str::to_owned).collect();
            let to_the_right = rank(&path).is_some_and(|other| other > own_rank);
            to_the_right.then(|| format!("{} uses crate::{}", own.join("::"), path.join("::")))
        })
    })
}

/// What a line names through `crate::`, braces opened: the first two parts decide.
fn crate_paths(line: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, prefix) in line.match_indices("crate::") {
        let word_before = line[..at].ends_with(|letter: char| letter.is_alphanumeric() || letter == '_');
        if !word_before {
            found.extend(path_heads(&line[at + prefix.len()..]));
        }
    }
    found
}

/// What a line names through so many `super::` that it arrives at the crate's root.
fn root_paths(line: &str, depth: usize) -> Vec<String> {
    let up = "super::".repeat(depth);
    line.match_indices(&up)
        .flat_map(|(at, _)| path_heads(&line[at + up.len()..]))
        .collect()
}

/// `a::b::c` gives `a::b`; `{a::b, c}` gives both.
fn path_heads(rest: &str) -> Vec<String> {
    let head = |text: &str| {
        let end = text.find(|letter: char| !(letter.is_alphanumeric() || letter == '_' || letter == ':'));
        let path = &text[..end.unwrap_or(text.len())];
        path.split("::")
            .filter(|part| !part.is_empty())
            .take(2)
            .collect::<Vec<_>>()
            .join("::")
    };
    match rest.strip_prefix('{') {
        Some(list) => list.split([',', '}']).map(|item| head(item.trim())).collect(),
        None => vec![head(rest)],
    }
}

const CHECKS: [fn(&Source) -> Vec<Finding>; 8] = [
    unsafe_code,
    lint_allowed,
    unfinished,
    too_long,
    banned_names,
    sleeps,
    missing_source_line,
    import_order,
];

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file of ours, sorted, so that findings come in the same order on each machine.
fn sources() -> Vec<Source> {
    let mut folders: Vec<PathBuf> = CODE_FOLDERS
        .iter()
        .map(|folder| workspace().join(folder))
        .collect();
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries {
            let path = entry.expect("the folder was just opened").path();
            if path.is_dir() {
                let built = path
                    .file_name()
                    .is_some_and(|name| name == "target" || name == "corpus");
                if !built && !path.starts_with(workspace().join("reactor/spdk")) {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    let read = |path: &PathBuf| {
        let text =
            std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Source::new(path.strip_prefix(workspace()).expect("it was found below"), &text)
    };
    files.iter().map(read).collect()
}

fn report(findings: &[Finding]) {
    let list: String = findings.iter().map(|finding| format!("{finding}\n")).collect();
    assert!(findings.is_empty(), "{} findings\n{list}", findings.len());
}

#[test]
fn sources_are_tidy() {
    let sources = sources();
    assert!(
        sources.len() > 30,
        "the workspace was found: {} files",
        sources.len()
    );
    report(
        &sources
            .iter()
            .flat_map(|source| CHECKS.iter().flat_map(|check| check(source)))
            .collect::<Vec<_>>(),
    );
}

#[test]
fn wire_formats_are_where_this_test_looks_for_them() {
    let missing: Vec<&str> = WIRE_FORMATS
        .into_iter()
        .filter(|file| !workspace().join(file).is_file())
        .collect();
    assert!(
        missing.is_empty(),
        "{missing:?} moved: change WIRE_FORMATS in tests/tidy.rs"
    );
}

/// The manifests of all members: the lines of `[workspace] members`.
fn members() -> Vec<PathBuf> {
    let root = std::fs::read_to_string(workspace().join("Cargo.toml")).expect("the workspace has a manifest");
    let list = root
        .lines()
        .find_map(|line| line.strip_prefix("members = "))
        .expect("members stand in one line");
    let names = list.split('"').skip(1).step_by(2);
    names
        .map(|member| workspace().join(member).join("Cargo.toml"))
        .collect()
}

fn inherits_lints(manifest: &str) -> bool {
    let mut lines = manifest
        .lines()
        .map(str::trim)
        .skip_while(|line| *line != "[lints]")
        .skip(1);
    lines.find(|line| !line.is_empty() && !line.starts_with('#')) == Some("workspace = true")
}

#[test]
fn every_member_inherits_the_workspaces_lints() {
    let members = members();
    assert!(members.len() >= 5, "{members:?}");
    for member in members {
        let manifest = std::fs::read_to_string(&member).expect("members have manifests");
        assert!(
            inherits_lints(&manifest),
            "{}: add [lints] with workspace = true",
            member.display()
        );
    }
}

/// Names of the packages that `cargo tree` lists for ordinary builds.
fn packages(arguments: &[&str]) -> Vec<String> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "-e", "normal", "--prefix", "none", "--offline"])
        .args(arguments)
        .current_dir(workspace())
        .output()
        .expect("cargo runs, as it has built this test");
    assert!(
        output.status.success(),
        "cargo tree: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let mut names: Vec<String> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| line.split_whitespace().next().map(str::to_owned))
        .collect();
    names.sort();
    names.dedup();
    names
}

#[test]
fn the_pure_build_depends_on_nvme_and_thiserror_only() {
    let allowed = [
        "braid",
        "nvme",
        "thiserror",
        "thiserror-impl",
        "proc-macro2",
        "quote",
        "syn",
        "unicode-ident",
    ];
    let packages = packages(&["-p", "braid", "--no-default-features"]);
    assert!(packages.iter().any(|name| name == "thiserror"), "{packages:?}");
    let extra: Vec<_> = packages
        .iter()
        .filter(|name| !allowed.contains(&name.as_str()))
        .collect();
    assert!(
        extra.is_empty(),
        "{extra:?}: make it optional and part of feature `target`"
    );
}

#[test]
fn the_data_plane_has_no_async_runtime_and_no_serialiser() {
    for member in ["nvme", "reactor", "rdma"] {
        let packages = packages(&["-p", member]);
        let banned = |name: &&String| {
            [
                "tokio",
                "async-std",
                "smol",
                "futures",
                "serde",
                "serde_core",
                "serde_json",
                "tracing",
                "clap",
            ]
            .contains(&name.as_str())
        };
        let found: Vec<_> = packages.iter().filter(banned).collect();
        assert!(
            found.is_empty(),
            "{member} depends on {found:?}: that belongs to feature `target` of the root"
        );
    }
}

#[test]
fn the_checks_catch_what_they_are_for() {
    let caught = |check: fn(&Source) -> Vec<Finding>, file: &str, text: &str| {
        check(&Source::new(file, text))
            .iter()
            .map(|finding| finding.line)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        caught(unsafe_code, "nvme/src/a.rs", "fn a() {\n unsafe { b() }\n}"),
        [2]
    );
    assert_eq!(caught(unsafe_code, "reactor/src/a.rs", "unsafe fn a() {}"), []);
    assert_eq!(
        caught(
            unsafe_code,
            "src/a.rs",
            "// unsafe\nconst A: &str = \"unsafe\"; // unsafe_code"
        ),
        []
    );
    assert_eq!(
        caught(
            lint_allowed,
            "src/a.rs",
            "#[allow(dead_code)]\n#[expect(x)]\n#![allow (y)]"
        ),
        [1, 3]
    );
    assert_eq!(
        caught(
            unfinished,
            "src/a.rs",
            "todo!()\nfn todo() {}\n#[ignore]\nunimplemented!(\"x\")"
        ),
        [1, 3, 4]
    );
    assert_eq!(caught(too_long, "src/a.rs", &"\n".repeat(FILE_LINES_MAX)), []);
    assert_eq!(
        caught(too_long, "src/a.rs", &"\n".repeat(FILE_LINES_MAX + 1)),
        [1]
    );
    assert_eq!(
        caught(
            banned_names,
            "src/a.rs",
            "struct HostManager;\nfn get_a() {}\nmod utils;\nlet common = 1;"
        ),
        [1, 2, 3]
    );
    assert_eq!(caught(banned_names, "src/string_utils.rs", ""), [1]);
    assert_eq!(
        caught(banned_names, "src/a.rs", "fn budget_a() {}\nstruct Commoner;"),
        []
    );
    let sleeping = "fn a() { sleep(); }\n#[cfg(test)]\nmod tests { fn b() { sleep(); } }";
    assert_eq!(caught(sleeps, "nvme/src/a.rs", sleeping), [1]);
    assert_eq!(caught(sleeps, "src/target/a.rs", sleeping), []);
    assert_eq!(caught(missing_source_line, "nvme/src/io.rs", "// Source: x"), [1]);
    assert_eq!(
        caught(missing_source_line, "nvme/src/io.rs", "/// Source: x, section 1."),
        []
    );
}

#[test]
fn imports_to_the_right_are_caught_however_they_are_written() {
    let caught = |file: &str, text: &str| {
        import_order(&Source::new(file, text))
            .iter()
            .map(|finding| finding.line)
            .collect::<Vec<_>>()
    };
    assert_eq!(caught("src/drive/mod.rs", "use crate::amf::MemberIndex;"), [1]);
    assert_eq!(
        caught(
            "src/amf/mod.rs",
            "use crate::drive::DriveError;\nuse crate::vdisk::A;"
        ),
        [2]
    );
    assert_eq!(
        caught(
            "src/drive/block.rs",
            "use crate::drive::DriveError;\nuse crate::drive::block::B;"
        ),
        [1]
    );
    assert_eq!(caught("src/amf/row.rs", "fn a() { crate::target::b() }"), [1]);
    assert_eq!(caught("src/amf/row.rs", "use crate::{drive::A, target::B};"), [1]);
    assert_eq!(
        caught(
            "src/amf/row.rs",
            "use super::super::target::B;\nuse super::lock::A;"
        ),
        [1]
    );
    assert_eq!(
        caught("src/target/a.rs", "use crate::amf::A;\nuse crate::vdisk::B;"),
        []
    );
    assert_eq!(
        caught(
            "src/amf/row.rs",
            "#[cfg(test)]\nmod tests {\n use super::super::lock::A;\n}"
        ),
        []
    );
    assert_eq!(caught("src/new/mod.rs", ""), [1]);
    assert_eq!(
        caught("src/amf/row.rs", "use xcrate::target::A; // crate::target"),
        []
    );
}

#[test]
fn comments_and_literals_are_blanked_and_nothing_else_is() {
    for (text, left) in [
        ("a // b\nc", vec!["a", "c"]),
        ("a /* b /* c */ d */ e", vec!["a", "e"]),
        ("a \"b\\\"c\" d", vec!["a", "d"]),
        ("r#\"a\"b\"# c", vec!["c"]),
        ("'a' 'b: &'c str", vec!["'b:", "&'c", "str"]),
        ("'\\'' x 'ü' y", vec!["x", "y"]),
        ("br\"x\" for\"y\"", vec!["for"]),
        ("a \"b", vec!["a"]),
    ] {
        assert_eq!(blank(text).split_whitespace().collect::<Vec<_>>(), left, "{text}");
        assert_eq!(blank(text).len(), text.len(), "{text}");
    }
}

#[test]
fn lints_are_inherited_only_by_saying_so() {
    assert!(inherits_lints("[package]\n[lints]\n# why\nworkspace = true\n"));
    assert!(!inherits_lints("[package]\n[lints]\nworkspace = false\n"));
    assert!(!inherits_lints("[package]\n"));
}
