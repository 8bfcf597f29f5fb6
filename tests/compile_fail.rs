//! A conditional write that could write while its conditions are not true does not compile. The
//! message says how to fix it.

#[test]
fn broken_rules_fail_with_their_message() {
    trybuild::TestCases::new().compile_fail("tests/compile_fail/*.rs");
}
