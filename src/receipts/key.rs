//! The names of receipts: hashes and random numbers.

use sha2::{Digest as _, Sha256};

use crate::error::{Error, ErrorKind};

/// The key of a receipt: of one attempt, or shared by all copies of a request with an idempotency
/// key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct ReceiptKey([u8; 32]);

/// Identifies an attempt among all that have the same key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct AttemptId([u8; 16]);

/// Identifies the content of a request. Two requests with one idempotency key must have the same.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fingerprint([u8; 32]);

/// Hashes a sequence of parts. Different sequences have different hashes, whatever the parts are.
pub(crate) struct Sha256Writer(Sha256);

impl ReceiptKey {
    /// # Errors
    ///
    /// Returns `Unavailable` if the operating system has no random numbers.
    pub(crate) fn random() -> Result<Self, Error> {
        random().map(Self)
    }

    pub(crate) fn hash(parts: Sha256Writer) -> Self {
        Self(parts.finish())
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl AttemptId {
    /// # Errors
    ///
    /// Returns `Unavailable` if the operating system has no random numbers.
    pub(crate) fn random() -> Result<Self, Error> {
        random().map(Self)
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Fingerprint {
    pub(crate) fn hash(parts: Sha256Writer) -> Self {
        Self(parts.finish())
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Sha256Writer {
    /// `purpose` keeps the hashes of different uses apart.
    pub(crate) fn new(purpose: &str) -> Self {
        Self(Sha256::new()).part(purpose.as_bytes())
    }

    pub(crate) fn part(mut self, part: &[u8]) -> Self {
        self.0.update((part.len() as u64).to_be_bytes());
        self.0.update(part);
        self
    }

    /// A part that may be missing, which differs from an empty one.
    pub(crate) fn optional(self, part: Option<&[u8]>) -> Self {
        match part {
            Some(part) => self.part(&[1]).part(part),
            None => self.part(&[0]),
        }
    }

    pub(crate) fn finish(self) -> [u8; 32] {
        self.0.finalize().into()
    }
}

fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    match getrandom::fill(&mut bytes) {
        Ok(()) => Ok(bytes),
        Err(error) => Err(Error::because(ErrorKind::Unavailable, error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(parts: &[&str]) -> [u8; 32] {
        let writer = Sha256Writer::new("test");
        let parts = parts
            .iter()
            .fold(writer, |writer, part| writer.part(part.as_bytes()));
        parts.finish()
    }

    #[test]
    fn boundaries_of_parts_count() {
        assert_ne!(hash(&["ab", "c"]), hash(&["a", "bc"]));
        assert_ne!(hash(&["ab", ""]), hash(&["ab"]));
        assert_eq!(hash(&["a", "b"]), hash(&["a", "b"]));
    }

    #[test]
    fn missing_part_is_not_an_empty_one() {
        let missing = Sha256Writer::new("test").optional(None).finish();
        assert_ne!(
            missing,
            Sha256Writer::new("test").optional(Some(b"")).finish()
        );
    }
}
