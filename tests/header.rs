//! The decoder against the conformance vectors, at every split, and against the oracle on random input.
//!
//! The long run, ten million random and mutated inputs:
//! `VESTIBULE_RANDOM_CASES=10000000 cargo test --release --test integration header::random`

use std::fmt::Write;

use serde_json::{Value, json};

use crate::support::header::hex;
use crate::support::mutate::{self, Random};
use crate::support::observe;
use crate::support::oracle::{self, Endpoint, Rules, Verdict};

/// One line of `tests/data/vectors.jsonl`.
pub struct Vector {
    pub name: String,
    pub bytes: Vec<u8>,
    pub rules: Rules,
    pub has_default_rules: bool,
    /// The verdict with its fields, as `vestibule decode` prints it.
    pub expected: Value,
}

/// All vectors.
pub fn vectors() -> Vec<Vector> {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data/vectors.jsonl"))
        .expect("the vectors are part of the repository");
    text.lines().map(vector).collect()
}

/// How many vectors are judged with another value of this rule than the default.
pub fn vectors_with_rule(rule: &str) -> usize {
    let default = Rules::default();
    let differs = |rules: Rules| match rule {
        "header_limit" => rules.header_limit != default.header_limit,
        "v6_in_tcp4" => rules.v6_in_tcp4 != default.v6_in_tcp4,
        _ => rules.v4_in_tcp6 != default.v4_in_tcp6,
    };
    vectors().into_iter().filter(|vector| differs(vector.rules)).count()
}

fn vector(line: &str) -> Vector {
    let mut expected: Value = serde_json::from_str(line).expect("every line is a JSON object");
    let mut take = |key| expected.as_object_mut().expect("an object").remove(key);
    let name = take("name").expect("a vector has a name");
    take("section").expect("a vector names its section of the specification");
    let bytes = hex(take("hex").expect("a vector has bytes").as_str().expect("hex is a string"));
    let given = take("rules");
    let has_default_rules = given.is_none();
    let given = given.unwrap_or_default();
    let mut rules = Rules::default();
    if let Some(limit) = given.get("header_limit") {
        rules.header_limit = limit.as_u64().expect("a number") as usize;
    }
    if let Some(map) = given.get("v4_in_tcp6") {
        rules.v4_in_tcp6 = map.as_bool().expect("a boolean");
    }
    if let Some(map) = given.get("v6_in_tcp4") {
        rules.v6_in_tcp4 = map.as_bool().expect("a boolean");
    }
    Vector { name: name.as_str().expect("a name is a string").into(), bytes, rules, has_default_rules, expected }
}

type Decoder = fn(&[u8], Rules) -> Verdict;
const BOTH: [(&str, Decoder); 2] = [("oracle", oracle::decode), ("decoder", observe::decode)];

#[test]
fn vectors_are_many_and_name_every_reason() {
    let vectors = vectors();
    assert!(vectors.len() >= 250, "{} vectors", vectors.len());
    let of_grammar = vestibule::proxy::Reason::ALL.iter().map(|reason| reason.code());
    for code in of_grammar.chain(["absent"]) {
        assert!(vectors.iter().any(|vector| vector.expected["reason"] == code), "no vector for {code}");
    }
}

#[test]
fn vectors_are_what_their_source_writes() {
    crate::needs!("python3");
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let written = std::process::Command::new("python3").arg(format!("{root}/tools/vectors")).output().expect("it runs");
    assert!(written.status.success(), "{}", String::from_utf8_lossy(&written.stderr));
    let committed = std::fs::read(format!("{root}/tests/data/vectors.jsonl")).expect("part of the repository");
    assert!(written.stdout == committed, "run: tools/vectors > tests/data/vectors.jsonl");
}

#[test]
fn vectors_are_all_in_the_published_table() {
    let table = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/conformance.md"))
        .expect("part of the repository");
    for vector in vectors().iter().filter(|vector| vector.has_default_rules) {
        let said = match vector.expected["verdict"].as_str() {
            Some("complete") => "accepts".into(),
            Some("incomplete") => "waits".into(),
            _ => format!("{} at {}", vector.expected["reason"].as_str().expect("a reason"), vector.expected["length"]),
        };
        let row = format!("| `{}` | ", vector.name);
        let found = table.lines().find(|line| line.starts_with(&row));
        let found = found.unwrap_or_else(|| panic!("no row for {}: run tools/conformance as root", vector.name));
        assert!(found.contains(&format!(" | {said} | ")), "{found}: run tools/conformance as root");
    }
}

#[test]
fn vectors_get_the_verdict_written_down() {
    for (who, decode) in BOTH {
        let wrong: Vec<String> = vectors()
            .iter()
            .filter_map(|vector| {
                let said = as_json(&decode(&vector.bytes, vector.rules), vector.bytes.len());
                (said != vector.expected)
                    .then(|| format!("{}\n  expected {}\n  said     {said}", vector.name, vector.expected))
            })
            .collect();
        assert!(wrong.is_empty(), "{who}, {} vectors:\n{}", wrong.len(), wrong.join("\n"));
    }
}

