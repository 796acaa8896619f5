//! Each configured drive: is it there, may it be used, is it large enough, whose data is on it?

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::process::Command;

use config::{Backing, Config, Group};

use super::machine::try_making_a_file;
use super::{Check, Verdict};
use crate::amf::superblock::{self, Carrier, Found, HEAD_READ_BYTES, TAIL_READ_BYTES};
use crate::target::cli::{block_device_bytes, bytes_text};

/// Smallest drive that a group can use: its two metadata regions and one strip of the largest size.
const DRIVE_BYTES_MIN: u64 = superblock::HEAD_BYTES + superblock::TAIL_BYTES + *superblock::STRIP_BYTES.end();

/// Checks all drives, and that no two of them are the same.
pub(super) fn checks(config: &Config) -> Vec<Check> {
    let mut seen: BTreeMap<(u64, u64), &str> = BTreeMap::new();
    let mut checks = Vec::new();
    for (index, drive) in config.drives.iter().enumerate() {
        let name = format!("drive {}", drive.name);
        let group = config.groups.iter().find(|group| group.drives.contains(&index));
        let (path, size_mib) = match &drive.backing {
            Backing::Memory(memory) => {
                checks.push(Check::ok(
                    name,
                    format!("{} of memory", bytes_text(memory.size_mib << 20)),
                ));
                continue;
            }
            Backing::Path { path, size_mib } => (path, *size_mib),
            Backing::Shelf(drive) => {
                let finding = format!(
                    "{} of shelf {}; only a start reaches it",
                    drive.namespace, drive.shelf
                );
                checks.push(Check::ok(name, finding));
                continue;
            }
        };
        let result = match fs::metadata(path) {
            Ok(metadata) => match seen.insert(identity(&metadata), &drive.name) {
                Some(other) => Err(Verdict::Fail.because(
                    format!("{} is the same drive as {other}", path.display()),
                    "give each drive its own file or device",
                )),
                None => existing(path, &metadata, group),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => missing(path, size_mib, group),
            Err(error) => Err(cannot(path, &error)),
        };
        checks.push(match result {
            Ok(finding) => Check::ok(name, finding),
            Err(Trouble {
                verdict,
                finding,
                remedy,
            }) => Check {
                name,
                verdict,
                finding,
                remedy,
            },
        });
    }
    checks
}

/// Anything but `ok`.
struct Trouble {
    verdict: Verdict,
    finding: String,
    remedy: String,
}

impl Verdict {
    fn because(self, finding: impl Into<String>, remedy: impl Into<String>) -> Trouble {
        Trouble {
            verdict: self,
            finding: finding.into(),
            remedy: remedy.into(),
        }
    }
}

/// What tells two paths to the same drive: the device for block devices, device and inode for files.
fn identity(metadata: &Metadata) -> (u64, u64) {
    if metadata.file_type().is_block_device() {
        (metadata.rdev(), 0)
    } else {
        (metadata.dev(), metadata.ino())
    }
}

fn cannot(path: &Path, error: &io::Error) -> Trouble {
    let remedy = "run as a user who may read and write it";
    Verdict::Fail.because(format!("{} cannot be used: {error}", path.display()), remedy)
}

/// A drive that the first start would make.
fn missing(path: &Path, size_mib: Option<u64>, group: Option<&Group>) -> Result<String, Trouble> {
    let shown = path.display();
    let Some(size_mib) = size_mib else {
        let remedy = "correct its path, or add size_mib to have a file made";
        return Err(Verdict::Fail.because(format!("{shown} does not exist"), remedy));
    };
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    try_making_a_file(folder).map_err(|error| {
        let remedy = format!(
            "make the folder {} and let this user write to it",
            folder.display()
        );
        Verdict::Fail.because(format!("{shown} cannot be made: {error}"), remedy)
    })?;
    let bytes = size_mib << 20;
    large_enough(bytes, group)?;
    match free_bytes(folder) {
        Some(free) if free < bytes => Err(Verdict::Warn.because(
            format!(
                "{shown} will be made; it may grow to {}, but only {} are free",
                bytes_text(bytes),
                bytes_text(free)
            ),
            "free space: writes fail when the file system is full",
        )),
        Some(_) | None => Ok(format!("{shown} will be made ({})", bytes_text(bytes))),
    }
}

/// Free bytes of the file system, if `df` is there to tell.
///
/// Source: POSIX.1-2017, df, option -P: the fourth column of the second line is the space available in KiB.
fn free_bytes(folder: &Path) -> Option<u64> {
    let output = Command::new("df")
        .args(["-P", "-k", "--"])
        .arg(folder)
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.lines()
        .nth(1)?
        .split_whitespace()
        .nth(3)?
        .parse::<u64>()
        .ok()?
        .checked_mul(1024)
}

fn large_enough(bytes: u64, group: Option<&Group>) -> Result<(), Trouble> {
    if bytes < DRIVE_BYTES_MIN {
        let least = bytes_text(DRIVE_BYTES_MIN);
        let finding = format!("{} are too small", bytes_text(bytes));
        return Err(Verdict::Fail.because(finding, format!("give it at least {least}")));
    }
    let block = group.map_or(4096, |group| u64::from(group.block_bytes));
    if !bytes.is_multiple_of(block) {
        let finding =
            format!("{bytes} bytes are no multiple of the block size {block}; the rest is not used");
        return Err(Verdict::Note.because(finding, ""));
    }
    Ok(())
}

fn existing(path: &Path, metadata: &Metadata, group: Option<&Group>) -> Result<String, Trouble> {
    let shown = path.display();
    let is_block = metadata.file_type().is_block_device();
    if !is_block && !metadata.is_file() {
        let remedy = "name a file or a block device";
        return Err(Verdict::Fail.because(format!("{shown} is neither a file nor a block device"), remedy));
    }
    let direct = open(path, is_block)?;
    let bytes = if is_block {
        block_device_bytes(path).unwrap_or(0)
    } else {
        metadata.len()
    };
    large_enough(bytes, group)?;
    if let (true, Some(group)) = (is_block, group) {
        block_size_fits(metadata, group)?;
    }
    let content = content(path, bytes).map_err(|error| cannot(path, &error))?;
    let content = judge(content, group)?;
    if !direct {
        return Err(Verdict::Warn.because(
            format!(
                "{shown}, {}, {content}; its file system has no direct I/O",
                bytes_text(bytes)
            ),
            "keep drives on ext4 or xfs: the page cache adds copies and surprises",
        ));
    }
    Ok(format!("{shown}, {}, {content}", bytes_text(bytes)))
}

/// Opens a drive the way a node does, and closes it. Returns whether direct I/O works.
fn open(path: &Path, is_block: bool) -> Result<bool, Trouble> {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    // On a block device O_EXCL fails when the kernel uses it, that is when it is mounted or part of an md array.
    let exclusive = if is_block { libc::O_EXCL } else { 0 };
    let (file, direct) = match options
        .clone()
        .custom_flags(libc::O_DIRECT | exclusive)
        .open(path)
    {
        Ok(file) => (file, true),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            (options.open(path).map_err(|error| cannot(path, &error))?, false)
        }
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
            let remedy = "unmount it, or take it out of md, LVM or multipath (lsblk shows who uses it)";
            return Err(Verdict::Fail.because(format!("{} is in use by the kernel", path.display()), remedy));
        }
        Err(error) => return Err(cannot(path, &error)),
    };
    match file.try_lock() {
        Ok(()) => Ok(direct), // Released as the file is closed.
        Err(TryLockError::WouldBlock) => {
            let remedy = "stop the node that runs with it before starting another";
            Err(Verdict::Warn.because(format!("{} is in use by a process now", path.display()), remedy))
        }
        Err(TryLockError::Error(error)) => Err(cannot(path, &error)),
    }
}

