//! Tests `install.sh`: from source, and from an archive that `.ci/pack` makes, as it does for a release.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use docker_regpush::cli::VERSION;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::support::{Home, Run, engine, ok, run};
use crate::wait::wait_for;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/install.sh");
const PACK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/.ci/pack");
const PLUGIN: &str = ".docker/cli-plugins/docker-regpush";

/// A home without a plugin, with the folders of a user who reads man pages and uses the shells, and an archive beside it.
struct Installation {
    home: Home,
    archive: PathBuf,
}

impl Installation {
    /// Packs a shell script with these commands as the program.
    fn of_script(commands: &str) -> Self {
        Self::new(|program| write_program(program, commands))
    }

    /// Packs a program that only prints a version.
    fn of_version(version: &str) -> Self {
        Self::of_script(&prints_version(version))
    }

    fn new(write: impl FnOnce(&Path)) -> Self {
        let home = Home::new();
        fs::remove_dir_all(home.path(".docker")).unwrap();
        for folder in [".local/share/man", ".local/share/bash-completion", ".local/share/zsh", ".config/fish"]
        {
            fs::create_dir_all(home.path(folder)).unwrap();
        }
        let installation = Self { archive: home.path("a release/docker-regpush-linux-amd64.tar.gz"), home };
        installation.pack(write);
        installation
    }

    /// Writes the archive and its checksum, as `.ci/release` does.
    fn pack(&self, write: impl FnOnce(&Path)) {
        let folder = self.archive.parent().unwrap();
        let program = folder.join("docker-regpush");
        fs::create_dir_all(folder).unwrap();
        write(&program);
        ok(Command::new(PACK).arg(folder).arg("docker-regpush-linux-amd64").arg(&program));
        fs::remove_file(program).unwrap();
        let name = self.archive.file_name().unwrap();
        let sum = ok(Command::new("sha256sum").arg(name).current_dir(folder));
        fs::write(folder.join("SHA256SUMS"), sum).unwrap();
    }

    fn command(&self) -> Command {
        let mut command = Command::new(SCRIPT);
        command.env("HOME", self.home.root());
        for name in ["DOCKER_CONFIG", "XDG_DATA_HOME", "XDG_CONFIG_HOME"] {
            command.env_remove(name);
        }
        command
    }

    fn install(&self, words: &[&str]) -> Run {
        run(self.command().arg("--from").arg(&self.archive).args(words))
    }

    fn files(&self) -> String {
        ok(Command::new("find").arg(self.home.root()))
    }

    /// Replaces the installed program with a script that prints a version.
    fn install_version(&self, version: &str) {
        write_program(&self.home.path(PLUGIN), &prints_version(version));
    }

    /// Returns the output of the installed program.
    fn installed(&self) -> String {
        ok(Command::new(self.home.path(PLUGIN)).arg("--version"))
    }

    /// Asserts that an installation was refused for a reason, and that the installed version 0.0.1 still works.
    fn assert_refused(&self, refused: &Run, reason: &str) {
        assert_eq!((refused.status, refused.stdout.as_str()), (1, ""), "{refused:?}");
        assert!(
            refused.stderr.starts_with("install.sh: ") && refused.stderr.contains(reason),
            "{reason}: {refused:?}"
        );
        assert_eq!(self.installed(), "docker-regpush 0.0.1\n");
        let left = fs::read_dir(self.home.path(PLUGIN).parent().unwrap()).unwrap();
        assert_eq!(left.count(), 1, "{reason}: temporary files are left");
    }
}

/// Writes a shell script, in a separate process for the reason that [`Home::program`] gives.
fn write_program(path: &Path, commands: &str) {
    let script =
        r#"mkdir -p "${0%/*}" && rm -f "$0" && printf '#!/bin/sh\n%s\n' "$1" >"$0" && chmod 755 "$0""#;
    ok(Command::new("sh").args(["-c", script]).arg(path).arg(commands));
}

fn prints_version(version: &str) -> String {
    format!("echo 'docker-regpush {version}'")
}

