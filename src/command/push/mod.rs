//! The command `docker regpush IMAGE…`: pushes images to their registries, several images at the same time.

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

use crate::cli::{DockerOptions, ProgressMode, PushOptions, RelayMode};
use crate::command::push::all_tags::{Expanded, expand_all};
use crate::command::push::files::Files;
use crate::command::push::results::{Asked, Finished, Results, text};
use crate::command::push::schedule::push_all;
use crate::credentials::command::Given;
use crate::credentials::keyring::Keyring;
use crate::credentials::prompt::Terminal;
use crate::error::Error;
use crate::present::presenter::{Ending, ImageReporter, Level, Reporter, Update};
use crate::present::{ImageName, for_mode};
use crate::push::image::with_background;
use crate::push::outcome::Record;
use crate::push::pool::RegistryPool;
use crate::push::session::Session;
use crate::push::target::{Target, targets};
use crate::reference::Reference;
use crate::secret::Secret;
use crate::setup::{connection, engine, given_login, keyring, trace};

/// Pushes the images that the options name, and returns the exit status of the program. [`crate::command::run`]
/// describes the arguments.
pub async fn run(
    docker: &DockerOptions,
    options: &PushOptions,
    auth_config: Option<Secret>,
    cancelled: impl Future<Output = u8>,
) -> u8 {
    let results = Results { options, asked: Vec::new(), ended: Vec::new(), told: 0, status: 0 };
    let mut run = Run { docker, options, results, records: Vec::new(), reporter: None, files: None };
    let started = Instant::now();
    // `given_login` may read credentials from stdin. Signals are not caught yet, so a signal during the read kills
    // the process.
    let ended = match run.plan().and_then(|()| given_login(&options.given)) {
        Err(error) => Err(error),
        Ok(given) => tokio::select! {
            // Polls `cancelled` before `run.all`, so that signals are caught before any push starts.
            biased;
            // Dropping `run.all` closes the connections to the engine, and the engine then stops the pushes.
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

/// The state of one run of `docker regpush IMAGE…`.
struct Run<'a> {
    docker: &'a DockerOptions,
    options: &'a PushOptions,
    results: Results<'a>,
    /// The record of each image whose push has not ended. After the push, `results` contains the record.
    records: Vec<Record>,
    /// Shows progress on stderr; `None` until the references of all images are known.
    reporter: Option<Rc<Reporter>>,
    files: Option<Files>,
}

impl<'a> Run<'a> {
    /// Checks the images and options of the command line, before any prompt or HTTP request.
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

    /// Pushes all images.
    ///
    /// # Errors
    /// A problem prevents all pushes, or the user gave up at a prompt. An error that concerns only one image is
    /// stored in the result of that image.
    async fn all(&mut self, given: Option<Given>, auth_config: Option<Secret>) -> Result<(), Error> {
        self.files =
            Some(Files::prepare(self.options, self.results.asked.len() > 1 || self.options.all_tags)?);
        let mut warnings = Vec::new();
        if self.options.relay == RelayMode::Never
            && let Some(option) = self.options.relay_option()
        {
            warnings
                .push(format!("the engine uploads the images (--relay never), and does not use {option}"));
        }
        let prepared = keyring(self.docker, given, auth_config, |warning| warnings.push(warning));
        // Warnings that concern all images are recorded with the first image.
        self.records.push(Record { warnings, ..Record::default() });
        let (keyring, terminal) = prepared?;
        let session = self.session(keyring, terminal)?;
        let asked = engine(self.docker, &session.keyring.config);
        if self.options.all_tags {
            // With `--all-tags`, the reporter is created after the engine has listed the tags.
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
        let references: Vec<Reference> =
            self.results.asked.iter().filter_map(Asked::reference).cloned().collect();
        let prefetch = session.prefetch_credentials(&references, &reporter);
        let push =
            async { push_all(&session, &reporter, asked.await?, &mut self.results, &mut self.records).await };
        with_background(prefetch, push).await
    }

    fn session(&self, keyring: Keyring, terminal: Option<Terminal>) -> Result<Session<'a>, Error> {
        let references = self.results.asked.iter().filter_map(Asked::reference);
        let pool = RegistryPool::new(connection(&self.options.connection)?, trace(self.docker));
        Ok(Session::new(self.options, keyring, terminal, references, pool))
    }

    /// Returns a reporter for the chosen progress mode. Shows the warnings that concern all images, and a note if an
    /// image has no tag.
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

    /// Returns the progress mode. `auto` becomes `tty` if stderr is a terminal that can redraw lines, and `plain` if
    /// not.
    fn mode(&self) -> ProgressMode {
        let term = env::var_os("TERM").unwrap_or_default();
        let can_redraw = || io::stderr().is_terminal() && !term.is_empty() && term != "dumb";
        match self.options.progress {
            _ if self.options.quiet => ProgressMode::None,
            // With `--debug`, `auto` becomes `plain`, because debug messages on stderr would break redrawn lines.
            ProgressMode::Auto if !self.docker.is_debug() && can_redraw() => ProgressMode::Tty,
            ProgressMode::Auto => ProgressMode::Plain,
            mode => mode,
        }
    }

    /// Reports `error`, which concerns all images, as the result of every image whose push has not ended.
    fn fail(&mut self, error: Error, elapsed: Duration) {
        let reporter = self.reporter.take().unwrap_or_else(|| self.new_reporter());
        let results = &mut self.results;
        results.ended.resize_with(results.asked.len(), || None);
        // After an interrupt, the exit status is that of the interrupt, even if an image had failed before.
        let status = error.exit_status();
        let is_cancelled = matches!(error, Error::Cancelled(_));
        let mut records = take(&mut self.records).into_iter();
        let result = Err(error);
        // The error message is shown only once, for the first image whose push has not ended.
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
                // A write error is ignored, since the program already reports another error.
                let _ = report.print(self.options.format);
            }
        }
        if is_cancelled || results.status == 0 {
            results.status = status;
        }
        // `finish` writes the files that the options request. The files list the images that were pushed before the
        // error.
        self.reporter = Some(reporter);
        self.finish();
    }

    /// Prints the summary, and writes the files that the options request.
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
