//! Headers nested without end are flattened before the client reads them.
//!
//! The client's parser calls itself for every list in a list, and a frame has room for 26,000 of them: one such message
//! of anybody ends the process. A list or table nested too deep therefore becomes, by its type byte alone, a byte array:
//! it has the same layout, so that nothing else of the frame changes and nothing of it is lost.

/// Deeper than any program nests on purpose, and harmless to the parser.
pub(crate) const MAX_DEPTH: usize = 32;

const CONTENT_HEADER: u8 = 2;
/// Class, weight and body size.
const BEFORE_FLAGS: u32 = 12;
/// Properties before the headers, and the headers, in the flags.
const SHORT_STRINGS: u16 = 0xc000;
const HEADERS: u16 = 0x2000;
const MORE_FLAGS: u16 = 1;

/// Follows the frames of one connection, however they are cut into reads.
#[derive(Debug)]
pub(crate) struct Shallow {
    state: State,
    /// Bytes of the frame's payload not seen yet.
    left: u32,
    kind: u8,
    number: u32,
    /// Bytes of the number to come.
    digits: u8,
    flags: Option<u16>,
    /// Short strings before the headers.
    strings: u32,
    /// Lists and tables around what comes next: bytes left in each, and whether its values have names.
    levels: Vec<(u32, bool)>,
}

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    FrameHead(u8),
    /// What is left of the payload, and the byte behind it.
    FrameEnd,
    /// So many bytes of no interest.
    Pass(u32, Then),
    Flags,
    StringLength,
    TableLength,
    NameLength,
    Type,
    /// Of a text, or of a list or table (whose values have names or not).
    Length(Option<bool>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    Flags,
    String,
    Type,
    Value,
}

impl Shallow {
    pub(crate) fn new() -> Self {
        Self {
            state: State::FrameHead(0),
            left: 0,
            kind: 0,
            number: 0,
            digits: 0,
            flags: None,
            strings: 0,
            levels: Vec::with_capacity(MAX_DEPTH),
        }
    }

    /// Looks at the next bytes of the stream, and changes types where it must.
    pub(crate) fn pass(&mut self, mut bytes: &mut [u8]) {
        while !bytes.is_empty() {
            let skipped = self.skip(bytes.len());
            let Some(rest) = bytes.get_mut(skipped..) else { return };
            bytes = rest;
            let Some((first, rest)) = bytes.split_first_mut() else { return };
            self.step(first);
            bytes = rest;
        }
    }

    /// Bytes nobody needs to look at, out of `available`; leaves at least the byte at which something ends.
    fn skip(&mut self, available: usize) -> usize {
        let available = u32::try_from(available).unwrap_or(u32::MAX);
        let skipped = match &mut self.state {
            State::FrameEnd => self.left.min(available),
            State::Pass(count, _) => {
                let skipped = count.saturating_sub(1).min(available).min(self.left.saturating_sub(1));
                *count -= skipped;
                skipped
            }
            _ => 0,
        };
        self.left -= skipped;
        skipped as usize
    }

    fn step(&mut self, byte: &mut u8) {
        match self.state {
            State::FrameHead(place) => return self.frame_head(place, *byte),
            State::FrameEnd => {
                self.state = State::FrameHead(0);
                return;
            }
            _ => {}
        }
        self.left = self.left.saturating_sub(1);
        self.payload(byte);
        if self.left == 0 {
            self.state = State::FrameEnd;
        }
    }

    /// Kind, channel, length of the payload.
    fn frame_head(&mut self, place: u8, byte: u8) {
        match place {
            0 => (self.kind, self.left) = (byte, 0),
            3..=6 => self.left = self.left << 8 | u32::from(byte),
            _ => {}
        }
        self.state = match place {
            0..=5 => State::FrameHead(place + 1),
            _ if self.kind == CONTENT_HEADER && self.left > 0 => {
                (self.flags, self.digits, self.number) = (None, 2, 0);
                self.levels.clear();
                State::Pass(BEFORE_FLAGS, Then::Flags)
            }
            _ => State::FrameEnd,
        };
    }