/// A web server with the files of a folder.
struct Server {
    process: Child,
    port: u16,
}

impl Server {
    fn start(folder: &Path) -> Self {
        let mut command = Command::new("python3");
        command.args(["-u", "-m", "http.server", "--bind", "127.0.0.1", "0"]).current_dir(folder);
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        // Serving HTTP on 127.0.0.1 port 41234 (http://127.0.0.1:41234/) ...
        let port = line.split(' ').nth(5).and_then(|port| port.parse().ok()).expect(&line);
        Self { process, port }
    }

    fn url(&self, file: &str) -> String {
        format!("http://127.0.0.1:{}/{file}?download=1", self.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.process.kill().and_then(|()| self.process.wait()).expect("a process that ends");
    }
}

#[test]
fn archive_is_installed_and_removed() {
    let installation = Installation::new(|program| {
        ok(Command::new("strip").arg("-o").arg(program).arg(env!("CARGO_BIN_EXE_docker-regpush")));
    });
    let before = installation.files();
    let installed = installation.install(&[]);
    assert_eq!(installed.status, 0, "{installed:?}");
    let home = &installation.home;
    let pages = fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/man")).unwrap();
    let pages = pages.map(|page| format!(".local/share/man/man1/{}", page.unwrap().file_name().display()));
    let completions = [
        ".local/share/bash-completion/completions/docker-regpush",
        ".local/share/zsh/site-functions/_docker-regpush",
        ".config/fish/completions/docker-regpush.fish",
    ];
    for file in pages.chain(completions.map(str::to_owned)) {
        let permissions = fs::metadata(home.path(&file)).expect(&file).permissions();
        assert_eq!(permissions.mode() & 0o777, 0o644, "{file}");
        assert!(installed.stdout.contains(&file), "{installed:?}");
    }
    let version = ok(engine("docker-20.10").docker(home).args(["regpush", "--version"]));
    assert_eq!(version, format!("docker-regpush {VERSION}\n"));
    let removed = run(installation.command().arg("--uninstall"));
    assert_eq!(removed.status, 0, "{removed:?}");
    assert_eq!(installation.files(), before);
    let nothing = run(installation.command().arg("--uninstall"));
    assert!(nothing.status == 0 && nothing.stdout.starts_with("nothing is installed at "), "{nothing:?}");
}

#[test]
fn same_files_are_packed_into_the_same_bytes() {
    let home = Home::new();
    for (program, archive) in [("program", "packed.tar.gz"), ("program.exe", "packed.zip")] {
        let pack = |folder: &str, umask: &str, zone: &str, time: &str| {
            let script = r#"rm -rf "$1" && umask "$2" && mkdir "$1" && echo program >"$1/$4" && chmod +x "$1/$4" &&
                seq 9 | split -l 1 - "$1/text-" && SOURCE_DATE_EPOCH=$3 "$0" "$1" packed "$1/$4" "$1"/text-* &&
                ls -A "$1" && cat "$1"/packed.* | sha256sum"#;
            let mut command = Command::new("sh");
            command.args(["-c", script, PACK, &format!("{folder} {program}"), umask, time, program]);
            command.env("TZ", zone);
            ok(command.current_dir(home.root()))
        };
        let first = pack("first", "022", "UTC", "1000000000");
        assert!(first.starts_with(&format!("{archive}\n{program}\n")), "{first}");
        assert_eq!(first, pack("second", "077", "Asia/Tokyo", "1000000000"));
        assert_ne!(first, pack("first", "022", "UTC", "1000086400"));
    }
    let list = ["-tvzf", "first program/packed.tar.gz"];
    let packed = ok(Command::new("tar").args(list).env("TZ", "UTC").current_dir(home.root()));
    for line in packed.lines() {
        assert!(line.contains(" 0/0 ") && line.contains(" 2001-09-10 01:46 "), "{packed}");
    }
    // An archive lists its files sorted by path.
    let list = |program: &str, words: &[&str]| {
        let packed = ok(Command::new(program).args(words).current_dir(home.root()));
        let paths: Vec<PathBuf> = packed.lines().map(PathBuf::from).collect();
        assert!(paths.len() > 11 && paths.is_sorted(), "{packed}");
    };
    list("tar", &["-tzf", "first program/packed.tar.gz"]);
    list("zipinfo", &["-1", "first program.exe/packed.zip"]);
    // The archive has no extra fields, which would contain the user and the time of the last access. Bytes 28 and 29 are the
    // length of the extra fields of the first file.
    let zip = fs::read(home.path("first program.exe/packed.zip")).unwrap();
    assert_eq!(&zip[28..30], [0, 0]);
}

#[test]
fn folder_that_the_user_chose_stays() {
    let installation = Installation::of_version("0.1.0");
    let chosen = installation.home.path("chosen");
    fs::create_dir(&chosen).unwrap();
    let before = installation.files();
    let mut install = installation.command();
    let installed = run(install.env("DOCKER_CONFIG", &chosen).arg("--from").arg(&installation.archive));
    assert_eq!(installed.status, 0, "{installed:?}");
    assert!(chosen.join("cli-plugins/docker-regpush").exists());
    assert_eq!(run(installation.command().env("DOCKER_CONFIG", &chosen).arg("--uninstall")).status, 0);
    assert_eq!(installation.files(), before);
}

#[test]
fn damaged_archives_are_refused() {
    let installation = Installation::of_version("0.1.0");
    installation.install_version("0.0.1");
    let (archive, sums) = (&installation.archive, installation.archive.with_file_name("SHA256SUMS"));
    let intact = fs::read(archive).unwrap();

    let wrong = "0".repeat(64);
    installation.assert_refused(
        &installation.install(&["--sha256", &wrong]),
        "is damaged, or not the expected archive",
    );
    let mut changed = intact.clone();
    changed[intact.len() / 2] ^= 1;
    for bytes in [&changed[..], &intact[..intact.len() / 2], b""] {
        fs::write(archive, bytes).unwrap();
        installation.assert_refused(&installation.install(&[]), "is damaged, or not the expected archive");
    }
    // An archive whose checksum is right, but which is not a whole archive.
    fs::write(archive, &intact[..intact.len() / 2]).unwrap();
    let sum = ok(Command::new("sha256sum").arg(archive));
    installation.assert_refused(&installation.install(&["--sha256", &sum[..64]]), "cannot unpack");

    fs::write(archive, &intact).unwrap();
    fs::rename(&sums, sums.with_extension("old")).unwrap();
    installation.assert_refused(&installation.install(&[]), "pass --sha256 SUM");
    fs::write(&sums, format!("{wrong}  another.tar.gz\n")).unwrap();
    installation.assert_refused(&installation.install(&[]), "does not list");
    let missing = run(installation.command().args(["--from", "/nowhere.tar.gz"]));
    installation.assert_refused(&missing, "cannot read /nowhere.tar.gz");

    let sum = ok(Command::new("sha256sum").arg(archive))[..64].to_uppercase();
    assert_eq!(installation.install(&["--sha256", &sum]).status, 0);
    for words in [&["--sha256", "12"][..], &["--sha256"], &["--uninstall"], &["--nonsense"]] {
        assert_eq!(installation.install(words).status, 125, "{words:?}");
    }
}

#[test]
fn newer_versions_are_replaced_only_with_force() {
    let newer = [
        ("0.1.0", "0.0.9"),
        ("0.10.0", "0.9.0"),
        ("0.10.0 (0123456789ab)", "0.9.0 (ba9876543210)"),
        ("1.0.0", "0.99.0"),
        ("1.0.0", "1.0.0-rc.1"),
        ("1.0.0-rc.2", "1.0.0-rc.1"),
    ];
    let installation = Installation::of_version("0.1.0");
    for (newer, older) in newer {
        installation.pack(|program| write_program(program, &prints_version(older)));
        installation.install_version(newer);
        let refused = installation.install(&[]);
        assert_eq!((refused.status, refused.stdout.as_str()), (1, ""), "{newer} {older}: {refused:?}");
        assert!(refused.stderr.contains("pass --force to replace it"), "{refused:?}");
        assert_eq!(installation.installed(), format!("docker-regpush {newer}\n"));
        assert_eq!(installation.install(&["--force"]).status, 0, "{newer} {older}");
        assert_eq!(installation.installed(), format!("docker-regpush {older}\n"));

        installation.pack(|program| write_program(program, &prints_version(newer)));
        assert_eq!(installation.install(&[]).status, 0, "{newer} {older}");
        assert_eq!(installation.installed(), format!("docker-regpush {newer}\n"));
    }
    for unknown in ["1.0.0-rc.2 (0123456789ab-modified)", "unknown", ""] {
        installation.install_version(unknown);
        assert_eq!(installation.install(&[]).status, 0, "{unknown}");
    }
}

#[test]
fn program_that_does_not_run_is_refused() {
    let installation = Installation::of_script("echo 'GLIBC_2.99 not found' >&2; exit 1");
    let before = installation.files();
    let refused = installation.install(&[]);
    assert_eq!(refused.status, 1, "{refused:?}");
    assert_eq!(installation.files(), before);
    installation.install_version("0.0.1");
    let refused = installation.install(&[]);
    installation.assert_refused(&refused, "nothing was changed: GLIBC_2.99 not found");
}

#[test]
fn termination_leaves_nothing() {
    let installation = Installation::of_script(r#"touch "$HOME/is-running"; sleep 600"#);
    installation.install_version("0.0.1");
    let running = installation.home.path("is-running");
    let temporary = installation.home.path("temporary");
    fs::create_dir(&temporary).unwrap();
    let mut command = installation.command();
    command.arg("--from").arg(&installation.archive).env("TMPDIR", &temporary).process_group(0);
    let process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for("the program runs", || running.exists().then_some(()));
    // SIGINT and SIGHUP are ignored if a shell has started the tests in the background.
    killpg(Pid::from_raw(process.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
    let output = process.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(143), "{output:?}");
    assert_eq!(fs::read_dir(installation.home.path(PLUGIN).parent().unwrap()).unwrap().count(), 1);
    assert_eq!(fs::read_dir(&temporary).unwrap().count(), 0);
    assert_eq!(installation.installed(), "docker-regpush 0.0.1\n");
}

#[test]
fn full_disk_and_missing_permission_change_nothing() {
    let installation = Installation::new(|program| {
        write_program(program, &prints_version("0.1.0"));
        fs::OpenOptions::new().append(true).open(program).unwrap().write_all(&[b'#'; 1 << 20]).unwrap();
    });
    let home = installation.home.root().to_str().unwrap();
    // In a mount namespace of its own, so that the system unmounts the small file system.
    let script = r#"mkdir full && mount -t tmpfs -o size=64k none full && mkdir -p full/.docker/cli-plugins &&
        echo old >full/.docker/cli-plugins/docker-regpush && ! HOME=$PWD/full "$1" --from "$2" &&
        cat full/.docker/cli-plugins/docker-regpush && ls -A full/.docker/cli-plugins"#;
    let full = run(Command::new("unshare")
        .args(["-m", "sh", "-c", script, "sh", SCRIPT])
        .arg(&installation.archive)
        .current_dir(home));
    assert_eq!((full.status, full.stdout.as_str()), (0, "old\ndocker-regpush\n"), "{full:?}");
    assert!(full.stderr.contains("No space left on device; nothing was changed"), "{full:?}");

    installation.install_version("0.0.1");
    for folder in ["", "a release"] {
        fs::set_permissions(installation.home.path(folder), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let temporary = installation.home.path("temporary");
    fs::create_dir(&temporary).unwrap();
    fs::set_permissions(&temporary, fs::Permissions::from_mode(0o777)).unwrap();
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-s", "--", "--from"])
        .arg(&installation.archive);
    // The user may not read the folder of the source code.
    command
        .stdin(fs::File::open(SCRIPT).unwrap())
        .current_dir("/")
        .env("HOME", home)
        .env("TMPDIR", &temporary);
    let refused = command.output().unwrap();
    let message = String::from_utf8(refused.stderr).unwrap();
    assert!(message.contains("cannot write to ") && message.contains("; nothing was changed"), "{message}");
    assert_eq!(refused.status.code(), Some(1));
    assert_eq!(fs::read_dir(temporary).unwrap().count(), 0);
    assert_eq!(installation.installed(), "docker-regpush 0.0.1\n");
}

#[test]
fn missing_programs_are_named() {
    let installation = Installation::of_version("0.1.0");
    installation.install_version("0.0.1");
    // A PATH without cargo, curl and wget.
    let programs = installation.home.path("programs");
    fs::create_dir(&programs).unwrap();
    for program in ["sh", "cat", "tr", "mktemp", "mkdir", "rmdir", "rm", "dirname", "sha256sum", "id", "cut"]
    {
        symlink(Path::new("/usr/bin").join(program), programs.join(program)).unwrap();
    }
    let mut command = installation.command();
    let refused =
        run(command.env("PATH", &programs).args(["--from", "https://registry.example.com/x.tar.gz"]));
    installation.assert_refused(&refused, "a URL needs curl or wget");
    let refused = run(installation.command().env("PATH", &programs));
    installation.assert_refused(&refused, "pass --from FILE|URL with a built archive");
}

#[test]
fn archive_is_downloaded_with_its_checksum() {
    let installation = Installation::of_version("0.1.0");
    installation.install_version("0.0.1");
    let server = Server::start(installation.archive.parent().unwrap());
    let missing = server.url("missing.tar.gz");
    installation
        .assert_refused(&run(installation.command().args(["--from", &missing])), "cannot download http://");
    let installed =
        run(installation.command().args(["--from", &server.url("docker-regpush-linux-amd64.tar.gz")]));
    assert_eq!(installed.status, 0, "{installed:?}");
    assert_eq!(installation.installed(), "docker-regpush 0.1.0\n");
}

#[test]
fn source_code_is_built_installed_and_removed() {
    let home = Home::new();
    let directory = home.path(".docker/cli-plugins");
    fs::remove_file(directory.join("docker-regpush")).unwrap();
    let install = |words: &[&str]| {
        let mut command = Command::new(SCRIPT);
        command.args(words).env("HOME", home.root()).env_remove("DOCKER_CONFIG");
        // RUSTC_BOOTSTRAP is set only for the test program. With this variable cargo would rebuild everything.
        command.env_remove("RUSTC_BOOTSTRAP");
        // The test checks install.sh, so a fast build without optimizations is enough.
        command.envs([
            ("CARGO_PROFILE_RELEASE_LTO", "off"),
            ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16"),
            ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0"),
        ]);
        // HOME is a temporary directory, so cargo and rustup need the paths of the developer's directories.
        for (name, path) in [("CARGO_HOME", ".cargo"), ("RUSTUP_HOME", ".rustup")] {
            if std::env::var_os(name).is_none() {
                command.env(name, std::env::home_dir().unwrap().join(path));
            }
        }
        run(&mut command)
    };
    let installed = install(&[]);
    assert_eq!(installed.status, 0, "{installed:?}");
    let engine = engine("docker-20.10");
    assert!(ok(engine.docker(&home).args(["regpush", "--version"])).starts_with("docker-regpush "));
    let removed = install(&["--uninstall"]);
    assert_eq!(removed.status, 0, "{removed:?}");
    assert!(!directory.join("docker-regpush").exists());
    assert_eq!(install(&["--nonsense"]).status, 125);
    // install.sh replaces an existing symlink, and does not change the target of the symlink.
    let other = home.path("other");
    fs::write(&other, "precious").unwrap();
    fs::create_dir_all(&directory).unwrap();
    symlink(&other, directory.join("docker-regpush")).unwrap();
    assert_eq!(install(&[]).status, 0);
    assert_eq!(fs::read_to_string(&other).unwrap(), "precious");
}
