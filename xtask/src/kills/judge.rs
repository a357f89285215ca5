//! What the notes of a run prove.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use super::note::Note;

/// The verdict on one run.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) handled: u64,
    pub(crate) lost: u64,
    /// Handlings beyond the first.
    pub(crate) duplicates: u64,
    /// First handlings that came after that of a later message of their key.
    pub(crate) inversions: u64,
    /// The longest time without any handling.
    pub(crate) longest_pause: Duration,
    /// The first few findings, for a person.
    pub(crate) stories: Vec<String>,
}

/// Judges `messages` sent over `keys` keys, message `n` under key `n % keys`.
pub(crate) fn judge(notes: &[Note], messages: u64, keys: u32) -> Verdict {
    let mut verdict = Verdict::default();
    let mut first: HashMap<u64, usize> = HashMap::new();
    let mut newest: HashMap<u32, u64> = HashMap::new();
    let mut before: Option<Duration> = None;
    for (index, note) in notes.iter().enumerate() {
        if let Some(before) = before {
            verdict.longest_pause = verdict.longest_pause.max(note.end.saturating_sub(before));
        }
        before = Some(note.end);
        if first.contains_key(&note.number) {
            verdict.duplicates += 1;
            continue;
        }
        first.insert(note.number, index);
        match newest.get(&note.key) {
            Some(newest) if *newest > note.number => {
                verdict.inversions += 1;
                verdict.story(format!("{} of key {} was first handled after {newest}", note.number, note.key));
            }
            _ => {
                newest.insert(note.key, note.number);
            }
        }
    }
    verdict.handled = u64::try_from(first.len()).unwrap_or(u64::MAX);
    for number in (0..messages).filter(|number| !first.contains_key(number)) {
        verdict.lost += 1;
        verdict.story(format!("{number} of key {} was never handled", number % u64::from(keys)));
    }
    verdict
}

impl Verdict {
    fn story(&mut self, story: String) {
        if self.stories.len() < 5 {
            self.stories.push(story);
        }
    }

    pub(crate) fn is_clean(&self, most_duplicates: u64) -> bool {
        self.lost == 0 && self.inversions == 0 && self.duplicates <= most_duplicates
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} handled, {} lost, {} duplicates, {} inversions, longest pause {:.1} s",
            self.handled,
            self.lost,
            self.duplicates,
            self.inversions,
            self.longest_pause.as_secs_f64()
        )?;
        self.stories.iter().try_for_each(|story| write!(f, "\n  {story}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notes(numbers: &[u64]) -> Vec<Note> {
        let note = |number: &u64| {
            let key = u32::try_from(number % 2).unwrap();
            Note { key, number: *number, attempt: 1, begin: Duration::ZERO, end: Duration::from_secs(*number) }
        };
        numbers.iter().map(note).collect()
    }

    #[test]
    fn each_kind_of_harm_is_seen() {
        assert!(judge(&notes(&[0, 1, 3, 2]), 4, 2).is_clean(0));
        assert_eq!(judge(&notes(&[0, 1, 2]), 4, 2).lost, 1);
        assert_eq!(judge(&notes(&[0, 1, 2, 3, 0]), 4, 2).duplicates, 1);
        // A repeated older message is no inversion: only first handlings keep an order.
        assert_eq!(judge(&notes(&[0, 2, 0, 1, 3]), 4, 2).inversions, 0);
        assert_eq!(judge(&notes(&[2, 0, 1, 3]), 4, 2).inversions, 1);
    }
}
