//! Lost members' places, filled by spares and by operators, under the eyes of a host.

use braid::target::manage::{
    DriveAddSpare, DriveRemoveSpare, DriveReplace, DriveState, GroupState, ManageError, MemberState, Reply,
    Request,
};

use super::queue::{Host, pattern};
use super::stage::Stage;

/// A group of three memory drives with a spare, and another drive that is nothing yet.
const SPARE: &str = r#"
[reactor]
cores = 2
[[drive]]
name = "d0"
memory_mib = 16
[[drive]]
name = "d1"
memory_mib = 16
[[drive]]
name = "d2"
memory_mib = 16
[[drive]]
name = "s0"
memory_mib = 16
[[drive]]
name = "n0"
memory_mib = 16
[[group]]
name = "g"
drives = ["d0", "d1", "d2"]
spares = ["s0"]
strip_kib = 16
create = true
[[vdisk]]
name = "v"
group = "g"
size_mib = 16
nsid = 1
"#;

fn add_spare(stage: &Stage, drive: &str, force: bool) -> Result<Reply, ManageError> {
    stage.call(Request::DriveAddSpare(DriveAddSpare {
        group: "g".into(),
        drive: drive.into(),
        force,
    }))
}

fn is_healthy(stage: &Stage) -> bool {
    stage.group("g").state == GroupState::Healthy
}

/// Whether the host reads back what it wrote from block 100 on.
fn holds(host: &mut Host, data: &[u8]) -> bool {
    let mut pieces = (100..).step_by(50).zip(data.chunks(50 * 4096));
    pieces.all(|(slba, piece)| host.read(1, slba, 50, 4096) == piece)
}

#[test]
fn a_spare_takes_over_is_rebuilt_and_holds_what_hosts_wrote() {
    let stage = Stage::set(SPARE);
    let data = pattern(5, 400 * 4096);
    let mut host = Host::connect(stage.address());
    for (slba, piece) in (100..).step_by(50).zip(data.chunks(50 * 4096)) {
        host.write(1, slba, 4096, piece);
    }
    stage.until("the spare is there", |stage| stage.group("g").spares.len() == 1);
    assert_eq!(stage.drive("s0").state, DriveState::Spare);
    stage.fail_drive("g", "d1");
    stage.until("the spare has taken over and is rebuilt", is_healthy);
    let group = stage.group("g");
    assert_eq!(group.members[1].drive.as_deref(), Some("s0"));
    assert_eq!(group.members[1].state, MemberState::Active);
    assert!(group.spares.is_empty());
    // Only what was rebuilt makes this readable.
    assert_eq!(stage.fail_drive("g", "d0"), GroupState::Degraded);
    assert!(holds(&mut host, &data));

    let replace = |member, drive: &str| {
        stage.call(Request::DriveReplace(DriveReplace {
            group: "g".into(),
            member,
            drive: drive.into(),
            force: false,
        }))
    };
    let error = replace(2, "n0").unwrap_err();
    assert!(error.message.contains("member 2 is in use"), "{error:?}");
    replace(0, "n0").unwrap();
    stage.until("the drive that was given is rebuilt", is_healthy);
    assert_eq!(stage.fail_drive("g", "d2"), GroupState::Degraded);
    assert!(holds(&mut host, &data));
}

#[test]
fn spares_come_and_go() {
    let stage = Stage::set(SPARE);
    stage.until("the spare is there", |stage| stage.group("g").spares.len() == 1);
    assert!(add_spare(&stage, "s0", false).is_err(), "it is one already");
    assert!(
        add_spare(&stage, "d0", true).is_err(),
        "a member is no spare, force or not"
    );
    let remove = |drive: &str| {
        stage.call(Request::DriveRemoveSpare(DriveRemoveSpare {
            group: "g".into(),
            drive: drive.into(),
        }))
    };
    assert!(remove("n0").is_err());
    remove("s0").unwrap();
    assert_eq!(stage.drive("s0").state, DriveState::Free);
    add_spare(&stage, "n0", false).unwrap();
    assert_eq!(stage.group("g").spares[0].drive.as_deref(), Some("n0"));
}
