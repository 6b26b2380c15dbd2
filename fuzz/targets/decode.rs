//! The decoder and the naive oracle say the same to any bytes.
#![no_main]

mod input;
#[path = "../../tests/support/observe.rs"]
mod observe;
#[path = "../../tests/support/oracle.rs"]
mod oracle;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((rules, bytes)) = input::read(data) else { return };
    assert_eq!(observe::decode(&bytes, rules), oracle::decode(&bytes, rules));
});
