//! The program under test, on this machine or in an emulation of another.

use std::process::Command;

/// Returns a command that runs `roomcam`.
///
/// Built for another architecture, it is run by what Cargo runs the tests with: Cargo tells the tests
/// nothing of that, but its variable, `CARGO_TARGET_<triple>_RUNNER`, reaches them.
pub(crate) fn roomcam() -> Command {
    let program = env!("CARGO_BIN_EXE_roomcam");
    let prefix = format!("CARGO_TARGET_{}", std::env::consts::ARCH.to_uppercase());
    let runner = std::env::vars()
        .find(|(name, _)| name.starts_with(&prefix) && name.ends_with("_RUNNER"))
        .map(|(_, runner)| runner)
        .unwrap_or_default();
    let mut words = runner.split_whitespace().chain([program]);
    let mut command = Command::new(words.next().unwrap_or(program));
    command.args(words);
    command
}
