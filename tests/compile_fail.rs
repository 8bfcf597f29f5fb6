//! A mistake that the compiler finds is named by its message, which says how to fix it: a
//! conditional write that could write while its conditions are not true, a `Tx` or a policy that is
//! not used as it has to be.

use std::process::Command;

#[test]
fn mistakes_fail_with_their_message() {
    // A part of each message is the compiler's own, and changes with its version.
    let output = Command::new("rustc").arg("--version").output();
    let version = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    if version.is_ok_and(|version| !version.starts_with("rustc 1.95.")) {
        eprintln!("not tested: the messages are those of Rust 1.95");
        return;
    }
    trybuild::TestCases::new().compile_fail("tests/compile_fail/*.rs");
}
