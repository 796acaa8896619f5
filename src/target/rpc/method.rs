//! The methods: their names, the parameters that each takes, and what is said about a wrong one.

use serde_json::{Map, Value, json};

use super::message::RpcError;
use crate::amf::geometry::Level;
use crate::amf::replication::ReplicationMode;
use crate::target::manage::{
    ArrayRequest, BackgroundRequest, Durability, FaultKind, PortRequest, Replication, Request,
};

/// One method of the interface.
pub(super) struct Method {
    name: &'static str,
    parameters: &'static [Parameter],
    build: fn(Value) -> Result<Request, serde_json::Error>,
}

/// One named parameter.
struct Parameter {
    name: &'static str,
    kind: Kind,
    required: bool,
}

/// What a parameter may be.
#[derive(Clone, Copy)]
enum Kind {
    /// Name of something that exists.
    Name,
    /// Name of something new.
    NewName,
    /// Names of things that exist.
    Names,
    /// RAID level.
    Level,
    /// A whole number in this range.
    Whole(u64, u64),
    /// Number of bytes or `"all"`.
    Size,
    /// True or false.
    Flag,
    /// A fault of a drive.
    Fault,
    /// When a write counts as done.
    Durability,
    /// When it does where several nodes have it in memory.
    Replication,
}

const fn required(name: &'static str, kind: Kind) -> Parameter {
    Parameter {
        name,
        kind,
        required: true,
    }
}

const fn optional(name: &'static str, kind: Kind) -> Parameter {
    Parameter {
        name,
        kind,
        required: false,
    }
}

