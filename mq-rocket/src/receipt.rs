//! Names a delivery to the broker: what an acknowledgement or a renewal must say.

use std::collections::HashMap;
use std::sync::Arc;

use mq_core::error::Result;

use crate::remoting::{Command, code};
use crate::route::Node;
use crate::stored::Stored;
use crate::wire::RECEIPT;

/// One delivery, as the broker knows it. Each renewal gives a new one.
#[derive(Debug, Clone)]
pub(crate) struct Receipt {
    pub(crate) node: Arc<Node>,
    pub(crate) group: Arc<str>,
    /// The topic it was taken from: the one asked for, or the broker's own retry topic of the group.
    topic: String,
    pub(crate) queue: u32,
    pub(crate) offset: i64,
    text: String,
}

/// What an answer with messages says of all of them.
#[derive(Debug)]
pub(crate) struct Batch {
    pop_time: String,
    invisible: String,
    revive_queue: String,
    starts: HashMap<(String, String), String>,
    counts: HashMap<(String, String), String>,
}

impl Batch {
    pub(crate) fn read(answer: &Command) -> Result<Self> {
        let _: i64 = answer.number("popTime")?;
        let _: i64 = answer.number("invisibleTime")?;
        let _: i64 = answer.number("reviveQid")?;
        let field = |name| answer.get(name).unwrap_or_default().trim().to_owned();
        Ok(Self {
            pop_time: field("popTime"),
            invisible: field("invisibleTime"),
            revive_queue: field("reviveQid"),
            starts: triples(answer.get("startOffsetInfo")),
            counts: triples(answer.get("orderCountInfo")),
        })
    }

    /// How often the broker delivered it before; in ordered groups the answer says so, not the message.
    pub(crate) fn redeliveries(&self, stored: &Stored) -> u32 {
        let by_offset = ("0".to_owned(), format!("qo{}%{}", stored.queue, stored.offset));
        let by_queue = ("0".to_owned(), stored.queue.to_string());
        let counted = self.counts.get(&by_offset).or_else(|| self.counts.get(&by_queue));
        counted.and_then(|count| count.parse().ok()).unwrap_or(0).max(stored.redeliveries)
    }

    /// The receipt of one message, asked for under `topic`.
    pub(crate) fn receipt(&self, node: &Arc<Node>, group: &Arc<str>, topic: &str, stored: &Stored) -> Receipt {
        let (text, kind) = self.given(node, stored).unwrap_or_else(|| {
            let start = self.starts.get(&("0".to_owned(), stored.queue.to_string()));
            let start = start.cloned().unwrap_or_else(|| stored.offset.to_string());
            (self.text(&start, "0", node, stored), "0".to_owned())
        });
        let topic = match kind.as_str() {
            "1" => format!("%RETRY%{group}_{topic}"),
            "2" => format!("%RETRY%{group}+{topic}"),
            _ => topic.to_owned(),
        };
        let (queue, offset) = (stored.queue, stored.offset);
        Receipt { node: Arc::clone(node), group: Arc::clone(group), topic, queue, offset, text }
    }

    fn text(&self, start: &str, kind: &str, node: &Node, stored: &Stored) -> String {
        let Self { pop_time, invisible, revive_queue, .. } = self;
        let (name, queue, offset) = (&node.name, stored.queue, stored.offset);
        format!("{start} {pop_time} {invisible} {revive_queue} {kind} {name} {queue} {offset}")
    }

    /// The broker writes the receipt of a message from its retry topic into the message. A sender may write one too:
    /// only one that speaks of this very delivery is believed.
    fn given(&self, node: &Node, stored: &Stored) -> Option<(String, String)> {
        let text = stored.properties.get(RECEIPT)?;
        let mut parts = text.split(' ');
        let (start, kind) = (parts.next()?, parts.nth(3)?);
        let _: i64 = start.parse().ok()?;
        (*text == self.text(start, kind, node, stored)).then(|| (text.clone(), kind.to_owned()))
    }
}

/// `a b c;a b c` as (a, b) → c.
fn triples(text: Option<&str>) -> HashMap<(String, String), String> {
    let triple = |text: &str| {
        let mut parts = text.splitn(3, ' ');
        Some(((parts.next()?.to_owned(), parts.next()?.to_owned()), parts.next()?.to_owned()))
    };
    text.unwrap_or_default().split(';').filter_map(triple).collect()
}

/// What deliveries of one queue that came in one answer have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Origin<'a> {
    /// As it was asked for.
    pub(crate) topic: &'a str,
    /// Whether they came from it, or from which of the broker's own retry topics of the group.
    pub(crate) kind: &'a str,
    pub(crate) start: i64,
    pub(crate) queue: u32,
    pub(crate) revive_queue: i64,
    pub(crate) pop_time: i64,
    pub(crate) invisible: i64,
}

