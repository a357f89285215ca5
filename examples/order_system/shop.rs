//! What the services talk about.

use serde::{Deserialize, Serialize};

/// What happened: somebody ordered something. Published once, read by every service in its own time.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct OrderPlaced {
    pub(crate) order: String,
    pub(crate) item: String,
    pub(crate) cents: u64,
}

/// A service that reads orders; each is a group of its own and gets every order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Service {
    Stock,
    Payment,
    Logistics,
    Notification,
}

pub(crate) const SERVICES: [Service; 4] = [Service::Stock, Service::Payment, Service::Logistics, Service::Notification];

impl Service {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Stock => "stock",
            Self::Payment => "payment",
            Self::Logistics => "logistics",
            Self::Notification => "notification",
        }
    }

    /// What it says when it is done with an order.
    pub(crate) fn done(self) -> &'static str {
        match self {
            Self::Stock => "reserved",
            Self::Payment => "paid",
            Self::Logistics => "shipped",
            Self::Notification => "mailed",
        }
    }
}
