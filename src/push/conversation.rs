//! Decides which step follows a failed attempt to push: a retry, other credentials, a prompt, or an error.
//!
//! [`Conversation`] is a state machine that neither uploads nor prompts. The state machine returns a [`Step`]; the
//! caller executes the step and reports the result as an [`Event`].

use crate::credentials::login::Source;
use crate::failure::Class;
use crate::retry::{AttemptFailure, NextAttempt, Pattern, RetryBudget};

/// The maximum number of prompts for credentials in one push, or in one run of `auth --login`.
pub const MAX_PROMPTS: usize = 3;

/// The facts about a failed attempt that determine the next step.
#[derive(Clone, Debug)]
pub struct FailedAttempt {
    pub failure: AttemptFailure,
    /// The source of the credentials that the attempt used.
    pub source: Source,
    pub is_anonymous: bool,
    /// The registry does not ask for credentials at `/v2/`, but may ask when an image is pushed. So typed credentials
    /// cannot be checked before the push.
    pub asks_late: bool,
    /// The attempt sent layer data, so the registry had accepted the credentials.
    pub has_moved: bool,
    /// After the failure, the registry accepted an upload of this account.
    pub may_write: bool,
    /// Every layer was in the registry, so the engine had sent the manifest.
    pub has_sent_manifest: bool,
}

impl FailedAttempt {
    fn class(&self) -> Class {
        self.failure.verdict.class
    }

    /// Returns whether the registry may have the image although the push failed: the registry refuses to change a tag,
    /// or a proxy removes a header from the response to the manifest.
    fn may_be_in_registry(&self) -> bool {
        match self.class() {
            Class::Rejected => true,
            Class::Other => self.may_write && self.has_sent_manifest,
            _ => false,
        }
    }

    /// Returns whether a token may have expired during the upload. A refusal that says "denied" is about a token if the
    /// registry accepts a new upload.
    pub fn is_expired_token(&self) -> bool {
        let is_refused = match self.class() {
            Class::Auth => self.failure.verdict.can_prompt,
            Class::Denied => self.may_write,
            _ => false,
        };
        is_refused && !self.is_anonymous && self.has_moved
    }

    /// Returns whether the registry may refuse to mount layers from other repositories: it refused the engine, and
    /// accepts an upload that mounts nothing.
    fn is_refused_mount(&self) -> bool {
        // The containerd store reports no status, so the class may be `Other`.
        let is_refused = matches!(self.class(), Class::Auth | Class::Denied | Class::Other);
        is_refused && self.may_write && !self.has_moved && !self.has_sent_manifest
    }
}

/// The result of a [`Step`], which the caller reports.
#[derive(Debug)]
pub enum Event {
    Failed(FailedAttempt),
    /// [`Step::CheckExisting`] did not find the local image under the tag in the registry.
    NotInRegistry,
    /// Another push in this run of the plugin has added newer credentials for the registry.
    NewerCredentials,
    /// No other push has added newer credentials. `has_prompt_failed`: an earlier prompt for the registry gave no
    /// usable credentials.
    NoNewerCredentials {
        has_prompt_failed: bool,
    },
    /// The user has typed credentials. `are_accepted`: the registry accepted the typed credentials.
    Typed {
        are_accepted: bool,
    },
}

/// The next action that the caller must take.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Attempt the push with the newest credentials for the registry.
    Attempt,
    /// Attempt the push again with the current credentials. The registry may issue a new token for these credentials.
    Repeat,
    /// Attempt the push under another spelling of the registry's name, so that the engine does not try to mount layers
    /// from other repositories.
    AvoidMounts,
    /// Check whether the tag in the registry already names the local image.
    CheckExisting,
    /// Wait, then retry the push.
    Wait(NextAttempt),
    /// Check whether another push in this run of the plugin has added newer credentials for the registry.
    FindNewerCredentials,
    /// Prompt the user for credentials.
    Prompt,
    /// Fail the push with the error of the last attempt.
    Fail,
}

