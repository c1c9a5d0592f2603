//! Sets the environment variable `REGPUSH_VERSION` for the compiler: the version, and the commit if git knows it.

use std::path::Path;
use std::process::Command;

fn main() {
    // cargo would run this program again after each change to a file. A change to a test does not change the version.
    for path in ["build.rs", "Cargo.toml", "Cargo.lock", "src", "plugin-metadata"] {
        println!("cargo::rerun-if-changed={path}");
    }
    let version = env!("CARGO_PKG_VERSION");
    let version = match commit() {
        Some(commit) => format!("{version} ({commit})"),
        None => version.to_owned(),
    };
    println!("cargo::rustc-env=REGPUSH_VERSION={version}");
}

/// Returns the abbreviated hash of the commit, with `-modified` after it if tracked files differ from the commit; `None` outside
/// of a git repository, or without git.
fn commit() -> Option<String> {
    // Without this check, git would find a repository that only contains the folder of an unpacked source archive.
    if !Path::new(".git").exists() {
        return None;
    }
    // git adds a line to this log whenever another commit is checked out. Its path differs in a linked worktree.
    let log = git(&["rev-parse", "--git-path", "logs/HEAD"])?;
    println!("cargo::rerun-if-changed={log}");
    git(&["describe", "--always", "--exclude=*", "--abbrev=12", "--dirty=-modified"])
}

/// Returns the output of git without the newline, or `None` if git fails.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
