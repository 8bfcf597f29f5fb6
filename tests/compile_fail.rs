//! A conditional write that could write where its conditions are not true does not compile, and
//! the message says how to mend it.

#[test]
fn broken_rules_fail_with_their_message() {
    trybuild::TestCases::new().compile_fail("tests/compile_fail/*.rs");
}
