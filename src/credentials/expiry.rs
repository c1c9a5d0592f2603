//! Reads when a secret expires, if the secret contains its end. Registries hand out such secrets for a few minutes or
//! hours.
//!
//! The plugin does not verify the secret, so the end is only for messages.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use humantime::format_rfc3339_seconds;
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::text::span;

/// The longest secret that is searched for its end, in bytes. Tokens have a few thousand bytes.
const MAX_SECRET: usize = 64 << 10;
/// The latest end that counts, the year 9999: later ones cannot be formatted.
const LATEST: f64 = 253_402_300_799.0;
const CONFIG: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, CONFIG);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, CONFIG);

/// Returns when a secret expires; `None` if the secret does not contain its end.
///
/// Source: RFC 7519, 4.1.4 (`exp` of a JSON Web Token); Amazon ECR's password, which is the base64 of JSON with
/// `expiration` in Unix seconds (older ones have none). Google's access tokens contain nothing.
pub fn expires(secret: &str) -> Option<SystemTime> {
    let secret = secret.trim();
    if secret.len() > MAX_SECRET {
        return None;
    }
    let mut parts = secret.split('.');
    let seconds = match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(_), Some(claims), Some(_), None) => {
            let claims = Zeroizing::new(URL_SAFE.decode(claims).ok()?);
            end(&claims)?
        }
        (Some(whole), None, ..) => {
            let json = Zeroizing::new(STANDARD.decode(whole).ok()?);
            end(&json)?
        }
        _ => return None,
    };
    let is_time = seconds > 0.0 && seconds <= LATEST;
    is_time.then(|| SystemTime::UNIX_EPOCH + Duration::from_secs_f64(seconds))
}

/// The end in the claims of a JSON Web Token, or in ECR's password. No other value is copied.
#[derive(Deserialize)]
struct End {
    #[serde(alias = "expiration")]
    exp: Option<f64>,
}

fn end(json: &[u8]) -> Option<f64> {
    // Serde would read an array as a struct too.
    let is_object = json.trim_ascii_start().starts_with(b"{");
    serde_json::from_slice::<End>(json).ok().filter(|_| is_object)?.exp
}

/// Formats a time as in `09:12 UTC`, with the date if it is on another day.
pub fn clock(time: SystemTime, now: SystemTime) -> String {
    let (time, now) = (format_rfc3339_seconds(time).to_string(), format_rfc3339_seconds(now).to_string());
    let (date, minute) = (&time[..10], &time[11..16]);
    if now.starts_with(date) { format!("{minute} UTC") } else { format!("{date} {minute} UTC") }
}

/// Returns `expired at 09:12 UTC, 3h ago` if a time has passed.
pub fn passed(time: SystemTime, now: SystemTime) -> Option<String> {
    let ago = now.duration_since(time).ok()?;
    Some(format!("expired at {}, {} ago", clock(time, now), span(ago)))
}

/// Returns `expire at 10:05 UTC, in 7m` if a time is within the next 10 minutes.
pub fn soon(time: SystemTime, now: SystemTime) -> Option<String> {
    const SOON: Duration = Duration::from_secs(10 * 60);
    let left = time.duration_since(now).ok().filter(|left| *left <= SOON)?;
    Some(format!("expire at {}, in {}", clock(time, now), span(left)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn token(claims: &str) -> String {
        format!("eyJhbGciOiJub25lIn0.{}.sig", URL_SAFE.encode(claims))
    }

    #[test]
    fn finds_the_end_of_known_kinds_of_secrets() {
        let ecr = |json: serde_json::Value| STANDARD.encode(json.to_string());
        let payload = "x".repeat(1500);
        let table = [
            (token(r#"{"exp":1764410400}"#), Some(1_764_410_400)),
            (token(r#"{"iat":1,"exp":1764410400.0,"aud":"r"}"#), Some(1_764_410_400)),
            (token(r#"{"exp":1764410400}"#).replace('=', ""), Some(1_764_410_400)),
            (
                ecr(
                    json!({"payload": payload, "version": "2", "type": "DATA_KEY", "expiration": 1_764_410_400}),
                ),
                Some(1_764_410_400),
            ),
            (ecr(json!({"payload": "old", "version": "1"})), None),
            (token(r#"{"exp":"1764410400"}"#), None),
            (token(r#"{"exp":-5}"#), None),
            (token(r#"{"exp":1e300}"#), None),
            (token(r#"{"exp":null}"#), None),
            (token("[1]"), None),
            (token(&"[".repeat(10_000)), None),
            (format!("a.{}.b", "A".repeat(MAX_SECRET)), None),
            ("ya29.a0AfH6SMBxyz".to_owned(), None),
            ("hunter2".to_owned(), None),
            ("a.b.c".to_owned(), None),
            ("...".to_owned(), None),
            (String::new(), None),
        ];
        for (secret, want) in table {
            assert_eq!(expires(&secret), want.map(at), "{}", &secret[..secret.len().min(60)]);
        }
        let fraction = expires(&token(r#"{"exp":1764410400.25}"#)).unwrap();
        assert_eq!(fraction.duration_since(at(1_764_410_400)).unwrap(), Duration::from_millis(250));
    }

    #[test]
    fn formats_times_for_people() {
        // 2025-11-29 10:00:00 UTC
        let now = at(1_764_410_400);
        assert_eq!(passed(now - Duration::from_secs(3 * 3600), now).unwrap(), "expired at 07:00 UTC, 3h ago");
        assert_eq!(
            passed(now - Duration::from_secs(30 * 3600), now).unwrap(),
            "expired at 2025-11-28 04:00 UTC, 30h ago"
        );
        assert_eq!(passed(now + Duration::from_secs(1), now), None);
        assert_eq!(soon(now + Duration::from_secs(420), now).unwrap(), "expire at 10:07 UTC, in 7m");
        assert_eq!(soon(now + Duration::from_secs(601), now), None);
        assert_eq!(soon(now - Duration::from_secs(1), now), None);
    }

    proptest! {
        #[test]
        fn accepts_any_secret(secret in ".*", claims in ".*") {
            let _ = (expires(&secret), expires(&token(&claims)));
        }
    }
}
