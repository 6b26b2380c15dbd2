//! The verdict is a function of the stream: every prefix before the deciding byte is incomplete and asks for more than
//! it has, every one from it on is judged like the whole.
#![no_main]

mod input;
#[path = "../../tests/support/observe.rs"]
mod observe;
#[allow(dead_code)] // only its words are used here
#[path = "../../tests/support/oracle.rs"]
mod oracle;

use libfuzzer_sys::fuzz_target;
use oracle::Verdict;

fuzz_target!(|data: &[u8]| {
    let Some((rules, bytes)) = input::read(data) else { return };
    let whole = observe::decode(&bytes, rules);
    let decided = match whole {
        Verdict::Complete { length: at, .. } | Verdict::Absent { at } | Verdict::Invalid { at, .. } => at,
        Verdict::Incomplete { .. } => usize::MAX,
    };
    for split in 0..bytes.len() {
        let part = observe::decode(&bytes[..split], rules);
        match part {
            Verdict::Incomplete { need } => assert!(split < decided && need > split, "at {split}: {part:?}, {whole:?}"),
            _ => assert!(split >= decided && part == whole, "at {split}: {part:?}, {whole:?}"),
        }
    }
});
