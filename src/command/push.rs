//! A push, or one for each tag.

use std::env;
use std::future::Future;
use std::io::{self, IsTerminal};
use std::time::Instant;

use super::{LIST_TIMEOUT, engine, given_login, keyring, tell_error, trace, unless_closed};
use crate::cli::{DockerOptions, ProgressMode, PushOptions};
use crate::credentials::prompt::Terminal;
use crate::credentials::{Credentials, Keyring, Source};
use crate::engine::{Engine, LocalImage};
use crate::error::Error;
use crate::present::{Plain, Presenter, Silent, Tty, terminal_size};
use crate::push::{Detours, Outcome, Push, PushError, Record, Status, suggest};
use crate::reference::{Reference, ReferenceError};
use crate::remote::Remote;
use crate::report::Report;
use crate::secret::Secret;
use crate::text::human_size;

/// Pushes what was asked for, and returns the exit status; the arguments are those of [`super::run`].
pub async fn run(
    docker: &DockerOptions,
    image: &str,
    options: &PushOptions,
    auth_config: Option<Secret>,
    cancelled: impl Future<Output = u8>,
) -> u8 {
    let mut run = Run {
        docker,
        image,
        options,
        reference: None,
        record: Record::default(),
        started: Instant::now(),
        status: 0,
    };
    // Credentials may be read from stdin, before signals are caught: until then they end the process.
    let given = run.read_reference().and_then(|()| given_login(&options.given));
    match given {
        Err(error) => run.finish(Err(error)),
        Ok(given) => tokio::select! {
            // Signals are caught before anything is started.
            biased;
            // Dropping the push closes its connection, and with that the engine stops.
            status = cancelled => run.finish(Err(Error::Cancelled(status))),
            () = run.all(given, auth_config) => {}
        },
    }
    run.status
}

/// One call of the program: images one after the other, each with a result of its own.
struct Run<'a> {
    docker: &'a DockerOptions,
    /// The image as it was typed.
    image: &'a str,
    options: &'a PushOptions,
    /// The image at work, and what is known of its push; with the first it is all that was typed.
    reference: Option<Reference>,
    record: Record,
    started: Instant,
    /// Of the first failure.
    status: u8,
}

/// What the pushes of a call share.
struct Session {
    presenter: Box<dyn Presenter>,
    keyring: Keyring,
    terminal: Option<Terminal>,
    engine: Engine,
    /// All tags of a call are in one registry.
    remote: Remote,
    /// An upload that hangs outlives its push.
    detours: Detours,
    /// A login is still to be kept.
    save: bool,
}

