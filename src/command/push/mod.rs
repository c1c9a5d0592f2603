//! Pushes: of several images, to several places, some at once.

mod files;
mod report;

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::env;
use std::future::Future;
use std::io::{self, IsTerminal};
use std::mem::take;
use std::rc::Rc;
use std::time::{Duration, Instant};

use futures_util::stream::{self, StreamExt as _};
use tokio::sync::Mutex;
use tokio::time::{Interval, MissedTickBehavior, interval_at};

use crate::cli::{DockerOptions, ProgressMode, PushOptions};
use crate::command::LIST_TIMEOUT;
use crate::command::push::files::Files;
use crate::command::push::report::Report;
use crate::credentials::Credentials;
use crate::credentials::keyring::Keyring;
use crate::credentials::prompt::Terminal;
use crate::engine::Engine;
use crate::engine::images::LocalImage;
use crate::error::Error;
use crate::gate::{Gate, Lead};
use crate::present::{
    Display, Ending, Json, Level, Moment, Plain, Presenter, Raw, Silent, Speaker, Tty, terminal_size,
};
use crate::print::{unless_closed, worded};
use crate::push::{Outcome, Push, Record, Session, Status, beside, suggest};
use crate::reference::Reference;
use crate::remote::Remote;
use crate::secret::Secret;
use crate::setup::{engine, given_login, keyring, trace};
use crate::target::{Target, expand, targets};
use crate::text::{amount, clean};

/// Pushes what was asked for, and returns the exit status; the arguments are those of [`super::run`].
pub async fn run(
    docker: &DockerOptions,
    options: &PushOptions,
    auth_config: Option<Secret>,
    cancelled: impl Future<Output = u8>,
) -> u8 {
    let results = Results { options, asked: Vec::new(), ended: Vec::new(), told: 0, status: 0 };
    let mut run = Run { docker, options, results, records: Vec::new(), display: None, files: None };
    let started = Instant::now();
    // Credentials may be read from stdin, before signals are caught: until then they end the process.
    let ended = match run.plan().and_then(|()| given_login(&options.given)) {
        Err(error) => Err(error),
        Ok(given) => tokio::select! {
            // Signals are caught before anything is started.
            biased;
            // Dropping the pushes closes their connections, and with that the engine stops.
            status = cancelled => Err(Error::Cancelled(status)),
            ended = run.all(given, auth_config) => ended,
        },
    };
    if let Err(error) = ended {
        run.fail(error, started.elapsed());
    }
    run.results.status
}

/// One call of the program.
struct Run<'a> {
    docker: &'a DockerOptions,
    options: &'a PushOptions,
    results: Results<'a>,
    /// What is known of each image so far; of one that has ended it is with its result.
    records: Vec<Record>,
    /// Once it is known what is to be shown.
    display: Option<Rc<Display>>,
    files: Option<Files>,
}

/// What was asked for, and how it went.
struct Results<'a> {
    options: &'a PushOptions,
    asked: Vec<Asked>,
    /// How each of them ended, if it has.
    ended: Vec<Option<Ended>>,
    /// How many were written, in the order asked.
    told: usize,
    /// Of the first failure in that order.
    status: u8,
}

struct Asked {
    typed: String,
    /// `None`: what was typed names nothing.
    target: Option<Target>,
}

struct Ended {
    result: Result<Outcome, Error>,
    record: Record,
    elapsed: Duration,
}

impl Asked {
    fn reference(&self) -> Option<&Reference> {
        self.target.as_ref().map(|target| &target.reference)
    }

    /// As people write it.
    fn name(&self) -> String {
        self.reference().map_or_else(|| clean(&self.typed), Reference::familiar)
    }

    fn canonical(&self) -> String {
        self.reference().map_or_else(|| clean(&self.typed), Reference::canonical)
    }
}

