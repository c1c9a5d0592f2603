//! Compares the progress display in a real terminal (tmux) with the expected rows, in several terminal sizes and after
//! resizes during a push.

use std::process::{Command, Stdio};
use std::time::Instant;

use docker_regpush::oci::sha256;
use serde_json::json;

use crate::support::client::{Store, blob};
use crate::support::engine::{End, FakeEngine, Reply};
use crate::support::env::TestEnv;
use crate::support::registry::{FakeRegistry, Fault};
use crate::support::wait::PATIENCE;

/// A tmux session in which the plugin runs.
struct Tmux {
    env: TestEnv,
}

impl Tmux {
    /// Starts a session that runs the plugin with `arguments`, and stays open after the plugin has exited.
    fn start(engine: &FakeEngine, (columns, rows): (usize, usize), arguments: &str) -> Self {
        let tmux = Self { env: TestEnv::new() };
        let variables: Vec<String> =
            tmux.env.variables().into_iter().map(|(name, value)| format!("{name}='{value}'")).collect();
        let (variables, program) = (variables.join(" "), env!("CARGO_BIN_EXE_docker-regpush"));
        let host = &engine.host;
        let script = format!(
            "env -i TERM=$TERM DOCKER_HOST='{host}' {variables} '{program}' regpush {arguments}; echo status $?; exec cat"
        );
        let size = ["-x".to_owned(), columns.to_string(), "-y".to_owned(), rows.to_string()];
        let mut command = tmux.command();
        command.args(["-f", "/dev/null", "new-session", "-d"]).args(size).arg(script);
        assert!(command.status().expect("tmux is there: tests/run.sh installs it").success());
        tmux
    }

    fn command(&self) -> Command {
        let mut command = Command::new("tmux");
        command.arg("-S").arg(self.env.path("tmux.sock")).env_remove("TMUX").stdin(Stdio::null());
        command
    }

