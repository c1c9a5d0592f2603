//! Fuzzes the parser of references. The canonical and the familiar form of a valid reference must mean the same
//! image.

#![no_main]

use docker_regpush::reference::{Reference, registry_domain};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|typed: &str| {
    let _ = registry_domain(typed);
    let Ok(reference) = typed.parse::<Reference>() else { return };
    let canonical = format!("{}:{}", reference.repository(), reference.tag_or_latest());
    for form in [canonical.clone(), reference.familiar()] {
        let again: Reference = form.parse().expect("an accepted reference parses again");
        assert_eq!(format!("{}:{}", again.repository(), again.tag_or_latest()), canonical);
    }
    for other in (1..20).filter_map(|nth| reference.under_another_name(nth)) {
        assert_ne!(other.domain(), reference.domain());
        // The alternative host name in `other` must lead to the same host, because the image and the credentials must
        // not go to another host.
        let is_own = other.domain().eq_ignore_ascii_case(reference.domain());
        let is_known =
            ["docker.io", "127.0.0.1"].contains(&reference.domain().split(':').next().unwrap_or(""));
        assert!(is_own || is_known, "{}", other.domain());
        assert_eq!((other.path(), other.tag()), (reference.path(), reference.tag()));
    }
});
