//! Pushes one image to a registry: adds a local tag, checks the tag in the registry, uploads, verifies, and removes
//! the local tag.
//!
//! [`Push`] runs these steps, and [`Conversation`] decides the next step after a failed attempt.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use futures_util::future::{Either, select};
use tokio::time::Instant;

use crate::cli::{IfExists, PushOptions, RelayMode};
use crate::credentials::Credentials;
use crate::credentials::login::{Login, Source};
use crate::engine::Engine;
use crate::engine::error::EngineError;
use crate::engine::tag::TemporaryTag;
use crate::event::{Event, LayerState};
use crate::failure::{Class, Phase};
use crate::platform::PlatformSelection;
use crate::present::presenter::{Level, Update};
use crate::progress::Progress;
use crate::push::announce::Announcer;
use crate::push::conversation::{Conversation, FailedAttempt, Step};
use crate::push::error::{AttemptError, Cause, PushError, Refusal, Way};
use crate::push::gate::{ActiveCredentials, Gate, Pass};
use crate::push::login::{LoginError, Question};
use crate::push::naming::untag;
use crate::push::outcome::{ImageLog, Outcome, Status};
use crate::push::session::Session;
use crate::push::subject::Subject;
use crate::push::suggest::suggest;
use crate::push::target::Target;
use crate::push::upload::{Route, may_help};
use crate::push::{
    announce, conversation, credentials, diagnose, dry_run, existing, naming, preflight, save, upload, verify,
};
use crate::retry::{AttemptFailure, NextAttempt, root_cause};

/// The timeout for listing the engine's images, which serve only to suggest an image in a hint.
const LIST_TIMEOUT: Duration = Duration::from_secs(2);

/// The push of one image to one destination.
pub struct Push<'a> {
    session: &'a Session<'a>,
    target: &'a Target,
    options: &'a PushOptions,
    engine: &'a mut Engine,
    gate: &'a Gate,
    /// The pass of the registry's gate. While this push holds the pass, no other push tries new credentials for the
    /// registry or prompts the user.
    pass: Option<Pass<'a>>,
    route: Route,
    /// The failure of the engine's upload, if the relay uploads the image for this reason.
    engine_failure: Option<Cause>,
    announcer: &'a Announcer<'a>,
    /// The remaining time of `--timeout`. Time at prompts, or while the push waits for other pushes, does not count.
    time_left: Option<Duration>,
    log: ImageLog<'a>,
}

impl<'a> Push<'a> {
    pub fn new(
        session: &'a Session<'a>,
        engine: &'a mut Engine,
        target: &'a Target,
        route: Route,
        announcer: &'a Announcer<'a>,
        log: ImageLog<'a>,
    ) -> Self {
        let options = session.options;
        Self {
            session,
            target,
            options,
            engine,
            gate: session.gate(&target.reference),
            pass: None,
            route,
            engine_failure: None,
            announcer,
            time_left: options.timeout.filter(|timeout| !timeout.is_zero()),
            log,
        }
    }

    /// Pushes the image. Removes the local tag that was added for the push, even if the push fails.
    ///
    /// # Errors
    /// [`PushError`]. The record contains the progress of the push up to the error.
    pub async fn run(self) -> Result<Outcome, PushError> {
        self.log.record.is_relayed = self.route.is_relay();
        let route = self.log.record.route();
        self.log.reporter.show(&Update::Start { is_dry_run: self.options.dry_run, route });
        if !preflight::connects_early(self.session, self.engine) {
            return Box::pin(self.prepare_and_push()).await;
        }
        let (session, domain, mut engine) = (self.session, self.registry(), self.engine.fork());
        let connect = session.pool.connect_early(&mut engine, domain);
        with_background(connect, Box::pin(self.prepare_and_push())).await
    }

    async fn prepare_and_push(mut self) -> Result<Outcome, PushError> {
        self.check_platforms().await?;
        let tag = match self.in_time(Self::prepare).await? {
            Ok(tag) => tag,
            Err(AttemptError::Fatal(error)) => return Err(error),
            Err(AttemptError::Retryable { cause, .. }) => {
                let login = ActiveCredentials::anonymous().login;
                return Err(PushError::Refused(Box::new(self.refusal(cause, login).await)));
            }
        };
        let result = Box::pin(self.push_with_auth()).await;
        self.route.clean_up(self.session, self.engine, &mut self.log).await;
        if let Some(tag) = tag {
            untag(self.session, self.engine, tag, &mut self.log).await;
        }
        result
    }

