//! Fuzzes the content of config.json, which other programs write and people edit. After credentials were saved,
//! saving the same credentials again must change nothing. The same text is also a password, which may be a token that
//! contains its end; no description of the credentials contains the password.

#![no_main]

use std::path::Path;

use docker_regpush::credentials::Credentials;
use docker_regpush::credentials::keyring::registries;
use docker_regpush::credentials::login::{Login, Source};
use docker_regpush::credentials::save::edited;
use docker_regpush::docker::config::Config;
use docker_regpush::docker::headers;
use docker_regpush::secret::Secret;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let given = Login::new(&basic(text), Source::CommandLine, Vec::new());
    let told = format!("{given:?}{:?}", given.refusal_hint("localhost:5000"));
    assert!(text.len() < 40 || !told.contains(text));
    let mut config = Config::empty(Path::new("/nowhere"));
    let Ok(read) = config.read_text(text) else { return };
    assert!(read <= text.len());
    let _ = (registries(&config), headers::custom(&config));
    let login = basic("s3cret");
    let edit = |text: &str| edited(Path::new("/nowhere"), text, "localhost:5000", &login, None);
    if let Ok(Some(after)) = edit(text) {
        assert!(matches!(edit(after.expose()), Ok(None)), "{}", after.expose());
    }
});

fn basic(password: &str) -> Credentials {
    Credentials::basic("alice".to_owned(), Secret::new(password.to_owned()))
}
