//! `docker regpush IMAGE…`: pushes several images to several registries, some at the same time.

mod all_tags;
mod files;
mod report;
mod results;
mod schedule;

use std::env;
use std::future::Future;
use std::io::{self, IsTerminal};
use std::mem::take;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::cli::{DockerOptions, ProgressMode, PushOptions};
use crate::command::push::all_tags::{Expanded, expand_all};
use crate::command::push::files::Files;
use crate::command::push::results::{Asked, Finished, Results, text};
use crate::command::push::schedule::push_all;
use crate::credentials::Credentials;
use crate::credentials::keyring::Keyring;
use crate::credentials::prompt::Terminal;
use crate::error::Error;
use crate::palette::Palette;
use crate::present::presenter::{Ending, ImageReporter, Level, Reporter, Update};
use crate::present::{ImageName, for_mode};
use crate::push::outcome::Record;
use crate::push::session::Session;
use crate::push::target::{Target, targets};
use crate::push::with_background;
use crate::secret::Secret;
use crate::setup::{engine, given_login, keyring, trace};

/// Pushes the images of the call, and returns the exit status; the arguments are those of [`crate::command::run`].
pub async fn run(
    docker: &DockerOptions,
    options: &PushOptions,
    auth_config: Option<Secret>,
    cancelled: impl Future<Output = u8>,
) -> u8 {
    let results = Results { options, asked: Vec::new(), ended: Vec::new(), told: 0, status: 0 };
    let mut run = Run { docker, options, results, records: Vec::new(), reporter: None, files: None };
    let started = Instant::now();
    // May read credentials from stdin, before signals are caught: until then a signal ends the process.
    let ended = match run.plan().and_then(|()| given_login(&options.given)) {
        Err(error) => Err(error),
        Ok(given) => tokio::select! {
            // Polls `cancelled` first, so that signals are caught before any work starts.
            biased;
            // Dropping the pushes closes their connections, which stops the engine.
            status = cancelled => Err(Error::Cancelled(status)),
            ended = run.all(given, auth_config) => ended,
        },
    };
    match ended {
        Ok(()) => run.finish(),
        Err(error) => run.fail(error, started.elapsed()),
    }
    run.results.status
}

/// The state of one call.
struct Run<'a> {
    docker: &'a DockerOptions,
    options: &'a PushOptions,
    results: Results<'a>,
    /// The record of each image that has not ended; the record of an ended image is in `results`.
    records: Vec<Record>,
    /// `None` until the names of the images are known.
    reporter: Option<Rc<Reporter>>,
    files: Option<Files>,
}

impl<'a> Run<'a> {
    /// Checks the whole command line, before any prompt or request.
    fn plan(&mut self) -> Result<(), Error> {
        let options = self.options;
        match targets(&options.images, &options.to, options.all_tags) {
            Ok(planned) => self.ask_for(planned),
            Err(error) => {
                let asked = Asked { typed: error.typed().to_owned(), target: None };
                self.results.asked.push(asked);
                return Err(error.into());
            }
        }
        let mut registries = self.results.registries();
        if options.given.username.is_some() && registries.len() > 1 {
            registries.sort_unstable();
            return Err(Error::OneLogin { registries: registries.join(", ") });
        }
        if options.digest_file.is_some() && options.digest_file == options.metadata_file {
            return Err(Error::SameFile);
        }
        if options.digest_file.is_some() && (self.results.asked.len() > 1 || options.all_tags) {
            return Err(Error::OneDigest);
        }
        Ok(())
    }

    fn ask_for(&mut self, targets: Vec<(String, Target)>) {
        let asked = |(typed, target)| Asked { typed, target: Some(target) };
        self.results.asked = targets.into_iter().map(asked).collect();
        self.results.ended.resize_with(self.results.asked.len(), || None);
    }

