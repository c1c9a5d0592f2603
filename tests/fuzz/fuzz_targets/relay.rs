//! Fuzzes the parser of the requests to the relay. Only requests for the repository and the tag of the push are served.

#![no_main]

use docker_regpush::oci::is_digest;
use docker_regpush::relay::request::EngineRequest;
use hyper::Method;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    let mut parts = text.splitn(3, '\n');
    let mut next = || parts.next().unwrap_or_default();
    let (method, path, query) = (next(), next(), next());
    let Ok(method) = Method::from_bytes(method.as_bytes()) else { return };
    let asked = EngineRequest::parse(&method, path, query, "team/app", "1");
    let is_refused = matches!(asked, EngineRequest::Invalid(_));
    assert!(is_refused || asked == EngineRequest::Ping || path.starts_with("/v2/team/app/"), "{path}");
    match asked {
        EngineRequest::PutManifest { reference } | EngineRequest::FindManifest { reference } => {
            assert!(reference == "1" || is_digest(&reference), "{path}");
        }
        EngineRequest::Finish { digest, .. } | EngineRequest::FindBlob { digest } => {
            assert!(is_digest(&digest), "{path}")
        }
        _ => {}
    }
});
