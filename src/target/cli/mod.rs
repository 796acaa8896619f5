//! The command line: `braid <command>`.
//!
//! Owns what a person sees: help, tables, one line that says what went wrong and one that says what to do, and exit
//! codes. The programs that serve or measure are handed in, so that this knows nothing of them.

#![expect(
    clippy::disallowed_types,
    reason = "the command line is no pure code: it reads files"
)]

mod array;
mod background;
mod call;
mod config_file;
pub mod options;
mod shelf_test;
mod show;
#[cfg(feature = "sim")]
mod sim;
mod survey;
mod table;
mod units;

use std::ffi::OsString;
use std::fmt;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

use options::{
    ArrayCommand, Cli, Command, ConfigCommand, DemoOptions, NodeArgs, NodeCommand, NodeOptions, PerfOptions,
    ShelfCommand,
};

pub(super) use config_file::block_device_bytes;
pub use table::{Align, Table};
pub use units::{bytes_text, duration_text};

/// Exit code when something that was asked for did not work.
const EXIT_FAILED: u8 = 1;
/// Exit code when it was asked for in a wrong way.
const EXIT_USAGE: u8 = 2;
/// Exit code when the node cannot be reached.
const EXIT_UNREACHABLE: u8 = 3;

/// Log filter of commands that serve nobody.
const LOG_DEFAULT: &str = "warn";

/// The programs behind `braid node`, `braid demo` and `braid perf`.
#[derive(Clone, Copy)]
pub struct Programs {
    /// Runs a node until it is told to stop.
    pub node: fn(config::Config, &NodeOptions) -> Result<(), Failure>,
    /// Runs the demonstration.
    pub demo: fn(DemoOptions) -> Result<(), Failure>,
    /// Measures a target.
    pub perf: fn(PerfOptions) -> Result<(), Failure>,
}

/// Why a command did not do what it should, as a person is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Exit code of the process.
    pub exit: u8,
    /// What went wrong: a line without full stop. Empty: it has been said already.
    pub what: String,
    /// What to do about it: a line, or empty if there is nothing.
    pub remedy: String,
}

impl Failure {
    /// Something did not work: exit code 1.
    pub fn new(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            exit: EXIT_FAILED,
            what: what.into(),
            remedy: remedy.into(),
        }
    }

    /// The command was wrong: exit code 2.
    pub fn usage(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            exit: EXIT_USAGE,
            ..Self::new(what, remedy)
        }
    }

    /// The node cannot be reached: exit code 3.
    pub fn unreachable(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            exit: EXIT_UNREACHABLE,
            ..Self::new(what, remedy)
        }
    }

    /// The command has said itself what is wrong: only exit code 1.
    pub fn said() -> Self {
        Self::new("", "")
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.what.is_empty() {
            writeln!(f, "error: {}", self.what)?;
        }
        if !self.remedy.is_empty() {
            writeln!(f, "remedy: {}", self.remedy)?;
        }
        Ok(())
    }
}

/// Does what the command line `arguments` says, the program's name first. Returns the exit code of the process.
pub fn run(arguments: impl IntoIterator<Item = OsString>, programs: Programs) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print(); // Nobody is left to tell if the terminal is gone.
            return if error.use_stderr() {
                ExitCode::from(EXIT_USAGE)
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    match carry_out(cli, programs) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let _ = write!(io::stderr(), "{failure}"); // As above.
            ExitCode::from(failure.exit)
        }
    }
}

fn carry_out(cli: Cli, programs: Programs) -> Result<(), Failure> {
    let log = cli
        .log
        .or_else(|| std::env::var("BRAID_LOG").ok().filter(|log| !log.is_empty()));
    if let Command::Node(NodeArgs {
        options: Some(options),
        ..
    }) = &cli.command
    {
        return node(options, log, programs, false);
    }
    if let Command::Shelf(options) = &cli.command
        && let Some(config) = &options.config
    {
        let options = NodeOptions {
            config: config.clone(),
            stop_at_eof: options.stop_at_eof,
            accept_loss: Vec::new(),
            take_over: false,
        };
        return node(&options, log, programs, true);
    }
    start_logging(log.as_deref().unwrap_or(LOG_DEFAULT))?;
    match cli.command {
        Command::Node(NodeArgs { command, .. }) => match command {
            Some(NodeCommand::List(client)) => array::nodes(&client),
            Some(NodeCommand::Leave(client)) => array::array(ArrayCommand::Leave(client)),
            Some(NodeCommand::Join(client)) => array::array(ArrayCommand::Join(client)),
            None => Err(Failure::usage(
                "a node needs a configuration file",
                "braid node --config node.toml; `braid config example` prints one",
            )),
        },
        Command::Array { command } => array::array(command),
        Command::Demo(options) => (programs.demo)(options),
        Command::Perf(options) => (programs.perf)(*options),
        #[cfg(feature = "sim")]
        Command::Sim(options) => sim::run(&options),
        Command::CheckConfig(options) => config_file::check(&options.file, options.json),
        Command::Config { command } => example(&command),
        Command::Preflight(options) => preflight(options.config.as_deref(), options.json),
        Command::Status(client) => call::status(&client),
        Command::Shelf(options) => match options.command {
            Some(ShelfCommand::Show(client)) => call::shelf(&client),
            Some(ShelfCommand::Test(options)) => shelf_test::run(&options),
            None => Err(Failure::usage(
                "a shelf needs a configuration file",
                "braid shelf --config shelf.toml; `braid config example --shelf` prints one",
            )),
        },
        Command::Group { command } => call::group(command),
        Command::Vdisk { command } => call::vdisk(command),
        Command::Port { command } => call::port(command),
        Command::Drive { command } => call::drive(command),
        Command::Host { command } => call::host(command),
        Command::Latency(client) => call::latency(&client),
        Command::Counters(client) => call::counters(&client),
        Command::Shutdown(client) => call::shutdown(&client),
    }
}

