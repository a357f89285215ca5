//! Where a server keeps its data when it refuses to work on a disk that is nearly full.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::fs::statvfs;

/// A folder in memory, on Linux; what is there survives the death of a process, as on a disk.
const MEMORY: &str = "/dev/shm";

/// Of the names of folders there.
const PREFIX: &str = "mq-broker-";

/// The data may go where at least so much is free and no more than so much of it used.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    pub(crate) used_percent: u64,
    pub(crate) free_bytes: u64,
}

/// Makes the folder, or a link with its name into memory when the disk has too little room. One that is there stays
/// where it is: a server that starts again finds its data.
pub(crate) fn ensure(folder: &Path, wanted: Wanted) -> Result<()> {
    if folder.symlink_metadata().is_ok() {
        return Ok(());
    }
    let parent = folder.parent().with_context(|| format!("{} has no folder above it", folder.display()))?;
    fs::create_dir_all(parent).with_context(|| format!("{} cannot be created", parent.display()))?;
    if fits(parent, wanted)? {
        return fs::create_dir(folder).with_context(|| format!("{} cannot be created", folder.display()));
    }
    if !fits(Path::new(MEMORY), wanted).unwrap_or(false) {
        bail!(
            "the disk of {} is more than {} % full, or has less than {} MiB free, and {MEMORY} too: this server takes \
             nothing on such a disk; free some room",
            parent.display(),
            wanted.used_percent,
            wanted.free_bytes >> 20
        );
    }
    let memory = in_memory(folder);
    eprintln!("the disk is nearly full: the data of {} is in {}", parent.display(), memory.display());
    // Of a former instance which was deleted by hand.
    remove_folder(&memory)?;
    fs::create_dir(&memory).with_context(|| format!("{} cannot be created", memory.display()))?;
    std::os::unix::fs::symlink(&memory, folder).with_context(|| format!("{} cannot be created", folder.display()))
}

/// What `ensure` has put elsewhere. The folder itself goes with the instance's.
pub(crate) fn remove(folder: &Path) -> Result<()> {
    match fs::read_link(folder) {
        Ok(memory) if memory.to_string_lossy().starts_with(&format!("{MEMORY}/{PREFIX}")) => remove_folder(&memory),
        _ => Ok(()),
    }
}

fn fits(place: &Path, wanted: Wanted) -> Result<bool> {
    let room = statvfs(place).with_context(|| format!("the room at {} cannot be asked for", place.display()))?;
    let used = room.f_blocks.saturating_sub(room.f_bfree);
    // As `df` counts, and the servers: of what this user may use.
    let usable = used.saturating_add(room.f_bavail);
    let free = room.f_bavail.saturating_mul(room.f_frsize);
    let percent = used.saturating_mul(100).checked_div(usable).unwrap_or(100);
    Ok(percent <= wanted.used_percent && free >= wanted.free_bytes)
}

/// The same for the same folder, another for each other.
fn in_memory(folder: &Path) -> PathBuf {
    let mut hasher = DefaultHasher::new();
    folder.hash(&mut hasher);
    Path::new(MEMORY).join(format!("{PREFIX}{:016x}", hasher.finish()))
}

fn remove_folder(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("{} cannot be removed", folder.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANYWHERE: Wanted = Wanted { used_percent: 100, free_bytes: 0 };

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("xtask-room-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        folder
    }

    #[test]
    fn a_disk_with_room_is_used() {
        let instance = folder("disk");
        let store = instance.join("data/store");
        ensure(&store, ANYWHERE).unwrap();
        assert!(store.symlink_metadata().unwrap().is_dir());
        fs::write(store.join("message"), "kept").unwrap();
        ensure(&store, ANYWHERE).unwrap();
        assert!(store.join("message").exists());
        remove(&store).unwrap();
        fs::remove_dir_all(instance).unwrap();
    }

    #[test]
    fn no_room_anywhere_is_said() {
        let instance = folder("none");
        let error = ensure(&instance.join("store"), Wanted { used_percent: 100, free_bytes: u64::MAX }).unwrap_err();
        assert!(format!("{error:#}").contains("free some room"), "{error:#}");
        fs::remove_dir_all(instance).unwrap();
    }

    #[test]
    fn what_is_in_memory_goes_with_the_instance() {
        let instance = folder("memory");
        let (store, memory) = (instance.join("store"), in_memory(&instance.join("store")));
        fs::create_dir_all(&instance).unwrap();
        fs::create_dir_all(&memory).unwrap();
        std::os::unix::fs::symlink(&memory, &store).unwrap();
        remove(&store).unwrap();
        assert!(!memory.exists());
        fs::remove_dir_all(instance).unwrap();
    }
}
