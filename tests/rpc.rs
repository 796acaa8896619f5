//! The management socket as clients meet it: a real Unix socket, a made-up node behind it.
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "the tests are clients: threads, sockets and files are what they are about, and a surprise ends them"
)]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::Duration;

use braid::target::manage::{
    Deleted, GroupName, HostStatus, Manage, ManageError, Reply, Request, Size, Stopping, VdiskCreate,
    VdiskDelete,
};
use braid::target::rpc::{Client, ClientError, MESSAGE_BYTES_MAX, Server, ServerError, ServerOptions};
use serde_json::{Value, json};

/// Longer than anything here takes: a test that waits this long has failed.
const WAIT: Duration = Duration::from_secs(20);

/// A node that remembers what it was asked.
#[derive(Default)]
struct FakeNode {
    seen: Mutex<Vec<Request>>,
    /// `latency.show` meets a test here twice: when the call is under way, and when it may end.
    gate: Option<Barrier>,
    /// Hosts that `host.list` makes up, to get long answers.
    hosts: u16,
}

impl Manage for FakeNode {
    fn call(&self, request: Request) -> Result<Reply, ManageError> {
        self.seen.lock().unwrap().push(request.clone());
        match request {
            Request::GroupList => Ok(Reply::Groups(Vec::new())),
            Request::GroupShow(GroupName { group }) => Err(ManageError::not_found("group", &group)),
            Request::VdiskDelete(VdiskDelete { vdisk, .. }) => Ok(Reply::Deleted(Deleted {
                vdisk,
                freed_bytes: 4096,
            })),
            Request::HostList => Ok(Reply::Hosts((0..self.hosts).map(host).collect())),
            Request::Latency => {
                if let Some(gate) = &self.gate {
                    gate.wait();
                    gate.wait();
                }
                Ok(Reply::Latency(Vec::new()))
            }
            Request::Shutdown => Ok(Reply::Stopping(Stopping { stopping: true })),
            Request::NodeShow
            | Request::ShelfShow
            | Request::Array(_)
            | Request::GroupCreate(_)
            | Request::Background(_)
            | Request::VdiskList
            | Request::VdiskShow(_)
            | Request::VdiskCreate(_)
            | Request::VdiskResize(_)
            | Request::VdiskReplicate(_)
            | Request::GroupExpand(_)
            | Request::DriveList
            | Request::DriveShow(_)
            | Request::DriveFail(_)
            | Request::DriveReplace(_)
            | Request::DriveAddSpare(_)
            | Request::DriveRemoveSpare(_)
            | Request::DriveInject(_)
            | Request::Port(_)
            | Request::Counters => Err(ManageError::new(ManageError::BUSY, "not in this test", "")),
        }
    }
}

fn host(cntlid: u16) -> HostStatus {
    HostStatus {
        cntlid,
        host_nqn: format!("nqn.2026-01.io.example:{}", "h".repeat(200)),
        subsystem_nqn: "nqn.2026-01.io.braid:node-a".into(),
        address: "127.0.0.1:50000".into(),
        io_queues: 4,
        keep_alive_ms: 5000,
        connected_ms: 1,
    }
}

/// A folder of its own for each test, gone at its end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let unique = format!(
            "braid-rpc-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let path = std::env::temp_dir().join(unique);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn socket(&self) -> PathBuf {
        self.0.join("node.sock")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

struct Fixture {
    server: Server,
    node: Arc<FakeNode>,
    folder: Folder,
}

impl Fixture {
    fn new(node: FakeNode, options: ServerOptions) -> Self {
        let folder = Folder::new();
        let node = Arc::new(node);
        let server = Server::start(&folder.socket(), Arc::clone(&node) as Arc<dyn Manage>, options).unwrap();
        Self { server, node, folder }
    }

    fn plain() -> Self {
        Self::new(FakeNode::default(), ServerOptions::default())
    }

    fn raw(&self) -> Raw {
        Raw::new(self.server.path())
    }

    fn client(&self) -> Client {
        Client::connect(self.server.path(), WAIT).unwrap()
    }

    /// That the server still does its work.
    fn assert_serving(&self) {
        assert_eq!(
            self.client().call(&Request::GroupList).unwrap(),
            Reply::Groups(Vec::new())
        );
    }
}

