//! Drivers around the in-memory one, each spoiling exactly one thing.

pub(crate) mod administering;
pub(crate) mod consuming;
pub(crate) mod faulty;
pub(crate) mod half;
pub(crate) mod producing;
pub(crate) mod settling;