impl<'a> Run<'a> {
    /// Reads what was typed. Nothing is asked or sent before all of it makes sense.
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
    /// What stands in the way of all of it, and that somebody at a prompt gave up. Each image's own failures
    /// are with its result.
    async fn all(&mut self, given: Option<Credentials>, auth_config: Option<Secret>) -> Result<(), Error> {
        self.files =
            Some(Files::prepare(self.options, self.results.asked.len() > 1 || self.options.all_tags)?);
        let mut warnings = Vec::new();
        let prepared = keyring(self.docker, given, auth_config, |warning| warnings.push(warning));
        // They belong to the call: its first image has them.
        self.records.push(Record { warnings, ..Record::default() });
        let (keyring, terminal) = prepared?;
        let session = self.session(keyring, terminal);
        let asked = engine(self.docker, &session.keyring.config);
        if self.options.all_tags {
            // What it is about, only the engine can tell.
            let mut engine = asked.await?;
            let tagless = self.expand(&mut engine).await?;
            self.records.resize_with(self.results.asked.len(), Record::default);
            let display = Rc::clone(self.display.insert(self.new_display()));
            for (at, error) in tagless {
                let (result, record, elapsed) = (Err(error), take(&mut self.records[at]), Duration::ZERO);
                self.results.end(at, Ended { result, record, elapsed }, &display);
            }
            return self.push(&session, &display, engine).await;
        }
        self.records.resize_with(self.results.asked.len(), Record::default);
        let display = Rc::clone(self.display.insert(self.new_display()));
        let registries: Vec<String> = self.results.registries().into_iter().map(str::to_owned).collect();
        let ahead = session.look_ahead(&registries, &display);
        beside(ahead, async { self.push(&session, &display, asked.await?).await }).await
    }

    /// Pushes all that has not failed already.
    async fn push(&mut self, session: &Session<'_>, display: &Display, engine: Engine) -> Result<(), Error> {
        let spare = engine.fork();
        let engines = RefCell::new(vec![engine]);
        let Self { results, records, files, .. } = self;
        let work: Vec<Option<Target>> = results
            .asked
            .iter()
            .zip(&results.ended)
            .map(|(asked, ended)| asked.target.clone().filter(|_| ended.is_none()))
            .collect();
        let repository = |target: &Target| target.reference.repository();
        let leads: HashMap<String, Lead> =
            work.iter().flatten().map(|target| (repository(target), Lead::default())).collect();
        let work = work.iter().zip(records).enumerate();
        let work = work.filter_map(|(at, (target, record))| Some((at, target.as_ref()?, record)));
        // The first into each repository, since the others wait for it.
        let (at_once, mut begun) = (parallel(self.options), HashSet::new());
        let (first, rest): (Vec<_>, Vec<_>) =
            work.partition(|(_, target, _)| at_once == 1 || begun.insert(repository(target)));
        let pushes = first.into_iter().chain(rest).map(|(at, target, record)| {
            let speaker = Speaker { display, at };
            let (engines, spare, lead) = (&engines, &spare, &leads[&repository(target)]);
            async move {
                let _turn = lead.follow().await;
                // One that is connected, if one is free.
                let mut engine = engines.borrow_mut().pop().unwrap_or_else(|| spare.fork());
                let started = Instant::now();
                let push = Push::new(session, target, &mut engine, speaker, record);
                let result = push.run().await.map_err(Error::from);
                engines.borrow_mut().push(engine);
                if result.is_ok() {
                    lead.open();
                }
                (at, Ended { result, record: take(record), elapsed: started.elapsed() })
            }
        });
        let mut pushes = stream::iter(pushes).buffer_unordered(at_once);
        let mut ticks = ticks(display);
        let given_up = loop {
            tokio::select! {
                ended = pushes.next() => match ended {
                    None => break None,
                    // At the prompt: that is meant for all of it.
                    Some((at, Ended { result: Err(error @ Error::Cancelled(_)), record, .. })) => {
                        break Some((at, record, error));
                    }
                    Some((at, ended)) => results.end(at, ended, display),
                },
                () = next_tick(&mut ticks) => display.tick(),
            }
            results.write_out(display);
        };
        drop(pushes);
        if let Some((at, record, error)) = given_up {
            self.records[at] = record;
            return Err(error);
        }
        results.write_out(display);
        results.summarize(display);
        let pushed = results.pushed();
        if let Some(files) = files.take()
            && let Err(error) = files.write(&pushed, |warning| display.say(Level::Warning, warning))
        {
            results.fail_to_write(&error, display);
        }
        display.clear();
        Ok(())
    }

