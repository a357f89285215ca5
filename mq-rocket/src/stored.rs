//! Messages as the broker stores and sends them.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::time::{Duration, SystemTime};

use bytes::{Buf, Bytes};
use mq_core::error::{ErrorKind, Result};

use crate::error::error;

/// Marks a message whose topic has a length of one byte, and of two.
const MAGIC: i32 = -626_843_481;
const MAGIC_LONG_TOPIC: i32 = -626_843_477;
const COMPRESSED: i32 = 1;
const COMPRESSION: i32 = 0x700;
const BORN_IPV6: i32 = 1 << 4;
const STORED_IPV6: i32 = 1 << 5;
/// A compressed body may not become larger than this.
const MAX_BODY: u64 = 64 * 1024 * 1024;

const NAME_END: char = '\u{1}';
const PAIR_END: char = '\u{2}';

/// Names and values, as the broker has them.
pub(crate) type Properties = BTreeMap<String, String>;

/// One message.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    pub(crate) queue: u32,
    pub(crate) offset: i64,
    pub(crate) born: SystemTime,
    pub(crate) redeliveries: u32,
    pub(crate) body: Bytes,
    pub(crate) properties: Properties,
}

/// Reads messages one behind the other. What cannot be read ends the list with an error.
pub(crate) fn decode(mut bytes: Bytes) -> Result<Vec<Stored>> {
    let mut stored = Vec::new();
    while bytes.has_remaining() {
        let size = bytes.get(..4).and_then(|size| <[u8; 4]>::try_from(size).ok()).map(u32::from_be_bytes);
        let size = size.and_then(|size| usize::try_from(size).ok()).filter(|size| (4..=bytes.len()).contains(size));
        let size = size.ok_or_else(|| unreadable("has a size that cannot be"))?;
        stored.push(one(bytes.split_to(size))?);
    }
    Ok(stored)
}

fn one(mut bytes: Bytes) -> Result<Stored> {
    let early = |_| unreadable("ends early");
    let _size = bytes.try_get_u32().map_err(early)?;
    let magic = bytes.try_get_i32().map_err(early)?;
    if magic != MAGIC && magic != MAGIC_LONG_TOPIC {
        return Err(unreadable("has a mark that is not known"));
    }
    let _checksum = bytes.try_get_u32().map_err(early)?;
    let queue = bytes.try_get_u32().map_err(early)?;
    let _flag = bytes.try_get_u32().map_err(early)?;
    let offset = bytes.try_get_i64().map_err(early)?;
    let _physical = bytes.try_get_i64().map_err(early)?;
    let flags = bytes.try_get_i32().map_err(early)?;
    let born = time(bytes.try_get_i64().map_err(early)?);
    skip(&mut bytes, if flags & BORN_IPV6 == 0 { 8 } else { 20 })?;
    let _stored_at = bytes.try_get_i64().map_err(early)?;
    skip(&mut bytes, if flags & STORED_IPV6 == 0 { 8 } else { 20 })?;
    let redeliveries = u32::try_from(bytes.try_get_i32().map_err(early)?).unwrap_or(0);
    let _prepared = bytes.try_get_i64().map_err(early)?;
    let length = bytes.try_get_u32().map_err(early)?;
    let body = take(&mut bytes, usize::try_from(length).unwrap_or(usize::MAX))?;
    let body = if flags & COMPRESSED == 0 { body } else { expand(&body, flags & COMPRESSION)? };
    let length = match magic {
        MAGIC => usize::from(bytes.try_get_u8().map_err(early)?),
        _ => usize::from(bytes.try_get_u16().map_err(early)?),
    };
    let _topic = take(&mut bytes, length)?;
    let length = bytes.try_get_u16().map_err(early)?;
    let properties = read_properties(&String::from_utf8_lossy(&take(&mut bytes, usize::from(length))?));
    Ok(Stored { queue, offset, born, redeliveries, body, properties })
}

fn unreadable(what: &'static str) -> mq_core::Error {
    error(ErrorKind::Internal, format!("a message of the broker {what}"))
}

fn skip(bytes: &mut Bytes, count: usize) -> Result<()> {
    take(bytes, count).map(drop)
}

fn take(bytes: &mut Bytes, count: usize) -> Result<Bytes> {
    if count > bytes.len() {
        return Err(unreadable("ends early"));
    }
    Ok(bytes.split_to(count))
}

