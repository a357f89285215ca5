//! One frame: its length, the length of its header, the header as JSON, the body.

use std::collections::BTreeMap;
use std::fmt;
use std::fmt::Display;

use bytes::{BufMut, Bytes, BytesMut};
use mq_core::error::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use crate::error::{answer, error, from_answer};

/// The largest frame read: far above what a broker sends for one question.
pub(crate) const MAX_FRAME: usize = 64 * 1024 * 1024;

/// What a client of RocketMQ 5.1 says; brokers look at it for old clients only.
const VERSION: i32 = 475;
const RESPONSE: i32 = 1;
const ONE_WAY: i32 = 2;

/// A request or an answer.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Command {
    pub(crate) code: i32,
    /// Pairs an answer with its request.
    pub(crate) opaque: i32,
    flag: i32,
    pub(crate) remark: Option<String>,
    pub(crate) fields: BTreeMap<String, String>,
    pub(crate) body: Bytes,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Written<'a> {
    code: i32,
    flag: i32,
    language: &'static str,
    opaque: i32,
    #[serde(rename = "serializeTypeCurrentRPC")]
    serialize_type: &'static str,
    version: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    remark: Option<&'a str>,
    ext_fields: &'a BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Read {
    code: i32,
    #[serde(default)]
    flag: i32,
    opaque: i32,
    #[serde(default)]
    remark: Option<String>,
    #[serde(default)]
    ext_fields: Option<BTreeMap<String, Option<String>>>,
}

impl Command {
    pub(crate) fn request(code: i32) -> Self {
        Self { code, ..Self::default() }
    }

    pub(crate) fn field(mut self, name: &str, value: impl Display) -> Self {
        self.fields.insert(name.to_owned(), value.to_string());
        self
    }

    pub(crate) fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// Asks for no answer.
    pub(crate) fn one_way(mut self) -> Self {
        self.flag |= ONE_WAY;
        self
    }

    pub(crate) fn is_response(&self) -> bool {
        self.flag & RESPONSE != 0
    }

    /// A field of an answer.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.fields.get(name).map(String::as_str)
    }

    /// A field of an answer that is a number.
    pub(crate) fn number<T: std::str::FromStr>(&self, name: &'static str) -> Result<T> {
        let number = self.get(name).and_then(|text| text.trim().parse().ok());
        number.ok_or_else(|| error(ErrorKind::Internal, format!("the answer has no number `{name}`")))
    }

    /// The answer itself, unless it is a refusal.
    pub(crate) fn success(self) -> Result<Self> {
        if self.code == answer::SUCCESS { Ok(self) } else { Err(self.refusal()) }
    }

    pub(crate) fn refusal(&self) -> Error {
        from_answer(self.code, self.remark.as_deref())
    }

    pub(crate) fn encode(&self) -> Result<Bytes> {
        let written = Written {
            code: self.code,
            flag: self.flag,
            language: "OTHER",
            opaque: self.opaque,
            serialize_type: "JSON",
            version: VERSION,
            remark: self.remark.as_deref(),
            ext_fields: &self.fields,
        };
        let header = serde_json::to_vec(&written)
            .map_err(|cause| error(ErrorKind::Internal, "a request cannot be written").with_source(cause))?;
        let too_large = || error(ErrorKind::TooLarge, "the request is larger than a frame can be");
        // One byte of the header's length names its encoding: 0 is JSON.
        let length = u32::try_from(header.len()).ok().filter(|length| *length < 1 << 24).ok_or_else(too_large)?;
        let whole = header.len().saturating_add(self.body.len()).saturating_add(4);
        let whole = u32::try_from(whole).ok().filter(|_| whole <= MAX_FRAME).ok_or_else(too_large)?;
        let mut frame = BytesMut::with_capacity(header.len() + self.body.len() + 8);
        frame.put_u32(whole);
        frame.put_u32(length);
        frame.put_slice(&header);
        frame.put_slice(&self.body);
        Ok(frame.freeze())
    }

    /// Reads what follows the first length.
    pub(crate) fn decode(mut frame: Bytes) -> Result<Self> {
        let bad = |what: &'static str| error(ErrorKind::Internal, format!("a frame of the broker {what}"));
        let head = frame.get(..4).and_then(|head| <[u8; 4]>::try_from(head).ok());
        let [encoding, a, b, c] = head.ok_or_else(|| bad("ends early"))?;
        if encoding != 0 {
            return Err(bad("has a header that is not JSON"));
        }
        let length = usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap_or(usize::MAX);
        if length > frame.len() - 4 {
            return Err(bad("ends within its header"));
        }
        let _ = frame.split_to(4);
        let header = frame.split_to(length);
        let read: Read = serde_json::from_slice(&header).map_err(|_| bad("has a header that cannot be read"))?;
        let fields = read.ext_fields.unwrap_or_default();
        Ok(Self {
            code: read.code,
            opaque: read.opaque,
            flag: read.flag,
            remark: read.remark,
            fields: fields.into_iter().filter_map(|(name, value)| Some((name, value?))).collect(),
            body: frame,
        })
    }
}

/// Names of fields only: values may be a signature or what a user sends.
impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Command")
            .field("code", &self.code)
            .field("opaque", &self.opaque)
            .field("fields", &self.fields.keys().collect::<Vec<_>>())
            .field("body", &format_args!("{} B", self.body.len()))
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let command = Command::request(310).field("topic", "t|x").field("n", 7).body("body\0");
        let frame = command.encode().unwrap();
        let (length, rest) = frame.split_at(4);
        assert_eq!(u32::from_be_bytes(length.try_into().unwrap()) as usize, rest.len());
        assert_eq!(Command::decode(Bytes::copy_from_slice(rest)).unwrap(), command);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Command::decode(Bytes::from(bytes));
        }
    }
}
