//! What the fuzz targets of every crate share: how many inputs, and texts as an enemy would write them.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::Config;

/// Inputs for each target when the environment names no number: a second or two for all of a crate.
const FEW: u32 = 500;

/// As many inputs as the environment variable `MQ_FUZZ_CASES` says, or a few.
pub fn cases() -> Config {
    let wanted = std::env::var("MQ_FUZZ_CASES").ok().and_then(|cases| cases.parse().ok());
    Config { cases: wanted.unwrap_or(FEW), max_global_rejects: u32::MAX, ..Config::default() }
}

/// Anything, mutations of `seeds`, and words of theirs in any order.
pub fn texts(seeds: &'static [&'static str]) -> impl Strategy<Value = String> {
    let mutated = (select(seeds), vec((any::<Index>(), 0..5_u8, any::<char>()), 0..5)).prop_map(mutate);
    let cut = |text: &'static str| text.split_inclusive(|c: char| !c.is_ascii_alphanumeric());
    let words: Vec<&str> = seeds.iter().copied().flat_map(cut).collect();
    let mixed = vec(select(words), 0..12).prop_map(|words| words.concat());
    prop_oneof![1 => any::<String>(), 4 => mutated, 2 => mixed]
}

fn mutate((seed, edits): (&'static str, Vec<(Index, u8, char)>)) -> String {
    let mut text: Vec<char> = seed.chars().collect();
    for (place, how, other) in edits {
        let place = place.index(text.len() + 1);
        match how {
            0 => text.insert(place, other),
            1 => drop(text.get_mut(place).map(|c| *c = other)),
            2 if place < text.len() => drop(text.remove(place)),
            3 => text.truncate(place),
            _ => text.extend_from_within(place..),
        }
    }
    text.into_iter().collect()
}