fn time(millis: i64) -> SystemTime {
    let since = Duration::from_millis(u64::try_from(millis).unwrap_or(0));
    SystemTime::UNIX_EPOCH.checked_add(since).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// Java clients compress large bodies. Whoever wrote one that cannot be expanded gets it delivered as it is.
fn expand(body: &Bytes, kind: i32) -> Result<Bytes> {
    // 0: clients that knew one way only.
    if kind != 0 && kind != 0x300 {
        return Ok(body.clone());
    }
    let mut expanded = Vec::new();
    let read = flate2::read::ZlibDecoder::new(&**body).take(MAX_BODY + 1).read_to_end(&mut expanded);
    // Half of a body would be taken for the whole.
    if read.is_ok() && u64::try_from(expanded.len()).is_ok_and(|length| length <= MAX_BODY) {
        return Ok(expanded.into());
    }
    Ok(body.clone())
}

pub(crate) fn read_properties(text: &str) -> Properties {
    let pairs = text.split(PAIR_END).filter_map(|pair| pair.split_once(NAME_END));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

pub(crate) fn write_properties(properties: &Properties) -> String {
    let mut text = String::new();
    for (name, value) in properties {
        if !text.is_empty() {
            text.push(PAIR_END);
        }
        text.push_str(name);
        text.push(NAME_END);
        text.push_str(value);
    }
    text
}

/// True for text that a property can have as name or value. The broker drops empty values.
pub(crate) fn is_plain(text: &str) -> bool {
    !text.is_empty() && !text.contains([NAME_END, PAIR_END, '\0'])
}

#[cfg(test)]
mod tests {
    use bytes::{BufMut, BytesMut};
    use proptest::prelude::*;

    use super::*;

    fn written(body: &[u8], flags: i32) -> Bytes {
        let mut bytes = BytesMut::new();
        bytes.put_i32(MAGIC);
        bytes.put_slice(&[0; 4]);
        bytes.put_u32(3);
        bytes.put_slice(&[0; 4]);
        bytes.put_i64(42);
        bytes.put_i64(0);
        bytes.put_i32(flags);
        bytes.put_i64(1000);
        bytes.put_slice(&[0; 8]);
        bytes.put_i64(1001);
        bytes.put_slice(&[0; 8]);
        bytes.put_i32(2);
        bytes.put_i64(0);
        bytes.put_u32(body.len() as u32);
        bytes.put_slice(body);
        bytes.put_u8(1);
        bytes.put_slice(b"t");
        let properties = "a\u{1}1\u{2}b\u{1}2";
        bytes.put_u16(properties.len() as u16);
        bytes.put_slice(properties.as_bytes());
        let mut whole = BytesMut::new();
        whole.put_u32(bytes.len() as u32 + 4);
        whole.put_slice(&bytes);
        whole.freeze()
    }

    #[test]
    fn messages_are_read() {
        let two = [written(b"one", 0), written(b"two", 0)].concat();
        let stored = decode(two.into()).unwrap();
        assert_eq!(stored.len(), 2);
        let last = &stored[1];
        assert_eq!((&*last.body, last.queue, last.offset, last.redeliveries), (b"two".as_slice(), 3, 42, 2));
        assert_eq!(last.properties.get("b").map(String::as_str), Some("2"));
        assert_eq!(write_properties(&last.properties), "a\u{1}1\u{2}b\u{1}2");
    }

    #[test]
    fn compressed_bodies_are_expanded() {
        let mut packed = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut packed, &[7; 5000]).unwrap();
        let packed = packed.finish().unwrap();
        assert_eq!(decode(written(&packed, COMPRESSED)).unwrap()[0].body, vec![7; 5000]);
        assert_eq!(decode(written(b"junk", COMPRESSED)).unwrap()[0].body, "junk");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(mut bytes in prop::collection::vec(any::<u8>(), 0..300), honest in any::<bool>()) {
            if honest && bytes.len() >= 8 {
                let size = (bytes.len() as u32).to_be_bytes();
                bytes[..4].copy_from_slice(&size);
                bytes[4..8].copy_from_slice(&MAGIC.to_be_bytes());
            }
            let _ = decode(bytes.into());
        }
    }
}