    /// Returns an error if `--platform` selects one platform and the engine cannot push a single platform.
    async fn check_platforms(&mut self) -> Result<(), PushError> {
        if self.options.platform.as_ref().and_then(PlatformSelection::one).is_none() {
            return Ok(());
        }
        match self.engine.lacks_platforms().await {
            Ok(None) => Ok(()),
            Ok(Some(reason)) => Err(PushError::NoPlatforms { reference: self.name(), reason }),
            Err(error) => Err(self.engine_error(error)),
        }
    }

    /// Adds the local tag that the push needs. Tells the user the image's platforms if this method inspects the image.
    async fn prepare(&mut self) -> Result<Option<TemporaryTag>, AttemptError> {
        let anonymous = ActiveCredentials::anonymous();
        let subject = self.subject(&anonymous);
        if self.target.is_renamed() {
            let image = naming::inspect_source(self.engine, &subject, self.target).await?;
            self.announcer.announce(&image)?;
            let tag = naming::ensure_tag(self.session, self.engine, &subject, image, &mut self.log).await?;
            return Ok(tag);
        }
        if !self.engine.tells_platforms() {
            self.announcer.skip();
            return Ok(None);
        }
        // `--platform` and `--dry-run` need the platforms before the upload. Without these options, a background task
        // inspects the image during the upload. Errors are ignored, since the upload reports a missing image.
        let is_needed_now = self.options.platform.is_some() || self.options.dry_run;
        if (is_needed_now || self.engine.is_connect_expensive())
            && let Ok(image) = self.engine.inspect(subject.local_name).await
        {
            self.announcer.announce(&image)?;
        }
        Ok(None)
    }

    /// Attempts the push, first with the credentials that were found for the registry. After a failed attempt, the
    /// [`Conversation`] decides the next step.
    async fn push_with_auth(&mut self) -> Result<Outcome, PushError> {
        let has_terminal = self.session.terminal.is_some();
        let mut conversation = Conversation::new(self.options.retries, has_terminal, self.options.no_prompt);
        let mut active = self.enter().await?;
        loop {
            if self.pass.is_none() && !self.gate.is_open() {
                // The registry has accepted no push with the newest credentials so far, so this push must run alone.
                active = self.enter().await?;
            }
            if active.has_expired() && active.login.source == Source::Command {
                active = match self.newer_than(active.number).await {
                    Some(newer) => newer,
                    None => self.renew(&active, false).await.unwrap_or(active),
                };
            }
            self.log.record.login = Some(active.login.clone());
            let attempt = self.in_time(async |push: &mut Self| push.attempt(&active).await).await?;
            let (cause, max_retries, may_write) = match attempt {
                Ok(outcome) => {
                    self.gate.open(&mut self.pass);
                    if conversation.are_accepted() {
                        Box::pin(self.save(&active.credentials)).await;
                    }
                    return Ok(outcome);
                }
                // The failure of the engine's upload says more than that of the relay, which no option asked for.
                Err(AttemptError::Fatal(PushError::NoRelay { reason, .. }))
                    if self.engine_failure.is_some() =>
                {
                    self.log.note(&upload::cannot_replace_engine(&reason));
                    self.log.record.is_relayed = false;
                    let cause = self.engine_failure.take().expect("checked above");
                    return Err(PushError::Refused(Box::new(self.refusal(cause, active.login).await)));
                }
                Err(AttemptError::Fatal(error)) => return Err(error),
                Err(AttemptError::Retryable { cause, max_retries, may_write }) => {
                    (cause, max_retries, may_write)
                }
            };
            let class = cause.class();
            if self.in_time(async |push: &mut Self| push.switch_to_relay(&cause, &active).await).await? {
                self.log.record.failures.push(root_cause(&cause.reason(), class));
                self.engine_failure = Some(cause);
                continue;
            }
            let failed = self.failed(&cause, max_retries, may_write, &active);
            let is_expired_token = failed.is_expired_token();
            let mut step = conversation.next(conversation::Event::Failed(failed));
            if step == Step::AvoidMounts {
                self.log
                    .note("the registry refuses the engine's upload, but accepts one from the plugin; trying once without mounts");
                self.session.detours.borrow_mut().avoid_mounts(&self.target.reference);
                continue;
            }
            if step == Step::CheckExisting {
                let subject = self.subject(&active);
                if let Some(named) = Box::pin(existing::find_same(self.session, self.engine, &subject)).await
                {
                    if class == Class::Rejected {
                        self.log.note(
                            "the registry refuses to change the tag, which already points to this image",
                        );
                        return Ok(Outcome::new(Status::Unchanged, named));
                    }
                    let reason = cause.reason();
                    self.log.warn(format!(
                        "the engine reported a failure, but the registry has the image: {reason}"
                    ));
                    return Ok(Outcome::new(Status::Pushed, named));
                }
                step = conversation.next(conversation::Event::NotInRegistry);
            }
            if step == Step::Repeat {
                self.log
                    .note("the registry refused the credentials during the upload; trying them once more");
                continue;
            }
            self.log.record.failures.push(root_cause(&cause.reason(), class));
            if !cause.verdict().can_prompt {
                // The credentials did not cause the failure, so other pushes may use the credentials.
                self.pass = None;
            }
            if let Step::Wait(next) = step {
                self.in_time(async |push: &mut Self| push.wait(&next).await).await?;
                continue;
            }
            if conversation.are_accepted() && class != Class::Auth {
                // Save the credentials although the push failed, because the registry accepted the credentials at the
                // prompt.
                Box::pin(self.save(&active.credentials)).await;
            }
            let is_short_token = is_expired_token && may_write && step == Step::Fail;
            let next = self.fail_or_change_credentials(&mut conversation, step, cause, active);
            active = match Box::pin(next).await {
                Err(PushError::Refused(mut refusal)) if is_short_token => {
                    refusal.way = Some(Way::ShortToken);
                    return Err(PushError::Refused(refusal));
                }
                next => next?,
            };
            self.log.record.failures.clear();
        }
    }

