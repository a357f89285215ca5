//! Places in a topic: `earliest`, `latest`, a point in time, a position.

use std::time::{Duration, SystemTime};

use mq::StartFrom;
use mq::driver::SeekTo;

use super::position::position;

/// Where a new group starts.
pub(crate) fn start(text: &str) -> Result<StartFrom, String> {
    Ok(match seek(text)? {
        SeekTo::Latest => StartFrom::Latest,
        SeekTo::Time(at) => StartFrom::Time(at),
        SeekTo::Position(position) => StartFrom::Position(position),
        _ => StartFrom::Earliest,
    })
}

/// Where a group is moved to.
pub(crate) fn seek(text: &str) -> Result<SeekTo, String> {
    match text {
        "earliest" => return Ok(SeekTo::Earliest),
        "latest" => return Ok(SeekTo::Latest),
        _ => {}
    }
    if let Some(position) = position(text) {
        return Ok(SeekTo::Position(position));
    }
    time(text).map(SeekTo::Time).ok_or_else(|| {
        "write earliest, latest, a time (2026-01-31T12:00:00Z, or milliseconds since 1970) or a position \
         (PARTITION:OFFSET)"
            .to_owned()
    })
}

/// RFC 3339 with any offset, or milliseconds since the Unix epoch.
fn time(text: &str) -> Option<SystemTime> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(text.parse().ok()?));
    }
    // humantime knows UTC only: the offset is taken off and counted in.
    let date_end = text.find(['T', 't', ' '])?;
    let offset = text.rfind(['+', '-']).filter(|at| *at > date_end);
    let Some(offset) = offset else { return humantime::parse_rfc3339_weak(&text.to_ascii_uppercase()).ok() };
    let (local, zone) = text.split_at_checked(offset)?;
    let (hours, minutes) = zone.get(1..)?.split_once(':')?;
    let number = |text: &str, limit: u64| {
        let valid = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<u64>().ok().filter(|number| valid && *number < limit)
    };
    let shift = Duration::from_secs(number(hours, 24)? * 3600 + number(minutes, 60)? * 60);
    let local = humantime::parse_rfc3339_weak(&format!("{}Z", local.to_ascii_uppercase())).ok()?;
    if zone.starts_with('+') { local.checked_sub(shift) } else { local.checked_add(shift) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> SeekTo {
        SeekTo::Time(SystemTime::UNIX_EPOCH + Duration::from_millis(millis))
    }

    #[test]
    fn times_in_both_forms() {
        assert_eq!(seek("1700000000123"), Ok(at(1_700_000_000_123)));
        for same in ["2023-11-14T22:13:20.123Z", "2023-11-15T00:13:20.123+02:00", "2023-11-14t16:43:20.123-05:30"] {
            assert_eq!(seek(same), Ok(at(1_700_000_000_123)), "{same}");
        }
        assert_eq!(seek("0:42"), Ok(SeekTo::Position(mq::Position::Log { partition: 0, offset: 42 })));
        assert_eq!(seek("earliest"), Ok(SeekTo::Earliest));
        assert_eq!(start("latest"), Ok(StartFrom::Latest));
        for bad in [
            "",
            "newest",
            "2023-11-14",
            "2023-13-40T00:00:00Z",
            "2023-11-14T22:13:20+2:00",
            "99999999999999999999",
            "é",
        ] {
            assert!(seek(bad).is_err(), "{bad}");
        }
    }
}
