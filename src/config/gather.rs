//! From the tree to what concerns Vestibule: settings in use by scope, services and listeners merged by name, and a
//! list of everything that was left alone. Values are still text.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use super::groups::{Group, Include, Layer, Rank, updated};
use super::lint::Dovecot;
use super::names::{self, Scope};
use super::source::{Document, Entry, Section, Setting};
use super::syntax::Value;
use super::{Ignored, Place, Problem, tls_policy, value};

/// Settings of one scope by their canonical name; the last one wins.
pub(super) type Values = HashMap<&'static str, Setting>;

#[derive(Debug, Default)]
pub(super) struct Gathered {
    pub(super) values: Values,
    pub(super) services: Vec<RawService>,
    pub(super) backends: Vec<RawBackend>,
    /// Settings of listeners that stand outside of them, in the order of the files.
    pub(super) inherited: Vec<Layer>,
    pub(super) groups: Vec<Group>,
    pub(super) includes: Vec<Include>,
    /// The one that the files are written for: 2.4 if `dovecot_config_version` was there.
    pub(super) dovecot: Dovecot,
    pub(super) ignored: Vec<Ignored>,
    pub(super) problems: Vec<Problem>,
    pub(super) warnings: Vec<Problem>,
    /// Words that nobody knows.
    pub(super) unknown: usize,
    /// What is demanded of TLS and not done, by the setting's name.
    pub(super) tls_policy: Vec<(String, Problem)>,
    /// Sections `local_name` with a certificate, in the order of the files.
    pub(super) local_names: Vec<RawLocalName>,
}

/// Unknown words that are told.
const UNKNOWN_MAX: usize = 50;
/// Settings that say where a listener or a server is.
const PLACES: [&str; 2] = ["address", "port"];
/// The last one is told as all that follow.
const UNKNOWN_NOTED: usize = UNKNOWN_MAX + 1;

#[derive(Debug)]
pub(super) struct RawService {
    pub(super) name: String,
    pub(super) at: Place,
    pub(super) values: Values,
    pub(super) listeners: Vec<RawListener>,
}

#[derive(Debug)]
pub(super) struct RawListener {
    pub(super) name: Option<String>,
    pub(super) at: Place,
    /// The files with a section of its own for it.
    pub(super) files: Vec<Arc<Path>>,
    pub(super) values: Values,
}

/// `local_name NAME {`.
#[derive(Debug)]
pub(super) struct RawLocalName {
    pub(super) name: String,
    pub(super) at: Place,
    /// Certificate and key.
    pub(super) values: Values,
}

#[derive(Debug)]
pub(super) struct RawBackend {
    pub(super) name: String,
    pub(super) at: Place,
    pub(super) values: Values,
    pub(super) servers: Vec<RawServer>,
}

#[derive(Debug)]
pub(super) struct RawServer {
    pub(super) name: String,
    pub(super) at: Place,
    pub(super) values: Values,
}

pub(super) fn gather(document: Document) -> Gathered {
    let mut gathered = Gathered { problems: document.problems, warnings: document.warnings, ..Gathered::default() };
    document.entries.into_iter().for_each(|entry| gathered.entry(entry));
    gathered.include_groups();
    gathered.inherit();
    gathered.services.iter_mut().for_each(name_listeners);
    gathered
}

/// Gives a name to listeners that have none: `port-143`, then `port-143-2`. A section of that name that gives no port, or
/// `port = 0`, is about such a listener; one with a port is another listener.
fn name_listeners(service: &mut RawService) {
    let port = |raw: &RawListener| match raw.values.get("port").map(|setting| &setting.value) {
        Some(Value::Plain(text) | Value::Quoted(text)) => value::port(text).ok().filter(|&port| port != 0),
        _ => None,
    };
    let mut taken: HashSet<String> =
        service.listeners.iter().filter(|raw| port(raw).is_some()).filter_map(|raw| raw.name.clone()).collect();
    let mut merged = Vec::new();
    for index in 0..service.listeners.len() {
        let listener = &service.listeners[index];
        let Some(port) = port(listener).filter(|_| listener.name.is_none()) else { continue };
        let numbered = (2..).map(|n| format!("port-{port}-{n}"));
        let mut candidates = std::iter::once(format!("port-{port}")).chain(numbered);
        let name = candidates.find(|name| taken.insert(name.clone())).expect("there is no end of numbers");
        let about = service.listeners.iter().position(|other| other.name.as_ref() == Some(&name));
        if let Some(other) = about {
            merged.push(service.listeners[other].at.clone());
            let changes = std::mem::take(&mut service.listeners[other].values);
            let files = std::mem::take(&mut service.listeners[other].files);
            service.listeners[index].values.extend(changes);
            service.listeners[index].files.extend(files);
        }
        service.listeners[index].name = Some(name);
    }
    service.listeners.retain(|raw| !merged.contains(&raw.at));
}