    /// Lets the next attempt go through the relay if `--relay auto` allows this, and the failure is one that the relay may
    /// avoid. Returns whether it does.
    async fn switch_to_relay(&mut self, cause: &Cause, active: &ActiveCredentials) -> bool {
        let is_in_reach =
            self.session.pool.has_responded(self.registry()) && !self.log.record.progress.has_moved();
        let is_allowed = self.options.relay == RelayMode::Auto && !self.options.dry_run;
        if !is_allowed || !may_help(cause, is_in_reach) {
            return false;
        }
        let subject = self.subject(active);
        self.route.switch_to_relay(self.session, self.engine, &subject, &mut self.log, cause).await
    }

    /// Returns newer credentials, from another push or from a prompt.
    ///
    /// * `step`: the step that the conversation returned for the last failed attempt.
    /// * `cause`: the cause of that failure.
    ///
    /// # Errors
    /// The error of the last attempt, or the error of the prompt.
    async fn fail_or_change_credentials(
        &mut self,
        conversation: &mut Conversation,
        mut step: Step,
        cause: Cause,
        active: ActiveCredentials,
    ) -> Result<ActiveCredentials, PushError> {
        if step == Step::FindNewerCredentials {
            if let Some(newer) = self.newer_than(active.number).await {
                conversation.next(conversation::Event::NewerCredentials);
                return Ok(newer);
            }
            if cause.class() == Class::Auth
                && let Some(renewed) = self.renew(&active, true).await
            {
                conversation.next(conversation::Event::NewerCredentials);
                return Ok(renewed);
            }
            let has_prompt_failed = self.gate.has_prompt_failed.get();
            step = conversation.next(conversation::Event::NoNewerCredentials { has_prompt_failed });
        }
        let (class, is_typed) = (cause.class(), active.login.source == Source::Prompt);
        let mut refusal = self.refusal(cause, active.login).await;
        refusal.pattern = conversation.pattern();
        match step {
            Step::Prompt => {
                let (typed, are_accepted) = self.prompt(&refusal, &mut conversation.prompts_left).await?;
                conversation.next(conversation::Event::Typed { are_accepted });
                Ok(self.use_typed(typed, class))
            }
            Step::Fail => {
                if is_typed {
                    self.gate.has_prompt_failed.set(true);
                }
                Err(PushError::Refused(Box::new(refusal)))
            }
            Step::Attempt
            | Step::Repeat
            | Step::AvoidMounts
            | Step::CheckExisting
            | Step::Wait(_)
            | Step::FindNewerCredentials => {
                unreachable!("handled above")
            }
        }
    }