    fn payload(&mut self, byte: &mut u8) {
        self.state = match self.state {
            State::Pass(count, then) if count <= 1 => self.then(then),
            State::Pass(count, then) => State::Pass(count - 1, then),
            State::Flags => match self.digit(*byte) {
                None => State::Flags,
                Some(word) => self.flag_word(word as u16),
            },
            State::StringLength => {
                self.strings -= 1;
                self.pass_by(u32::from(*byte), Then::String)
            }
            State::TableLength => match self.digit(*byte) {
                None => State::TableLength,
                Some(length) => self.enter(length, true),
            },
            State::NameLength => {
                if !self.take(1 + u32::from(*byte)) {
                    State::FrameEnd
                } else {
                    self.pass_by(u32::from(*byte), Then::Type)
                }
            }
            State::Type => self.value_of(byte),
            State::Length(nested) => match self.digit(*byte) {
                None => State::Length(nested),
                Some(length) => self.length(length, nested),
            },
            ended @ (State::FrameHead(_) | State::FrameEnd) => ended,
        };
    }

    /// Adds a byte to the number being read; the number when it is complete.
    fn digit(&mut self, byte: u8) -> Option<u32> {
        self.number = self.number << 8 | u32::from(byte);
        self.digits = self.digits.saturating_sub(1);
        (self.digits == 0).then(|| std::mem::take(&mut self.number))
    }

    fn expect(&mut self, digits: u8, next: State) -> State {
        (self.number, self.digits) = (0, digits);
        next
    }

    fn flag_word(&mut self, word: u16) -> State {
        let first = *self.flags.get_or_insert(word);
        if word & MORE_FLAGS != 0 {
            return self.expect(2, State::Flags);
        }
        if first & HEADERS == 0 {
            return State::FrameEnd;
        }
        self.strings = (first & SHORT_STRINGS).count_ones();
        self.next_string()
    }

    fn next_string(&mut self) -> State {
        if self.strings > 0 { State::StringLength } else { self.expect(4, State::TableLength) }
    }

    fn pass_by(&mut self, count: u32, then: Then) -> State {
        if count == 0 { self.then(then) } else { State::Pass(count, then) }
    }

    fn then(&mut self, then: Then) -> State {
        match then {
            Then::Flags => State::Flags,
            Then::String => self.next_string(),
            Then::Type => State::Type,
            Then::Value => self.next_value(),
        }
    }

    /// Counts bytes of the innermost list or table; false when it has fewer: the client will refuse the frame.
    fn take(&mut self, count: u32) -> bool {
        self.levels.last_mut().is_some_and(|(left, _)| {
            let enough = *left >= count;
            *left = left.saturating_sub(count);
            enough
        })
    }

    fn enter(&mut self, length: u32, named: bool) -> State {
        self.levels.push((length, named));
        self.next_value()
    }

    fn next_value(&mut self) -> State {
        while self.levels.last().is_some_and(|(left, _)| *left == 0) {
            self.levels.pop();
        }
        match self.levels.last() {
            None => State::FrameEnd,
            Some((_, true)) => State::NameLength,
            Some((_, false)) => State::Type,
        }
    }

    fn value_of(&mut self, kind: &mut u8) -> State {
        if matches!(*kind, b'A' | b'F') && self.levels.len() >= MAX_DEPTH {
            *kind = b'x';
        }
        let fixed = match *kind {
            b'V' => 0,
            b't' | b'b' | b'B' => 1,
            b's' | b'U' | b'u' => 2,
            b'I' | b'i' | b'f' => 4,
            b'D' => 5,
            b'L' | b'l' | b'd' | b'T' => 8,
            b'S' | b'x' | b'A' | b'F' => {
                if !self.take(5) {
                    return State::FrameEnd;
                }
                let nested = matches!(*kind, b'A' | b'F').then_some(*kind == b'F');
                return self.expect(4, State::Length(nested));
            }
            // The client does not know it either.
            _ => return State::FrameEnd,
        };
        if self.take(1 + fixed) { self.pass_by(fixed, Then::Value) } else { State::FrameEnd }
    }

    fn length(&mut self, length: u32, nested: Option<bool>) -> State {
        if !self.take(length) {
            return State::FrameEnd;
        }
        match nested {
            Some(named) => self.enter(length, named),
            None => self.pass_by(length, Then::Value),
        }
    }
}