impl Gathered {
    /// What stands outside all sections.
    pub(super) fn entry(&mut self, entry: Entry) {
        match entry {
            Entry::Setting(setting) => self.global(setting),
            Entry::Section(section) => self.section(section),
        }
    }

    fn global(&mut self, setting: Setting) {
        if setting.key == "dovecot_config_version" {
            self.dovecot = Dovecot::V24;
        }
        tls_policy::note(self, &setting);
        if setting.key.starts_with('@') {
            self.includes.push(Include { inside: (None, None), setting });
        } else if let Some(name) = names::inherited(&setting.key) {
            self.layer(None, None, Rank::written(0)).insert(name, setting);
        } else if let Some(name) = names::canonical(Scope::Global, &setting.key) {
            self.values.insert(name, setting);
        } else {
            self.leave(Scope::Global, &setting);
        }
    }

    /// A new layer of settings for listeners.
    fn layer(&mut self, service: Option<&str>, listener: Option<String>, rank: Rank) -> &mut Values {
        let service = service.map(Into::into);
        self.inherited.push(Layer { service, listener, rank, values: Values::new() });
        &mut self.inherited.last_mut().expect("it was just pushed").values
    }

    fn section(&mut self, section: Section) {
        if let (Some(name), None) = (names::list(Scope::Global, &section.kind), &section.name) {
            return update_list(&mut self.values, name, section, &mut self.problems);
        }
        match (section.kind.as_str(), &section.name) {
            ("service", Some(_)) => self.service(section),
            ("service", None) => self.problem(&section.at, "service { } is missing section name"),
            ("backend", Some(_)) => self.backend(section),
            ("backend", None) => self.problem(&section.at, "backend { } is missing section name"),
            ("server", _) => self.problem(&section.at, "server belongs inside a backend NAME { ... }"),
            ("inet_listener", Some(_)) if self.dovecot == Dovecot::V24 => self.listeners(section),
            ("inet_listener", _) => self.problem(&section.at, "inet_listener belongs inside a service NAME { ... }"),
            ("haproxy_trusted_networks", _) => {
                let remedy =
                    "haproxy_trusted_networks is no section: write haproxy_trusted_networks = NETWORK NETWORK ...";
                self.problem(&section.at, remedy);
            }
            ("local_name", Some(_)) => self.local_name(section),
            ("protocol" | "remote" | "local" | "local_name", _) => {
                tls_policy::note_section(self, &section);
                self.skip(&section, "applies to some connections only: not used");
            }
            ("group", _) => self.group(section),
            ("ssl_server" | "ssl_client", None) => self.filter(section),
            (kind, _) => {
                if [Dovecot::V23, Dovecot::V24].into_iter().all(|dovecot| names::has_section(dovecot, kind).is_none()) {
                    self.unknown_section(Scope::Global, &section);
                }
                self.skip(&section, "not used");
            }
        }
    }

    fn unknown_section(&mut self, scope: Scope, section: &Section) {
        let dovecot = self.dovecot;
        let near = || names::nearest_section(dovecot, scope, &section.kind);
        self.unknown("section", head(section), &section.at, near);
    }

    /// Dovecot 2.4's `ssl_server {`: settings in it have its name in front.
    fn filter(&mut self, section: Section) {
        let prefix = format!("{}_", section.kind);
        for entry in section.entries {
            match entry {
                Entry::Setting(setting) if setting.key.starts_with('@') => {
                    self.includes.push(Include { inside: (None, None), setting });
                }
                Entry::Setting(setting) => {
                    let prefixed = format!("{prefix}{}", setting.key);
                    let own = names::canonical(Scope::Global, &prefixed).is_some() || !setting.key.starts_with("ssl_");
                    self.global(if own { Setting { key: prefixed, ..setting } } else { setting });
                }
                Entry::Section(inner) => self.skip(&inner, "not used"),
            }
        }
    }

    /// `local_name NAME {`: for clients that ask for such a name, of which its certificate is in use here.
    fn local_name(&mut self, section: Section) {
        let (values, others) = tls_policy::certificate_of(&section);
        if !others.is_empty() {
            tls_policy::note_others(self, &section, &others);
        }
        if values.is_empty() {
            return self.skip(&section, "applies to some connections only: not used");
        }
        let name = section.name.unwrap_or_default();
        if self.dovecot == Dovecot::V24 && name.contains(' ') {
            let words = "Multiple names no longer supported in local_name value (write a section for each)";
            return self.problem(&section.at, words);
        }
        match self.local_names.iter_mut().find(|known| known.name == name) {
            Some(known) => known.values.extend(values),
            None => self.local_names.push(RawLocalName { name, at: section.at, values }),
        }
    }

