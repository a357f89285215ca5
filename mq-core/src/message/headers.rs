//! A multimap of byte-valued headers, in the order they were written.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;

/// The name of a header. Names are compared byte by byte; the SDK writes its own in lower case.
pub type HeaderName = ByteString;

/// Headers of a message: names may repeat, values are bytes, order is kept.
///
/// Cloning copies the list once, but not the bytes; clones of clones share it. An empty set allocates nothing.
#[derive(Default)]
pub struct Headers(List);

/// A clone is shared until it is changed: a message handed out again and again costs its list once.
enum List {
    Owned(Vec<(HeaderName, Bytes)>),
    Shared(Arc<[(HeaderName, Bytes)]>),
}

impl Headers {
    /// No headers; allocates nothing.
    #[inline]
    pub const fn new() -> Self {
        Self(List::Owned(Vec::new()))
    }

    /// No headers, with room for `capacity`.
    #[inline]
    pub fn with_capacity(capacity: usize) -> Self {
        Self(List::Owned(Vec::with_capacity(capacity)))
    }

    #[inline]
    fn list(&self) -> &[(HeaderName, Bytes)] {
        match &self.0 {
            List::Owned(list) => list,
            List::Shared(list) => list,
        }
    }

    fn list_mut(&mut self) -> &mut Vec<(HeaderName, Bytes)> {
        if let List::Shared(list) = &self.0 {
            self.0 = List::Owned(list.to_vec());
        }
        match &mut self.0 {
            List::Owned(list) => list,
            List::Shared(_) => unreachable!("made owned just above"),
        }
    }

    /// Adds a header behind those that are there, also when the name exists.
    #[inline]
    pub fn append(&mut self, name: impl Into<HeaderName>, value: impl Into<Bytes>) {
        self.list_mut().push((name.into(), value.into()));
    }

    /// Sets a header to one value, removing earlier ones of that name.
    pub fn set(&mut self, name: impl Into<HeaderName>, value: impl Into<Bytes>) {
        let name = name.into();
        self.remove(&name);
        self.list_mut().push((name, value.into()));
    }

    /// Removes every header of that name and returns the last value.
    pub fn remove(&mut self, name: &str) -> Option<Bytes> {
        let last = self.get(name).cloned();
        if last.is_some() {
            self.list_mut().retain(|(known, _)| known != name);
        }
        last
    }

    /// The last value of that name: the one a later writer meant.
    pub fn get(&self, name: &str) -> Option<&Bytes> {
        self.list().iter().rev().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    /// The last value of that name, if it is UTF-8.
    pub fn get_str(&self, name: &str) -> Option<&str> {
        self.get(name).and_then(|value| std::str::from_utf8(value).ok())
    }

    /// Every value of that name, in order.
    pub fn get_all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Bytes> + 'a {
        self.list().iter().filter(move |(known, _)| known == name).map(|(_, value)| value)
    }

    /// Every header, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&HeaderName, &Bytes)> {
        self.list().iter().map(|(name, value)| (name, value))
    }

    /// Keeps only the headers for which `keep` is true.
    pub fn retain(&mut self, mut keep: impl FnMut(&str, &Bytes) -> bool) {
        self.list_mut().retain(|(name, value)| keep(name, value));
    }

    /// How many headers there are, repeated names counted each.
    #[inline]
    pub fn len(&self) -> usize {
        self.list().len()
    }

    /// True when there are none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.list().is_empty()
    }

    /// Bytes of all names and values.
    #[inline]
    pub fn size(&self) -> usize {
        self.list().iter().map(|(name, value)| name.len() + value.len()).sum()
    }
}

impl Default for List {
    fn default() -> Self {
        Self::Owned(Vec::new())
    }
}

impl Clone for Headers {
    fn clone(&self) -> Self {
        Self(match &self.0 {
            List::Owned(list) if list.is_empty() => List::default(),
            List::Owned(list) => List::Shared(Arc::from(list.as_slice())),
            List::Shared(list) => List::Shared(Arc::clone(list)),
        })
    }
}

impl PartialEq for Headers {
    fn eq(&self, other: &Self) -> bool {
        self.list() == other.list()
    }
}

impl Eq for Headers {}

impl<N: Into<HeaderName>, V: Into<Bytes>> FromIterator<(N, V)> for Headers {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(items: I) -> Self {
        Self(List::Owned(items.into_iter().map(|(name, value)| (name.into(), value.into())).collect()))
    }
}

impl<N: Into<HeaderName>, V: Into<Bytes>> Extend<(N, V)> for Headers {
    fn extend<I: IntoIterator<Item = (N, V)>>(&mut self, items: I) {
        self.list_mut().extend(items.into_iter().map(|(name, value)| (name.into(), value.into())));
    }
}

/// Names only: values may be anything, a token included.
impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.list().iter().map(|(name, value)| (name, format!("{} B", value.len())))).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clone_changes_alone() {
        let original: Headers = [("a", "1")].into_iter().collect();
        let mut clone = original.clone();
        assert_eq!(clone, original);
        let second = clone.clone();
        clone.append("b", "2");
        assert_eq!((original.len(), second.len(), clone.len()), (1, 1, 2));
        assert_eq!(size_of::<Headers>(), size_of::<Vec<()>>());
    }

    #[test]
    fn keeps_order_and_repeats() {
        let mut headers: Headers = [("a", "1"), ("b", "2"), ("a", "3")].into_iter().collect();
        assert_eq!(headers.get_str("a"), Some("3"));
        assert_eq!(headers.get_all("a").count(), 2);
        headers.set("a", "4");
        assert_eq!(headers.len(), 2);
        assert_eq!(headers.remove("a").as_deref(), Some(b"4".as_slice()));
        assert_eq!(headers.iter().next().map(|(name, _)| name.to_string()), Some("b".to_owned()));
    }
}
