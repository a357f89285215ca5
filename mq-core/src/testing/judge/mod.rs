//! Judges a history: what must hold whatever went wrong. Each rule is a guarantee, and finds the first message it was
//! broken for.

mod attempts;
mod dead;
mod index;
mod loss;
mod order;
mod repeats;
mod truth;

use bytestring::ByteString;

use crate::testing::history::Event;
use crate::testing::run::Facts;
use index::Index;

/// A promise that was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Which rule, in a word or two: `loss`, `duplicate`, `order`, `early` and so on.
    pub rule: &'static str,
    /// The message it is about.
    pub message: Option<ByteString>,
    /// The event of the history at which it was noticed.
    pub(crate) event: usize,
    /// What is wrong.
    pub text: String,
}

impl Finding {
    pub(crate) fn new(rule: &'static str, message: Option<ByteString>, event: usize, text: impl Into<String>) -> Self {
        Self { rule, message, event, text: text.into() }
    }

    fn about(rule: &'static str, id: &ByteString, event: usize, text: impl Into<String>) -> Self {
        Self::new(rule, Some(id.clone()), event, text)
    }
}

/// Every broken promise, in the order of the rules.
pub(crate) fn judge(events: &[Event], facts: &Facts) -> Vec<Finding> {
    let index = Index::new(events, facts);
    let mut findings = Vec::new();
    loss::judge(&index, &mut findings);
    truth::judge(&index, &mut findings);
    repeats::judge(&index, &mut findings);
    order::judge(&index, &mut findings);
    attempts::judge(&index, &mut findings);
    dead::judge(&index, &mut findings);
    findings
}