    /// Makes one attempt: checks the tag in the registry, uploads the image, and verifies the push.
    async fn attempt(&mut self, active: &ActiveCredentials) -> Result<Outcome, AttemptError> {
        let subject = self.subject(active);
        self.log.record.progress = Progress::default();
        let (session, reporter) = (self.session, self.log.reporter);
        let patience = preflight::patience(session, self.engine.endpoint().address.is_here(), &subject);
        if self.engine.is_connect_expensive() {
            let found = tokio::select! {
                found = Box::pin(preflight::check(session, self.engine, &subject, reporter)) => found,
                () = patience => Ok(()),
            };
            return match found {
                Ok(()) => Box::pin(self.attempt_unchecked(&subject)).await,
                Err(cause) => Err(cause.into()),
            };
        }
        let mut other = self.engine.fork();
        let check = Box::pin(preflight::check(session, &mut other, &subject, reporter));
        let attempt = Box::pin(self.attempt_unchecked(&subject));
        let result = preflight::guard(check, patience, attempt).await;
        if result.is_err() {
            // A late refusal drops the attempt, and the engine cancels the push when the connection closes.
            self.engine.hang_up();
        }
        result
    }

    /// Makes one attempt with credentials that the registry has not refused.
    async fn attempt_unchecked(&mut self, subject: &Subject<'_>) -> Result<Outcome, AttemptError> {
        if self.options.dry_run {
            return Box::pin(self.dry_run(subject)).await;
        }
        let existing = existing::outcome_before_upload(
            self.session,
            self.engine,
            subject,
            self.announcer,
            &mut self.log,
        );
        if let Some(outcome) = Box::pin(existing).await? {
            return Ok(outcome);
        }
        let prefetch = announce::prefetch(self.session, self.engine.fork(), subject, self.announcer);
        with_background(prefetch, self.upload_and_verify(subject)).await
    }

    async fn upload_and_verify(&mut self, subject: &Subject<'_>) -> Result<Outcome, AttemptError> {
        let (session, announcer) = (self.session, self.announcer);
        self.log.record.attempts += 1;
        let Self { engine, gate, pass, route, log, .. } = self;
        let on_event = |event: &Event| {
            if shows_access(event) {
                gate.open(pass);
            }
        };
        let uploaded = route.upload(session, engine, subject, log, on_event).await?;
        let pushed = uploaded.descriptor;
        self.log.record.pushed = Some(pushed.clone());
        if let Some(narrowed) = uploaded.narrowed {
            if self.options.platform == Some(PlatformSelection::All) {
                return Err(PushError::Narrowed { reference: self.name(), digest: pushed.digest }.into());
            }
            announcer.announce_late(self.engine, subject).await?;
            self.log.warn(announcer.narrow(narrowed));
        }
        // Open the gate before the verification, since the upload already shows that the registry accepts the
        // credentials.
        self.gate.open(&mut self.pass);
        Box::pin(self.save(&subject.active.credentials)).await;
        Box::pin(verify::verify(session, self.engine, subject, &pushed, announcer, &mut self.log)).await?;
        announcer.announce_late(self.engine, subject).await?;
        Ok(Outcome::new(Status::Pushed, pushed))
    }

    /// Makes a dry run (`--dry-run`) instead of a push.
    async fn dry_run(&mut self, subject: &Subject<'_>) -> Result<Outcome, AttemptError> {
        let needs_tag = matches!(self.options.if_exists, IfExists::Skip | IfExists::Fail);
        let found = dry_run::run(&self.session.pool, self.engine, subject, needs_tag).await;
        let findings = found.map_err(|error| subject.attempt_error(error))?;
        let unknown = findings.unknown.as_deref().map(existing::cannot_look_up);
        unknown.into_iter().chain(findings.warning.clone()).for_each(|warning| self.log.warn(warning));
        let findings = self.log.record.findings.insert(findings);
        let outcome = existing::if_exists_outcome(
            self.options.if_exists,
            subject.reference,
            findings.named.clone(),
            findings.is_same,
            findings.id.clone(),
        )?;
        Ok(outcome.unwrap_or(Outcome::new(Status::WouldPush, None)))
    }

