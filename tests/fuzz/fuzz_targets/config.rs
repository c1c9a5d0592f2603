//! Fuzzes the content of config.json, which other programs write and people edit. After credentials were saved,
//! saving the same credentials again must change nothing.

#![no_main]

use std::path::Path;

use docker_regpush::credentials::Credentials;
use docker_regpush::credentials::keyring::registries;
use docker_regpush::credentials::save::edited;
use docker_regpush::docker::config::Config;
use docker_regpush::docker::headers;
use docker_regpush::secret::Secret;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let mut config = Config::empty(Path::new("/nowhere"));
    let Ok(read) = config.read_text(text) else { return };
    assert!(read <= text.len());
    let _ = (registries(&config), headers::custom(&config));
    let login = Credentials::basic("alice".to_owned(), Secret::new("s3cret".to_owned()));
    let edit = |text: &str| edited(Path::new("/nowhere"), text, "localhost:5000", &login, None);
    if let Ok(Some(after)) = edit(text) {
        assert!(matches!(edit(after.expose()), Ok(None)), "{}", after.expose());
    }
});