    /// `inet_listener NAME {` outside all sections: of the listeners of that name in all services.
    fn listeners(&mut self, section: Section) {
        let mut values = Values::new();
        self.listener_entries(&mut values, (None, section.name.clone()), section.entries);
        self.layer(None, section.name, Rank::written(1)).extend(values);
    }

    pub(super) fn service_index(&mut self, name: &str, at: &Place) -> usize {
        self.services.iter().position(|service| service.name == name).unwrap_or_else(|| {
            let (name, at) = (name.to_string(), at.clone());
            self.services.push(RawService { name, at, values: Values::new(), listeners: Vec::new() });
            self.services.len() - 1
        })
    }

    fn service(&mut self, section: Section) {
        let name = section.name.expect("a service has a name here");
        let index = self.service_index(&name, &section.at);
        let mut inherited = Values::new();
        for entry in section.entries {
            match entry {
                Entry::Setting(setting) if setting.key.starts_with('@') => {
                    self.includes.push(Include { inside: (Some(name.clone()), None), setting });
                }
                Entry::Setting(setting) => match names::inherited(&setting.key) {
                    Some(of_listeners) => drop(inherited.insert(of_listeners, setting)),
                    None if setting.key == "listen" => drop(inherited.insert("address", setting)),
                    None => match names::canonical(Scope::Service, &setting.key) {
                        Some(name) => drop(self.services[index].values.insert(name, setting)),
                        None => self.leave(Scope::Service, &setting),
                    },
                },
                Entry::Section(inner) if inner.kind == "inet_listener" => self.listener(index, inner),
                Entry::Section(inner) if inner.kind == "listen" && inner.name.is_none() => {
                    update_list(&mut inherited, "address", inner, &mut self.problems);
                }
                Entry::Section(inner) => {
                    if !names::SERVICE_SECTIONS.contains(&inner.kind.as_str()) {
                        self.unknown_section(Scope::Service, &inner);
                    }
                    self.skip(&inner, "no TCP listener: not used");
                }
            }
        }
        if !inherited.is_empty() {
            self.layer(Some(&name), None, Rank::written(1)).extend(inherited);
        }
    }

    fn listener(&mut self, service: usize, section: Section) {
        let name = listener_name(&section);
        let listeners = &mut self.services[service].listeners;
        // As in Dovecot, listeners without a name are all different ones.
        let known = listeners.iter().position(|listener| name.is_some() && listener.name == name);
        let index = known.unwrap_or_else(|| {
            let at = section.at.clone();
            listeners.push(RawListener { name: name.clone(), at, files: Vec::new(), values: Values::new() });
            listeners.len() - 1
        });
        listeners[index].files.push(section.at.file);
        let mut values = std::mem::take(&mut listeners[index].values);
        let inside = (Some(self.services[service].name.clone()), name);
        self.listener_entries(&mut values, inside, section.entries);
        self.services[service].listeners[index].values = values;
    }

    fn listener_entries(&mut self, values: &mut Values, inside: (Option<String>, Option<String>), entries: Vec<Entry>) {
        for entry in entries {
            match entry {
                Entry::Setting(setting) if setting.key.starts_with('@') && inside.0.is_some() && inside.1.is_some() => {
                    self.includes.push(Include { inside: inside.clone(), setting });
                }
                Entry::Setting(setting) => match names::canonical(Scope::Listener, &setting.key) {
                    Some("name") => {}
                    Some(name) => self.put(values, name, setting),
                    None => self.leave(Scope::Listener, &setting),
                },
                Entry::Section(inner) => {
                    if let (Some(name), None) = (names::list(Scope::Listener, &inner.kind), &inner.name) {
                        update_list(values, name, inner, &mut self.problems);
                        continue;
                    }
                    let words = format!("Unknown setting: service {{ inet_listener {{ {0} {{ {0}", inner.kind);
                    self.problem(
                        &inner.at,
                        format!("{words} (an inet_listener has no sections: is a '}}' missing before?)"),
                    );
                }
            }
        }
    }