const FORCE: Parameter = optional("force", Kind::Flag);
const METHODS: &[Method] = &[
    Method {
        name: "node.show",
        parameters: &[],
        build: |_| Ok(Request::NodeShow),
    },
    Method {
        name: "node.shutdown",
        parameters: &[],
        build: |_| Ok(Request::Shutdown),
    },
    Method {
        name: "shelf.show",
        parameters: &[],
        build: |_| Ok(Request::ShelfShow),
    },
    Method {
        name: "array.show",
        parameters: &[],
        build: |_| Ok(Request::Array(ArrayRequest::Show)),
    },
    Method {
        name: "array.create",
        parameters: &[],
        build: |_| Ok(Request::Array(ArrayRequest::Create)),
    },
    Method {
        name: "array.leave",
        parameters: &[],
        build: |_| Ok(Request::Array(ArrayRequest::Leave)),
    },
    Method {
        name: "array.join",
        parameters: &[],
        build: |_| Ok(Request::Array(ArrayRequest::Join)),
    },
    Method {
        name: "array.cut",
        parameters: &[
            required("peer", Kind::Whole(0, 7)),
            optional("muted", Kind::Flag),
            optional("deafened", Kind::Flag),
            optional("locks_only", Kind::Flag),
        ],
        build: |params| serde_json::from_value(params).map(|cut| Request::Array(ArrayRequest::Cut(cut))),
    },
    Method {
        name: "group.list",
        parameters: &[],
        build: |_| Ok(Request::GroupList),
    },
    Method {
        name: "group.show",
        parameters: &[required("group", Kind::Name)],
        build: |params| serde_json::from_value(params).map(Request::GroupShow),
    },
    Method {
        name: "group.create",
        parameters: &[
            required("name", Kind::NewName),
            required("drives", Kind::Names),
            optional("level", Kind::Level),
            optional("strip_kib", Kind::Whole(4, 1024)),
            optional("block_bytes", Kind::Whole(512, 4096)),
            optional("durability", Kind::Durability),
            optional("journal_mib", Kind::Whole(1, 65_536)),
            FORCE,
        ],
        build: |params| serde_json::from_value(params).map(Request::GroupCreate),
    },
    Method {
        name: "group.expand",
        parameters: &[
            required("group", Kind::Name),
            required("drives", Kind::Names),
            FORCE,
        ],
        build: |params| serde_json::from_value(params).map(Request::GroupExpand),
    },
    Method {
        name: "group.scrub",
        parameters: &[required("group", Kind::Name), optional("repair", Kind::Flag)],
        build: |params| {
            serde_json::from_value(params).map(|params| Request::Background(BackgroundRequest::Scrub(params)))
        },
    },
    Method {
        name: "group.scrub_stop",
        parameters: &[required("group", Kind::Name)],
        build: |params| {
            serde_json::from_value(params)
                .map(|params| Request::Background(BackgroundRequest::ScrubStop(params)))
        },
    },
    Method {
        name: "group.pause",
        parameters: &[required("group", Kind::Name)],
        build: |params| {
            serde_json::from_value(params).map(|params| Request::Background(BackgroundRequest::Pause(params)))
        },
    },
    Method {
        name: "group.resume",
        parameters: &[required("group", Kind::Name)],
        build: |params| {
            serde_json::from_value(params)
                .map(|params| Request::Background(BackgroundRequest::Resume(params)))
        },
    },
    Method {
        name: "group.set_rate",
        parameters: &[
            required("group", Kind::Name),
            optional("rate_mib_s", Kind::Whole(0, config::RATE_MIB_S_MAX as u64)),
            optional(
                "latency_target_us",
                Kind::Whole(0, config::LATENCY_TARGET_US_MAX as u64),
            ),
        ],
        build: |params| {
            serde_json::from_value(params)
                .map(|params| Request::Background(BackgroundRequest::SetRate(params)))
        },
    },
    Method {
        name: "vdisk.list",
        parameters: &[],
        build: |_| Ok(Request::VdiskList),
    },
    Method {
        name: "vdisk.show",
        parameters: &[required("vdisk", Kind::Name)],
        build: |params| serde_json::from_value(params).map(Request::VdiskShow),
    },
    Method {
        name: "vdisk.create",
        parameters: &[
            required("name", Kind::NewName),
            required("group", Kind::Name),
            required("size_bytes", Kind::Size),
            optional("nsid", Kind::Whole(1, 0xffff_fffe)),
            optional("replication", Kind::Replication),
        ],
        build: |params| serde_json::from_value(params).map(Request::VdiskCreate),
    },
    Method {
        name: "vdisk.replicate",
        parameters: &[
            required("vdisk", Kind::Name),
            required("replication", Kind::Replication),
        ],
        build: |params| serde_json::from_value(params).map(Request::VdiskReplicate),
    },
    Method {
        name: "vdisk.resize",
        parameters: &[required("vdisk", Kind::Name), required("size_bytes", Kind::Size)],
        build: |params| serde_json::from_value(params).map(Request::VdiskResize),
    },
    Method {
        name: "vdisk.delete",
        parameters: &[required("vdisk", Kind::Name), FORCE],
        build: |params| serde_json::from_value(params).map(Request::VdiskDelete),
    },
    Method {
        name: "port.list",
        parameters: &[optional("vdisk", Kind::Name)],
        build: |params| serde_json::from_value(params).map(|list| Request::Port(PortRequest::List(list))),
    },
    Method {
        name: "port.add",
        parameters: &[
            required("vdisk", Kind::Name),
            required("node", Kind::Whole(0, config::ARRAY_SLOTS as u64 - 1)),
        ],
        build: |params| serde_json::from_value(params).map(|add| Request::Port(PortRequest::Add(add))),
    },
    Method {
        name: "port.delete",
        parameters: &[
            required("vdisk", Kind::Name),
            required("node", Kind::Whole(0, config::ARRAY_SLOTS as u64 - 1)),
            FORCE,
        ],
        build: |params| {
            serde_json::from_value(params).map(|delete| Request::Port(PortRequest::Delete(delete)))
        },
    },
    Method {
        name: "drive.list",
        parameters: &[],
        build: |_| Ok(Request::DriveList),
    },
    Method {
        name: "drive.show",
        parameters: &[required("drive", Kind::Name)],
        build: |params| serde_json::from_value(params).map(Request::DriveShow),
    },
    Method {
        name: "drive.fail",
        parameters: &[
            required("group", Kind::Name),
            required("drive", Kind::Name),
            FORCE,
        ],
        build: |params| serde_json::from_value(params).map(Request::DriveFail),
    },
    Method {
        name: "drive.replace",
        parameters: &[
            required("group", Kind::Name),
            required("member", Kind::Whole(0, 31)),
            required("drive", Kind::Name),
            FORCE,
        ],
        build: |params| serde_json::from_value(params).map(Request::DriveReplace),
    },
    Method {
        name: "drive.add_spare",
        parameters: &[
            required("group", Kind::Name),
            required("drive", Kind::Name),
            FORCE,
        ],
        build: |params| serde_json::from_value(params).map(Request::DriveAddSpare),
    },
    Method {
        name: "drive.remove_spare",
        parameters: &[required("group", Kind::Name), required("drive", Kind::Name)],
        build: |params| serde_json::from_value(params).map(Request::DriveRemoveSpare),
    },
    Method {
        name: "drive.inject",
        parameters: &[
            required("drive", Kind::Name),
            required("fault", Kind::Fault),
            optional("at_bytes", Kind::Whole(0, u64::MAX)),
            optional("blocks", Kind::Whole(1, 1 << 32)),
            optional("slow_us", Kind::Whole(0, 3_600_000_000)),
        ],
        build: |params| serde_json::from_value(params).map(Request::DriveInject),
    },
    Method {
        name: "host.list",
        parameters: &[],
        build: |_| Ok(Request::HostList),
    },
    Method {
        name: "latency.show",
        parameters: &[],
        build: |_| Ok(Request::Latency),
    },
    Method {
        name: "counters.show",
        parameters: &[],
        build: |_| Ok(Request::Counters),
    },
];