#[derive(Debug)]
enum State {
    Attempting,
    CheckingExisting(FailedAttempt),
    FindingCredentials(FailedAttempt),
    Prompting,
}

/// The state machine that decides the steps of one push.
#[derive(Debug)]
pub struct Conversation {
    state: State,
    retries: u32,
    budget: RetryBudget,
    /// [`Step::Repeat`], which renews an expired token, is still allowed. One push may take this step once.
    can_repeat: bool,
    /// [`Step::AvoidMounts`] is still allowed. One push may take this step once.
    can_avoid_mounts: bool,
    are_accepted: bool,
    has_terminal: bool,
    no_prompt: bool,
    /// The number of prompts that the push may still use.
    pub prompts_left: usize,
}

impl Conversation {
    /// * `retries`: the value of `--retries`, which applies to each set of credentials.
    /// * `has_terminal`, `no_prompt`: see the fields of [`PromptRequest`].
    pub fn new(retries: u32, has_terminal: bool, no_prompt: bool) -> Self {
        Self {
            state: State::Attempting,
            retries,
            budget: RetryBudget::new(retries),
            can_repeat: true,
            can_avoid_mounts: true,
            are_accepted: false,
            has_terminal,
            no_prompt,
            prompts_left: MAX_PROMPTS,
        }
    }

    /// Returns whether the user typed the current credentials at a prompt and the registry accepted these credentials.
    pub fn are_accepted(&self) -> bool {
        self.are_accepted
    }

    /// Returns the common point at which the last two attempts ended, if no attempt follows for this reason.
    pub fn pattern(&self) -> Option<Pattern> {
        self.budget.pattern
    }

    /// Returns the next step after an event.
    ///
    /// # Panics
    /// If the event cannot result from the last step.
    pub fn next(&mut self, event: Event) -> Step {
        match (std::mem::replace(&mut self.state, State::Attempting), event) {
            (State::Attempting, Event::Failed(failed)) if failed.may_be_in_registry() => {
                self.state = State::CheckingExisting(failed);
                Step::CheckExisting
            }
            (State::Attempting, Event::Failed(failed)) if failed.is_expired_token() && self.can_repeat => {
                self.can_repeat = false;
                Step::Repeat
            }
            // Tokens expire before one layer is sent, so no credentials can help.
            (State::Attempting, Event::Failed(failed)) if failed.is_expired_token() && failed.may_write => {
                Step::Fail
            }
            (State::Attempting, Event::Failed(failed))
                if failed.is_refused_mount() && self.can_avoid_mounts =>
            {
                self.can_avoid_mounts = false;
                Step::AvoidMounts
            }
            (State::Attempting, Event::Failed(failed))
            | (State::CheckingExisting(failed), Event::NotInRegistry) => self.after_failure(failed),
            (State::FindingCredentials(_), Event::NewerCredentials) => {
                self.are_accepted = false;
                self.restart()
            }
            (State::FindingCredentials(failed), Event::NoNewerCredentials { has_prompt_failed }) => {
                let request = PromptRequest {
                    class: failed.class(),
                    source: &failed.source,
                    asks_late: failed.asks_late,
                    prompts_left: self.prompts_left,
                    has_terminal: self.has_terminal,
                    no_prompt: self.no_prompt,
                    has_prompt_failed,
                };
                if !request.is_allowed() {
                    return Step::Fail;
                }
                self.state = State::Prompting;
                Step::Prompt
            }
            (State::Prompting, Event::Typed { are_accepted }) => {
                self.are_accepted = are_accepted;
                self.restart()
            }
            _ => unreachable!("the event answers the last step"),
        }
    }

    fn after_failure(&mut self, failed: FailedAttempt) -> Step {
        match self.budget.after(&failed.failure) {
            Some(next) => Step::Wait(next),
            None if failed.failure.verdict.can_prompt => {
                self.state = State::FindingCredentials(failed);
                Step::FindNewerCredentials
            }
            None => Step::Fail,
        }
    }