/// Source: Linux kernel documentation, ABI/stable/sysfs-block, `queue/logical_block_size`.
fn block_size_fits(metadata: &Metadata, group: &Group) -> Result<(), Trouble> {
    let device = metadata.rdev();
    let folder = format!("/sys/dev/block/{}:{}", libc::major(device), libc::minor(device));
    // A partition has no queue folder of its own: its disk is the folder above.
    let files = [
        format!("{folder}/queue/logical_block_size"),
        format!("{folder}/../queue/logical_block_size"),
    ];
    let block: Option<u32> = files
        .iter()
        .find_map(|file| fs::read_to_string(file).ok()?.trim().parse().ok());
    match block {
        Some(block) if block > group.block_bytes => Err(Verdict::Fail.because(
            format!(
                "its blocks have {block} bytes, those of group {} {}",
                group.name, group.block_bytes
            ),
            format!("set block_bytes = {block}, or format the drive to smaller blocks"),
        )),
        Some(_) | None => Ok(()),
    }
}

/// Reads the places where superblocks and other programs' signatures are.
fn content(path: &Path, bytes: u64) -> io::Result<Found> {
    let file = File::open(path)?;
    let region = |offset: u64, count: usize| {
        let mut region = vec![0; count];
        file.read_exact_at(&mut region, offset).map(|()| region)
    };
    let head = region(0, HEAD_READ_BYTES)?;
    let tail = superblock::tail_start(bytes).and_then(|start| region(start, TAIL_READ_BYTES).ok());
    Ok(superblock::examine(Some(&head), tail.as_deref()))
}

