//! A process of the demonstration, a node or a shelf: a process of its own, so that it can be killed while hosts write.

use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::target::cli::Failure;
use crate::target::manage::{ArrayRequest, NodeStatus, Reply, Request};
use crate::target::rpc::Client;

/// How long a process may take to start or to stop: its journal is replayed meanwhile, and file locks of a killed one expire.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long one call may take.
const CALL_WAIT: Duration = Duration::from_secs(20);
/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(10);
/// Lines of its log that a failure shows.
const LINES_SHOWN: usize = 5;

/// What a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It serves hosts with drives of its own.
    Node,
    /// It shares an array with other nodes. Until it is a member of that it says nothing of itself.
    Member,
    /// It exports drives to nodes.
    Shelf,
}

impl Role {
    /// The command that runs it, which is also what people call it.
    const fn name(self) -> &'static str {
        match self {
            Self::Node | Self::Member => "node",
            Self::Shelf => "shelf",
        }
    }
}

/// A node or a shelf that runs the file `NAME.toml` of a folder, and is asked by `NAME.sock` there. Dropping it kills it.
pub struct Process {
    child: Child,
    folder: PathBuf,
    role: Role,
    name: String,
}

impl Process {
    /// Starts this program and waits until it answers. Its log goes to `NAME.log` in the folder.
    pub fn start(folder: &Path, role: Role, name: &str) -> Result<Self, Failure> {
        let child = spawn(folder, role, name).map_err(|error| {
            let what = format!("the {} cannot be started as a process: {error}", role.name());
            Failure::new(what, "")
        })?;
        let mut process = Self {
            child,
            folder: folder.to_owned(),
            role,
            name: name.to_owned(),
        };
        process.await_ready()?;
        Ok(process)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn await_ready(&mut self) -> Result<(), Failure> {
        let deadline = Instant::now() + PATIENCE;
        // A killed node's socket is still there, but nobody answers on it.
        while self.is_there().is_err() {
            let ended = self.child.try_wait();
            if !matches!(ended, Ok(None)) {
                return Err(self.failure("does not start"));
            }
            if Instant::now() >= deadline {
                return Err(self.failure("is not ready in time"));
            }
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    fn is_there(&self) -> Result<(), Failure> {
        match self.role {
            Role::Node | Role::Shelf => self.status().map(drop),
            Role::Member => self.call(&Request::Array(ArrayRequest::Show)).map(drop),
        }
    }

    /// Its file with this ending.
    fn file(&self, ending: &str) -> PathBuf {
        self.folder.join(format!("{}.{ending}", self.name))
    }

    /// A failure with the end of its log.
    fn failure(&self, what: &str) -> Failure {
        let log = std::fs::read_to_string(self.file("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let shown = lines[lines.len().saturating_sub(LINES_SHOWN)..].join("\n");
        let who = (self.role.name(), &self.name);
        Failure::new(
            format!("the {} {} {what}; its log ends with\n{shown}", who.0, who.1),
            "",
        )
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Carries out a management request, as `braid` does on the command line.
    pub fn call(&self, request: &Request) -> Result<Reply, Failure> {
        let mut client = Client::connect(&self.file("sock"), CALL_WAIT)?;
        Ok(client.call(request)?)
    }

    /// What it says about itself.
    pub fn status(&self) -> Result<NodeStatus, Failure> {
        if let Reply::Node(node) = self.call(&Request::NodeShow)?
            && node.pid == self.child.id()
        {
            return Ok(node);
        }
        Err(Failure::new("another process answers on the demo's socket", ""))
    }

    /// Where hosts connect.
    pub fn address(&self) -> Result<SocketAddr, Failure> {
        let node = self.status()?;
        let address = node.listen.first().and_then(|listen| listen.address.parse().ok());
        address.ok_or_else(|| Failure::new("the node does not say where it listens", ""))
    }

    /// `kill -9`: the process gets no chance to tidy up.
    pub fn kill(&mut self) -> Result<(), Failure> {
        let killed = self.child.kill().and_then(|()| self.child.wait());
        killed
            .map(drop)
            .map_err(|error| self.failure(&format!("cannot be killed: {error}")))
    }

    /// Starts it again after `kill`, as soon as these addresses are free, where it is going to listen.
    ///
    /// They may be taken for a moment: the kernel closes sockets with which `io_uring` works after the process has ended.
    pub fn restart(&mut self, listens: &[SocketAddr]) -> Result<(), Failure> {
        let deadline = Instant::now() + PATIENCE;
        while let Some(taken) = listens.iter().find(|address| TcpListener::bind(address).is_err()) {
            if Instant::now() >= deadline {
                return Err(self.failure(&format!("finds its address {taken} taken")));
            }
            std::thread::sleep(LOOK);
        }
        *self = Self::start(&self.folder.clone(), self.role, &self.name.clone())?;
        Ok(())
    }

    /// Stops it in good order.
    pub fn stop(mut self) -> Result<(), Failure> {
        self.call(&Request::Shutdown)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(status)) => return Err(self.failure(&format!("ended badly ({status})"))),
                Ok(None) if Instant::now() < deadline => std::thread::sleep(LOOK),
                Ok(None) => return Err(self.failure("does not stop")),
                Err(error) => return Err(self.failure(&format!("cannot be watched: {error}"))),
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It has ended already, unless something went wrong.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// It holds the other end of its standard input open: should this process be killed, it sees the end of it and stops.
fn spawn(folder: &Path, role: Role, name: &str) -> io::Result<Child> {
    use std::os::unix::process::CommandExt;

    let log = File::options()
        .create(true)
        .append(true)
        .open(folder.join(format!("{name}.log")))?;
    Command::new(std::env::current_exe()?)
        .args([role.name(), "--stop-at-eof", "--config"])
        .arg(folder.join(format!("{name}.toml")))
        .env("BRAID_LOG", "info")
        .process_group(0) // An interrupt from the terminal is for the demonstration, which then ends the node.
        .stdin(Stdio::piped())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
}
