//! A call from its options to its exit status: what is set up for a push, and what is told of it.

use std::env;
use std::future::Future;
use std::io::{self, IsTerminal, Read, Write};
use std::time::{Duration, Instant};

use crate::cli::{ProgressMode, PushOptions};
use crate::config;
use crate::config::Config;
use crate::context::{Choice, Endpoint};
use crate::credentials::prompt::Terminal;
use crate::credentials::{Credentials, Keyring};
use crate::engine::Engine;
use crate::error::Error;
use crate::plugin::Call;
use crate::present::{Plain, Presenter, Silent, Tty, terminal_size};
use crate::progress::{Progress, PushedTag};
use crate::push::{Push, Record};
use crate::reference::{Reference, ReferenceError};
use crate::report::Report;
use crate::secret::Secret;
use crate::text::{clean, human_size};

/// How long a credential helper may take where nobody can answer it.
const UNATTENDED_HELPER: Duration = Duration::from_secs(30);

/// Bytes; tokens reach a few thousand. What is longer is another file, or has no end.
const MAX_PASSWORD: u64 = 64 << 10;

/// Carries out a call, and returns its exit status.
///
/// * `auth_config`: the value of `DOCKER_AUTH_CONFIG`, taken out of the environment so that no
///   child inherits it.
/// * `cancelled`: ends with an exit status when the call is to be given up.
pub async fn run(call: &Call, auth_config: Option<Secret>, cancelled: impl Future<Output = u8>) -> u8 {
    let started = Instant::now();
    let mut record = Record::default();
    let parsed = call.push.image.parse::<Reference>();
    let no_reference =
        |error: &ReferenceError| Error::Reference { typed: call.push.image.clone(), reason: error.clone() };
    let checked = parsed.as_ref().map_err(no_reference);
    // Credentials may be read from stdin, before signals are caught: until then they end the process.
    let result = match checked.and_then(|reference| Ok((reference, given_credentials(&call.push)?))) {
        Err(error) => Err(error),
        Ok((reference, given)) => tokio::select! {
            result = push(call, reference, given, auth_config, &mut record) => result,
            // Dropping the push closes its connection, and with that the engine stops.
            status = cancelled => Err(Error::Cancelled(status)),
        },
    };
    let elapsed = started.elapsed();
    let report = Report {
        typed: &call.push.image,
        reference: parsed.as_ref().ok(),
        record: &record,
        elapsed,
        result: &result,
    };
    let written = match report.write(call.push.format, &mut io::stdout().lock()) {
        // Who reads only part of the result wants no more: `docker regpush … | head -c 0`.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(Error::Output),
    };
    match result.and(written) {
        Ok(()) => 0,
        Err(error) => {
            tell_error(&error);
            error.exit_status()
        }
    }
}

async fn push(
    call: &Call,
    reference: &Reference,
    given: Option<Credentials>,
    auth_config: Option<Secret>,
    record: &mut Record,
) -> Result<PushedTag, Error> {
    let options = &call.push;
    let debug = call.docker.is_debug();
    let mut presenter = presenter(match options.progress {
        _ if options.quiet => ProgressMode::None,
        // A redrawn screen and lines of debugging spoil each other.
        ProgressMode::Auto if debug => ProgressMode::Plain,
        mode => mode,
    });
    let directory = config::directory(call.docker.config.as_deref())?;
    let loaded = Config::load(&directory).map_err(|error| {
        let warning = Error::from(error).message();
        presenter.tell(&format!("warning: {warning}"));
        record.warnings.push(warning.clone());
        warning
    });
    let (config, config_problem) = match loaded {
        Ok(config) => (config, None),
        Err(problem) => (Config::empty(&directory), Some(problem)),
    };
    let choice = Choice::from_environment(call.docker.hosts.first().cloned(), call.docker.context.clone());
    let endpoint = Endpoint::resolve(&choice, &config)?;
    let terminal = Terminal::find();
    let patience = terminal.is_none().then_some(UNATTENDED_HELPER);
    let keyring = Keyring { given, variable: auth_config, config, config_problem, patience };
    let terminal = terminal.filter(|_| !options.no_prompt);
    if reference.tag().is_none() {
        presenter.note("Using default tag: latest");
    }
    let mut engine = Engine::connect(endpoint, debug.then_some(tell_debug)).await?;
    let push = Push {
        reference,
        engine: &mut engine,
        keyring: &keyring,
        terminal: terminal.as_ref(),
        presenter: &mut *presenter,
        record,
    };
    let pushed = push.run().await?;
    if record.progress.platform_instead_of_index {
        let warning =
            "not every platform of the image is here; only the one that is was pushed under this tag";
        presenter.tell(&format!("warning: {warning}"));
        record.warnings.push(warning.to_owned());
    }
    presenter.note(&summary(reference, &record.progress));
    Ok(pushed)
}

