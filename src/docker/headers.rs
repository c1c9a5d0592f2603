//! Reads the HTTP headers that the user adds to every request to the engine: from `DOCKER_CUSTOM_HEADERS`, or
//! else from `HttpHeaders` of config.json.
//!
//! Source: docker/cli `cli/command/client_options.go`.

use std::env;

use hyper::header::{HeaderMap, HeaderName, HeaderValue};

use crate::docker::config::Config;
use crate::failure::Class;

const VARIABLE: &str = "DOCKER_CUSTOM_HEADERS";
/// Headers that the user cannot change: docker uses Go's HTTP client, which sets these headers itself.
const OURS: [&str; 6] =
    ["host", "user-agent", "content-length", "transfer-encoding", "trailer", "connection"];

#[derive(Debug, thiserror::Error)]
pub enum HeadersError {
    #[error("failed to set custom headers from {VARIABLE} environment variable: {reason}")]
    Variable { reason: String },
    #[error("the HTTP header that starts with `{name}` in {place} is not valid")]
    Header { name: String, place: String },
}

impl HeadersError {
    pub fn class(&self) -> Class {
        Class::Engine
    }

    /// Returns a hint that tells the user to fix the invalid header.
    pub fn hint(&self) -> &'static str {
        "fix or remove that header"
    }
}

/// Returns the user's HTTP headers from the variable `DOCKER_CUSTOM_HEADERS`, or else from config.json.
///
/// # Errors
/// `DOCKER_CUSTOM_HEADERS` is not a comma-separated list of `key=value` pairs, or a header has characters
/// that HTTP does not allow. Error messages do not quote the values of headers, since a value may be a
/// secret.
pub fn custom(config: &Config) -> Result<HeaderMap, HeadersError> {
    let variable = env::var_os(VARIABLE).filter(|value| !value.is_empty());
    match variable {
        Some(value) => header_map(from_variable(&value.to_string_lossy())?, VARIABLE),
        None => header_map(
            config.headers.iter().map(|(name, value)| (name.clone(), value.expose().to_owned())),
            &format!("`HttpHeaders` of `{}`", config.path.display()),
        ),
    }
}

/// Parses the value of `DOCKER_CUSTOM_HEADERS`: one CSV record of `key=value` fields. A quoted field may
/// contain commas.
fn from_variable(text: &str) -> Result<Vec<(String, String)>, HeadersError> {
    let broken = |reason: String| HeadersError::Variable { reason };
    let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(text.as_bytes());
    let record = reader.records().next().transpose().map_err(|error| broken(error.to_string()))?;
    let pair = |field: &str| match field.split_once('=') {
        // The error does not quote the field: the user may have given only a secret, and no header name.
        None => Err(broken("missing \"=\" in a key=value pair".to_owned())),
        Some((key, _)) if key.trim().is_empty() => {
            Err(broken("a key=value pair has an empty key".to_owned()))
        }
        Some((key, value)) => Ok((key.trim().to_owned(), value.to_owned())),
    };
    record.unwrap_or_default().iter().map(pair).collect()
}

fn header_map(
    pairs: impl IntoIterator<Item = (String, String)>,
    place: &str,
) -> Result<HeaderMap, HeadersError> {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        // The error quotes the header name only up to the first invalid character, since a secret may follow.
        let shown = name.split(|c: char| !c.is_ascii_alphanumeric() && !"-_".contains(c)).next();
        let broken =
            || HeadersError::Header { name: shown.unwrap_or_default().to_owned(), place: place.to_owned() };
        let key = HeaderName::from_bytes(name.as_bytes()).map_err(|_| broken())?;
        let mut value = HeaderValue::from_bytes(value.as_bytes()).map_err(|_| broken())?;
        value.set_sensitive(true);
        if !OURS.contains(&key.as_str()) {
            headers.insert(key, value);
        }
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_variable_as_one_csv_record() {
        let table = [
            ("one=1", "one=1"),
            ("one=1,\"two=a,b\",three=", "one=1 two=a,b three="),
            ("a=b=c", "a=b=c"),
            ("host=x,User-Agent=y,z=1", "z=1"),
        ];
        for (text, want) in table {
            let headers = header_map(from_variable(text).unwrap(), VARIABLE).unwrap();
            let pairs = headers.iter().map(|(name, value)| format!("{name}={}", value.to_str().unwrap()));
            assert_eq!(pairs.collect::<Vec<_>>().join(" "), want, "{text}");
            assert!(headers.values().all(HeaderValue::is_sensitive));
        }
    }

    #[test]
    fn errors_name_the_header_without_its_value() {
        let reason = |text: &str| {
            let read = from_variable(text).and_then(|pairs| header_map(pairs, VARIABLE));
            read.unwrap_err().to_string()
        };
        assert!(reason("s3cret").ends_with("missing \"=\" in a key=value pair"), "{}", reason("s3cret"));
        assert!(reason("=s3cret").ends_with("an empty key"));
        let basic = reason("Authorization: Basic bWU6czNjcmV0eA==");
        assert_eq!(
            basic,
            format!("the HTTP header that starts with `Authorization` in {VARIABLE} is not valid")
        );
        assert!(!reason("\"a=s3\ncret\"").contains("s3"));
    }
}
