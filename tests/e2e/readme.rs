//! Runs the commands in the quick start of README.md, and compares their output with README.md.

use crate::support::{Home, Registry, engine, ok};

/// The size in bytes of the image in README.md.
const SIZE: usize = 31_000_000;

/// Returns the first code block in `text` that has the given language.
fn block<'a>(text: &'a str, language: &str) -> &'a str {
    let (_, block) = text.split_once(&format!("```{language}\n")).unwrap();
    block.split_once("```").unwrap().0
}

/// Replaces digests, layer IDs and times, which differ between two runs.
fn normalized(output: &str) -> String {
    let word = |word: &str| {
        let is_id = |id: &str| id.len() == 12 && id.chars().all(|c| c.is_ascii_hexdigit());
        let is_time = |time: &str| time.parse::<f64>().is_ok();
        match word.split_once("sha256:") {
            Some((before, _)) => format!("{before}sha256:…"),
            None if word.strip_suffix(':').is_some_and(is_id) => "ID:".to_owned(),
            None if word.strip_suffix("s,").is_some_and(is_time) => "TIME,".to_owned(),
            None => word.to_owned(),
        }
    };
    let line = |line: &str| line.split(' ').map(word).collect::<Vec<_>>().join(" ");
    output.lines().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn quick_start_works_as_shown() {
    let engine = engine("docker-28-classic");
    let home = Home::new();
    home.program("docker", &format!("exec '{}' \"$@\"", engine.docker.display()));
    let registries = [Registry::open(), Registry::open()];
    let images = [engine.image(&home, "app:1.2", SIZE), engine.image(&home, "web:3", 1000)];
    let readme = include_str!("../../README.md")
        .replace("localhost:5000", &registries[0].host())
        .replace("localhost:5005", &registries[1].host());
    let (_, quick_start) = readme.split_once("\n## Quick start\n").unwrap();
    let shell = |script: &str| {
        let mut command = home.command("sh");
        command.env("DOCKER_HOST", engine.host()).args(["-euc", script]);
        ok(&mut command)
    };

    // Compares the output of the first push before the shell script of the quick start pushes this image again.
    let shown = block(quick_start, "console");
    let (command, output) = shown.strip_prefix("$ ").unwrap().split_once('\n').unwrap();
    assert_eq!(normalized(&shell(&format!("{command} 2>&1"))), normalized(output));

    let name = registries[0].name("team/app:1.2");
    ok(engine.docker(&home).args(["tag", "app:1.2", &name]));
    let script = block(quick_start, "sh");
    assert_eq!(script.matches("docker regpush").count(), 3, "{script}");
    let printed = shell(&format!("{script}\nprintf %s \"$digest\""));
    assert_eq!(printed.lines().last().unwrap(), registries[0].digest("app", "1.2", None));
    assert_eq!(printed.lines().count(), 1 + 4 + 1, "a line for each result, then the digest: {printed}");
    assert_eq!(registries[1].digest("team/app", "1.2", None), registries[0].digest("app", "1.2", None));
    engine.remove(&["-f", &name]);
    drop(images);
}