    fn session(&self, keyring: Keyring, terminal: Option<Terminal>) -> Session<'a> {
        let references = self.results.asked.iter().filter_map(Asked::reference);
        let gate =
            |reference: &Reference| (reference.domain().to_owned(), Gate::new(self.options.save_credentials));
        Session {
            options: self.options,
            terminal: terminal.filter(|_| !self.options.no_prompt),
            naming: Mutex::default(),
            dialogue: Mutex::default(),
            gates: references.map(gate).collect(),
            remote: Remote::new(trace(self.docker)),
            detours: RefCell::default(),
            made: RefCell::default(),
            keyring,
        }
    }

    /// A repository stands for the tags of it that the engine has, in the order of names. They are pushed one
    /// by one, since podman does not know "all", and so that each has its result. Of a repository without any
    /// the failure is returned, with its place.
    async fn expand(&mut self, engine: &mut Engine) -> Result<Vec<(usize, Error)>, Error> {
        let mut tagless = Vec::new();
        if !self.options.all_tags {
            return Ok(tagless);
        }
        let images = engine.local_images(LIST_TIMEOUT).await?;
        let mut expanded = Vec::new();
        for Asked { typed, target } in &self.results.asked {
            let Some(target) = target else { continue };
            let repository: Reference = target.local_name.parse().expect("a reference was checked");
            let tag = |image: &LocalImage| {
                let named = image.name.parse::<Reference>().ok()?;
                let tag = named.tag().filter(|_| named.repository() == repository.repository())?;
                Some(tag.to_owned())
            };
            let mut tags: Vec<String> = images.iter().filter_map(tag).collect();
            tags.sort();
            tags.dedup();
            if tags.is_empty() {
                let suggestion = suggest(&repository, &repositories(images.clone()));
                let error = Error::NoTags { repository: repository.familiar_repository(), suggestion };
                tagless.push((expanded.len(), error));
                expanded.push((typed.clone(), target.clone()));
                continue;
            }
            expanded.extend(expand(target, &tags).into_iter().map(|target| (typed.clone(), target)));
        }
        self.ask_for(expanded);
        Ok(tagless)
    }

    /// The presenter of the mode that is wanted, which has told what is to be told by now.
    fn new_display(&self) -> Rc<Display> {
        let asked = self.results.asked.iter();
        let (names, canonical) = (asked.clone().map(Asked::name), asked.map(Asked::canonical));
        let (names, canonical) = (names.collect::<Vec<_>>(), canonical.collect());
        let out = io::stderr;
        let presenter: Box<dyn Presenter> = match self.mode() {
            ProgressMode::None => Box::new(Silent::new(out(), names)),
            ProgressMode::Tty => Box::new(Tty::new(out(), names, terminal_size)),
            ProgressMode::Json => Box::new(Json::new(out(), canonical)),
            ProgressMode::Rawjson => Box::new(Raw::new(out(), names)),
            ProgressMode::Auto | ProgressMode::Plain => Box::new(Plain::new(out(), names)),
        };
        let display = Display::new(presenter);
        for warning in self.records.first().iter().flat_map(|record| &record.warnings) {
            display.say(Level::Warning, warning);
        }
        if !self.options.all_tags
            && self
                .results
                .asked
                .iter()
                .filter_map(Asked::reference)
                .any(|reference| reference.tag().is_none())
        {
            display.say(Level::Note, "Using default tag: latest");
        }
        Rc::new(display)
    }

    /// `auto`: redrawing on a terminal that can do it, else lines.
    fn mode(&self) -> ProgressMode {
        let term = env::var_os("TERM").unwrap_or_default();
        let can_redraw = || io::stderr().is_terminal() && !term.is_empty() && term != "dumb";
        match self.options.progress {
            _ if self.options.quiet => ProgressMode::None,
            // A redrawn screen and lines of debugging spoil each other.
            ProgressMode::Auto if !self.docker.is_debug() && can_redraw() => ProgressMode::Tty,
            ProgressMode::Auto => ProgressMode::Plain,
            mode => mode,
        }
    }

    /// What went wrong with the call as a whole is the end of every image that has none so far.
    fn fail(&mut self, error: Error, elapsed: Duration) {
        let display = self.display.take().unwrap_or_else(|| self.new_display());
        let results = &mut self.results;
        results.ended.resize_with(results.asked.len(), || None);
        // Who interrupts wants to know that of all.
        let status = error.exit_status();
        let is_cancelled = matches!(error, Error::Cancelled(_));
        let mut records = take(&mut self.records).into_iter();
        let result = Err(error);
        // Once, however many it is the end of.
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
                Speaker { display: &display, at }.show(&Moment::Ended(ending));
            }
            display.clear();
            if at >= results.told {
                // There is an error to tell already.
                let _ = report.write(self.options.format, &mut io::stdout().lock());
            }
        }
        // What was pushed before that is to be found all the same.
        results.summarize(&display);
        if let Some(files) = self.files.take()
            && let Err(error) = files.write(&results.pushed(), |warning| display.say(Level::Warning, warning))
        {
            display.say(Level::Notice, &worded(&error));
        }
        display.clear();
        if is_cancelled || results.status == 0 {
            results.status = status;
        }
    }
}

