//! The demonstration's node: a process of its own, so that it can be killed while hosts write.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::target::cli::Failure;
use crate::target::manage::{NodeStatus, Reply, Request};
use crate::target::rpc::Client;

/// How long a node may take to start or to stop: its journal is replayed meanwhile, and file locks of a killed one expire.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long one call may take.
const CALL_WAIT: Duration = Duration::from_secs(20);
/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(10);
/// Lines of the node's log that a failure shows.
const LINES_SHOWN: usize = 5;

/// A node that runs `node.toml` of a folder. Dropping it kills it.
pub struct Process {
    child: Child,
    folder: PathBuf,
}

impl Process {
    /// Starts this program as a node and waits until it serves. Its log goes to `node.log` in the folder.
    pub fn start(folder: &Path) -> Result<Self, Failure> {
        let child = spawn(folder)
            .map_err(|error| Failure::new(format!("the node cannot be started as a process: {error}"), ""))?;
        let mut process = Self {
            child,
            folder: folder.to_owned(),
        };
        process.await_ready()?;
        Ok(process)
    }

    fn await_ready(&mut self) -> Result<(), Failure> {
        let deadline = Instant::now() + PATIENCE;
        // A killed node's socket is still there, but nobody answers on it.
        while self.status().is_err() {
            let ended = self.child.try_wait();
            if !matches!(ended, Ok(None)) {
                return Err(self.failure("the node does not start"));
            }
            if Instant::now() >= deadline {
                return Err(self.failure("the node is not ready in time"));
            }
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    /// A failure with the end of the node's log.
    fn failure(&self, what: &str) -> Failure {
        let log = std::fs::read_to_string(self.folder.join("node.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let shown = lines[lines.len().saturating_sub(LINES_SHOWN)..].join("\n");
        Failure::new(format!("{what}; its log ends with\n{shown}"), "")
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Carries out a management request, as `braid` does on the command line.
    pub fn call(&self, request: &Request) -> Result<Reply, Failure> {
        let mut client = Client::connect(&self.folder.join("node.sock"), CALL_WAIT)?;
        Ok(client.call(request)?)
    }

    /// What the node says about itself.
    pub fn status(&self) -> Result<NodeStatus, Failure> {
        if let Reply::Node(node) = self.call(&Request::NodeShow)?
            && node.pid == self.child.id()
        {
            return Ok(node);
        }
        Err(Failure::new("another node answers on the demo's socket", ""))
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
            .map_err(|error| Failure::new(format!("the node cannot be killed: {error}"), ""))
    }

    /// Starts it again after `kill`.
    pub fn restart(&mut self) -> Result<(), Failure> {
        *self = Self::start(&self.folder.clone())?;
        Ok(())
    }

    /// Stops it in good order.
    pub fn stop(mut self) -> Result<(), Failure> {
        self.call(&Request::Shutdown)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(status)) => return Err(self.failure(&format!("the node ended badly ({status})"))),
                Ok(None) if Instant::now() < deadline => std::thread::sleep(LOOK),
                Ok(None) => return Err(self.failure("the node does not stop")),
                Err(error) => return Err(self.failure(&format!("nothing is known of the node: {error}"))),
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

/// It holds the other end of its standard input open: should this process be killed, the node sees the end of it and stops.
fn spawn(folder: &Path) -> io::Result<Child> {
    use std::os::unix::process::CommandExt;

    let log = File::options()
        .create(true)
        .append(true)
        .open(folder.join("node.log"))?;
    Command::new(std::env::current_exe()?)
        .args(["node", "--stop-at-eof", "--config"])
        .arg(folder.join("node.toml"))
        .env("BRAID_LOG", "info")
        .process_group(0) // An interrupt from the terminal is for the demonstration, which then ends the node.
        .stdin(Stdio::piped())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
}