/// A client that sends whatever it is told.
struct Raw(BufReader<UnixStream>);

impl Raw {
    fn new(path: &Path) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(WAIT)).unwrap();
        stream.set_write_timeout(Some(WAIT)).unwrap();
        Self(BufReader::new(stream))
    }

    fn send(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).unwrap();
    }

    fn answer(&mut self) -> Value {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    /// That nothing comes any more.
    fn assert_closed(&mut self) {
        let mut rest = Vec::new();
        match self.0.read_to_end(&mut rest) {
            Ok(_) => assert_eq!(String::from_utf8_lossy(&rest), ""),
            // What the server had not read when it closed counts as lost.
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
        }
    }
}

fn list(id: u64) -> String {
    json!({"jsonrpc": "2.0", "id": id, "method": "group.list"}).to_string()
}

#[test]
fn calls_reach_the_node_and_results_come_back() {
    let fixture = Fixture::plain();
    let mut client = fixture.client();
    let delete = Request::VdiskDelete(VdiskDelete {
        vdisk: "v0".into(),
        force: true,
    });
    assert_eq!(
        client.call(&delete).unwrap(),
        Reply::Deleted(Deleted {
            vdisk: "v0".into(),
            freed_bytes: 4096
        })
    );
    let create = Request::VdiskCreate(VdiskCreate {
        name: "v1".into(),
        group: "g0".into(),
        size: Size::All,
        nsid: None,
        replication: None,
    });
    let ClientError::Refused(error) = client.call(&create).unwrap_err() else {
        panic!("not refused")
    };
    assert_eq!(
        (error.code, error.message.as_str()),
        (ManageError::BUSY, "not in this test")
    );
    let show = Request::GroupShow(GroupName { group: "g9".into() });
    let error = client.call(&show).unwrap_err();
    assert_eq!(error.to_string(), "there is no group named \"g9\"");
    assert_eq!(error.remedy(), "see `braid group list` for the names");
    assert_eq!(*fixture.node.seen.lock().unwrap(), [delete, create, show]);
}

#[test]
fn socket_is_for_its_owner_only_and_gone_after_the_stop() {
    let fixture = Fixture::plain();
    let mode = fs::symlink_metadata(fixture.server.path())
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let names: Vec<_> = fs::read_dir(&fixture.folder.0)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(
        names.len(),
        2,
        "the socket and its lock, nothing half made: {names:?}"
    );
    let path = fixture.server.path().to_owned();
    fixture.server.stop();
    assert!(!path.exists());
    assert!(matches!(
        Client::connect(&path, WAIT),
        Err(ClientError::NotRunning { .. })
    ));
}

#[test]
fn second_server_on_a_live_socket_is_refused() {
    let fixture = Fixture::plain();
    let again = Server::start(
        fixture.server.path(),
        Arc::new(FakeNode::default()),
        ServerOptions::default(),
    );
    assert!(matches!(again, Err(ServerError::InUse { .. })));
    fixture.assert_serving();
}

#[test]
fn socket_of_another_program_that_answers_is_left_alone() {
    let folder = Folder::new();
    let _listener = UnixListener::bind(folder.socket()).unwrap();
    let started = Server::start(
        &folder.socket(),
        Arc::new(FakeNode::default()),
        ServerOptions::default(),
    );
    assert!(matches!(started, Err(ServerError::InUse { .. })));
    assert!(folder.socket().exists());
}

#[test]
fn stale_socket_is_replaced_and_other_files_are_not() {
    let folder = Folder::new();
    drop(UnixListener::bind(folder.socket()).unwrap()); // The file stays: nobody answers on it.
    assert!(folder.socket().exists());
    let start = || {
        Server::start(
            &folder.socket(),
            Arc::new(FakeNode::default()),
            ServerOptions::default(),
        )
    };
    let server = start().unwrap();
    Client::connect(server.path(), WAIT)
        .unwrap()
        .call(&Request::GroupList)
        .unwrap();
    server.stop();
    fs::write(folder.socket(), b"precious").unwrap();
    assert!(matches!(start(), Err(ServerError::NotASocket { .. })));
    assert_eq!(fs::read(folder.socket()).unwrap(), b"precious");
}