    fn tell(&self, arguments: &[&str]) -> String {
        let output = self.command().args(arguments).output().expect("tmux runs");
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    fn resize(&self, (columns, rows): (usize, usize)) {
        self.tell(&["resize-window", "-x", &columns.to_string(), "-y", &rows.to_string()]);
    }

    /// Waits until the screen shows the rows `want`, with the cursor below the last row. Only the engine's note
    /// ([`SAID`]) may stand above these rows.
    fn wait_for(&self, want: &[String]) {
        self.wait_until(want, |rows| {
            let cursor = self.tell(&["display", "-p", "#{cursor_x},#{cursor_y},#{cursor_flag}"]);
            let is_below = cursor.trim_end() == format!("0,{},1", rows.len());
            let before = rows.strip_suffix(want);
            is_below && before.is_some_and(|before| before.is_empty() || before == [SAID])
        });
    }

    /// Waits until the rows of the screen meet a condition.
    ///
    /// * `want`: describes the condition.
    fn wait_until(&self, want: &[String], condition: impl Fn(&[String]) -> bool) {
        let started = Instant::now();
        loop {
            let screen = self.tell(&["capture-pane", "-p"]);
            let rows: Vec<String> = screen.trim_end().lines().map(without_time).collect();
            if condition(&rows) {
                return;
            }
            assert!(started.elapsed() < PATIENCE, "{rows:#?}\nand not {want:#?}");
        }
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        let _ = self.command().arg("kill-server").status();
    }
}

/// Removes the elapsed time at the end of a row of totals.
fn without_time(row: &str) -> String {
    let is_time = |text: &str| text.strip_suffix(['s', 'm']).is_some_and(|n| n.parse::<u32>().is_ok());
    match row.rsplit_once("  ") {
        Some((before, last)) if is_time(last) => before.to_owned(),
        _ => row.to_owned(),
    }
}

const SAID: &str = "said by the engine";

/// Returns a response that reports `layers` half-pushed layers at once, and then hangs. If the layers came one by one, the
/// progress display could show a rate.
fn half_way(layers: usize) -> Reply {
    let line = |number: usize| {
        let progress = json!({"current": 5_000_000, "total": 10_000_000});
        json!({"status": "Pushing", "progressDetail": progress, "id": format!("{number:012}")}).to_string()
    };
    let note = json!({"status": SAID}).to_string();
    let lines: Vec<String> = std::iter::once(note).chain((0..layers).map(line)).collect();
    Reply::stream([lines.join("\r\n")]).ending(End::Hang)
}

/// The terminal sizes (columns, rows) of the test. If only the height grows, a terminal restores rows from its
/// scrollback.
const SIZES: [(usize, usize); 6] = [(80, 24), (40, 10), (200, 50), (80, 24), (80, 12), (80, 40)];

/// Returns the expected rows of the progress display.
fn frame((columns, rows): (usize, usize), layers: usize) -> Vec<String> {
    let bar = match columns {
        40 => String::new(),
        80 => format!("[{}{}]  ", "#".repeat(17), " ".repeat(18)),
        _ => format!("[{}{}]  ", "#".repeat(20), " ".repeat(20)),
    };
    // Three rows show no layer: the image, the totals, and the row of the cursor.
    let room = rows - 3;
    let shown = if layers <= room { layers } else { room - 1 };
    let more = (layers > shown).then(|| format!("  … and {} more layers", layers - shown));
    let totals = match layers {
        3 => "50 %  15 of 30 MB",
        40 => "50 %  200 of 400 MB",
        _ => "50 %  0.6 of 1.2 GB",
    };
    let layer = (0..shown).map(|number| format!("  {number:012}  {bar}5 of 10 MB"));
    let image = match columns {
        40 if layers > 99 => format!("…lhost:0/my/team/app:1  0 of {layers} layers"),
        40 if layers > 9 => format!("…alhost:0/my/team/app:1  0 of {layers} layers"),
        40 => format!("…calhost:0/my/team/app:1  0 of {layers} layers"),
        _ => format!("localhost:0/my/team/app:1  0 of {layers} layers"),
    };
    [image].into_iter().chain(layer).chain(more).chain([totals.to_owned()]).collect()
}

#[test]
fn draws_correct_frames_at_every_size_and_after_resize() {
    for layers in [3, 40, 120] {
        let engine = FakeEngine::start().on_every_push(half_way(layers));
        let tmux = Tmux::start(&engine, SIZES[0], "localhost:0/my/team/app:1");
        for (number, size) in SIZES.into_iter().enumerate() {
            if number > 0 {
                tmux.resize(size);
            }
            tmux.wait_for(&frame(size, layers));
        }
        tmux.tell(&["send-keys", "C-c"]);
        tmux.wait_for(&["error: interrupted".to_owned(), "status 130".to_owned()]);
    }
}

/// The registries stop in the middle of the layer, so that the screen shows all of them.
#[test]
fn shows_an_image_once_for_several_registries() {
    const MIB: usize = 1 << 20;
    let registries = [(); 3].map(|()| FakeRegistry::start(&[Fault::Hold { after: MIB }]));
    let layer = blob(40 * MIB);
    let id = sha256(&layer)[..12].to_owned();
    let image = "sha256:1111111111111111111111111111111111111111111111111111111111111111";
    let engine = FakeEngine::with_info()
        .has("docker.io/library/app:1", image)
        .pushing_to_relay(Store::Containerd, vec![layer]);
    let ports = registries.each_ref().map(|registry| registry.domain.rsplit(':').next().unwrap_or_default());
    let to = ports.map(|port| format!("--to localhost:{port}/")).join(" ");
    // In 80 columns there is no room for the whole name of a registry beside the rate and the time left.
    let tmux = Tmux::start(&engine, (120, 24), &format!("app:1 {to}"));
    // The rows differ in numbers of bytes, which depend on the buffers of the system.
    let starts = [
        "app:1  0 of 1 layer".to_owned(),
        format!("  {id}  ["),
        format!("  localhost:{}/app:1  ", ports[0]),
        format!("  localhost:{}/app:1  ", ports[1]),
        format!("  localhost:{}/app:1  ", ports[2]),
        "0 of 3 images  ".to_owned(),
    ];
    tmux.wait_until(&starts, |rows| {
        let are_registries = rows.len() == starts.len()
            && rows[2..5].iter().all(|row| row.contains(" MB") && row.contains("0 of 1 layer"));
        are_registries && rows.iter().zip(&starts).all(|(row, start)| row.starts_with(start))
    });
    tmux.tell(&["send-keys", "C-c"]);
    tmux.wait_until(&["status 130".to_owned()], |rows| rows.last().is_some_and(|row| row == "status 130"));
    assert_eq!(engine.names(), ["docker.io/library/app:1"]);
}
