//! The examples are beside this folder: each `*.rs`, and `order_system/`, is one. Run them from the repository's root:
//!
//! ```sh
//! cargo run --example order_system
//! ```
//!
//! This library holds what they share, and compiles the code blocks of README and guides, so that they cannot lie.

mod place;

pub use place::Place;

#[cfg(doctest)]
mod documents {
    macro_rules! compiled {
        ($($name:ident = $path:literal;)+) => {
            $(#[doc = include_str!(concat!("../../", $path))] #[derive(Debug)] struct $name;)+
        };
    }

    compiled! {
        Readme = "README.md";
        Architecture = "ARCHITECTURE.md";
        Contributing = "CONTRIBUTING.md";
        GettingStarted = "docs/guides/getting-started.md";
        DeliveryGuarantees = "docs/guides/delivery-guarantees.md";
        ChoosingABroker = "docs/guides/choosing-a-broker.md";
        DeadLetters = "docs/guides/dead-letters.md";
        Ordering = "docs/guides/ordering.md";
        Idempotency = "docs/guides/idempotency.md";
        Testing = "docs/guides/testing.md";
        Configuration = "docs/guides/configuration.md";
        Operations = "docs/guides/operations.md";
    }
}
