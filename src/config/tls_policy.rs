//! What the files demand of TLS and listeners here do not do: told, because a policy that is dropped in silence is one that
//! its operator believes in.

use super::Problem;
use super::gather::Gathered;
use super::source::{Entry, Section, Setting};
use super::syntax::Value;

/// Settings by both Dovecots' names, and what becomes of connections without them.
const CONSEQUENCES: &[(&[&str], &str)] = &[
    (
        &["ssl_verify_client_cert", "ssl_server_request_client_cert", "auth_ssl_require_client_cert"],
        "clients are not asked for a certificate",
    ),
    (&["ssl_alt_cert", "ssl_server_alt_cert_file"], "only the first certificate is shown"),
    (&["ssl_key_password", "ssl_server_key_password"], "a key with a pass phrase cannot be read"),
    (
        &["ssl_cipher_list", "ssl_cipher_suites", "ssl_curve_list", "ssl_options"],
        "the ciphers and curves of rustls are offered: no others, and all of them",
    ),
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

/// Keeps a section for some connections only that has a certificate of its own, or another policy.
pub(super) fn note_section(gathered: &mut Gathered, section: &Section) {
    let concerns = |entry: &Entry| match entry {
        Entry::Setting(setting) => setting.key.starts_with("ssl_"),
        Entry::Section(inner) => inner.kind == "ssl_server",
    };
    if !section.entries.iter().any(concerns) {
        return;
    }
    let name = section.name.as_deref().unwrap_or_default();
    let what = format!("{} {name} {{ }}", section.kind);
    let words = "its certificate and TLS settings have no effect: every client gets those that stand outside";
    gathered.tls_policy.push((what.clone(), section.at.problem(format!("{what}: {words}"))));
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
        _ => !value.is_empty() && !value.eq_ignore_ascii_case("no"),
    }
}
