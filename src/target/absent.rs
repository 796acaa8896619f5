//! Drives of the configuration that are not there: a node starts without them, as long as its groups can.

use std::path::Path;

use config::Config;

use super::fabric::session::Sessions;
use super::storage::{self, Opened, StorageError};

/// The drives that are there.
pub struct Present {
    /// The configuration as if it named these alone.
    pub config: Config,
    /// They, in the order of that configuration.
    pub drives: Vec<Opened>,
    /// Groups that the configuration wants of drives some of which are not there: name of the group, and what is missing.
    pub short: Vec<(String, String)>,
    /// What is worth knowing, as sentences.
    pub notes: Vec<String>,
}

impl Present {
    /// What a group lacks, if a drive of it is not there.
    pub fn lacks(&self, group: &str) -> Option<&str> {
        let found = self.short.iter().find(|(name, _)| name == group);
        found.map(|(_, why)| why.as_str())
    }
}

/// Opens the drives of a configuration. One that is not there is left out; anything else that is wrong with one is an error.
pub fn open(config: &Config, sessions: &Sessions) -> Result<Present, StorageError> {
    let mut drives = Vec::new();
    let mut gone: Vec<Option<String>> = Vec::new();
    for drive in &config.drives {
        match storage::open(drive, sessions) {
            Ok(opened) => {
                drives.push(opened);
                gone.push(None);
            }
            Err(StorageError::Open { path, error, .. }) if storage::is_absence(&error) => {
                gone.push(Some(sentence(&drive.name, &path, &error)));
            }
            Err(absent @ StorageError::Absent { .. }) => gone.push(Some(absent.to_string())),
            Err(error) => return Err(error),
        }
    }
    let short = config.groups.iter().filter_map(|group| {
        let why = group.drives.iter().find_map(|drive| gone[*drive].clone());
        why.map(|why| (group.name.clone(), why))
    });
    Ok(Present {
        short: short.collect(),
        config: without(config, &gone),
        drives,
        notes: gone.iter().flatten().cloned().collect(),
    })
}

fn sentence(drive: &str, path: &Path, error: &std::io::Error) -> String {
    format!("drive \"{drive}\" is not there: {}: {error}", path.display())
}

/// The configuration without the drives that are gone.
fn without(config: &Config, gone: &[Option<String>]) -> Config {
    let place = |drive: &usize| {
        let before = gone[..*drive].iter().flatten().count();
        gone[*drive].is_none().then(|| drive - before)
    };
    let mut config = config.clone();
    let mut all = gone.iter();
    config.drives.retain(|_| all.next().is_some_and(Option::is_none));
    for group in &mut config.groups {
        group.drives = group.drives.iter().filter_map(place).collect();
        group.spares = group.spares.iter().filter_map(place).collect();
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::fabric::Tenure;

    const TEXT: &str = r#"
[node]
name = "n"
[[listen]]
address = "127.0.0.1:0"
[[drive]]
name = "a"
path = "/nowhere/a"
[[drive]]
name = "b"
memory_mib = 16
[[drive]]
name = "c"
memory_mib = 16
[[drive]]
name = "d"
path = "/nowhere/d"
[[drive]]
name = "e"
memory_mib = 16
[[group]]
name = "whole"
level = "raid1"
drives = ["c", "b"]
spares = ["d", "e"]
[[group]]
name = "short"
level = "raid0"
drives = ["a"]
"#;

    #[test]
    fn what_is_not_there_is_left_out_and_the_rest_keeps_its_meaning() {
        let config = config::parse(TEXT, Path::new("node.toml")).unwrap();
        let sessions = Sessions::connect(&[], &Tenure::Alone { incarnation: [1; 16] }, 1);
        let present = open(&config, &sessions).unwrap();
        let names: Vec<&str> = present
            .drives
            .iter()
            .map(|drive| drive.spec.name.as_str())
            .collect();
        assert_eq!(names, ["b", "c", "e"]);
        let named: Vec<&str> = present
            .config
            .drives
            .iter()
            .map(|drive| drive.name.as_str())
            .collect();
        assert_eq!(named, names);
        let whole = &present.config.groups[0];
        assert_eq!((&whole.drives[..], &whole.spares[..]), (&[1, 0][..], &[2][..]));
        assert!(present.lacks("whole").is_none(), "a spare is no member");
        let lacks = present.lacks("short").unwrap();
        assert!(
            lacks.starts_with("drive \"a\" is not there: /nowhere/a: "),
            "{lacks}"
        );
        assert_eq!(present.notes.len(), 2);
    }
}
