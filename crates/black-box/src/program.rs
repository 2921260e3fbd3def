//! The program under test, known by its command line only.

use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Names a built program, so that none is built.
pub const PROGRAM_VARIABLE: &str = "SYNCLINE_PROGRAM";
/// What the environment could add to the program's behaviour.
const CLEARED_VARIABLES: &[&str] =
    &["SYNCLINE_HOME", "SYNCLINE_LOG", "XDG_DATA_HOME", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"];

/// A built `syncline`.
#[derive(Debug, Clone)]
pub struct Program {
    path: PathBuf,
    /// What runs it, such as `ip netns exec NAME`: it becomes the program, and so has its process id.
    by: Vec<String>,
}

/// What a command said and how it ended.
#[derive(Debug)]
pub struct Ran {
    /// The exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    /// Whether the command was done.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.code == Some(0)
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Program {
    /// The program that [`PROGRAM_VARIABLE`] names, or else one that cargo builds now, in the profile of
    /// this very program.
    ///
    /// # Errors
    /// When it cannot be built.
    pub fn find_or_build() -> Result<Self> {
        if let Some(path) = std::env::var_os(PROGRAM_VARIABLE) {
            let path = PathBuf::from(path);
            return Ok(Self {
                path: path.canonicalize().with_context(|| format!("no program at {}", path.display()))?,
                by: Vec::new(),
            });
        }
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command.args(["build", "--quiet", "--package", "syncline", "--message-format", "json-render-diagnostics"]);
        if !cfg!(debug_assertions) {
            command.arg("--release");
        }
        let output = command
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .context("cannot run cargo")?;
        if !output.status.success() {
            bail!("`cargo build --package syncline` ended with {}", output.status);
        }
        let path = built_executable(&String::from_utf8_lossy(&output.stdout))
            .context("cargo named no executable of the package syncline")?;
        Ok(Self { path, by: Vec::new() })
    }

    /// A copy of the program in a directory, so that another build does not exchange it during a campaign.
    ///
    /// # Errors
    /// When it cannot be copied.
    pub fn copied_into(&self, directory: &Path) -> Result<Self> {
        let path = directory.join("syncline");
        fs::copy(&self.path, &path).with_context(|| format!("cannot copy {}", self.path.display()))?;
        Ok(Self { path, by: self.by.clone() })
    }

    /// Its path, as words of a command.
    #[must_use]
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The same program, run by way of another one.
    #[must_use]
    pub fn run_by(&self, by: &[&str]) -> Self {
        Self { path: self.path.clone(), by: by.iter().map(|word| (*word).to_owned()).collect() }
    }

    /// A command of the program, free of what the environment would add.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = match self.by.split_first() {
            None => Command::new(&self.path),
            Some((first, more)) => {
                let mut command = Command::new(first);
                command.args(more).arg(&self.path);
                command
            }
        };
        CLEARED_VARIABLES.iter().for_each(|name| {
            command.env_remove(name);
        });
        command.stdin(Stdio::null());
        command
    }

    /// Runs the program to its end with something to read.
    ///
    /// # Errors
    /// When it cannot be started, or was not done.
    pub fn run_with_input(&self, arguments: &[&str], input: &str) -> Result<Ran> {
        let mut command = self.command();
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("cannot start the program")?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes()).context("the program did not read its input")?;
        }
        let ran = Ran::from(child.wait_with_output()?);
        if !ran.is_ok() {
            bail!("`syncline {}` failed: {ran:?}", arguments.join(" "));
        }
        Ok(ran)
    }
}

/// A program's path. Debian keeps servers where a user's search path does not look.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/bin".into()]);
    folders.map(|folder: PathBuf| folder.join(program)).find(|file| Path::is_file(file))
}

/// Runs a command that must be done.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let path = find(program).unwrap_or_else(|| program.into());
    let output = Command::new(path).args(arguments).stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("cannot run `{program}`"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("`{program} {}` failed: {}", arguments.join(" "), said.trim());
    }
    Ok(())
}

/// The executable that cargo's messages name for the program.
fn built_executable(messages: &str) -> Option<PathBuf> {
    messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).find_map(|message| {
        let ours = message["target"]["name"] == "syncline" && message["reason"] == "compiler-artifact";
        ours.then(|| message["executable"].as_str().map(PathBuf::from)).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_executable_is_found_among_cargos_messages() {
        let messages = "{\"reason\":\"compiler-artifact\",\"target\":{\"name\":\"model\"},\"executable\":null}\n\
                        {\"reason\":\"compiler-artifact\",\"target\":{\"name\":\"syncline\"},\"executable\":\"/t/syncline\"}\n\
                        {\"reason\":\"build-finished\",\"success\":true}\n";
        assert_eq!(built_executable(messages), Some("/t/syncline".into()));
        assert_eq!(built_executable("no JSON"), None);
    }
}