/// Compares what is on a drive with what the configuration wants of it.
fn judge(found: Found, group: Option<&Group>) -> Result<String, Trouble> {
    let erase = "look at what it is; wipe it (wipefs, dd) or choose another drive if it may be lost";
    match (found, group) {
        (Found::Blank, Some(group)) if !group.create => Err(Verdict::Warn.because(
            format!("blank, although group {} is to be on it", group.name),
            "correct its path, or set create = true if the group is new",
        )),
        (Found::Blank, _) => Ok("blank".to_owned()),
        (Found::Braid(scan), wanted) => {
            let record = &scan.superblock.record;
            let member = match scan.superblock.carrier {
                Carrier::Member(member) => format!("member {} of group {}", member.0, record.name),
                Carrier::Spare(_) => format!("a spare drive of group {}", record.name),
            };
            match wanted {
                Some(group) if group.name != record.name.as_str() => Err(Verdict::Fail.because(
                    format!("it is {member}, not of {}", group.name),
                    "correct the group's drives, or wipe the drive if that group is gone for good",
                )),
                None => Err(Verdict::Note.because(format!("it is {member}, which is not configured"), "")),
                Some(_) if scan.damaged != 0 => Err(Verdict::Note.because(
                    format!(
                        "{member}; {} of its 4 superblocks are damaged",
                        scan.damaged.count_ones()
                    ),
                    "nothing to do: the node writes them anew from a good one",
                )),
                Some(_) => Ok(format!("{member}, generation {}", record.generation)),
            }
        }
        (Found::Foreign(foreign), Some(_)) => {
            Err(Verdict::Fail.because(format!("it holds {}", foreign.0), erase))
        }
        (Found::Foreign(foreign), None) => Err(Verdict::Note.because(format!("it holds {}", foreign.0), "")),
        (Found::Damaged(error), _) => Err(Verdict::Warn.because(
            format!("no superblock on it is good: {error}"),
            "its group will miss this member",
        )),
        (Found::Mixed { groups: [one, other] }, _) => Err(Verdict::Fail.because(
            format!("it has superblocks of two groups, {one} and {other}"),
            "find out which one is true before it is used",
        )),
        (Found::Unreadable, _) => Err(Verdict::Fail.because("it cannot be read", "replace it")),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    /// A folder of its own for each test, with a configuration of files in it.
    struct Folder(PathBuf);

    impl Folder {
        fn new(test: &str) -> Self {
            let path = PathBuf::from(format!("/var/tmp/braid-preflight-{test}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn file(&self, name: &str, bytes: u64) -> File {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(true);
            let file = options.open(self.0.join(name)).unwrap();
            file.set_len(bytes).unwrap();
            file
        }

        fn check(&self, drives: &str) -> Vec<Check> {
            let text = format!("[[listen]]\naddress = \"127.0.0.1:0\"\n{drives}");
            checks(&config::parse(&text, &self.0.join("node.toml")).unwrap())
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn drive(name: &str, path: &str) -> String {
        format!("[[drive]]\nname = \"{name}\"\npath = \"{path}\"\n")
    }

    #[test]
    fn missing_drive_fails_unless_it_will_be_made() {
        let folder = Folder::new("missing");
        let check = &folder.check(&drive("d0", "none.img"))[0];
        assert_eq!(
            (check.verdict, check.remedy.contains("size_mib")),
            (Verdict::Fail, true)
        );
        let made = format!("{}size_mib = 16\n", drive("d0", "none.img"));
        let check = &folder.check(&made)[0];
        assert_eq!(
            (check.verdict, check.finding.contains("will be made (16 MiB)")),
            (Verdict::Ok, true)
        );
        assert!(!folder.0.join("none.img").exists(), "it only looked");
        let check = &folder.check(&made.replace("none.img", "no/folder.img"))[0];
        assert_eq!(
            (check.verdict, check.finding.contains("cannot be made")),
            (Verdict::Fail, true)
        );
        let huge = format!("{}size_mib = 16777216\n", drive("d0", "none.img"));
        assert_eq!(
            folder.check(&huge)[0].verdict,
            Verdict::Warn,
            "sixteen tebibytes are not free here"
        );
    }

    #[test]
    fn size_kind_and_identity_are_checked() {
        let folder = Folder::new("size");
        folder.file("small.img", 1 << 20);
        folder.file("odd.img", (16 << 20) + 100);
        folder.file("good.img", 16 << 20);
        std::os::unix::fs::symlink(folder.0.join("good.img"), folder.0.join("link.img")).unwrap();
        fs::create_dir(folder.0.join("folder")).unwrap();
        let names = ["small", "odd", "good", "link"];
        let text: String = names
            .iter()
            .map(|name| drive(name, &format!("{name}.img")))
            .collect();
        let found = folder.check(&format!("{text}{}", drive("folder", "folder")));
        let verdicts: Vec<Verdict> = found.iter().map(|check| check.verdict).collect();
        assert_eq!(
            verdicts,
            [
                Verdict::Fail,
                Verdict::Note,
                Verdict::Ok,
                Verdict::Fail,
                Verdict::Fail
            ],
            "{found:#?}"
        );
        assert!(found[3].finding.contains("same drive as good"));
        assert!(found[4].finding.contains("neither"));
    }

    #[test]
    fn drive_in_use_is_noticed() {
        let folder = Folder::new("use");
        let file = folder.file("d0.img", 16 << 20);
        file.lock().unwrap();
        assert!(
            folder.check(&drive("d0", "d0.img"))[0]
                .finding
                .contains("in use by a process")
        );
        drop(file);
        assert_eq!(folder.check(&drive("d0", "d0.img"))[0].verdict, Verdict::Ok);
    }

    #[test]
    fn foreign_data_under_a_group_fails() {
        let folder = Folder::new("foreign");
        let mut text = String::new();
        for name in ["d0", "d1", "d2"] {
            folder.file(&format!("{name}.img"), 16 << 20);
            text.push_str(&drive(name, &format!("{name}.img")));
        }
        text.push_str("[[group]]\nname = \"g0\"\ndrives = [\"d0\", \"d1\", \"d2\"]\n");
        assert!(
            folder
                .check(&text)
                .iter()
                .all(|check| check.verdict == Verdict::Warn),
            "blank, and not to be created"
        );
        text.push_str("create = true\n");
        assert!(
            folder
                .check(&text)
                .iter()
                .all(|check| check.verdict == Verdict::Ok)
        );
        // The magic of an ext4 superblock, at byte 0x438.
        folder
            .file("d1.img", 16 << 20)
            .write_all_at(&[0x53, 0xef], 0x438)
            .unwrap();
        let found = folder.check(&text);
        assert_eq!(found[1].verdict, Verdict::Fail, "{found:#?}");
    }
}
