//! The look at the set-up before the first message: what is risky is logged, what would cost messages ends the start.

use std::time::Duration;

use crate::broker::Broker;
use crate::driver::{AuditSpec, ConsumerSpec, GroupSpec, Severity};
use crate::error::{Error, ErrorKind, Result};

/// Longer than a healthy broker needs; a look that takes longer is given up, the worker starts.
const PATIENCE: Duration = Duration::from_secs(10);

/// Examines every topic of `spec`.
pub(crate) async fn at_start(broker: &Broker, spec: &ConsumerSpec, handler_timeout: Option<Duration>) -> Result<()> {
    let subscription = &spec.subscription;
    // Who belongs to no group, or settles before handling, asks for no more than the broker gives.
    let Some(group) = subscription.group().filter(|_| !spec.auto_ack) else { return Ok(()) };
    let admin = broker.admin();
    for topic in subscription.topics() {
        let mut of = GroupSpec::new(topic.clone(), group.clone());
        of.mode = subscription.group_mode();
        of.retry_delays.clone_from(&spec.retry_delays);
        let asked = AuditSpec::new(of).handler_timeout(handler_timeout);
        let findings = match tokio::time::timeout(PATIENCE, admin.examine(&asked)).await {
            Ok(Ok(findings)) => findings,
            // Not being allowed to look is no reason not to work.
            Ok(Err(error)) => {
                tracing::debug!(%error, %topic, "the set-up cannot be examined");
                continue;
            }
            Err(_) => {
                tracing::debug!(%topic, "the set-up is not examined: no answer");
                continue;
            }
        };
        for finding in &findings {
            tracing::warn!(%topic, %group, "{finding}");
        }
        if let Some(refusal) = findings.into_iter().find(|finding| finding.severity == Severity::Refusal) {
            return Err(Error::new(ErrorKind::TopologyConflict, refusal.text)
                .with_backend(broker.name())
                .with_context("check", refusal.check)
                .with_context("topic", topic)
                .with_context("group", group)
                .with_hint(refusal.hint));
        }
    }
    Ok(())
}
