//! The `omnirelay` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    omnirelay::cli::main()
}