    fn backend(&mut self, section: Section) {
        let name = section.name.expect("a backend has a name here");
        let index = self.backends.iter().position(|backend| backend.name == name).unwrap_or_else(|| {
            let backend = RawBackend { name, at: section.at.clone(), values: Values::new(), servers: Vec::new() };
            self.backends.push(backend);
            self.backends.len() - 1
        });
        for entry in section.entries {
            match entry {
                Entry::Setting(setting) => match names::canonical(Scope::Backend, &setting.key) {
                    Some(name) => drop(self.backends[index].values.insert(name, setting)),
                    None => self.leave(Scope::Backend, &setting),
                },
                Entry::Section(inner) if inner.kind == "server" && inner.name.is_some() => self.server(index, inner),
                Entry::Section(inner) if inner.kind == "server" => {
                    self.problem(&inner.at, "server { } is missing section name");
                }
                Entry::Section(inner) => {
                    let remedy = "a backend holds server NAME { ... } only: is a '}' missing before?";
                    self.problem(&inner.at, format!("Unknown section: backend {{ {} {{ ({remedy})", inner.kind));
                }
            }
        }
    }

    fn server(&mut self, backend: usize, section: Section) {
        let name = section.name.expect("a server has a name here");
        let servers = &mut self.backends[backend].servers;
        let index = servers.iter().position(|server| server.name == name).unwrap_or_else(|| {
            servers.push(RawServer { name, at: section.at, values: Values::new() });
            servers.len() - 1
        });
        let mut values = std::mem::take(&mut servers[index].values);
        for entry in section.entries {
            match entry {
                Entry::Setting(setting) => match names::canonical(Scope::Server, &setting.key) {
                    Some(name) => self.put(&mut values, name, setting),
                    None => self.leave(Scope::Server, &setting),
                },
                Entry::Section(inner) => {
                    let remedy = "a server has no sections: is a '}' missing before?";
                    self.problem(
                        &inner.at,
                        format!("Unknown section: backend {{ server {{ {} {{ ({remedy})", inner.kind),
                    );
                }
            }
        }
        self.backends[backend].servers[index].values = values;
    }

    /// Of two values for one setting the last counts, as in Dovecot. Where one file gives a listener or a server two places, a
    /// section was more likely copied than meant to be changed, and the first place would silently not be served.
    fn put(&mut self, values: &mut Values, name: &'static str, setting: Setting) {
        let at = setting.at.clone();
        let Some(before) = values.insert(name, setting) else { return };
        let after = &values[name];
        if PLACES.contains(&name) && before.at.file == at.file && before.value != after.value {
            let words = "sections of one type and name are one, and the last value counts";
            let remedy = "give this one a name of its own, if it is to be another";
            self.warnings.push(at.problem(format!("{name} replaces that of {}: {words}; {remedy}", before.at)));
        }
    }

    /// A setting that is not in use here: an error where it could open a port by mistake, else listed.
    fn leave(&mut self, scope: Scope, setting: &Setting) {
        let key = &setting.key;
        if let Some(reason) = names::unused_reason(scope, key) {
            return self.ignore(key.clone(), &setting.at, reason);
        }
        // `doveconf -a` of 2.4 lists the settings of services and listeners outside of them.
        let listed = key.starts_with("service_") || key.starts_with("inet_listener_");
        if scope == Scope::Global && listed && names::has_setting(Dovecot::V24, key) {
            return self.ignore(key.clone(), &setting.at, "not used");
        }
        if let Some(place) = names::belongs(scope, key).map(describe) {
            return self.problem(&setting.at, format!("Unknown setting: {key} (it belongs {place})"));
        }
        let inside = match scope {
            Scope::Backend => Some("backend { "),
            Scope::Server => Some("backend { server { "),
            _ => None,
        };
        if let Some(inside) = inside {
            let remedy = names::meant(scope, key);
            return self.problem(&setting.at, format!("Unknown setting: {inside}{key} ({remedy})"));
        }
        let known = [Dovecot::V23, Dovecot::V24].into_iter().any(|dovecot| match scope {
            Scope::Service => {
                names::has_setting(dovecot, &format!("service_{key}")) || names::has_setting(dovecot, key)
            }
            _ => names::has_setting(dovecot, key),
        });
        let hint = names::similar(scope, key).filter(|_| !known).map(|name| format!("did you mean {name}?"));
        let hint_inside = names::similar(Scope::Listener, key);
        match (scope, hint, hint_inside) {
            (Scope::Listener, hint, _) => {
                let remedy = hint.unwrap_or_else(|| "remove it, or correct its name".into());
                self.problem(&setting.at, format!("Unknown setting: service {{ inet_listener {{ {key} ({remedy})"));
            }
            (_, _, _) if key.starts_with("inet_listener_") => {
                let hint = names::similar(Scope::Listener, &key["inet_listener_".len()..]);
                let hint = hint.map(|name| format!(" (did you mean inet_listener_{name}?)")).unwrap_or_default();
                self.problem(&setting.at, format!("Unknown setting: {key}{hint}"));
            }
            (_, Some(hint), _) => {
                self.warnings.push(setting.at.problem(format!("Unknown setting: {key} is ignored ({hint})")));
                self.ignore(key.clone(), &setting.at, "not used");
            }
            (_, None, Some(name)) if !known => {
                let remedy = format!("did you mean {name}? It belongs {}", describe(Scope::Listener));
                self.problem(&setting.at, format!("Unknown setting: {key} ({remedy})"));
            }
            (_, None, _) => {
                if !known {
                    let dovecot = self.dovecot;
                    let near = || names::nearest_setting(dovecot, scope, key);
                    self.unknown("setting", key.clone(), &setting.at, near);
                }
                self.ignore(key.clone(), &setting.at, "not used");
            }
        }
    }