/// Longest name of a drive, group or virtual disk in bytes.
const NAME_BYTES_MAX: usize = config::NAME_BYTES_MAX;
/// Most drives that one request may name.
const NAMES_MAX: usize = config::GROUP_DRIVES_MAX;

/// The parameters of a request as JSON, the way `read` takes them. `None` for methods without any.
pub fn params(request: &Request) -> Option<Value> {
    fn value<T: serde::Serialize>(params: &T) -> Option<Value> {
        Some(serde_json::to_value(params).expect("parameters are plain data with text keys"))
    }
    match request {
        Request::GroupShow(params) => value(params),
        Request::GroupCreate(params) => value(params),
        Request::GroupExpand(params) => value(params),
        Request::Background(BackgroundRequest::Scrub(params)) => value(params),
        Request::Background(
            BackgroundRequest::ScrubStop(params)
            | BackgroundRequest::Pause(params)
            | BackgroundRequest::Resume(params),
        ) => value(params),
        Request::Background(BackgroundRequest::SetRate(params)) => value(params),
        Request::VdiskShow(params) => value(params),
        Request::VdiskCreate(params) => value(params),
        Request::VdiskResize(params) => value(params),
        Request::VdiskReplicate(params) => value(params),
        Request::VdiskDelete(params) => value(params),
        Request::Port(PortRequest::List(params)) => value(params),
        Request::Port(PortRequest::Add(params)) => value(params),
        Request::Port(PortRequest::Delete(params)) => value(params),
        Request::DriveShow(params) => value(params),
        Request::DriveFail(params) => value(params),
        Request::DriveReplace(params) => value(params),
        Request::DriveAddSpare(params) => value(params),
        Request::DriveRemoveSpare(params) => value(params),
        Request::DriveInject(params) => value(params),
        Request::Array(ArrayRequest::Cut(params)) => value(params),
        Request::Array(
            ArrayRequest::Show | ArrayRequest::Create | ArrayRequest::Leave | ArrayRequest::Join,
        )
        | Request::NodeShow
        | Request::GroupList
        | Request::VdiskList
        | Request::DriveList
        | Request::ShelfShow
        | Request::HostList
        | Request::Latency
        | Request::Counters
        | Request::Shutdown => None,
    }
}

/// Makes a request of a method's name and its parameters. Errs with -32601 or -32602, naming what is wrong.
pub fn read(name: &str, params: Option<Value>) -> Result<Request, RpcError> {
    let Some(method) = METHODS.iter().find(|method| method.name == name) else {
        return Err(unknown_method(name));
    };
    let params = match params {
        None => Map::new(),
        Some(Value::Object(params)) => params,
        Some(Value::Array(params)) if params.is_empty() => Map::new(),
        Some(_) => {
            return Err(RpcError::new(
                RpcError::INVALID_PARAMS,
                format!("params of {name} are not an object"),
                format!("name each parameter, for example {}", method.example()),
            ));
        }
    };
    method.check(&params)?;
    (method.build)(Value::Object(params)).map_err(|error| {
        RpcError::new(
            RpcError::INVALID_PARAMS,
            format!("params of {name}: {error}"),
            String::new(),
        )
    })
}