/// The presenter of a mode. `auto`: redrawing on a terminal that can do it, else lines.
fn presenter(mode: ProgressMode) -> Box<dyn Presenter> {
    let term = env::var_os("TERM").unwrap_or_default();
    let can_redraw = || io::stderr().is_terminal() && !term.is_empty() && term != "dumb";
    match mode {
        ProgressMode::None => Box::new(Silent),
        ProgressMode::Tty => Box::new(Tty::new(io::stderr(), terminal_size)),
        ProgressMode::Auto if can_redraw() => Box::new(Tty::new(io::stderr(), terminal_size)),
        ProgressMode::Auto | ProgressMode::Plain => Box::new(Plain::new(io::stderr())),
    }
}

/// `pushed app:1: 1 of 3 layers sent, 1 mounted, 20.97MB in 1.3 s`, of which each part is said only
/// where the engine told of it: podman names no layers, the containerd store no bytes of small ones.
fn summary(reference: &Reference, progress: &Progress) -> String {
    let counts = progress.counts();
    let name = reference.familiar();
    if counts.total > 0 && counts.exists == counts.total {
        return format!("pushed {name}: every layer was there already");
    }
    let mut parts = Vec::new();
    if counts.total > 0 {
        parts.push(format!("{} of {} layers sent", counts.pushed, counts.total));
    }
    if counts.mounted > 0 {
        parts.push(format!("{} mounted", counts.mounted));
    }
    if progress.bytes().0 > 0 {
        parts.push(human_size(progress.bytes().0));
    }
    let told = if parts.is_empty() { String::new() } else { format!(": {}", parts.join(", ")) };
    format!("pushed {name}{told} in {:.1} s", progress.elapsed().as_secs_f64())
}

/// What `--username`, `--password-stdin` and `--anonymous` say.
fn given_credentials(options: &PushOptions) -> Result<Option<Credentials>, Error> {
    if options.anonymous {
        return Ok(Some(Credentials::Anonymous));
    }
    let Some(username) = options.username.clone() else { return Ok(None) };
    let mut text = String::new();
    let read = io::stdin().take(MAX_PASSWORD + 1).read_to_string(&mut text);
    let text = Secret::new(text);
    if read.map_err(Error::PasswordUnreadable)? as u64 > MAX_PASSWORD {
        return Err(Error::PasswordTooLong);
    }
    // One line end, and nothing else: passwords may end in spaces.
    let password = text
        .expose()
        .strip_suffix('\n')
        .map_or(text.expose(), |line| line.strip_suffix('\r').unwrap_or(line));
    if password.is_empty() {
        return Err(Error::PasswordMissing);
    }
    Ok(Some(Credentials::Basic { username, password: Secret::new(password.to_owned()) }))
}

fn tell_debug(line: &str) {
    let _ = writeln!(io::stderr(), "debug: {line}");
}

fn tell_error(error: &Error) {
    let mut lines = format!("error: {}\n", error.message());
    if let Some(hint) = error.hint() {
        lines += &format!("hint: {}\n", clean(&hint));
    }
    // Nobody is left to tell where stderr is closed.
    let _ = io::stderr().write_all(lines.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Event, LayerState};

    #[test]
    fn the_summary_says_what_the_engine_told() {
        let mounted = || LayerState::MountedFrom("x".to_owned());
        let pushing = LayerState::Pushing { current: 5, total: 10 };
        let table = [
            (vec![], "pushed app:1 in 0.0 s"),
            (vec![LayerState::AlreadyExists], "pushed app:1: every layer was there already"),
            (
                vec![LayerState::Pushed, LayerState::AlreadyExists],
                "pushed app:1: 1 of 2 layers sent in 0.0 s",
            ),
            (vec![mounted()], "pushed app:1: 0 of 1 layers sent, 1 mounted in 0.0 s"),
            (vec![mounted(), pushing], "pushed app:1: 0 of 2 layers sent, 1 mounted, 5B in 0.0 s"),
        ];
        for (states, want) in table {
            let mut progress = Progress::default();
            for (at, state) in states.into_iter().enumerate() {
                progress.apply(&Event::Layer { id: at.to_string(), state });
            }
            assert_eq!(summary(&"app:1".parse().unwrap(), &progress), want);
        }
    }
}