    /// Restarts the count of attempts, since the push has new credentials.
    fn restart(&mut self) -> Step {
        self.budget = RetryBudget::new(self.retries);
        Step::Attempt
    }
}

/// The facts that decide whether the plugin prompts the user for credentials.
#[derive(Debug)]
pub struct PromptRequest<'a> {
    /// The failure class of the last attempt to push, or [`Class::Auth`] for `auth --login`.
    pub class: Class,
    /// The source of the credentials that the registry refused.
    pub source: &'a Source,
    /// See [`FailedAttempt::asks_late`].
    pub asks_late: bool,
    pub prompts_left: usize,
    /// stdin and stderr are a terminal, and the plugin runs in the foreground of that terminal.
    pub has_terminal: bool,
    /// The user passed `--no-prompt`.
    pub no_prompt: bool,
    /// An earlier prompt for the registry in this run of the plugin gave no usable credentials.
    pub has_prompt_failed: bool,
}

impl PromptRequest<'_> {
    /// Returns the facts for a prompt by `auth --login`.
    pub fn to_log_in(has_terminal: bool) -> Self {
        Self {
            class: Class::Auth,
            source: &Source::Nothing,
            asks_late: false,
            prompts_left: MAX_PROMPTS,
            has_terminal,
            no_prompt: false,
            has_prompt_failed: false,
        }
    }

    /// Returns whether the plugin may prompt the user for credentials.
    ///
    /// A prompt never replaces credentials from the command line. A user who typed valid credentials without push
    /// access is not prompted again. If the registry asks for credentials only when an image is pushed, an engine may
    /// never send the typed credentials, so the user is prompted once.
    pub fn is_allowed(&self) -> bool {
        let can_help = match self.class {
            Class::Auth => !(self.asks_late && *self.source == Source::Prompt),
            Class::Denied => *self.source != Source::Prompt,
            _ => false,
        };
        let can_ask = self.has_terminal && !self.no_prompt && !self.has_prompt_failed;
        can_help && can_ask && self.prompts_left > 0 && !self.source.is_given()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Verdict;

    fn failed(class: Class, source: Source, has_moved: bool) -> Event {
        let failure = AttemptFailure {
            verdict: Verdict::without_hint(class),
            has_pushed_layer: false,
            max_retries: u32::MAX,
            retry_after: None,
            sent: None,
        };
        let is_anonymous = source == Source::Nothing;
        Event::Failed(FailedAttempt {
            failure,
            source,
            is_anonymous,
            asks_late: false,
            has_moved,
            may_write: false,
            has_sent_manifest: false,
        })
    }

    fn helper() -> Source {
        Source::Helper("pass".to_owned())
    }

    /// Formats a step, without the random duration of a wait.
    fn name(step: &Step) -> String {
        match step {
            Step::Wait(next) => format!("Wait {} of {}", next.number, next.of),
            step => format!("{step:?}"),
        }
    }

    #[test]
    fn events_lead_to_the_expected_steps() {
        let none = || Event::NoNewerCredentials { has_prompt_failed: false };
        let typed = |are_accepted| Event::Typed { are_accepted };
        let network = || failed(Class::Network, helper(), true);
        let auth = |source| failed(Class::Auth, source, false);
        let denied = |source| failed(Class::Denied, source, false);
        let rejected = || failed(Class::Rejected, helper(), true);
        let expired = || failed(Class::Auth, helper(), true);
        let locked_out = || {
            let Event::Failed(mut failed) = failed(Class::Auth, helper(), true) else { unreachable!() };
            failed.failure.verdict.can_prompt = false;
            Event::Failed(failed)
        };
        let table: [(&str, Vec<(Event, &str)>); 12] = [
            ("a registry that refuses all logins is not asked again", vec![(locked_out(), "Fail")]),
            (
                "retries are limited",
                vec![(network(), "Wait 2 of 3"), (network(), "Wait 3 of 3"), (network(), "Fail")],
            ),
            (
                "a refusal for another reason ends the push",
                vec![(failed(Class::Tls, helper(), false), "Fail")],
            ),
            (
                "a rejected tag may already name the same image",
                vec![(rejected(), "CheckExisting"), (Event::NotInRegistry, "Fail")],
            ),
            (
                "an expired token is renewed once",
                vec![(expired(), "Repeat"), (expired(), "FindNewerCredentials"), (none(), "Prompt")],
            ),
            (
                "an expired token is renewed also between retries",
                vec![(network(), "Wait 2 of 3"), (expired(), "Repeat"), (network(), "Wait 3 of 3")],
            ),
            (
                "anonymous pushes have no token to renew",
                vec![(failed(Class::Auth, Source::Nothing, true), "FindNewerCredentials")],
            ),
            (
                "other credentials restart the attempt count",
                vec![
                    (network(), "Wait 2 of 3"),
                    (auth(helper()), "FindNewerCredentials"),
                    (Event::NewerCredentials, "Attempt"),
                    (network(), "Wait 2 of 3"),
                ],
            ),
            (
                "refused typed credentials lead to another prompt",
                vec![
                    (auth(Source::Nothing), "FindNewerCredentials"),
                    (none(), "Prompt"),
                    (typed(false), "Attempt"),
                    (auth(Source::Prompt), "FindNewerCredentials"),
                    (none(), "Prompt"),
                ],
            ),
            (
                "accepted typed credentials without push access end the push",
                vec![
                    (denied(helper()), "FindNewerCredentials"),
                    (none(), "Prompt"),
                    (typed(true), "Attempt"),
                    (denied(Source::Prompt), "FindNewerCredentials"),
                    (none(), "Fail"),
                ],
            ),
            (
                "a prompt that failed is not repeated",
                vec![
                    (auth(helper()), "FindNewerCredentials"),
                    (Event::NoNewerCredentials { has_prompt_failed: true }, "Fail"),
                ],
            ),
            (
                "credentials of the command line are final",
                vec![(auth(Source::CommandLine), "FindNewerCredentials"), (none(), "Fail")],
            ),
        ];
        for (case, events) in table {
            let mut conversation = Conversation::new(2, true, false);
            for (event, want) in events {
                let event_name = format!("{event:?}");
                assert_eq!(name(&conversation.next(event)), want, "{case}: {event_name}");
            }
        }
    }

    #[test]
    fn prompts_only_if_other_credentials_can_help() {
        let request = |class, source| PromptRequest {
            class,
            source,
            asks_late: false,
            prompts_left: 1,
            has_terminal: true,
            no_prompt: false,
            has_prompt_failed: false,
        };
        let (helper, nothing) = (helper(), Source::Nothing);
        let allowed = [
            (Class::Auth, &nothing, true),
            (Class::Auth, &helper, true),
            (Class::Auth, &Source::Prompt, true),
            (Class::Auth, &Source::CommandLine, false),
            (Class::Auth, &Source::Command, false),
            (Class::Denied, &helper, true),
            (Class::Denied, &Source::Prompt, false),
            (Class::Rejected, &helper, false),
            (Class::Network, &nothing, false),
        ];
        for (class, source, want) in allowed {
            assert_eq!(request(class, source).is_allowed(), want, "{class:?} {source:?}");
        }
        let refused = [
            PromptRequest { asks_late: true, ..request(Class::Auth, &Source::Prompt) },
            PromptRequest { prompts_left: 0, ..request(Class::Auth, &nothing) },
            PromptRequest { has_terminal: false, ..request(Class::Auth, &nothing) },
            PromptRequest { no_prompt: true, ..request(Class::Auth, &nothing) },
            PromptRequest { has_prompt_failed: true, ..request(Class::Auth, &nothing) },
        ];
        for request in refused {
            assert!(!request.is_allowed(), "{request:?}");
        }
    }
}