#[test]
fn path_too_long_for_a_socket_is_refused_with_a_sentence() {
    let folder = Folder::new();
    let path = folder.0.join("n".repeat(120));
    let Err(error) = Server::start(&path, Arc::new(FakeNode::default()), ServerOptions::default()) else {
        panic!("started")
    };
    assert!(matches!(error, ServerError::PathTooLong { .. }), "{error}");
    assert!(error.remedy().contains("shorter"));
}

#[test]
fn messages_may_come_joined_split_and_in_batches() {
    let fixture = Fixture::plain();
    let mut raw = fixture.raw();
    raw.send(format!("{}{}\n\n  {}", list(1), list(2), list(3)).as_bytes());
    for id in 1..=3 {
        assert_eq!(raw.answer(), json!({"jsonrpc": "2.0", "id": id, "result": []}));
    }
    for byte in list(4).bytes() {
        raw.send(&[byte]);
    }
    assert_eq!(raw.answer()["id"], 4);
    let notification = r#"{"jsonrpc":"2.0","method":"group.list"}"#;
    raw.send(format!("[{},{notification},7,{}]", list(5), list(6)).as_bytes());
    let answer = raw.answer();
    let ids: Vec<&Value> = answer
        .as_array()
        .unwrap()
        .iter()
        .map(|answer| &answer["id"])
        .collect();
    assert_eq!(ids, [&json!(5), &Value::Null, &json!(6)]);
    assert_eq!(answer[1]["error"]["code"], -32600);
    // Notifications, alone or in a batch, are carried out and get no answer: the next answer is to the next call.
    let before = fixture.node.seen.lock().unwrap().len();
    raw.send(format!("{notification}[{notification}]{}", list(7)).as_bytes());
    assert_eq!(raw.answer()["id"], 7);
    assert_eq!(fixture.node.seen.lock().unwrap().len(), before + 3);
}