    /// Warns of a word that neither Dovecot nor Vestibule knows; of very many only the first.
    fn unknown(&mut self, what: &str, word: String, at: &Place, near: impl FnOnce() -> Option<&'static str>) {
        self.unknown += 1;
        let words = if self.unknown <= UNKNOWN_MAX {
            match near() {
                Some(near) => format!("Unknown {what}: {word} is ignored (did you mean {near}?)"),
                None => format!("Unknown {what}: {word} is ignored (neither Dovecot nor Vestibule knows it)"),
            }
        } else if self.unknown <= UNKNOWN_NOTED {
            "more words that neither Dovecot nor Vestibule knows follow".into()
        } else {
            return;
        };
        self.warnings.push(at.problem(words));
    }

    fn skip(&mut self, section: &Section, reason: &'static str) {
        self.ignore(head(section), &section.at, reason);
    }

    fn ignore(&mut self, what: String, at: &Place, reason: &'static str) {
        self.ignored.push(Ignored { what, at: at.clone(), reason });
    }

    pub(super) fn problem(&mut self, at: &Place, message: impl Into<String>) {
        self.problems.push(at.problem(message));
    }
}

fn head(section: &Section) -> String {
    let name = section.name.as_ref().map_or(String::new(), |name| format!("{name} "));
    format!("{} {name}{{ }}", section.kind)
}

/// What the section itself says, else its head.
fn listener_name(section: &Section) -> Option<String> {
    let mut names = section.entries.iter().rev().filter_map(|entry| match entry {
        Entry::Setting(Setting { key, value: Value::Plain(name) | Value::Quoted(name), .. })
            if names::canonical(Scope::Listener, key) == Some("name") =>
        {
            Some(name)
        }
        _ => None,
    });
    names.next().or(section.name.as_ref()).cloned()
}

/// Dovecot 2.4's `protocols {` / `imap = yes` / `pop3 = no` / `}`: puts items into a list and takes others out, where
/// `protocols = imap` replaces the list.
fn update_list(values: &mut Values, name: &'static str, section: Section, problems: &mut Vec<Problem>) {
    let mut changes = Vec::new();
    for entry in section.entries {
        match entry {
            Entry::Setting(Setting { key, value: Value::Plain(text) | Value::Quoted(text), at, .. }) => {
                match value::boolean(&text) {
                    Ok(yes) => changes.push((key, yes)),
                    Err(words) => problems.push(at.problem(words)),
                }
            }
            Entry::Setting(Setting { at, .. }) | Entry::Section(Section { at, .. }) => {
                problems.push(at.problem(format!("{name} is a list: write ITEM = yes or ITEM = no")));
            }
        }
    }
    let (value, unresolved) = match values.remove(name) {
        None => (Value::Update(changes), None),
        Some(Setting { value: Value::File(_), .. }) => {
            let words = "a list that is read from a file cannot be updated (write all items here, or all in the file)";
            (Value::Quoted(String::new()), Some(words.into()))
        }
        Some(Setting { value: Value::Update(before), unresolved, .. }) => {
            (Value::Update([before, changes].concat()), unresolved)
        }
        Some(Setting { value: Value::Plain(text) | Value::Quoted(text), unresolved, .. }) => {
            (Value::Quoted(updated(&text, &changes)), unresolved)
        }
    };
    values.insert(name, Setting { key: section.kind, value, at: section.at, unresolved });
}

fn describe(scope: Scope) -> &'static str {
    match scope {
        Scope::Global => "outside all sections",
        Scope::Service => "inside service NAME { ... }",
        Scope::Listener => "inside inet_listener NAME { ... }",
        Scope::Backend => "inside backend NAME { ... }",
        Scope::Server => "inside server NAME { ... }",
    }
}
