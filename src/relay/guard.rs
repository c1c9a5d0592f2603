//! The password with which the engine uses the relay.

use std::sync::atomic::{AtomicBool, Ordering};

use hyper::header::HeaderValue;
use ring::digest::{SHA256, digest as hash};
use ring::rand::{SecureRandom as _, SystemRandom};

use crate::credentials::Credentials;
use crate::oci::hex;
use crate::secret::Secret;

/// The username of the engine at the relay.
const USERNAME: &str = "regpush";

/// Admits requests that have a random password, and records whether there was such a request.
pub struct Guard {
    password: Secret,
    was_reached: AtomicBool,
    was_pinged: AtomicBool,
}

impl Guard {
    pub fn new() -> Self {
        Self {
            password: Secret::new(random_hex::<24>()),
            was_reached: AtomicBool::new(false),
            was_pinged: AtomicBool::new(false),
        }
    }

    /// Returns the credentials with which the engine may use the relay.
    pub fn credentials(&self) -> Credentials {
        Credentials::basic(USERNAME.to_owned(), self.password.clone())
    }

    /// Returns whether a value of `Authorization` contains the password.
    pub fn admits(&self, value: Option<&HeaderValue>) -> bool {
        let expected = self.credentials().basic_auth().expect("the credentials have a password");
        let expected = hash(&SHA256, format!("Basic {}", expected.expose()).as_bytes());
        // The time to compare two hashes does not depend on the password.
        let is_right =
            value.is_some_and(|value| hash(&SHA256, value.as_bytes()).as_ref() == expected.as_ref());
        if is_right {
            self.was_reached.store(true, Ordering::Relaxed);
        }
        is_right
    }

    /// Records a request for `/v2/`, with or without the password.
    pub fn set_pinged(&self) {
        self.was_pinged.store(true, Ordering::Relaxed);
    }

    /// Returns whether a request for `/v2/` has arrived: docker's classic store and podman begin with it, and the containerd
    /// store does not send it.
    pub fn was_pinged(&self) -> bool {
        self.was_pinged.load(Ordering::Relaxed)
    }

    /// Returns whether a request with the password has arrived.
    pub fn was_reached(&self) -> bool {
        self.was_reached.load(Ordering::Relaxed)
    }
}

/// Returns a random number in hexadecimal.
pub fn random_hex<const BYTES: usize>() -> String {
    let mut random = [0; BYTES];
    SystemRandom::new().fill(&mut random).expect("the system has random numbers");
    hex(&random)
}