    /// Returns the credentials for the registry. Keeps the pass of the registry's gate until the registry has accepted
    /// a push with these credentials.
    ///
    /// # Errors
    /// The command of `--password-command` fails.
    async fn enter(&mut self) -> Result<ActiveCredentials, PushError> {
        let mut pass = self.gate.enter().await;
        let active = match pass.of(&self.target.reference.repository()) {
            Some(active) => active.clone(),
            None => credentials::find(self.session, &mut pass, &self.target.reference, &mut self.log).await?,
        };
        self.pass = Some(pass).filter(|_| !self.gate.is_open());
        Ok(active)
    }

    /// Runs the command of `--password-command` again, and returns the new credentials. This push must hold the pass.
    async fn renew(&mut self, active: &ActiveCredentials, is_refused: bool) -> Option<ActiveCredentials> {
        let (pass, reference) = (self.pass.as_mut()?, &self.target.reference);
        credentials::renew(self.session, pass, reference, active, is_refused, &mut self.log).await
    }

    /// Returns the next credentials after the given number, added by another push. If this method returns `None`, no
    /// newer credentials exist, and this push holds the pass of the registry's gate.
    async fn newer_than(&mut self, number: u32) -> Option<ActiveCredentials> {
        let pass = match self.pass.take() {
            Some(pass) => pass,
            None => self.gate.enter().await,
        };
        let newer = pass.newer_than(number).cloned();
        self.pass = Some(pass).filter(|_| newer.is_none() || !self.gate.is_open());
        newer
    }

    /// Prompts the user for credentials. Returns the credentials, and whether the registry has accepted the
    /// credentials.
    async fn prompt(
        &mut self,
        refusal: &Refusal,
        prompts_left: &mut usize,
    ) -> Result<(Credentials, bool), PushError> {
        let dialogue = self.session.lock_terminal().await;
        let reporter = self.log.reporter;
        // A failed connection is reported by the check through the engine.
        let of_call = self.session.pool.registry_of_call(self.engine, self.registry()).await.ok().flatten();
        let mut question = Question {
            registry: self.registry(),
            of_call: of_call.as_ref(),
            key: self.target.reference.credentials_key(),
            terminal: self.session.terminal.as_ref().expect("checked by the conversation"),
            engine: self.engine,
        };
        let held = reporter.reporter.hold();
        let tell = |line: &str| reporter.say(Level::Asking, line);
        tell(&refusal.to_string());
        // If the prompt is interrupted, `has_prompt_failed` remains set, so that no other push prompts the user again.
        self.gate.has_prompt_failed.set(true);
        let asked = question.ask(refusal.login.username.as_deref(), prompts_left, tell).await;
        self.gate.has_prompt_failed.set(asked.is_err());
        drop((held, dialogue));
        match asked {
            // If the engine could not check the credentials, the next upload shows whether the registry accepts the
            // credentials.
            Ok(login) => Ok((login.credentials, login.unchecked.is_none())),
            Err(LoginError::Engine(error)) => Err(self.engine_error(error)),
            Err(error) => Err(PushError::Login(error)),
        }
    }

    /// Adds the credentials that the user typed to the registry's gate. Returns the new active credentials.
    ///
    /// * `refused`: the class of the refusal that led to the prompt.
    fn use_typed(&mut self, typed: Credentials, refused: Class) -> ActiveCredentials {
        let login = Login::new(&typed, Source::Prompt, Vec::new());
        // An account without push access to this repository may still push to other repositories, so only this
        // repository uses the typed credentials.
        let only_for = (refused == Class::Denied).then(|| self.target.reference.repository());
        if only_for.is_none() {
            self.gate.close();
        }
        let pass = self.pass.as_mut().expect("held while prompting");
        pass.add(typed, login, self.gate.repository.clone().or(only_for))
    }

    async fn save(&mut self, credentials: &Credentials) {
        let reference = &self.target.reference;
        save::save(self.session, self.engine, self.gate, reference, credentials, &mut self.log).await;
    }

    async fn wait(&mut self, next: &NextAttempt) {
        let reason = self.log.record.failures.last().map_or("", String::as_str);
        self.log.reporter.show(&Update::Wait(next, reason));
        tokio::time::sleep(next.wait).await;
    }

