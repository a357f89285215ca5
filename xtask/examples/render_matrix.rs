//! Renders the capability matrix from a folder of conformance results to stdout.
//!
//! An example and not a part of the program, so that `cargo xtask` itself compiles without the SDK.
#![expect(clippy::print_stdout, reason = "its output is the matrix")]

use std::path::PathBuf;

use mq_conformance::{ProfileResult, matrix};

/// The order of the columns; profiles which are not named here follow by name.
const ORDER: [&str; 4] = ["memory", "kafka", "rabbit-3.10", "rabbit-4.0"];

fn main() -> std::io::Result<()> {
    let folder = std::env::args_os().nth(1).map(PathBuf::from);
    let folder = folder.ok_or_else(|| std::io::Error::other("usage: render_matrix FOLDER"))?;
    let mut profiles = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            profiles.push(ProfileResult::read(&path)?);
        }
    }
    let place = |profile: &str| ORDER.iter().position(|known| *known == profile).unwrap_or(ORDER.len());
    profiles.sort_by(|one, other| (place(&one.profile), &one.profile).cmp(&(place(&other.profile), &other.profile)));
    print!("{}", matrix::render(&profiles));
    Ok(())
}
