//! What the files demand of TLS and listeners here do not do: told, because a policy that is dropped in silence is one that
//! its operator believes in.

use super::Problem;
use super::gather::{Gathered, Values};
use super::names::{self, Scope};
use super::source::{Entry, Section, Setting};
use super::syntax::Value;

/// Settings by both Dovecots' names, and what becomes of connections without them.
const CONSEQUENCES: &[(&[&str], &str)] = &[
    (&["auth_ssl_username_from_cert"], "workers are told the name in a certificate, and it logs nobody in"),
    (
        &["ssl_cert_username_field", "ssl_server_cert_username_field"],
        "of a client's certificate the common name is told",
    ),
    (&["ssl_alt_cert", "ssl_server_alt_cert_file"], "only the first certificate is shown"),
    (&["ssl_key_password", "ssl_server_key_password"], "a key with a pass phrase cannot be read"),
    (
        &["ssl_cipher_list", "ssl_cipher_suites", "ssl_curve_list", "ssl_options"],
        "the ciphers and curves of rustls are offered: no others, and all of them",
    ),
    (&["ssl_prefer_server_ciphers", "ssl_server_prefer_ciphers"], "of the ciphers the client's first choice is taken"),
];

/// The default of `ssl_cipher_list` begins like this in both.
const DEFAULT_CIPHERS: &str = "ALL:!kRSA:!SRP:!kDHd:!DSS:!aNULL";

/// Keeps what has a consequence.
pub(super) fn note(gathered: &mut Gathered, setting: &Setting) {
    let text = match &setting.value {
        Value::Plain(text) | Value::Quoted(text) => text.clone(),
        Value::File(path) => format!("<{path}"),
        Value::Update(_) => return,
    };
    if let Some(words) = consequence(&setting.key).filter(|_| demands(&setting.key, &text)) {
        // Of two values for one setting the last counts.
        gathered.tls_policy.retain(|(key, _)| *key != setting.key);
        let words = format!("{} = {text} has no effect on listeners with ssl = yes: {words}", setting.key);
        gathered.tls_policy.push((setting.key.clone(), setting.at.problem(words)));
    } else {
        gathered.tls_policy.retain(|(key, _)| *key != setting.key);
    }
}

/// The certificate and key in a section `local_name`, in all spellings of both Dovecots, and the names of what else it
/// demands of TLS.
pub(super) fn certificate_of(section: &Section) -> (Values, Vec<String>) {
    let (mut values, mut others) = (Values::new(), Vec::new());
    for entry in &section.entries {
        match entry {
            Entry::Setting(setting) => sort(setting.clone(), &mut values, &mut others),
            Entry::Section(inner) if inner.kind == "ssl_server" => {
                prefixed(inner).for_each(|setting| sort(setting, &mut values, &mut others));
            }
            Entry::Section(inner) if inner.entries.iter().any(concerns) => others.push(format!("{} {{ }}", inner.kind)),
            Entry::Section(_) => {}
        }
    }
    (values, others)
}

fn sort(setting: Setting, values: &mut Values, others: &mut Vec<String>) {
    match names::canonical(Scope::Global, &setting.key) {
        Some(name @ ("ssl_cert" | "ssl_key")) => drop(values.insert(name, setting)),
        _ if concerns_tls(&setting.key) => others.push(setting.key),
        _ => {}
    }
}

/// The settings in `ssl_server {`, by the names that they have outside of it.
fn prefixed(section: &Section) -> impl Iterator<Item = Setting> {
    section.entries.iter().filter_map(|entry| match entry {
        Entry::Setting(setting) if setting.key.starts_with("ssl_") || setting.key.starts_with('@') => {
            Some(setting.clone())
        }
        Entry::Setting(setting) => Some(Setting { key: format!("ssl_server_{}", setting.key), ..setting.clone() }),
        Entry::Section(_) => None,
    })
}

/// Keeps what a section `local_name` demands beside a certificate.
pub(super) fn note_others(gathered: &mut Gathered, section: &Section, others: &[String]) {
    let name = section.name.as_deref().unwrap_or_default();
    let what = format!("local_name {name} {{ }}");
    let words = format!("{what}: {} in it has no effect: what stands outside counts", others.join(", "));
    gathered.tls_policy.push((what, section.at.problem(words)));
}

/// Keeps a section for some connections only that has a certificate of its own, or another policy.
pub(super) fn note_section(gathered: &mut Gathered, section: &Section) {
    if !section.entries.iter().any(concerns) {
        return;
    }
    let name = section.name.as_deref().unwrap_or_default();
    let what = format!("{} {name} {{ }}", section.kind);
    let words = "its certificate and TLS settings have no effect: every client gets those that stand outside";
    gathered.tls_policy.push((what.clone(), section.at.problem(format!("{what}: {words}"))));
}

fn concerns(entry: &Entry) -> bool {
    match entry {
        Entry::Setting(setting) => concerns_tls(&setting.key),
        Entry::Section(inner) => inner.kind == "ssl_server" || inner.entries.iter().any(concerns),
    }
}

/// A group may hold anything.
fn concerns_tls(key: &str) -> bool {
    key.starts_with("ssl_") || key.starts_with("auth_ssl_") || key.starts_with('@')
}

/// What was kept, for files with a listener that ends TLS.
pub(super) fn warnings(gathered: &mut Gathered) -> impl Iterator<Item = Problem> {
    std::mem::take(&mut gathered.tls_policy).into_iter().map(|(_, problem)| problem)
}

fn consequence(key: &str) -> Option<&'static str> {
    CONSEQUENCES.iter().find(|(names, _)| names.contains(&key)).map(|(_, words)| *words)
}

/// Whether a value asks for more, or for something else, than there is.
fn demands(key: &str, value: &str) -> bool {
    match key {
        "ssl_cipher_list" => !value.is_empty() && !value.starts_with(DEFAULT_CIPHERS),
        "ssl_cert_username_field" | "ssl_server_cert_username_field" => value != "commonName",
        "ssl_server_prefer_ciphers" => value == "server",
        _ => !value.is_empty() && !value.eq_ignore_ascii_case("no"),
    }
}
