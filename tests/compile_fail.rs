//! A conditional write that could write where its conditions are not true does not compile, and
//! the message says how to mend it.

#[test]
fn each_rule_has_its_message() {
    trybuild::TestCases::new().compile_fail("tests/compile_fail/*.rs");
}