#[test]
fn vectors_are_judged_at_the_same_byte_at_every_split() {
    for (who, decode) in BOTH {
        for vector in vectors() {
            let whole = decode(&vector.bytes, vector.rules);
            for split in 0..=vector.bytes.len() {
                let part = decode(&vector.bytes[..split], vector.rules);
                holds_at_split(&whole, split, &part)
                    .unwrap_or_else(|why| panic!("{who}, {}: {why}: {part:?}, whole: {whole:?}", vector.name));
            }
        }
    }
}

#[test]
fn vectors_are_judged_alike_with_anything_behind_them() {
    let mut random = Random::new(7);
    for vector in vectors().iter().filter(|vector| vector.expected["verdict"] != "incomplete") {
        let whole = observe::decode(&vector.bytes, vector.rules);
        let mut longer = vector.bytes.clone();
        for _ in 0..20 {
            longer.push(random.byte());
            assert_eq!(observe::decode(&longer, vector.rules), whole, "{}", vector.name);
        }
    }
}

#[test]
fn random_and_mutated_inputs_get_the_oracles_verdict() {
    let cases = std::env::var("VESTIBULE_RANDOM_CASES")
        .map_or(500_000, |text| text.parse().expect("VESTIBULE_RANDOM_CASES is a number"));
    let seed = std::env::var("VESTIBULE_RANDOM_SEED")
        .map_or(0x5eed, |text| text.parse().expect("VESTIBULE_RANDOM_SEED is a number"));
    let seeds: Vec<Vec<u8>> =
        vectors().into_iter().map(|vector| vector.bytes).filter(|bytes| bytes.len() < 400).collect();
    let mut random = Random::new(seed);
    let mut seen = [0_u64; 4];
    for case in 0..cases {
        let bytes = mutate::input(&mut random, &seeds);
        let rules = Rules {
            header_limit: random.pick(&[232, 4096, 4096, 65551]),
            v4_in_tcp6: random.chance(4),
            v6_in_tcp4: random.chance(4),
        };
        let (ours, theirs) = (observe::decode(&bytes, rules), oracle::decode(&bytes, rules));
        assert_eq!(ours, theirs, "case {case} of seed {seed}, {rules:?}: {}", to_hex(&bytes));
        let split = random.below(bytes.len() + 1);
        let part = observe::decode(&bytes[..split], rules);
        holds_at_split(&ours, split, &part)
            .unwrap_or_else(|why| panic!("{why}: {part:?}, whole: {ours:?}, {rules:?}: {}", to_hex(&bytes)));
        seen[kind(&ours)] += 1;
    }
    println!("{cases} inputs: complete, incomplete, absent, invalid: {seen:?}");
    if cases >= 10_000 {
        assert!(seen.iter().all(|&count| count > cases / 100), "the inputs lean to one side: {seen:?}");
    }
}

/// The contract: a prefix is incomplete before the deciding byte and judged as the whole from it on.
fn holds_at_split(whole: &Verdict, split: usize, part: &Verdict) -> Result<(), String> {
    let decided = match whole {
        Verdict::Complete { length: at, .. } | Verdict::Absent { at } | Verdict::Invalid { at, .. } => *at,
        Verdict::Incomplete { .. } => usize::MAX,
    };
    match part {
        Verdict::Incomplete { need } if split < decided && *need > split => Ok(()),
        Verdict::Incomplete { .. } if split < decided => Err(format!("needs no more than the {split} bytes given")),
        _ if split >= decided && part == whole => Ok(()),
        _ => Err(format!("judged wrongly with {split} bytes")),
    }
}

fn kind(verdict: &Verdict) -> usize {
    match verdict {
        Verdict::Complete { .. } => 0,
        Verdict::Incomplete { .. } => 1,
        Verdict::Absent { .. } => 2,
        Verdict::Invalid { .. } => 3,
    }
}

/// The verdict as `vestibule decode` prints it for an input of `seen` bytes.
pub fn as_json(verdict: &Verdict, seen: usize) -> Value {
    match verdict {
        Verdict::Complete { length, fields } => json!({
            "verdict": "complete", "length": length, "reason": null,
            "version": fields.version, "command": fields.command,
            "family": fields.family, "transport": fields.transport,
            "source": endpoint(&fields.source), "destination": endpoint(&fields.destination),
            "tlvs": fields.tlvs.iter().map(|(kind, value)| json!({"type": kind, "value": to_hex(value)}))
                .collect::<Vec<_>>(),
        }),
        Verdict::Incomplete { .. } => json!({"verdict": "incomplete", "length": seen, "reason": null}),
        Verdict::Absent { at } => json!({"verdict": "absent", "length": at, "reason": "absent"}),
        Verdict::Invalid { reason, at } => json!({"verdict": "invalid", "length": at, "reason": reason}),
    }
}

fn endpoint(endpoint: &Endpoint) -> Value {
    match endpoint {
        Endpoint::None => Value::Null,
        Endpoint::Ip(socket) => socket.to_string().into(),
        Endpoint::Unix(name) => {
            let (mark, name) = match name.split_first() {
                Some((0, name)) => ("@", name),
                _ => ("", &name[..]),
            };
            let mut text = format!("unix:{mark}");
            for &byte in name {
                match byte {
                    b'\\' => text.push_str("\\x5c"),
                    0x21..=0x7e => text.push(char::from(byte)),
                    _ => write!(text, "\\x{byte:02x}").expect("a string takes everything"),
                }
            }
            text.into()
        }
    }
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes everything");
        text
    })
}
