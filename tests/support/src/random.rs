use std::hash::{BuildHasher, RandomState};

/// Twelve hexadecimal digits that no other name has.
pub(crate) fn random() -> String {
    // The standard library's only source of randomness: the keys of its hash maps.
    let number = RandomState::new().hash_one(std::process::id());
    format!("{:012x}", number & 0xffff_ffff_ffff)
}
