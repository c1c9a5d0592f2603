//! Fuzzes the parser of the requests to the relay. Only requests for the repository and the tag of the push are served.

#![no_main]

use docker_regpush::oci::is_digest;
use docker_regpush::relay::request::Asked;
use hyper::Method;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    let mut parts = text.splitn(3, '\n');
    let mut next = || parts.next().unwrap_or_default();
    let (method, path, query) = (next(), next(), next());
    let Ok(method) = Method::from_bytes(method.as_bytes()) else { return };
    let asked = Asked::parse(&method, path, query, "team/app", "1");
    let is_refused = matches!(asked, Asked::Invalid(_));
    assert!(is_refused || asked == Asked::Ping || path.starts_with("/v2/team/app/"), "{path}");
    match asked {
        Asked::PutManifest { reference } | Asked::FindManifest { reference } => {
            assert!(reference == "1" || is_digest(&reference), "{path}");
        }
        Asked::Finish { digest, .. } | Asked::FindBlob { digest } => assert!(is_digest(&digest), "{path}"),
        _ => {}
    }
});
