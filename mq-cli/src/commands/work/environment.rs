//! What a command is told of its message through its environment.
//!
//! Headers come from strangers. Under their own names they would be remote code execution (`LD_PRELOAD`, `BASH_ENV`),
//! so a name becomes `MQ_HEADER_` and what is left of it in upper case. Values an environment cannot hold are encoded
//! or written to a file, and listed in `MQ_BASE64` or `MQ_FILES`: lists, since a marker named after the header could
//! be forged by another header.

use std::collections::HashSet;
use std::ffi::OsString;
use std::io;
use std::str;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mq::{Message, MessageId};
use tempfile::TempDir;

use crate::record::HeaderMap;

/// The longest value in the environment; longer ones are written to a file.
const MAX_VALUE: usize = 64 << 10;
/// All variables together: Linux refuses to start a command at about 2 MiB, arguments included.
const MAX_TOTAL: usize = 768 << 10;
/// Beyond this, small headers are in `MQ_HEADERS` only.
const MAX_WITH_FILES: usize = 1 << 20;
/// The longest name that gets a variable of its own.
const MAX_NAME: usize = 256;
/// What a variable costs beside its text.
const OVERHEAD: usize = 16;

/// Begins every variable of a header.
const HEADER: &str = "MQ_HEADER_";
/// Variables set for one message; those inherited from a worker around this one are removed.
const OWN: [&str; 7] = ["MQ_ID", "MQ_KEY", "MQ_TOPIC", "MQ_ATTEMPT", "MQ_HEADERS", "MQ_BASE64", "MQ_FILES"];

/// The variables of one message, and the folder of those that are files.
#[derive(Debug, Default)]
pub(super) struct Environment {
    pub(super) variables: Vec<(String, OsString)>,
    base64: Vec<String>,
    files: Vec<String>,
    size: usize,
    folder: Option<TempDir>,
}

impl Environment {
    /// The variables of `message`.
    pub(super) fn new(message: &Message, id: Option<&MessageId>, attempt: u32) -> io::Result<Self> {
        let mut environment = Self::default();
        if let Some(id) = id {
            environment.set("MQ_ID", id.as_str().as_bytes())?;
        }
        if let Some(key) = message.key_bytes() {
            environment.set("MQ_KEY", key)?;
        }
        environment.set("MQ_TOPIC", message.topic().as_str().as_bytes())?;
        environment.set("MQ_ATTEMPT", attempt.to_string().as_bytes())?;
        environment.set("MQ_HEADERS", &serde_json::to_vec(&HeaderMap(message.headers()))?)?;
        let mut done = HashSet::new();
        // From behind: of names that become the same, the last one counts, as in the message itself.
        let headers: Vec<_> = message.headers().iter().collect();
        for (name, value) in headers.into_iter().rev() {
            let Some(name) = variable(name).filter(|name| !done.contains(name)) else { continue };
            if environment.size < MAX_WITH_FILES {
                environment.set(&name, value)?;
            }
            done.insert(name);
        }
        environment.list("MQ_BASE64", |environment| &environment.base64);
        environment.list("MQ_FILES", |environment| &environment.files);
        Ok(environment)
    }

    fn set(&mut self, name: &str, value: &[u8]) -> io::Result<()> {
        let text = str::from_utf8(value).ok().filter(|text| !text.contains('\0'));
        let length = text.map_or(value.len().div_ceil(3) * 4, str::len);
        let value = if length > MAX_VALUE || self.size + length > MAX_TOTAL {
            self.files.push(name.to_owned());
            self.write(value)?
        } else if let Some(text) = text {
            text.into()
        } else {
            self.base64.push(name.to_owned());
            STANDARD.encode(value).into()
        };
        self.push(name, value);
        Ok(())
    }

    fn push(&mut self, name: &str, value: OsString) {
        // The name counts twice: it may stand in a list too.
        self.size += 2 * name.len() + value.len() + OVERHEAD;
        self.variables.push((name.to_owned(), value));
    }

