//! One installation at a time on a machine, one change at a time to an instance.

use std::fs::{self, File, TryLockError};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::{command, interrupt};

/// Held while it lives; the kernel frees it when the process ends, however it ends.
/// A holder may remove the file: those who wait notice.
#[derive(Debug)]
pub(crate) struct Lock(#[expect(dead_code, reason = "closing the file frees the lock")] File);

impl Lock {
    pub(crate) fn acquire(path: &Path, patience: Duration) -> Result<Self> {
        let deadline = Instant::now() + patience;
        let mut told = false;
        loop {
            let file = command::append(path)?;
            match file.try_lock() {
                Ok(()) if is_at(&file, path) => return Ok(Self(file)),
                // Whoever held it has removed it: what was locked is no longer what others find.
                Ok(()) => {}
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    if !told {
                        eprintln!("waiting for another run which holds {}", path.display());
                        told = true;
                    }
                    interrupt::check()?;
                    std::thread::sleep(Duration::from_millis(100));
                }
                Err(TryLockError::WouldBlock) => bail!("another run still holds {} after {patience:?}", path.display()),
                Err(TryLockError::Error(error)) => {
                    return Err(error).with_context(|| format!("{} cannot be locked", path.display()));
                }
            }
        }
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    let (Ok(one), Ok(other)) = (file.metadata(), fs::metadata(path)) else { return false };
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_removed_by_its_holder_is_taken_anew() {
        let path = std::env::temp_dir().join(format!("xtask-lock-{}/lock", std::process::id()));
        let first = Lock::acquire(&path, Duration::ZERO).unwrap();
        assert!(Lock::acquire(&path, Duration::ZERO).is_err());
        let waiting = {
            let path = path.clone();
            std::thread::spawn(move || Lock::acquire(&path, Duration::from_secs(30)))
        };
        std::thread::sleep(Duration::from_millis(50));
        fs::remove_file(&path).unwrap();
        drop(first);
        let second = waiting.join().unwrap().unwrap();
        assert!(path.exists());
        assert!(Lock::acquire(&path, Duration::ZERO).is_err());
        drop(second);
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }
}
