//! What a run may find.

use std::fmt;

/// A rule that was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The rule, as a sentence that should be true.
    pub rule: &'static str,
    /// What was seen instead.
    pub detail: String,
}

impl Violation {
    /// A rule and what broke it.
    pub fn new(rule: &'static str, detail: String) -> Violation {
        Violation { rule, detail }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "broken: {}: {}", self.rule, self.detail)
    }
}

/// An error if the rule is broken.
///
/// # Errors
/// If `is_broken`.
pub fn broken(
    is_broken: bool,
    rule: &'static str,
    detail: impl FnOnce() -> String,
) -> Result<(), Violation> {
    if is_broken {
        Err(Violation::new(rule, detail()))
    } else {
        Ok(())
    }
}