    /// Runs a step of the push, limited to the remaining time of `--timeout`.
    async fn in_time<T>(&mut self, work: impl AsyncFnOnce(&mut Self) -> T) -> Result<T, PushError> {
        let Some(left) = self.time_left else { return Ok(work(self).await) };
        let started = Instant::now();
        let done = tokio::time::timeout(left, work(self)).await;
        self.time_left = Some(left.saturating_sub(started.elapsed()));
        done.map_err(|_| {
            // Close the connection, since the engine then cancels the push.
            self.engine.hang_up();
            let record = &self.log.record;
            PushError::TimedOut {
                reference: self.name(),
                after: self.options.timeout.unwrap_or_default(),
                pushed: record.pushed.as_ref().map(|pushed| pushed.digest.clone()),
                failures: record.failures.clone(),
            }
        })
    }

    fn failed(
        &self,
        cause: &Cause,
        max_retries: u32,
        may_write: bool,
        active: &ActiveCredentials,
    ) -> FailedAttempt {
        let progress = &self.log.record.progress;
        let has_pushed_layer = progress.counts().pushed > 0;
        FailedAttempt {
            failure: AttemptFailure {
                verdict: cause.verdict(),
                has_pushed_layer,
                max_retries,
                retry_after: cause.retry_after(),
                sent: progress.sent(),
            },
            source: active.login.source.clone(),
            is_anonymous: active.login.anonymous,
            asks_late: self.session.pool.asks_late(self.registry()),
            has_moved: progress.has_moved(),
            may_write,
            has_sent_manifest: progress.phase() == Phase::Manifest,
        }
    }

    async fn refusal(&mut self, cause: Cause, mut login: Login) -> Refusal {
        if cause.class() == Class::Auth {
            login.remark = self.session.keyring.why_vanished(self.registry(), &login).or(login.remark);
        }
        let reference = &self.target.reference;
        let suggestion = match cause.class() {
            Class::NotFound => {
                let wanted = self.target.local_name.parse().unwrap_or_else(|_| reference.clone());
                // If the engine does not list its images, the error suggests none of them.
                let images = self.engine.local_images(LIST_TIMEOUT).await.unwrap_or_default();
                suggest(&wanted, &images, self.target.may_be_destination_of.as_deref())
            }
            _ => None,
        };
        let (failures, is_renamed) = (self.log.record.failures.clone(), self.target.is_renamed());
        let asks_late = self.session.pool.asks_late(self.registry());
        let has_moved = self.log.record.progress.has_moved();
        let way = diagnose::way(&self.session.pool, self.engine, reference.domain(), &cause, has_moved).await;
        let can_relay = self.options.relay == RelayMode::Never
            && may_help(&cause, self.session.pool.has_responded(reference.domain()) && !has_moved);
        let reference = self.target.reference.clone();
        Refusal {
            can_relay,
            cause,
            reference,
            login,
            suggestion,
            failures,
            is_renamed,
            asks_late,
            pattern: None,
            way,
        }
    }

    fn subject<'b>(&self, active: &'b ActiveCredentials) -> Subject<'b>
    where
        'a: 'b,
    {
        Subject::new(self.target, self.options, active)
    }

    fn engine_error(&self, source: EngineError) -> PushError {
        PushError::Engine { reference: self.name(), source }
    }

    /// Returns the familiar form of the reference to push to.
    fn name(&self) -> String {
        self.target.reference.familiar()
    }

    fn registry(&self) -> &'a str {
        self.target.reference.domain()
    }
}

impl Drop for Push<'_> {
    /// Records the platforms that the announcer has shown to the user, even if the push is interrupted.
    fn drop(&mut self) {
        self.log.record.platforms = self.announcer.platforms();
    }
}

/// Runs `work` and, at the same time, `task` in the background. Drops `task` when `work` has finished.
pub async fn with_background<T>(task: impl Future<Output = ()>, work: impl Future<Output = T>) -> T {
    match select(pin!(work), pin!(task)).await {
        Either::Left((done, _)) => done,
        Either::Right(((), work)) => work.await,
    }
}

/// Returns whether an event proves that the registry allows the account to push.
fn shows_access(event: &Event) -> bool {
    match event {
        Event::Layer { state: LayerState::Pushing { current, .. }, .. } => *current > 0,
        Event::Layer { state: LayerState::SkippedForeign, .. } => false,
        Event::Layer { state, .. } => state.is_final(),
        Event::Pushed { .. } => true,
        _ => false,
    }
}
