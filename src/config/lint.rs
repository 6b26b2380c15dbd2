//! The strict lint: whether Dovecot would read the file too, in Dovecot's own words.
//!
//! Judged are the grammar, the values of settings that Vestibule uses, the names inside `service` and `inet_listener`,
//! and Vestibule's own settings, which Dovecot does not know. Other settings are Dovecot's to judge.

use std::fmt;
use std::path::Path;

use super::names::{self, Named, Scope};
use super::source::{self, Document, Entry, Section, Setting};
use super::syntax::Value;
use super::{Place, Problem, in_order, value};

/// A line of Dovecot releases with one configuration syntax.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dovecot {
    /// 2.3.
    #[default]
    V23,
    /// 2.4.
    V24,
}

impl fmt::Display for Dovecot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Dovecot::V23 => "2.3",
            Dovecot::V24 => "2.4",
        })
    }
}

/// What a Dovecot would say of the file, all of it at once (Dovecot itself stops at the first), and which Dovecot: the
/// one that was asked for, else the one the file is written for.
pub fn lint(name: &Path, text: &str, dovecot: Option<Dovecot>) -> (Dovecot, Vec<Problem>) {
    judge(source::read_text(name, text), dovecot)
}

fn judge(document: Document, dovecot: Option<Dovecot>) -> (Dovecot, Vec<Problem>) {
    let named = |key: &str| document.entries.iter().any(|e| matches!(e, Entry::Setting(setting) if setting.key == key));
    let written_for = if named("dovecot_config_version") { Dovecot::V24 } else { Dovecot::V23 };
    let dovecot = dovecot.unwrap_or(written_for);
    let mut lint = Lint { dovecot, problems: document.lint };
    if dovecot == Dovecot::V24 {
        lint.versions(&document.entries, named("dovecot_storage_version"));
    }
    for entry in &document.entries {
        match entry {
            Entry::Setting(setting) => lint.setting(Scope::Global, setting, &[]),
            Entry::Section(section) if section.kind == "service" => lint.service(section),
            Entry::Section(section) => lint.section(section),
        }
    }
    (dovecot, in_order(lint.problems))
}

struct Lint {
    dovecot: Dovecot,
    problems: Vec<Problem>,
}

impl Lint {
    /// 2.4 wants to know from the first line on for which version the file is.
    fn versions(&mut self, entries: &[Entry], storage: bool) {
        let at = match entries.first() {
            Some(Entry::Setting(setting)) if setting.key == "dovecot_config_version" => None,
            Some(Entry::Setting(Setting { at, .. }) | Entry::Section(Section { at, .. })) => Some(at),
            None => None,
        };
        if let Some(at) = at {
            self.say(at, "The first setting must be dovecot_config_version".into());
        } else if let (false, Some(Entry::Setting(setting))) = (storage, entries.first()) {
            let whole_file = Place { file: setting.at.file.clone(), line: 0 };
            self.say(&whole_file, "dovecot_storage_version setting must be set".into());
        }
    }

    /// Of sections other than services, whether there is such a kind; what is inside is not judged.
    fn section(&mut self, section: &Section) {
        let kind = &section.kind;
        let words = match (names::has_section(self.dovecot, kind), self.dovecot) {
            (None, Dovecot::V23) => format!("Unknown setting: {kind} {{ {kind}"),
            (None, Dovecot::V24) => format!("Unknown section name: {kind}"),
            (Some(Named::Always), _) if section.name.is_none() => format!("{kind} {{ }} is missing section name"),
            (Some(Named::Never), _) if section.name.is_some() => format!("{kind} {{ }} must not have a section name"),
            _ => return,
        };
        self.say(&section.at, words);
    }

    fn service(&mut self, section: &Section) {
        if self.dovecot == Dovecot::V24 && section.name.is_none() {
            self.say(&section.at, "service { } is missing section name".into());
        }
        for entry in &section.entries {
            match entry {
                Entry::Setting(setting) => self.setting(Scope::Service, setting, &[section]),
                Entry::Section(inner) if inner.kind == "inet_listener" => self.listener(section, inner),
                Entry::Section(inner) => {
                    if !names::SERVICE_SECTIONS.contains(&inner.kind.as_str()) {
                        match self.dovecot {
                            Dovecot::V23 => {
                                self.say(&inner.at, format!("Unknown setting: service {{ {0} {{ {0}", inner.kind));
                            }
                            Dovecot::V24 => self.section(inner),
                        }
                    }
                }
            }
        }
    }

    fn listener(&mut self, service: &Section, section: &Section) {
        if self.dovecot == Dovecot::V24 && section.name.is_none() {
            self.say(&section.at, "inet_listener { } is missing section name".into());
        }
        for entry in &section.entries {
            match entry {
                Entry::Setting(setting) => self.setting(Scope::Listener, setting, &[service, section]),
                Entry::Section(inner)
                    if self.dovecot == Dovecot::V24 && names::list(Scope::Listener, &inner.kind).is_some() => {}
                Entry::Section(inner) => {
                    self.say(&inner.at, format!("Unknown setting: service {{ inet_listener {{ {0} {{ {0}", inner.kind));
                }
            }
        }
    }

    /// `inside`: the sections around it, outermost first.
    fn setting(&mut self, scope: Scope, setting: &Setting, inside: &[&Section]) {
        if setting.key.starts_with('@') && self.dovecot == Dovecot::V24 {
            return;
        }
        if !names::known_to_dovecot(self.dovecot, scope, &setting.key) {
            let words = self.unknown(&setting.key, inside);
            return self.say(&setting.at, words);
        }
        let (Value::Plain(text) | Value::Quoted(text)) = &setting.value else { return };
        let judged = match names::canonical(scope, &setting.key) {
            Some("haproxy" | "reuse_port") => value::boolean(text).err(),
            Some("ssl") if scope == Scope::Listener => value::boolean(text).err(),
            Some("port") => value::port(text).err(),
            Some("haproxy_timeout") => self.time(text),
            _ => None,
        };
        if let Some(words) = judged {
            let key = &setting.key;
            let words = if self.dovecot == Dovecot::V24 { format!("{key}: {words}") } else { words };
            self.say(&setting.at, words);
        }
    }