impl Results<'_> {
    /// Each once, in the order asked.
    fn registries(&self) -> Vec<&str> {
        let mut seen = HashSet::new();
        let asked = self.asked.iter().filter_map(Asked::reference).map(Reference::domain);
        asked.filter(|registry| seen.insert(*registry)).collect()
    }

    fn report<'b>(
        &'b self,
        at: usize,
        record: &'b Record,
        elapsed: Duration,
        result: &'b Result<Outcome, Error>,
    ) -> Report<'b> {
        let Asked { typed, .. } = &self.asked[at];
        Report { typed, reference: self.asked[at].reference(), record, elapsed, result }
    }

    /// An image has ended, which is told at once.
    fn end(&mut self, at: usize, ended: Ended, display: &Display) {
        let Ended { result, record, elapsed } = &ended;
        let json = self.report(at, record, *elapsed, result).json();
        // Of a dry run the result says it all.
        let text = if self.options.dry_run && result.is_ok() {
            String::new()
        } else {
            text(self.asked[at].reference(), record, result)
        };
        let ending = Ending { is_failure: result.is_err(), text: &text, json: &json };
        Speaker { display, at }.show(&Moment::Ended(ending));
        self.ended[at] = Some(ended);
    }

    /// Writes the results of which all before them are known; but not into a question, nor into what is redrawn:
    /// they may go to the same terminal, also by way of `tee`.
    fn write_out(&mut self, display: &Display) {
        let is_next_known = self.ended.get(self.told).is_some_and(Option::is_some);
        if !is_next_known || display.is_held() {
            return;
        }
        display.clear();
        while let Some(Some(Ended { result, record, elapsed })) = self.ended.get(self.told) {
            let report = self.report(self.told, record, *elapsed, result);
            let written = unless_closed(report.write(self.options.format, &mut io::stdout().lock()));
            let failed = result.as_ref().err().map(Error::exit_status);
            self.told += 1;
            if self.status == 0 {
                self.status = failed.unwrap_or_default();
            }
            if let Err(error) = written {
                self.fail_to_write(&error, display);
            }
        }
    }

    /// The push went well, and what was to be written of it is not.
    fn fail_to_write(&mut self, error: &Error, display: &Display) {
        display.say(Level::Notice, &worded(error));
        if self.status == 0 {
            self.status = error.exit_status();
        }
    }

    /// What is in its registry, and by which digest.
    fn pushed(&self) -> Vec<(&Reference, &str)> {
        let pairs = self.asked.iter().zip(&self.ended);
        let pushed = pairs.filter_map(|(asked, ended)| {
            let named = ended.as_ref()?.result.as_ref().ok()?.named.as_ref()?;
            Some((asked.reference()?, named.digest.as_str()))
        });
        pushed.filter(|_| !self.options.dry_run).collect()
    }

    /// Of several images: how many there were, and which of them failed.
    fn summarize(&self, display: &Display) {
        if self.asked.len() < 2 {
            return;
        }
        let ended = self.ended.iter().flatten();
        let outcomes: Vec<Option<&Outcome>> = ended.map(|ended| ended.result.as_ref().ok()).collect();
        let count = |fits: &dyn Fn(Option<Status>) -> bool| {
            outcomes.iter().filter(|outcome| fits(outcome.map(|outcome| outcome.status))).count()
        };
        let parts = [
            (count(&|status| status == Some(Status::Pushed)), "pushed"),
            (count(&|status| status == Some(Status::Unchanged)), "unchanged"),
            (count(&|status| status == Some(Status::Skipped)), "skipped"),
            (count(&|status| status == Some(Status::WouldPush)), "would be pushed"),
            (count(&|status| status.is_none()), "failed"),
            (self.asked.len() - outcomes.len(), "not pushed"),
        ];
        let parts = parts.iter().filter(|(number, _)| *number > 0);
        let parts: Vec<String> = parts.map(|(number, what)| format!("{number} {what}")).collect();
        let mut lines = vec![format!("{} images: {}", self.asked.len(), parts.join(", "))];
        for (asked, ended) in self.asked.iter().zip(&self.ended) {
            match ended.as_ref().map(|ended| &ended.result) {
                Some(Ok(_)) => {}
                Some(Err(error)) => {
                    lines.push(format!("  failed: {} ({})", asked.name(), error.class().name()));
                }
                None => lines.push(format!("  not pushed: {}", asked.name())),
            }
        }
        // What failed was said where it failed; where nothing else is said, this is what can be acted on.
        let level = if lines.len() > 1 { Level::Notice } else { Level::Note };
        lines.iter().for_each(|line| display.say(level, line));
    }
}

