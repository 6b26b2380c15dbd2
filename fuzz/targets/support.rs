//! What the checks share with the tests.

#[path = "../../tests/support/mend.rs"]
pub mod mend;
#[path = "../../tests/support/observe.rs"]
pub mod observe;
#[path = "../../tests/support/oracle.rs"]
pub mod oracle;