    /// Writes the bytes as they are to a file of their own, readable by this user only.
    fn write(&mut self, value: &[u8]) -> io::Result<OsString> {
        let folder = match self.folder.take() {
            Some(folder) => folder,
            None => tempfile::Builder::new().prefix("mq-").tempdir()?,
        };
        let path = folder.path().join(self.files.len().to_string());
        self.folder = Some(folder);
        std::fs::write(&path, value)?;
        Ok(path.into_os_string())
    }

    fn list(&mut self, name: &str, of: impl Fn(&Self) -> &Vec<String>) {
        let names = of(self);
        if !names.is_empty() {
            let names = names.join(" ");
            self.push(name, names.into());
        }
    }
}

/// True for a variable of another message, inherited.
pub(super) fn is_own(name: &str) -> bool {
    name.starts_with(HEADER) || OWN.contains(&name)
}

/// The variable of a header, where its name makes one.
fn variable(name: &str) -> Option<String> {
    if name.is_empty() || name.len() > MAX_NAME {
        return None;
    }
    let letter = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    Some(HEADER.chars().chain(name.chars().map(letter)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(message: &Message) -> Environment {
        Environment::new(message, message.message_id(), 2).unwrap()
    }

    fn get<'a>(environment: &'a Environment, name: &str) -> Option<&'a str> {
        environment.variables.iter().find(|(known, _)| known == name).and_then(|(_, value)| value.to_str())
    }

    #[test]
    fn no_header_keeps_its_own_name() {
        let message =
            Message::new("t").unwrap().header("LD_PRELOAD", "/x.so").header("PATH", "/x").header("bash env", "x");
        let environment = of(&message);
        assert!(environment.variables.iter().all(|(name, _)| name.starts_with("MQ_")), "{environment:?}");
        assert_eq!(get(&environment, "MQ_HEADER_LD_PRELOAD"), Some("/x.so"));
        assert_eq!(get(&environment, "MQ_HEADER_BASH_ENV"), Some("x"));
        assert_eq!(get(&environment, "MQ_ATTEMPT"), Some("2"));
    }

    #[test]
    fn values_that_do_not_fit_are_encoded_and_marked() {
        let message = Message::new("t").unwrap().key([0xff]).id("7").header("nul", "a\0b").header("é", "é");
        let environment = of(&message);
        assert_eq!(get(&environment, "MQ_KEY"), Some("/w=="));
        assert_eq!(get(&environment, "MQ_HEADER_NUL"), Some("YQBi"));
        assert_eq!(get(&environment, "MQ_HEADER__"), Some("é"));
        assert_eq!(get(&environment, "MQ_BASE64"), Some("MQ_KEY MQ_HEADER_NUL"));
        assert_eq!(get(&environment, "MQ_FILES"), None);
    }

    #[test]
    fn long_values_are_files_while_the_message_is_handled() {
        let long = vec![0xfe; MAX_VALUE + 1];
        let message = Message::new("t").unwrap().header("long", long.clone()).header("short", "x");
        let environment = of(&message);
        assert_eq!(get(&environment, "MQ_FILES"), Some("MQ_HEADERS MQ_HEADER_LONG"));
        let path = get(&environment, "MQ_HEADER_LONG").unwrap().to_owned();
        assert_eq!(std::fs::read(&path).unwrap(), long);
        drop(environment);
        assert!(!std::path::Path::new(&path).exists());
    }

    #[test]
    fn the_last_of_the_same_name_counts() {
        let message = Message::new("t").unwrap().header("a-b", "1").header("a_b", "2").header("a.b", "3");
        assert_eq!(get(&of(&message), "MQ_HEADER_A_B"), Some("3"));
    }

    #[test]
    fn whatever_the_headers_a_command_can_be_started() {
        let mut message = Message::new("t").unwrap();
        for number in 0..20_000 {
            message = message.header(format!("name-{number}"), "x".repeat(400));
        }
        let environment = of(&message);
        let size: usize = environment.variables.iter().map(|(name, value)| name.len() + value.len() + 10).sum();
        assert!(size < 3 << 19, "{size}");
        let status = std::process::Command::new("true").envs(environment.variables.iter().cloned()).status();
        assert!(status.unwrap().success());
    }
}