/// How many images are pushed at once. Lines of engines do not say which image they are about.
fn parallel(options: &PushOptions) -> usize {
    if options.progress == ProgressMode::Rawjson && !options.quiet { 1 } else { options.parallel.get() }
}

fn ticks(display: &Display) -> Option<Interval> {
    let period = display.period()?;
    let mut ticks = interval_at(tokio::time::Instant::now() + period, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    Some(ticks)
}

async fn next_tick(ticks: &mut Option<Interval>) {
    match ticks {
        Some(ticks) => _ = ticks.tick().await,
        None => std::future::pending().await,
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

/// How it ended, for people.
fn text(reference: Option<&Reference>, record: &Record, result: &Result<Outcome, Error>) -> String {
    let name = reference.map(Reference::familiar).unwrap_or_default();
    match result.as_ref().map(|outcome| outcome.status) {
        Err(error) => worded(error),
        Ok(Status::Unchanged) => format!("unchanged {name}: the registry has this image under this tag"),
        Ok(Status::Skipped) => format!("skipped {name}: the tag is in the registry already"),
        Ok(Status::Pushed | Status::WouldPush) => summary(&name, record),
    }
}

/// `pushed app:1: 1 of 3 layers sent, 1 mounted, 21 MB in 1.3 s`, of which each part is said only
/// where the engine told of it: podman names no layers, the containerd store no bytes of small ones.
fn summary(name: &str, record: &Record) -> String {
    let progress = &record.progress;
    let counts = progress.counts();
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
    if counts.exists > 0 {
        parts.push(format!("{} there already", counts.exists));
    }
    if progress.bytes().0 > 0 {
        parts.push(amount(progress.bytes().0));
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
                "pushed app:1: 1 of 2 layers sent, 1 there already in 0.0 s",
            ),
            (vec![mounted()], "pushed app:1: 0 of 1 layers sent, 1 mounted in 0.0 s"),
            (vec![mounted(), pushing], "pushed app:1: 0 of 2 layers sent, 1 mounted, 5 B in 0.0 s"),
        ];
        for (states, want) in table {
            let mut record = Record::default();
            for (at, state) in states.into_iter().enumerate() {
                record.progress.apply(&Event::Layer { id: at.to_string(), state });
            }
            assert_eq!(summary("app:1", &record), want);
            record.verified = Some(true);
            assert_eq!(summary("app:1", &record), format!("{want}, verified"));
        }
    }
}