fn unknown_method(name: &str) -> RpcError {
    let remedy = match nearest(name, METHODS.iter().map(|method| method.name)) {
        Some(known) => format!("did you mean {known}?"),
        None => {
            let names: Vec<_> = METHODS.iter().map(|method| method.name).collect();
            format!("the methods are {}", names.join(", "))
        }
    };
    RpcError::new(
        RpcError::METHOD_NOT_FOUND,
        format!("there is no method {}", quoted(name)),
        remedy,
    )
}

impl Method {
    fn check(&self, params: &Map<String, Value>) -> Result<(), RpcError> {
        let wrong = |message: String, remedy: String| {
            RpcError::new(
                RpcError::INVALID_PARAMS,
                format!("{}: {message}", self.name),
                remedy,
            )
        };
        let names = || self.parameters.iter().map(|parameter| parameter.name);
        if let Some(extra) = params.keys().find(|key| !names().any(|name| name == *key)) {
            let remedy = match nearest(extra, names()) {
                Some(known) => format!("did you mean {known}?"),
                None if self.parameters.is_empty() => "leave params out".to_owned(),
                None => format!("its parameters are {}", names().collect::<Vec<_>>().join(", ")),
            };
            return Err(wrong(format!("there is no parameter {}", quoted(extra)), remedy));
        }
        for parameter in self.parameters {
            let name = parameter.name;
            match params.get(name) {
                None if parameter.required => {
                    let remedy = format!("give it, for example {}", self.example());
                    return Err(wrong(format!("the parameter {name} is missing"), remedy));
                }
                None => {}
                Some(value) if parameter.kind.fits(value) => {}
                Some(value) => {
                    let message = format!("{name} is {}", described(value));
                    return Err(wrong(message, format!("it must be {}", parameter.kind.wanted())));
                }
            }
        }
        Ok(())
    }

    /// The required parameters with made-up values.
    fn example(&self) -> Value {
        let required = self.parameters.iter().filter(|parameter| parameter.required);
        Value::Object(required.map(|p| (p.name.to_owned(), p.kind.example())).collect())
    }
}

impl Kind {
    fn fits(self, value: &Value) -> bool {
        match self {
            Self::Name => value
                .as_str()
                .is_some_and(|name| (1..=NAME_BYTES_MAX).contains(&name.len())),
            Self::NewName => value.as_str().is_some_and(is_new_name),
            Self::Names => value.as_array().is_some_and(|names| {
                (1..=NAMES_MAX).contains(&names.len()) && names.iter().all(|name| Self::Name.fits(name))
            }),
            Self::Level => value
                .as_str()
                .is_some_and(|name| Level::from_name(name).is_some()),
            Self::Whole(min, max) => value.as_u64().is_some_and(|number| (min..=max).contains(&number)),
            Self::Size => value.as_u64().is_some_and(|bytes| bytes > 0) || value.as_str() == Some("all"),
            Self::Flag => value.is_boolean(),
            Self::Durability => value
                .as_str()
                .is_some_and(|name| Durability::CHOICES.iter().any(|choice| choice.name() == name)),
            Self::Replication => serde_json::from_value::<Replication>(value.clone()).is_ok(),
            Self::Fault => value
                .as_str()
                .is_some_and(|name| FaultKind::ALL.iter().any(|fault| fault.name() == name)),
        }
    }

    fn wanted(self) -> String {
        match self {
            Self::Name => format!("text of 1 to {NAME_BYTES_MAX} bytes"),
            Self::NewName => format!("1 to {NAME_BYTES_MAX} letters, digits, \"-\", \"_\" and \".\""),
            Self::Names => format!("a list of 1 to {NAMES_MAX} names"),
            Self::Level => Level::ALL
                .map(|level| format!("\"{}\"", level.name()))
                .join(" or "),
            Self::Whole(min, max) => format!("a whole number in {min}..={max}"),
            Self::Size => "a number of bytes above 0, or \"all\"".to_owned(),
            Self::Flag => "true or false".to_owned(),
            Self::Durability => format!("one of {}", Durability::CHOICES.map(Durability::name).join(", ")),
            Self::Replication => format!(
                "one of {}",
                ReplicationMode::ALL.map(ReplicationMode::name).join(", ")
            ),
            Self::Fault => format!("one of {}", FaultKind::ALL.map(FaultKind::name).join(", ")),
        }
    }

