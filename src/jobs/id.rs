//! The id of a job.

use std::{error::Error as StdError, fmt, str::FromStr};

use crate::error::{Error, ErrorKind};

/// The id of a job: a random UUID.
///
/// It is the same in every run of the job. Effects outside of the database can happen more than
/// once; give the id to the other system as an idempotency key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(u128);

/// The text is no [`JobId`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct InvalidJobId;

impl JobId {
    pub(crate) fn as_u128(self) -> u128 {
        self.0
    }

    /// # Errors
    ///
    /// Returns `Unavailable` if the operating system has no random numbers.
    pub(crate) fn random() -> Result<Self, Error> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes)
            .map_err(|error| Error::because(ErrorKind::Unavailable, error))?;
        let random = u128::from_be_bytes(bytes);
        Ok(Self(random & !VERSION_MASK | VERSION))
    }
}

/// As a UUID, with hyphens.
impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = self.0;
        write!(
            f,
            "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            id >> 96,
            (id >> 80) & 0xffff,
            (id >> 64) & 0xffff,
            (id >> 48) & 0xffff,
            id & 0xffff_ffff_ffff
        )
    }
}

impl FromStr for JobId {
    type Err = InvalidJobId;

    fn from_str(text: &str) -> Result<Self, InvalidJobId> {
        let groups: Vec<_> = text.split('-').map(str::len).collect();
        let is_hexadecimal = text
            .bytes()
            .all(|byte| byte == b'-' || byte.is_ascii_hexdigit());
        if groups != [8, 4, 4, 4, 12] || !is_hexadecimal {
            return Err(InvalidJobId);
        }
        let digits = text.replace('-', "");
        u128::from_str_radix(&digits, 16)
            .map(Self)
            .map_err(|_| InvalidJobId)
    }
}

impl fmt::Display for InvalidJobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not the id of a job")
    }
}

impl StdError for InvalidJobId {}

/// The bits of version and variant.
const VERSION_MASK: u128 = (0xf << 76) | (0x3 << 62);
/// Version 4, random.
const VERSION: u128 = (0x4 << 76) | (0x2 << 62);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id_survives_its_text() {
        let id = JobId::random().unwrap();
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(JobId(7).to_string(), "00000000-0000-0000-0000-000000000007");
    }

    #[test]
    fn id_is_a_random_uuid() {
        let text = JobId::random().unwrap().to_string();
        assert_eq!(text.as_bytes()[14], b'4');
        assert!(b"89ab".contains(&text.as_bytes()[19]));
    }

    #[test]
    fn other_texts_are_no_ids() {
        for text in [
            "",
            "7",
            "0000000g-0000-0000-0000-000000000007",
            "+0000000-0000-0000-0000-000000000007",
            "0000000000000000000000000000000000007",
        ] {
            assert_eq!(text.parse::<JobId>(), Err(InvalidJobId), "{text}");
        }
    }
}
