//! The binary of Shoal: every role, and the commands that talk to a running cluster.

mod bench;
mod cert;
mod check;
mod cli;
mod key;
mod output;
mod pull;
mod role;
mod serve;
mod sim;
mod status;
mod up;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    match cli::Cli::parse().run() {
        Ok(code) => code,
        Err(error) => {
            output::complain(&error);
            ExitCode::FAILURE
        }
    }
}