    fn example(self) -> Value {
        match self {
            Self::Name => json!("g0"),
            Self::NewName => json!("new"),
            Self::Names => json!(["d0", "d1", "d2"]),
            Self::Level => json!(Level::Raid5.name()),
            Self::Whole(min, _) => json!(min),
            Self::Size => json!("all"),
            Self::Flag => json!(true),
            Self::Durability => json!(Durability::Ram.name()),
            Self::Replication => json!(ReplicationMode::Async.name()),
            Self::Fault => json!(FaultKind::Hang.name()),
        }
    }
}

fn is_new_name(name: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

/// A value as an error repeats it: short, on one line.
fn described(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => quoted(text),
        Value::Array(list) => format!("a list of {}", list.len()),
        Value::Object(_) => "an object".to_owned(),
    }
}

/// Foreign text as an error repeats it: escaped, and cut to what a line holds.
pub(super) fn quoted(text: &str) -> String {
    const CHARS_MAX: usize = 60;
    match text.char_indices().nth(CHARS_MAX) {
        None => format!("{text:?}"),
        Some((end, _)) => format!("{:?}...", &text[..end]),
    }
}

/// The known name that was probably meant: at most two edits away, and less than half of it changed.
pub(super) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    const NAME_CHARS_MAX: usize = 64;
    if name.len() > NAME_CHARS_MAX {
        return None;
    }
    let near = known.map(|known| (edits(name, known), known)).min()?;
    (near.0 <= 2 && near.0 * 2 < near.1.len()).then_some(near.1)
}