#[test]
fn standard_errors_have_their_codes() {
    let fixture = Fixture::plain();
    let mut raw = fixture.raw();
    for (message, code) in [
        (r#"{"jsonrpc":"2.0","id":1,"method":"group.lst"}"#, -32601),
        (r#"{"jsonrpc":"2.0","id":1,"method":"group.show"}"#, -32602),
        (r#"{"jsonrpc":"1.0","id":1,"method":"group.list"}"#, -32600),
        ("[]", -32600),
        ("42\n", -32600),
    ] {
        raw.send(message.as_bytes());
        assert_eq!(raw.answer()["error"]["code"], code, "{message}");
    }
    raw.send(list(9).as_bytes());
    assert_eq!(raw.answer()["id"], 9, "none of these ends the connection");
}

#[test]
fn garbage_is_answered_once_and_nothing_after_it_is_believed() {
    let fixture = Fixture::plain();
    let shutdown = r#"{"jsonrpc":"2.0","id":1,"method":"node.shutdown"}"#;
    for garbage in ["{\"a\":}", "GET / HTTP/1.1\r\n", "\u{1}\u{2}\n", "]\n", "{]"] {
        let mut raw = fixture.raw();
        raw.send(format!("{garbage}{shutdown}").as_bytes());
        let answer = raw.answer();
        assert_eq!(
            (&answer["error"]["code"], &answer["id"]),
            (&json!(-32700), &Value::Null),
            "{garbage}"
        );
        raw.assert_closed();
    }
    assert_eq!(*fixture.node.seen.lock().unwrap(), []);
    fixture.assert_serving();
}

#[test]
fn half_message_is_answered_at_its_end() {
    let fixture = Fixture::plain();
    let mut raw = fixture.raw();
    raw.send(br#"{"jsonrpc":"2.0","id":1,"meth"#);
    raw.0.get_ref().shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(raw.answer()["error"]["code"], -32700);
    raw.assert_closed();
    fixture.assert_serving();
}

#[test]
fn huge_message_is_refused_at_the_limit() {
    let fixture = Fixture::plain();
    let mut raw = fixture.raw();
    let filler = vec![b' '; MESSAGE_BYTES_MAX];
    raw.send(b"{");
    // The server may close before all of it is sent.
    let _ = raw.0.get_mut().write_all(&filler);
    let answer = raw.answer();
    assert_eq!(answer["error"]["code"], -32600);
    assert!(
        answer["error"]["message"]
            .as_str()
            .unwrap()
            .contains("longer than 1048576 bytes")
    );
    raw.assert_closed();
    let mut raw = fixture.raw();
    raw.send(format!("{}{}", " ".repeat(3 * MESSAGE_BYTES_MAX), list(1)).as_bytes());
    assert_eq!(
        raw.answer()["id"],
        1,
        "white space between messages is no message"
    );
}

#[test]
fn client_that_sends_too_slowly_is_let_go() {
    let message = Duration::from_millis(200);
    let fixture = Fixture::new(
        FakeNode::default(),
        ServerOptions {
            message,
            ..ServerOptions::default()
        },
    );
    let mut raw = fixture.raw();
    raw.send(b"{");
    // One byte after the other never completes: the clock runs from the first byte, so that this ends.
    let mut stream = raw.0.get_ref().try_clone().unwrap();
    let dripping = thread::spawn(move || {
        while stream.write_all(b" ").is_ok() {
            thread::sleep(Duration::from_millis(20));
        }
    });
    let answer = raw.answer();
    assert_eq!(answer["error"]["code"], -32700);
    assert!(
        answer["error"]["message"]
            .as_str()
            .unwrap()
            .contains("not complete")
    );
    drop(raw);
    dripping.join().unwrap();
    fixture.assert_serving();
}

#[test]
fn silent_client_is_let_go() {
    let idle = Duration::from_millis(50);
    let fixture = Fixture::new(
        FakeNode::default(),
        ServerOptions {
            idle,
            ..ServerOptions::default()
        },
    );
    fixture.raw().assert_closed();
}

#[test]
fn client_that_does_not_read_is_let_go_and_disturbs_nobody() {
    let answer = Duration::from_millis(200);
    let node = FakeNode {
        hosts: 1000,
        ..FakeNode::default()
    };
    let fixture = Fixture::new(
        node,
        ServerOptions {
            answer,
            ..ServerOptions::default()
        },
    );
    let mut raw = fixture.raw();
    let call = r#"{"jsonrpc":"2.0","id":1,"method":"host.list"}"#;
    raw.send(format!("[{}]", vec![call; 32].join(",")).as_bytes()); // More than 10 MB of answer.
    fixture.assert_serving();
    let Reply::Hosts(hosts) = fixture.client().call(&Request::HostList).unwrap() else {
        panic!("no hosts")
    };
    assert_eq!(hosts.len(), 1000, "a long answer reaches a client that reads");
    let Fixture {
        server,
        folder: _folder,
        ..
    } = fixture;
    // White space does no harm, and cannot be sent any more once the server has let go.
    let mut stream = raw.0.get_ref().try_clone().unwrap();
    let pause = Duration::from_millis(10);
    let sent = (0..WAIT.as_millis() / pause.as_millis()).take_while(|_| {
        thread::sleep(pause);
        stream.write_all(b" ").is_ok()
    });
    assert!(sent.count() < 2000, "the server lets go");
    let mut rest = Vec::new();
    let _ = raw.0.read_to_end(&mut rest);
    assert!(
        serde_json::from_slice::<Value>(&rest).is_err(),
        "the answer was cut off"
    );
    server.stop();
}

#[test]
fn clients_work_side_by_side() {
    let fixture = Fixture::plain();
    thread::scope(|scope| {
        for worker in 0..8 {
            let fixture = &fixture;
            scope.spawn(move || {
                let mut client = fixture.client();
                for round in 0..100 {
                    let vdisk = format!("v{worker}-{round}");
                    let delete = Request::VdiskDelete(VdiskDelete {
                        vdisk: vdisk.clone(),
                        force: false,
                    });
                    let expected = Reply::Deleted(Deleted {
                        vdisk,
                        freed_bytes: 4096,
                    });
                    assert_eq!(client.call(&delete).unwrap(), expected);
                }
            });
        }
    });
    assert_eq!(fixture.node.seen.lock().unwrap().len(), 800);
}

#[test]
fn idle_connections_make_room_for_new_ones() {
    let options = ServerOptions {
        connections_max: 4,
        ..ServerOptions::default()
    };
    let fixture = Fixture::new(FakeNode::default(), options);
    let mut first = fixture.raw();
    first.send(list(1).as_bytes());
    first.answer();
    let crowd: Vec<Raw> = (0..100).map(|_| fixture.raw()).collect();
    fixture.assert_serving();
    first.assert_closed();
    drop(crowd);
    fixture.assert_serving();
}

#[test]
fn connection_is_refused_with_an_answer_when_all_others_are_busy() {
    let options = ServerOptions {
        connections_max: 1,
        ..ServerOptions::default()
    };
    let node = FakeNode {
        gate: Some(Barrier::new(2)),
        ..FakeNode::default()
    };
    let fixture = Fixture::new(node, options);
    let mut busy = fixture.raw();
    busy.send(br#"{"jsonrpc":"2.0","id":1,"method":"latency.show"}"#);
    let gate = fixture.node.gate.as_ref().unwrap();
    gate.wait(); // The call is under way.
    let error = fixture.client().call(&Request::GroupList).unwrap_err();
    assert_eq!(error.to_string(), "1 connections are busy");
    gate.wait();
    assert_eq!(busy.answer()["result"], json!([]));
}

#[test]
fn stop_answers_what_is_under_way() {
    let node = FakeNode {
        gate: Some(Barrier::new(2)),
        ..FakeNode::default()
    };
    let fixture = Fixture::new(
        node,
        ServerOptions {
            drain: WAIT,
            ..ServerOptions::default()
        },
    );
    let mut idle = fixture.raw();
    idle.send(list(1).as_bytes());
    idle.answer();
    let mut busy = fixture.raw();
    busy.send(br#"{"jsonrpc":"2.0","id":2,"method":"latency.show"}"#);
    let Fixture { server, node, folder } = fixture;
    let gate = node.gate.as_ref().unwrap();
    gate.wait(); // The call is under way.
    let stopping = thread::spawn(move || server.stop());
    idle.assert_closed(); // The stop has begun, and does not wait for idle connections.
    assert!(!stopping.is_finished(), "it waits for the call");
    gate.wait();
    assert_eq!(busy.answer()["id"], 2);
    stopping.join().unwrap();
    busy.assert_closed();
    assert!(!folder.socket().exists());
}

#[test]
fn client_tells_apart_what_went_wrong() {
    let folder = Folder::new();
    let wait = Duration::from_millis(100);
    let missing = Client::connect(&folder.socket(), wait).unwrap_err();
    assert!(missing.to_string().starts_with("no node is running on "));
    let listener = UnixListener::bind(folder.socket()).unwrap();
    let silent = Client::connect(&folder.socket(), wait)
        .unwrap()
        .call(&Request::GroupList)
        .unwrap_err();
    assert!(matches!(silent, ClientError::TimedOut { .. }), "{silent}");
    let answering = |bytes: &'static [u8]| {
        let mut client = Client::connect(&folder.socket(), WAIT).unwrap();
        let server = thread::scope(|scope| {
            let call = scope.spawn(|| client.call(&Request::GroupList).unwrap_err());
            let (mut stream, _) = listener.accept().unwrap();
            let mut line = String::new();
            BufReader::new(stream.try_clone().unwrap())
                .read_line(&mut line)
                .unwrap();
            stream.write_all(bytes).unwrap();
            drop(stream);
            call.join().unwrap()
        });
        server.to_string()
    };
    drop(listener.accept().unwrap()); // The silent one from above.
    assert!(answering(b"").contains("went away before it answered"));
    assert!(answering(b"{\"jsonrpc\":\"2.0\",").contains("went away before it answered"));
    assert!(answering(b"hello\n").contains("makes no sense"));
    assert!(answering(b"{\"id\":7,\"result\":[]}\n").contains("another call"));
    assert!(answering(b"{\"id\":1}\n").contains("neither result nor error"));
    assert!(answering(b"{\"id\":1,\"result\":42}\n").contains("makes no sense"));
    assert!(answering(b"{\"id\":1,\"error\":{}}\n").contains("no code and message"));
}