/// Prints an example of a configuration file.
fn example(command: &ConfigCommand) -> Result<(), Failure> {
    let ConfigCommand::Example {
        shelf,
        fabric,
        array,
        nodes,
        slot,
    } = *command;
    if array {
        return array::example(nodes, slot);
    }
    print(if shelf {
        config::Config::shelf_example()
    } else if fabric {
        config::Config::fabric_example()
    } else {
        config::Config::example()
    })
}

fn node(
    options: &NodeOptions,
    log: Option<String>,
    programs: Programs,
    is_shelf: bool,
) -> Result<(), Failure> {
    let file = options.config.as_path();
    let config = match config_file::read(file)? {
        Ok(mut config) => {
            let shelves = config.shelves.iter_mut();
            shelves.for_each(|shelf| shelf.take_over |= options.take_over);
            accept_losses(config, &options.accept_loss)?
        }
        Err(problems) => {
            let what = format!(
                "{} has {}",
                file.display(),
                units::count_text(problems.len(), "problem")
            );
            config_file::complain(&problems);
            return Err(Failure::new(what, "correct the file; nothing was started"));
        }
    };
    if config.shelf.is_some() != is_shelf {
        let (is, run) = if is_shelf {
            ("a node", "node")
        } else {
            ("a shelf", "shelf")
        };
        return Err(Failure::new(
            format!("{} is the file of {is}", file.display()),
            format!("braid {run} --config {}; nothing was started", file.display()),
        ));
    }
    start_logging(log.as_deref().unwrap_or(&config.node.log))?;
    (programs.node)(config, options)
}

/// Notes for this start alone which groups' losses an operator accepts.
fn accept_losses(mut config: config::Config, names: &[String]) -> Result<config::Config, Failure> {
    for name in names {
        let Some(group) = config.groups.iter_mut().find(|group| group.name == *name) else {
            let what = format!("the configuration has no group \"{name}\"");
            return Err(Failure::new(what, "name one of its groups; nothing was started"));
        };
        group.accepts_loss_once = true;
    }
    Ok(config)
}

fn preflight(config: Option<&Path>, json: bool) -> Result<(), Failure> {
    let config = match config {
        None => None,
        Some(file) => match config_file::read(file)? {
            Ok(config) => Some(config),
            Err(problems) => {
                config_file::complain(&problems);
                let what = format!(
                    "{} has {}",
                    file.display(),
                    units::count_text(problems.len(), "problem")
                );
                return Err(Failure::new(what, "correct the file first"));
            }
        },
    };
    let checks = super::preflight::run(config.as_ref());
    if json {
        print_json(&serde_json::json!({ "checks": checks }))?;
    } else {
        print(&super::preflight::table(&checks))?;
    }
    if checks
        .iter()
        .any(|check| check.verdict == super::preflight::Verdict::Fail)
    {
        return Err(Failure::said());
    }
    Ok(())
}

/// Sends log lines to standard error. `filter` is a level or a list such as `info,braid=debug`.
fn start_logging(filter: &str) -> Result<(), Failure> {
    let remedy = "use error, warn, info, debug or trace, or a list such as info,braid=debug";
    let filter = EnvFilter::try_new(filter)
        .map_err(|error| Failure::usage(format!("the log filter \"{filter}\" is wrong: {error}"), remedy))?;
    let logging = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_target(false);
    // Only a second start in one process could fail; the first one's filter then stays.
    let _ = logging.try_init();
    Ok(())
}

/// Prints to standard output. That nobody reads on, as in `braid ... | head`, is no failure.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(Failure::new(format!("the output cannot be written: {error}"), "")),
    }
}

/// Prints JSON to standard output, for people and programs alike.
pub fn print_json(value: &serde_json::Value) -> Result<(), Failure> {
    print(&format!("{value:#}\n"))
}
