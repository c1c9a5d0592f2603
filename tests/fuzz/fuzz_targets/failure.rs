//! Fuzzes the classification of error messages from engines and registries, and the decision whether to retry.

#![no_main]

use std::time::Duration;

use docker_regpush::failure::{Evidence, Phase, classify, is_usage, tunnel_hint};
use docker_regpush::retry::{AttemptFailure, RetryBudget, root_cause};
use docker_regpush::text::one_line;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u16, u8, &str)| {
    let (http_status, bits, message) = input;
    let bit = |at: u8| bits >> at & 1 == 1;
    let verdict = classify(&Evidence {
        message,
        http_status: bit(0).then_some(http_status),
        content_missing: bit(1),
        has_foreign_layers: bit(6),
        phase: if bit(2) { Phase::Manifest } else { Phase::Layers },
        credentials_sent: bit(3),
        repository: "localhost:5000/team/app",
    });
    let mut budget = RetryBudget::new(3);
    let failure = AttemptFailure {
        verdict,
        has_pushed_layer: bit(4),
        max_retries: if bit(5) { 1 } else { u32::MAX },
        retry_after: bit(6).then_some(Duration::from_secs(7)),
        sent: bit(7).then_some((Duration::from_secs(60), 1 << 24)),
    };
    let again = std::iter::from_fn(|| budget.after(&failure)).count();
    assert!(again <= 3);
    let line = root_cause(&one_line(message), verdict.class);
    assert!(!line.chars().any(char::is_control));
    let _ = (is_usage(message), tunnel_hint(message));
});
