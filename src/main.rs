//! The program `braid`: see `braid --help`.

use std::process::ExitCode;

use braid::target::cli::options::NodeOptions;
use braid::target::cli::{self, Failure, Programs};
use braid::target::node::{self, NodeError};
use braid::target::{demo, perf};

fn main() -> ExitCode {
    let programs = Programs {
        node: run_node,
        demo: demo::run,
        perf: perf::run,
    };
    cli::run(std::env::args_os(), programs)
}

fn run_node(config: config::Config, options: &NodeOptions) -> Result<(), Failure> {
    node::run(config, options.stop_at_eof).map_err(|error| {
        let remedy = match &error {
            NodeError::Rpc(error) => error.remedy(),
            NodeError::ArrayKey(_) => "",
            NodeError::Core(_) => "see the log above, and report it",
            NodeError::Storage(_)
            | NodeError::Groups(_)
            | NodeError::Listen { .. }
            | NodeError::Subsystem(_)
            | NodeError::Cores(_)
            | NodeError::NotReady(_)
            | NodeError::CommandLog { .. }
            | NodeError::System { .. } => {
                "`braid preflight --config FILE` looks at everything that a node needs"
            }
        };
        Failure::new(error.to_string(), remedy)
    })
}