    /// # Errors
    /// A problem prevents all pushes, or the user gave up at a prompt. The error of a single image is in its
    /// result.
    async fn all(&mut self, given: Option<Credentials>, auth_config: Option<Secret>) -> Result<(), Error> {
        self.files =
            Some(Files::prepare(self.options, self.results.asked.len() > 1 || self.options.all_tags)?);
        let mut warnings = Vec::new();
        let prepared = keyring(self.docker, given, auth_config, |warning| warnings.push(warning));
        // Warnings about the whole call are recorded with the first image.
        self.records.push(Record { warnings, ..Record::default() });
        let (keyring, terminal) = prepared?;
        let session = self.session(keyring, terminal);
        let asked = engine(self.docker, &session.keyring.config);
        if self.options.all_tags {
            // Only the engine knows the tags.
            let mut engine = asked.await?;
            let Expanded { targets, tagless } = expand_all(&mut engine, &self.results.asked).await?;
            self.ask_for(targets);
            self.records.resize_with(self.results.asked.len(), Record::default);
            let reporter = Rc::clone(self.reporter.insert(self.new_reporter()));
            for (at, error) in tagless {
                let (result, record, elapsed) = (Err(error), take(&mut self.records[at]), Duration::ZERO);
                self.results.end(at, Finished { result, record, elapsed }, &reporter);
            }
            return push_all(&session, &reporter, engine, &mut self.results, &mut self.records).await;
        }
        self.records.resize_with(self.results.asked.len(), Record::default);
        let reporter = Rc::clone(self.reporter.insert(self.new_reporter()));
        let registries: Vec<String> = self.results.registries().into_iter().map(str::to_owned).collect();
        let prefetch = session.prefetch_credentials(&registries, &reporter);
        let push =
            async { push_all(&session, &reporter, asked.await?, &mut self.results, &mut self.records).await };
        with_background(prefetch, push).await
    }

    fn session(&self, keyring: Keyring, terminal: Option<Terminal>) -> Session<'a> {
        let references = self.results.asked.iter().filter_map(Asked::reference);
        Session::new(self.options, keyring, terminal, references, trace(self.docker))
    }

    /// Returns a reporter for the chosen mode, after it has shown the warnings of the call and the default tag.
    fn new_reporter(&self) -> Rc<Reporter> {
        let asked = self.results.asked.iter();
        let names = asked.map(|asked| ImageName { familiar: asked.name(), canonical: asked.canonical() });
        let reporter = Reporter::new(for_mode(self.mode(), names.collect()));
        for warning in self.records.first().iter().flat_map(|record| &record.warnings) {
            reporter.say(Level::Warning, warning);
        }
        if !self.options.all_tags
            && self
                .results
                .asked
                .iter()
                .filter_map(Asked::reference)
                .any(|reference| reference.tag().is_none())
        {
            reporter.say(Level::Note, "Using default tag: latest");
        }
        Rc::new(reporter)
    }

    /// Resolves `auto`: redraws if stderr is a terminal that supports it, otherwise prints lines.
    fn mode(&self) -> ProgressMode {
        let term = env::var_os("TERM").unwrap_or_default();
        let can_redraw = || io::stderr().is_terminal() && !term.is_empty() && term != "dumb";
        match self.options.progress {
            _ if self.options.quiet => ProgressMode::None,
            // Debug lines would break a redrawn screen.
            ProgressMode::Auto if !self.docker.is_debug() && can_redraw() => ProgressMode::Tty,
            ProgressMode::Auto => ProgressMode::Plain,
            mode => mode,
        }
    }

    /// Fails every unfinished image with an error that concerns the whole call.
    fn fail(&mut self, error: Error, elapsed: Duration) {
        let reporter = self.reporter.take().unwrap_or_else(|| self.new_reporter());
        let results = &mut self.results;
        results.ended.resize_with(results.asked.len(), || None);
        // An interrupt determines the exit status even if an image failed before it.
        let status = error.exit_status();
        let is_cancelled = matches!(error, Error::Cancelled(_));
        let mut records = take(&mut self.records).into_iter();
        let result = Err(error);
        // Shown only once, even if it fails several images.
        let mut text = text(None, &Record::default(), &result);
        for at in 0..results.asked.len() {
            let record = records.next().unwrap_or_default();
            let report = match &results.ended[at] {
                Some(ended) => results.report(at, &ended.record, ended.elapsed, &ended.result),
                None => results.report(at, &record, elapsed, &result),
            };
            if results.ended[at].is_none() {
                let json = report.json();
                let ending = Ending { is_failure: true, text: &take(&mut text), json: &json };
                ImageReporter { reporter: &reporter, at }.show(&Update::Finished(ending));
            }
            reporter.clear();
            if at >= results.told {
                // A write error is ignored, since the call already reports another one.
                let mut out = io::stdout().lock();
                let palette = Palette::of(&out);
                let _ = report.write(self.options.format, palette, &mut out);
            }
        }
        if is_cancelled || results.status == 0 {
            results.status = status;
        }
        // The files list the images that were pushed before the error.
        self.reporter = Some(reporter);
        self.finish();
    }

    /// Prints the summary, and writes the requested files.
    fn finish(&mut self) {
        let reporter = self.reporter.take().unwrap_or_else(|| self.new_reporter());
        self.results.summarize(&reporter);
        if let Some(files) = self.files.take()
            && let Err(error) =
                files.write(&self.results.pushed(), |warning| reporter.say(Level::Warning, warning))
        {
            self.results.fail_to_write(&error, &reporter);
        }
        reporter.clear();
    }
}
