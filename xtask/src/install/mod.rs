//! Gets the software of the brokers and the tools of the tests onto the machine, once.

pub(crate) mod apt;
mod apt_sources;
mod debian;
mod lock;
mod maven;

pub(crate) use debian::{package_in, root as debian_root};
pub(crate) use lock::Lock;
pub(crate) use maven::{kafka, rocket};