impl Run<'_> {
    fn read_reference(&mut self) -> Result<(), Error> {
        let typed = self.image;
        let reference = typed
            .parse::<Reference>()
            .map_err(|reason: ReferenceError| Error::Reference { typed: typed.to_owned(), reason })?;
        let has_tag = reference.tag().is_some();
        self.reference = Some(reference);
        if self.options.all_tags && has_tag { Err(Error::TagWithAllTags) } else { Ok(()) }
    }

    async fn all(&mut self, given: Option<Credentials>, auth_config: Option<Secret>) {
        let prepared = match self.prepare(given, auth_config).await {
            Ok(mut session) => self.targets(&mut session).await.map(|targets| (session, targets)),
            Err(error) => Err(error),
        };
        let (mut session, targets) = match prepared {
            Ok(prepared) => prepared,
            Err(error) => return self.finish(Err(error)),
        };
        for target in targets {
            self.reference = Some(target.clone());
            let result = self.push(&target, &mut session).await;
            let is_over = matches!(result, Err(Error::Cancelled(_)));
            let was_asked = self.record.login.as_ref().is_some_and(|login| login.source == Source::Prompt)
                || matches!(result, Err(Error::Login(_)));
            if result.is_err() && was_asked {
                // Nobody is asked twice in one call.
                session.terminal = None;
            }
            self.finish(result);
            if is_over {
                return;
            }
        }
    }

    async fn prepare(
        &mut self,
        given: Option<Credentials>,
        auth_config: Option<Secret>,
    ) -> Result<Session, Error> {
        let options = self.options;
        let debug = self.docker.is_debug();
        let mut presenter = presenter(match options.progress {
            _ if options.quiet => ProgressMode::None,
            // A redrawn screen and lines of debugging spoil each other.
            ProgressMode::Auto if debug => ProgressMode::Plain,
            mode => mode,
        });
        let (keyring, terminal) = keyring(self.docker, given, auth_config, |warning| {
            presenter.tell(&format!("warning: {warning}"));
            self.record.warnings.push(warning);
        })?;
        let engine = engine(self.docker, &keyring.config).await?;
        let terminal = terminal.filter(|_| !options.no_prompt);
        let remote = Remote::new(trace(self.docker));
        let (detours, save) = (Detours::default(), options.save_credentials);
        Ok(Session { presenter, keyring, terminal, engine, remote, detours, save })
    }

    /// What is to be pushed: the image, or each tag of it that the engine has, in the order of names.
    /// One by one, since podman does not know "all", and so that each has its result.
    async fn targets(&mut self, session: &mut Session) -> Result<Vec<Reference>, Error> {
        let reference = self.reference.clone().expect("read before");
        if !self.options.all_tags {
            if reference.tag().is_none() {
                session.presenter.note("Using default tag: latest");
            }
            return Ok(vec![reference]);
        }
        let images = session.engine.local_images(LIST_TIMEOUT).await?;
        let same_repository = |name: &String| {
            let named =
                name.parse::<Reference>().ok().filter(|named| named.repository() == reference.repository());
            named.and_then(|named| Some(reference.with_tag(named.tag()?)))
        };
        let mut targets: Vec<Reference> =
            images.iter().filter_map(|image| same_repository(&image.name)).collect();
        targets.sort_by(|a, b| a.tag().cmp(&b.tag()));
        targets.dedup();
        if targets.is_empty() {
            let suggestion = suggest(&reference, &repositories(images));
            return Err(Error::NoTags { repository: reference.familiar_repository(), suggestion });
        }
        Ok(targets)
    }

    async fn push(&mut self, reference: &Reference, session: &mut Session) -> Result<Outcome, Error> {
        let push = Push {
            reference,
            options: self.options,
            engine: &mut session.engine,
            remote: &mut session.remote,
            keyring: &mut session.keyring,
            terminal: session.terminal.as_ref(),
            presenter: &mut *session.presenter,
            record: &mut self.record,
            save: &mut session.save,
            detours: &mut session.detours,
        };
        let outcome = match self.options.timeout.filter(|timeout| !timeout.is_zero()) {
            None => push.run().await?,
            Some(after) => match tokio::time::timeout(after, push.run()).await {
                Ok(result) => result?,
                // Dropping the push closes its connection, and with that the engine stops.
                Err(_) => {
                    session.presenter.finish();
                    if self.record.is_asking {
                        // Not again for the next image.
                        session.terminal = None;
                    }
                    // The tag of a push that was given up goes with it.
                    session.detours.end();
                    let (reference, tries) = (reference.familiar(), self.record.tries.clone());
                    let pushed = self.record.pushed.clone();
                    return Err(PushError::TimedOut { reference, after, pushed, tries }.into());
                }
            },
        };
        if self.record.progress.platform_instead_of_index {
            let warning =
                "not every platform of the image is here; only the one that is was pushed under this tag";
            session.presenter.tell(&format!("warning: {warning}"));
            self.record.warnings.push(warning.to_owned());
        }
        let name = reference.familiar();
        match outcome.status {
            // The result says it all.
            _ if self.options.dry_run => {}
            Status::Unchanged => session
                .presenter
                .note(&format!("unchanged {name}: the registry has this image under this tag")),
            Status::Skipped => {
                session.presenter.note(&format!("skipped {name}: the tag is in the registry already"));
            }
            Status::Pushed | Status::WouldPush => {
                session.presenter.note(&summary(reference, &self.record));
            }
        }
        Ok(outcome)
    }

    /// Tells how the image at work ended, and is ready for the next.
    fn finish(&mut self, result: Result<Outcome, Error>) {
        let report = Report {
            typed: self.image,
            reference: self.reference.as_ref(),
            record: &self.record,
            elapsed: self.started.elapsed(),
            result: &result,
        };
        let written = unless_closed(report.write(self.options.format, &mut io::stdout().lock()));
        if let Err(error) = result.and(written) {
            tell_error(&error);
            // Who interrupts wants to know that of all.
            if self.status == 0 || matches!(error, Error::Cancelled(_)) {
                self.status = error.exit_status();
            }
        }
        (self.record, self.started) = (Record::default(), Instant::now());
    }
}

/// The images without their tags, each once.
fn repositories(mut images: Vec<LocalImage>) -> Vec<LocalImage> {
    for image in &mut images {
        if let Some((repository, _)) = image.name.rsplit_once(':') {
            image.name.truncate(repository.len());
        }
    }
    images.sort_by(|a, b| a.name.cmp(&b.name));
    images.dedup_by(|a, b| a.name == b.name);
    images
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
fn summary(reference: &Reference, record: &Record) -> String {
    let progress = &record.progress;
    let counts = progress.counts();
    let name = reference.familiar();
    let verified = if record.verified == Some(true) { ", verified" } else { "" };
    if counts.total > 0 && counts.exists == counts.total {
        return format!("pushed {name}: every layer was there already{verified}");
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
    format!("pushed {name}{told} in {:.1} s{verified}", progress.elapsed().as_secs_f64())
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
            let mut record = Record::default();
            for (at, state) in states.into_iter().enumerate() {
                record.progress.apply(&Event::Layer { id: at.to_string(), state });
            }
            assert_eq!(summary(&"app:1".parse().unwrap(), &record), want);
            record.verified = Some(true);
            assert_eq!(summary(&"app:1".parse().unwrap(), &record), format!("{want}, verified"));
        }
    }
}