/// Edit distance by Levenshtein, byte for byte.
fn edits(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(from != to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::manage::*;

    #[expect(clippy::too_many_lines, reason = "one line for each request")]
    fn every_request() -> Vec<Request> {
        let name = || "n0".to_owned();
        vec![
            Request::NodeShow,
            Request::GroupList,
            Request::GroupShow(GroupName { group: name() }),
            Request::GroupCreate(GroupCreate {
                name: name(),
                level: "raid5".into(),
                strip_kib: 64,
                block_bytes: 512,
                drives: vec![name(), name()],
                durability: Some(Durability::Ram),
                journal_mib: Some(64),
                force: true,
            }),
            Request::Background(BackgroundRequest::Scrub(GroupScrub {
                group: name(),
                repair: true,
            })),
            Request::Background(BackgroundRequest::ScrubStop(GroupName { group: name() })),
            Request::Background(BackgroundRequest::Pause(GroupName { group: name() })),
            Request::Background(BackgroundRequest::Resume(GroupName { group: name() })),
            Request::Background(BackgroundRequest::SetRate(GroupSetRate {
                group: name(),
                rate_mib_s: 7,
                latency_target_us: 9,
            })),
            Request::VdiskList,
            Request::VdiskShow(VdiskName { vdisk: name() }),
            Request::VdiskCreate(VdiskCreate {
                name: name(),
                group: name(),
                size: Size::Bytes(7),
                nsid: Some(3),
                replication: Some(Replication::PseudoSync),
            }),
            Request::VdiskCreate(VdiskCreate {
                name: name(),
                group: name(),
                size: Size::All,
                nsid: None,
                replication: None,
            }),
            Request::GroupExpand(GroupExpand {
                group: "g0".into(),
                drives: vec!["d4".into(), "d5".into()],
                force: true,
            }),
            Request::VdiskResize(VdiskResize {
                vdisk: "v1".into(),
                size: Size::Bytes(1 << 31),
            }),
            Request::VdiskResize(VdiskResize {
                vdisk: "7".into(),
                size: Size::All,
            }),
            Request::VdiskReplicate(VdiskReplicate {
                vdisk: name(),
                replication: Replication::Async,
            }),
            Request::Port(PortRequest::List(PortList { vdisk: None })),
            Request::Port(PortRequest::List(PortList { vdisk: Some(name()) })),
            Request::Port(PortRequest::Add(PortAdd {
                vdisk: name(),
                node: 7,
            })),
            Request::Port(PortRequest::Delete(PortDelete {
                vdisk: name(),
                node: 0,
                force: true,
            })),
            Request::VdiskDelete(VdiskDelete {
                vdisk: name(),
                force: false,
            }),
            Request::DriveList,
            Request::DriveShow(DriveName { drive: name() }),
            Request::DriveFail(DriveFail {
                group: name(),
                drive: name(),
                force: true,
            }),
            Request::DriveReplace(DriveReplace {
                group: name(),
                member: 3,
                drive: name(),
                force: true,
            }),
            Request::DriveAddSpare(DriveAddSpare {
                group: name(),
                drive: name(),
                force: true,
            }),
            Request::DriveRemoveSpare(DriveRemoveSpare {
                group: name(),
                drive: name(),
            }),
            Request::DriveInject(DriveInject {
                drive: name(),
                fault: FaultKind::Media,
                at_bytes: Some(4096),
                blocks: Some(8),
                slow_us: None,
            }),
            Request::Array(ArrayRequest::Show),
            Request::Array(ArrayRequest::Create),
            Request::Array(ArrayRequest::Leave),
            Request::Array(ArrayRequest::Join),
            Request::Array(ArrayRequest::Cut(ArrayCut {
                peer: 3,
                muted: true,
                deafened: false,
                locks_only: true,
            })),
            Request::HostList,
            Request::Latency,
            Request::Counters,
            Request::ShelfShow,
            Request::Shutdown,
        ]
    }

    #[test]
    fn every_request_survives_the_wire() {
        for request in every_request() {
            assert_eq!(read(request.method(), params(&request)).unwrap(), request);
        }
        for method in METHODS {
            assert!(
                every_request()
                    .iter()
                    .any(|request| request.method() == method.name),
                "{}",
                method.name
            );
        }
    }

    #[test]
    fn defaults_fill_optional_parameters() {
        let request = read("group.create", Some(json!({"name": "g", "drives": ["a"]}))).unwrap();
        let Request::GroupCreate(create) = request else {
            panic!("{request:?}")
        };
        assert_eq!(
            (create.level.as_str(), create.strip_kib, create.block_bytes),
            ("raid5", 64, 4096)
        );
        assert!(!create.force);
    }

    #[track_caller]
    fn refused(name: &str, params: Value) -> String {
        let error = read(name, Some(params)).unwrap_err();
        format!("{} {}; {}", error.code, error.message, error.remedy)
    }

    #[test]
    fn unknown_method_names_the_nearest() {
        assert_eq!(
            refused("group.lst", json!({})),
            "-32601 there is no method \"group.lst\"; did you mean group.list?"
        );
        assert!(refused("x", json!({})).contains("the methods are node.show, "));
        assert!(refused(&"y".repeat(1000), json!({})).len() < 700);
    }

    #[test]
    fn missing_and_extra_parameters_are_named() {
        assert!(refused("group.show", json!({})).contains("group.show: the parameter group is missing"));
        assert!(
            refused("group.show", json!({"grup": "g"}))
                .contains("no parameter \"grup\"; did you mean group?")
        );
        assert!(refused("group.list", json!({"a": 1})).contains("leave params out"));
        assert!(refused("group.show", json!(["g0"])).contains("params of group.show are not an object"));
    }

    #[test]
    fn wrong_values_are_named_with_what_they_may_be() {
        let vdisk = |key: &str, value: Value| {
            let mut params = json!({"name": "v", "group": "g", "size_bytes": 1});
            params[key] = value;
            refused("vdisk.create", params)
        };
        assert!(
            vdisk("size_bytes", json!("1GiB"))
                .contains("size_bytes is \"1GiB\"; it must be a number of bytes")
        );
        assert!(vdisk("size_bytes", json!(0)).contains("size_bytes is 0"));
        assert!(vdisk("size_bytes", json!(-1)).contains("size_bytes is -1"));
        assert!(vdisk("nsid", json!(0)).contains("it must be a whole number in 1..=4294967294"));
        assert!(vdisk("nsid", Value::Null).contains("nsid is null"));
        assert!(vdisk("name", json!("a b")).contains("letters"));
        assert!(vdisk("name", json!("n".repeat(33))).contains("1 to 32"));
        assert!(vdisk("group", json!({})).contains("group is an object"));
        assert!(
            refused("drive.fail", json!({"group": "g", "drive": "d", "force": 1})).contains("true or false")
        );
        assert!(
            refused("group.create", json!({"name": "g", "drives": [1]})).contains("drives is a list of 1")
        );
    }

    #[test]
    fn edit_distance() {
        assert_eq!(edits("", "abc"), 3);
        assert_eq!(edits("kitten", "sitting"), 3);
        assert_eq!(edits("same", "same"), 0);
        assert_eq!(nearest("ab", ["cd"].into_iter()), None, "everything changed");
    }
}