/// The broker's number for a delivery of an ordered group.
const ORDERED: i64 = 999;
/// So far behind the first of its answer a delivery may stand.
const FAR: usize = 4096;

impl Receipt {
    /// What it has in common with others, and how far behind the first of them it stands; `None` for one that must be
    /// acknowledged by itself: in ordered groups the broker answers about each.
    pub(crate) fn origin(&self) -> Option<(Origin<'_>, usize)> {
        let mut parts = self.text.split(' ');
        let mut number = || parts.next()?.parse::<i64>().ok();
        let (start, pop_time, invisible, revive_queue) = (number()?, number()?, number()?, number()?);
        let kind = parts.next()?;
        let own = |mark: &str| self.topic.strip_prefix("%RETRY%")?.strip_prefix(&*self.group)?.strip_prefix(mark);
        let topic = match kind {
            "1" => own("_")?,
            "2" => own("+")?,
            _ => self.topic.as_str(),
        };
        let behind = usize::try_from(self.offset.checked_sub(start)?).ok().filter(|behind| *behind < FAR)?;
        let origin = Origin { topic, kind, start, queue: self.queue, revive_queue, pop_time, invisible };
        (revive_queue != ORDERED).then_some((origin, behind))
    }

    pub(crate) fn ack(&self) -> Command {
        self.fields(code::ACK_MESSAGE)
    }

    /// Keeps it from everybody else for `millis` from now on.
    pub(crate) fn change(&self, millis: u128) -> Command {
        self.fields(code::CHANGE_INVISIBLE_TIME).field("invisibleTime", millis)
    }

    fn fields(&self, code: i32) -> Command {
        Command::request(code)
            .field("consumerGroup", &self.group)
            .field("topic", &self.topic)
            .field("queueId", self.queue)
            .field("extraInfo", &self.text)
            .field("offset", self.offset)
    }

    /// The receipt that holds after the broker has answered a change.
    pub(crate) fn renewed(&self, answer: &Command) -> Result<Self> {
        let batch = Batch::read(answer)?;
        let kind = self.text.split(' ').nth(4).unwrap_or("0");
        let Batch { pop_time, invisible, revive_queue, .. } = &batch;
        let (name, queue, offset) = (&self.node.name, self.queue, self.offset);
        let text = format!("{offset} {pop_time} {invisible} {revive_queue} {kind} {name} {queue} {offset}");
        Ok(Self { text, ..self.clone() })
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::route::Route;

    #[test]
    fn forged_receipts_are_not_believed() {
        let body = br#"{"brokerDatas":[{"brokerAddrs":{"0":"h:1"},"brokerName":"a"}]}"#;
        let node = Arc::clone(&Route::decode(body, &Default::default()).unwrap().nodes[0]);
        let answer = Command::request(0)
            .field("popTime", 100)
            .field("invisibleTime", 30)
            .field("reviveQid", 2)
            .field("startOffsetInfo", "0 3 40;1 0 7")
            .field("orderCountInfo", "0 qo3%42 5");
        let batch = Batch::read(&answer).unwrap();
        let mut stored = Stored {
            queue: 3,
            offset: 42,
            born: SystemTime::UNIX_EPOCH,
            redeliveries: 0,
            body: "x".into(),
            properties: Default::default(),
        };
        let group: Arc<str> = "g".into();
        let plain = batch.receipt(&node, &group, "t", &stored);
        assert_eq!((plain.text.as_str(), plain.topic.as_str()), ("40 100 30 2 0 a 3 42", "t"));
        assert_eq!(batch.redeliveries(&stored), 5);
        for forged in ["1 2 3 4 1 a 3 42", "", "7 100 30 2 1 a 3 43", "x 100 30 2 1 a 3 42"] {
            stored.properties.insert(RECEIPT.into(), forged.into());
            assert_eq!(batch.receipt(&node, &group, "t", &stored).topic, "t", "{forged}");
        }
        stored.properties.insert(RECEIPT.into(), "7 100 30 2 1 a 3 42".into());
        assert_eq!(batch.receipt(&node, &group, "t", &stored).topic, "%RETRY%g_t");
        assert_eq!(plain.renewed(&answer).unwrap().text, "42 100 30 2 0 a 3 42");
        let given_back = batch.receipt(&node, &group, "t", &stored);
        assert_eq!(
            given_back.origin().map(|(origin, behind)| (origin.topic, origin.start, behind)),
            Some(("t", 7, 35))
        );
        assert_eq!(plain.origin().map(|(origin, behind)| (origin.revive_queue, behind)), Some((2, 2)));
        let ordered = Receipt { text: plain.text.replace(" 2 0 ", " 999 0 "), ..plain };
        assert_eq!(ordered.origin(), None);
    }
}
