//! What 23 other projects' own tests expect of a decoder: their streams, re-typed from their sources, but for those at
//! which a server or library named in docs/conformance.md crashes or hangs.
//!
//! `tests/data/peers.jsonl` names each with its source and its authors' verdict (`expect`), the addresses, TLVs and
//! length that they read out of it, or the segments in which it comes (`parts`) and what a server does with it. Where
//! Vestibule differs on purpose, `ours` says in what, and why.

use serde_json::{Map, Value};
use vestibule::admission::Policy;
use vestibule::proxy::{self, Decoded};

use crate::header::as_json;
use crate::support::header::hex;
use crate::support::observe;
use crate::support::oracle::{self, Rules, Verdict};

/// One line, with `ours` laid over what its authors expect.
struct Case {
    fields: Map<String, Value>,
    differs: bool,
}

fn cases() -> Vec<Case> {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data/peers.jsonl"))
        .expect("the cases are part of the repository");
    text.lines().map(Case::read).collect()
}

impl Case {
    fn read(line: &str) -> Case {
        let Value::Object(mut fields) = serde_json::from_str(line).expect("every line is JSON") else {
            panic!("no object: {line}");
        };
        let ours = fields.remove("ours");
        let differs = ours.is_some();
        if let Some(Value::Object(ours)) = ours {
            assert!(ours["why"].as_str().is_some_and(|why| !why.is_empty()), "no reason: {line}");
            fields.extend(ours);
        }
        Case { fields, differs }
    }

    fn text(&self, key: &str) -> &str {
        self.fields.get(key).and_then(Value::as_str).unwrap_or_default()
    }

    fn name(&self) -> &str {
        self.text("name")
    }

    fn rules(&self) -> Rules {
        let mut rules = Rules::default();
        let given = self.fields.get("rules");
        if let Some(limit) = given.and_then(|rules| rules.get("header_limit")).and_then(Value::as_u64) {
            rules.header_limit = limit as usize;
        }
        let maps = |rule| given.and_then(|rules| rules.get(rule)).is_some_and(|map| map == true);
        (rules.v4_in_tcp6, rules.v6_in_tcp4) = (maps("v4_in_tcp6"), maps("v6_in_tcp4"));
        rules
    }

    /// The segments; one, unless it is a case of a connection.
    fn parts(&self) -> Vec<Vec<u8>> {
        if let Some(parts) = self.fields.get("parts") {
            let parts = parts.as_array().expect("parts are a list");
            return parts.iter().map(|part| hex(part.as_str().expect("a part is hexadecimal"))).collect();
        }
        let mut bytes = hex(self.text("hex"));
        if let Some(fill) = self.fields.get("fill") {
            let byte = hex(fill["byte"].as_str().expect("a byte"))[0];
            bytes.resize(bytes.len() + fill["count"].as_u64().expect("a count") as usize, byte);
        }
        bytes.extend(hex(self.text("tail")));
        vec![bytes]
    }

    fn bytes(&self) -> Vec<u8> {
        self.parts().concat()
    }
}

#[test]
fn peer_cases_are_as_many_as_the_page_says() {
    let cases = cases();
    let differ = cases.iter().filter(|case| case.differs).count();
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/conformance.md"))
        .expect("part of the repository");
    let said = format!("{} streams from the tests of other projects", cases.len());
    assert!(page.contains(&said), "the page does not say: {said}");
    let said = format!("{differ} where Vestibule differs on purpose");
    assert!(page.contains(&said), "the page does not say: {said}");
}

#[test]
fn peer_cases_get_their_authors_verdict_or_ours() {
    let wrong: Vec<String> = cases().iter().filter_map(|case| judge(case).err()).collect();
    assert!(wrong.is_empty(), "{} cases:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn peer_cases_get_the_oracles_verdict() {
    for case in cases() {
        let bytes = case.bytes();
        // The oracle judges every prefix: of the largest headers there are too many.
        if bytes.len() <= 4096 {
            let (ours, theirs) = (observe::decode(&bytes, case.rules()), oracle::decode(&bytes, case.rules()));
            assert_eq!(ours, theirs, "{}", case.name());
        }
    }
}

#[test]
fn peer_cases_are_undecided_until_the_byte_that_decides() {
    for case in cases() {
        let bytes = case.bytes();
        let decided = match observe::decode(&bytes, case.rules()) {
            Verdict::Complete { length: at, .. } | Verdict::Absent { at } | Verdict::Invalid { at, .. } => at,
            Verdict::Incomplete { .. } => bytes.len() + 1,
        };
        // Of the largest headers not every prefix: they hold one byte, thousands of times.
        for split in (0..decided).filter(|&split| split < 1024 || split % 997 == 0) {
            let part = observe::decode(&bytes[..split], case.rules());
            assert!(
                matches!(part, Verdict::Incomplete { need } if need > split),
                "{} at {split}: {part:?}",
                case.name()
            );
        }
    }
}

fn judge(case: &Case) -> Result<(), String> {
    let bytes = case.bytes();
    let verdict = observe::decode(&bytes, case.rules());
    let said = as_json(&verdict, bytes.len());
    let fair = match (case.text("expect"), &verdict) {
        ("reject", Verdict::Absent { .. } | Verdict::Invalid { .. }) => true,
        ("incomplete", Verdict::Incomplete { .. }) => true,
        ("complete", Verdict::Complete { .. }) => conveys(case, &said, "source_addr", "dest_addr"),
        ("served", Verdict::Complete { length, .. }) => {
            let residual = case.fields.get("residual").is_none_or(|it| hex(it.as_str().unwrap()) == bytes[*length..]);
            residual && conveys(case, &said, "client", "destination") && is_admitted(&bytes)
        }
        ("closed", Verdict::Absent { .. } | Verdict::Invalid { .. }) => case.text("closed") == "now",
        // Closed at the deadline, or because nothing more comes.
        ("closed", Verdict::Incomplete { .. }) => case.text("closed") == "late" || case.fields.contains_key("ends"),
        ("closed", Verdict::Complete { .. }) => !is_admitted(&bytes),
        _ => false,
    };
    if fair { Ok(()) } else { Err(format!("{}: expected {:?}, said {said}", case.name(), case.fields)) }
}

/// Whether the addresses, the length and the TLVs are those that the case names.
fn conveys(case: &Case, said: &Value, source: &str, destination: &str) -> bool {
    let same = |key: &str, value: &Value| {
        case.fields.get(key).is_none_or(|wanted| wanted == value || (wanted == "peer" && value.is_null()))
    };
    same(source, &said["source"])
        && same(destination, &said["destination"])
        && same("length", &said["length"])
        && same("tlvs", &said["tlvs"])
}

/// Whether a listener with the default settings lets the header in.
fn is_admitted(bytes: &[u8]) -> bool {
    match proxy::decode(bytes, &proxy::Rules::default()) {
        Decoded::Complete(header) => Policy::default().admit(&header, &bytes[header.len()..]).is_ok(),
        _ => false,
    }
}
