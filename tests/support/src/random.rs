use std::hash::{BuildHasher, RandomState};

/// Twelve random hexadecimal digits, for a unique name.
pub(crate) fn random() -> String {
    // The only source of randomness in the standard library is the keys of its hash maps.
    let number = RandomState::new().hash_one(std::process::id());
    format!("{:012x}", number & 0xffff_ffff_ffff)
}
