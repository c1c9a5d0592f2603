//! The only holder of a clear password or token.

use std::fmt;

use zeroize::Zeroizing;

/// A value that must not reach a log, an error text, another process's argv or `{:?}`.
///
/// The field is private to this module, so [`expose`](Self::expose) is the only way out and
/// searching for that word lists every use. No `Display`, `Deref` or `Serialize`. The memory is
/// overwritten on drop.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    pub fn new(clear: String) -> Self {
        Self(Zeroizing::new(clear))
    }

    /// The clear text. What is done with it must not outlive the call it is needed for.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_nothing_of_it() {
        let secret = Secret::new("hunter2".to_owned());
        assert_eq!(format!("{:?}", Some(&secret)), "Some(Secret(..))");
        assert_eq!(secret.expose(), "hunter2");
    }
}