    fn time(&self, text: &str) -> Option<String> {
        let bare = text != "0" && !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        match (bare, self.dovecot) {
            (true, _) => Some(format!("Time interval '{text}' is missing units (add e.g. 's' for seconds)")),
            (false, Dovecot::V24) if text == "infinite" => None,
            (false, _) => value::time(text).err(),
        }
    }

    fn unknown(&self, key: &str, inside: &[&Section]) -> String {
        match (self.dovecot, inside) {
            (Dovecot::V23, _) => {
                let path: String = inside.iter().map(|section| format!("{} {{ ", section.kind)).collect();
                format!("Unknown setting: {path}{key}")
            }
            (Dovecot::V24, []) => format!("{key}: Unknown setting: {key}"),
            // 2.4 tries the section's name and kind in front of the key before it gives up.
            (Dovecot::V24, [.., section]) => {
                let kind = &section.kind;
                let name = section.name.as_deref().unwrap_or_default();
                format!("{key}: Unknown setting: {key} ({kind}_{key} or {kind}_{name}_{key} not found either.)")
            }
        }
    }

    fn say(&mut self, at: &Place, words: String) {
        self.problems.push(at.problem(words));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(dovecot: Option<Dovecot>, text: &str) -> String {
        let document = source::read_text(Path::new("t.conf"), text);
        judge(document, dovecot).1.iter().map(|problem| format!("{problem}\n")).collect()
    }

    fn in_listener(line: &str) -> String {
        format!("service imap-login {{\n  inet_listener imap {{\n    {line}\n  }}\n}}\n")
    }

    const VERSIONS: &str = "dovecot_config_version = 2.4.0\ndovecot_storage_version = 2.4.0\n";

    #[test]
    fn the_dialect_is_told_by_the_file() {
        let of = |text| judge(source::read_text(Path::new("t.conf"), text), None).0;
        assert_eq!((of(""), of(VERSIONS)), (Dovecot::V23, Dovecot::V24));
    }

    #[test]
    fn what_dovecot_reads_passes() {
        let text = "haproxy_trusted_networks = 192.0.2.10, 2001:db8::/64\nhaproxy_timeout = 3 secs\nhostname = x\n\
                    service imap-login {\nclient_limit = 0\nunix_listener x {\nmode = 0600\n}\n\
                    inet_listener imap_haproxy {\nport = 10143\nhaproxy = yes\nssl = no\nreuse_port = Y\n}\n}\n";
        assert_eq!(said(None, text), "");
        assert_eq!(said(None, &format!("{VERSIONS}{text}")), "");
        let list = in_listener("listen {\n127.0.0.1 = yes\n}");
        assert_eq!(said(None, &format!("{VERSIONS}{list}")), "");
    }

    #[test]
    fn words_of_2_3() {
        for (text, words) in [
            ("haproxy_timeout = 3\n".into(), "line 1: Time interval '3' is missing units (add e.g. 's' for seconds)\n"),
            ("rings = 2\n".into(), "line 1: Unknown setting: rings\n"),
            ("ssl_server_cert_file = x\n".into(), "line 1: Unknown setting: ssl_server_cert_file\n"),
            (in_listener("haproxi = yes"), "line 3: Unknown setting: service { inet_listener { haproxi\n"),
            (
                in_listener("haproxy_timeout = 3s"),
                "line 3: Unknown setting: service { inet_listener { haproxy_timeout\n",
            ),
            (in_listener("ssl = true"), "line 3: Invalid boolean value: true (use yes or no)\n"),
            ("service s {\nworker = whoami\n}\n".into(), "line 2: Unknown setting: service { worker\n"),
            ("service s {\nfoo {\n}\n}\n".into(), "line 2: Unknown setting: service { foo { foo\n"),
            ("service s { inet_listener imap { port = 1 } }\n".into(), "line 1: Garbage after '{'\n"),
            ("service s {\n".into(), "line 1: Missing '}' (section started at t.conf:1)\n"),
        ] {
            assert_eq!(said(None, &text), format!("t.conf {words}"), "{text}");
        }
    }

    #[test]
    fn words_of_2_4() {
        for (text, words) in [
            (
                format!("{VERSIONS}haproxy_timeout = 3\n"),
                " line 3: haproxy_timeout: Time interval '3' is missing units (add e.g. 's' for seconds)\n",
            ),
            (format!("{VERSIONS}ssl_cert = </x\n"), " line 3: ssl_cert: Unknown setting: ssl_cert\n"),
            (
                format!("{VERSIONS}service s {{\ninet_listener {{\nport = 1\n}}\n}}\n"),
                " line 4: inet_listener { } is missing section name\n",
            ),
            (
                format!("{VERSIONS}{}", in_listener("haproxi = yes")),
                " line 5: haproxi: Unknown setting: haproxi (inet_listener_haproxi or inet_listener_imap_haproxi not found either.)\n",
            ),
            ("listen = *\n".into(), " line 1: The first setting must be dovecot_config_version\n"),
            ("dovecot_config_version = 2.4.0\n".into(), ": dovecot_storage_version setting must be set\n"),
        ] {
            assert_eq!(said(Some(Dovecot::V24), &text), format!("t.conf{words}"), "{text}");
        }
    }
}
