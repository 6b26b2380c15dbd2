//! From the tree to what concerns Vestibule: settings in use by scope, services and listeners merged by name, and a
//! list of everything that was left alone. Values are still text.

use std::collections::{HashMap, HashSet};

use super::lint::Dovecot;
use super::names::{self, Scope};
use super::source::{Document, Entry, Section, Setting};
use super::syntax::Value;
use super::{Ignored, Place, Problem, value};

/// Settings of one scope by their canonical name; the last one wins.
pub(super) type Values = HashMap<&'static str, Setting>;

#[derive(Debug, Default)]
pub(super) struct Gathered {
    pub(super) values: Values,
    pub(super) services: Vec<RawService>,
    pub(super) backends: Vec<RawBackend>,
    /// The one that the files are written for: 2.4 if `dovecot_config_version` was there.
    pub(super) dovecot: Dovecot,
    pub(super) ignored: Vec<Ignored>,
    pub(super) problems: Vec<Problem>,
    pub(super) warnings: Vec<Problem>,
}

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
    for entry in document.entries {
        match entry {
            Entry::Setting(setting) => gathered.global(setting),
            Entry::Section(section) => gathered.section(section),
        }
    }
    gathered
}

impl Gathered {
    fn global(&mut self, setting: Setting) {
        if setting.key == "dovecot_config_version" {
            self.dovecot = Dovecot::V24;
        }
        if let Some(name) = names::canonical(Scope::Global, &setting.key) {
            self.values.insert(name, setting);
        } else {
            self.leave(Scope::Global, &setting);
        }
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
            ("inet_listener", _) => self.problem(&section.at, "inet_listener belongs inside a service NAME { ... }"),
            ("haproxy_trusted_networks", _) => {
                let remedy =
                    "haproxy_trusted_networks is no section: write haproxy_trusted_networks = NETWORK NETWORK ...";
                self.problem(&section.at, remedy);
            }
            ("protocol" | "remote" | "local" | "local_name", _) => {
                self.skip(&section, "applies to some connections only: not used");
            }
            ("group", _) => self.skip(&section, "a group of settings: not used"),
            _ => self.skip(&section, "not used"),
        }
    }

    fn service(&mut self, section: Section) {
        let name = section.name.expect("a service has a name here");
        let index = self.services.iter().position(|service| service.name == name).unwrap_or_else(|| {
            let service = RawService { name, at: section.at.clone(), values: Values::new(), listeners: Vec::new() };
            self.services.push(service);
            self.services.len() - 1
        });
        for entry in section.entries {
            match entry {
                Entry::Setting(setting) => match names::canonical(Scope::Service, &setting.key) {
                    Some(name) => drop(self.services[index].values.insert(name, setting)),
                    None => self.leave(Scope::Service, &setting),
                },
                Entry::Section(inner) if inner.kind == "inet_listener" => self.listener(index, inner),
                Entry::Section(inner) => self.skip(&inner, "no TCP listener: not used"),
            }
        }
    }

    fn listener(&mut self, service: usize, section: Section) {
        let name = listener_name(&section);
        let listeners = &mut self.services[service].listeners;
        // As in Dovecot, listeners without a name are all different ones.
        let known = listeners.iter().position(|listener| name.is_some() && listener.name == name);
        let index = known.unwrap_or_else(|| {
            listeners.push(RawListener { name, at: section.at, values: Values::new() });
            listeners.len() - 1
        });
        for entry in section.entries {
            match entry {
                Entry::Setting(setting) => match names::canonical(Scope::Listener, &setting.key) {
                    Some("name") => {}
                    Some(name) => drop(self.services[service].listeners[index].values.insert(name, setting)),
                    None => self.leave(Scope::Listener, &setting),
                },
                Entry::Section(inner) => {
                    if let (Some(name), None) = (names::list(Scope::Listener, &inner.kind), &inner.name) {
                        let values = &mut self.services[service].listeners[index].values;
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
        for entry in section.entries {
            match entry {
                Entry::Setting(setting) => match names::canonical(Scope::Server, &setting.key) {
                    Some(name) => drop(self.backends[backend].servers[index].values.insert(name, setting)),
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
    }

    /// A setting that is not in use here: an error where it could open a port by mistake, else listed.
    fn leave(&mut self, scope: Scope, setting: &Setting) {
        let key = &setting.key;
        if let Some(reason) = names::unused_reason(scope, key) {
            return self.ignore(key.clone(), &setting.at, reason);
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
        let hint = names::similar(scope, key).map(|name| format!("did you mean {name}?"));
        let hint_inside = names::similar(Scope::Listener, key);
        match (scope, hint, hint_inside) {
            (Scope::Listener, hint, _) => {
                let remedy = hint.unwrap_or_else(|| "remove it, or correct its name".into());
                self.problem(&setting.at, format!("Unknown setting: service {{ inet_listener {{ {key} ({remedy})"));
            }
            (_, _, _) if key.starts_with("inet_listener_") => {
                let bare = &key["inet_listener_".len()..];
                let remedy = format!("write {bare} inside each inet_listener that it concerns");
                self.problem(&setting.at, format!("Unknown setting: {key} ({remedy})"));
            }
            (_, Some(hint), _) => {
                self.warnings.push(setting.at.problem(format!("Unknown setting: {key} is ignored ({hint})")));
                self.ignore(key.clone(), &setting.at, "not used");
            }
            (_, None, Some(name)) => {
                let remedy = format!("did you mean {name}? It belongs {}", describe(Scope::Listener));
                self.problem(&setting.at, format!("Unknown setting: {key} ({remedy})"));
            }
            (_, None, None) => self.ignore(key.clone(), &setting.at, "not used"),
        }
    }

    fn skip(&mut self, section: &Section, reason: &'static str) {
        let name = section.name.as_ref().map_or(String::new(), |name| format!("{name} "));
        self.ignore(format!("{} {name}{{ }}", section.kind), &section.at, reason);
    }

    fn ignore(&mut self, what: String, at: &Place, reason: &'static str) {
        self.ignored.push(Ignored { what, at: at.clone(), reason });
    }

    fn problem(&mut self, at: &Place, message: impl Into<String>) {
        self.problems.push(at.problem(message));
    }
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
    // Of what is said of an item the last counts.
    let (mut said, unresolved) = match values.remove(name) {
        None => (Vec::new(), None),
        Some(Setting { value: Value::File(_), .. }) => {
            let words = "a list that is read from a file cannot be updated (write all items here, or all in the file)";
            (Vec::new(), Some(words.into()))
        }
        Some(Setting {
            value: Value::Plain(text) | Value::Quoted(text) | Value::Heredoc(text), unresolved, ..
        }) => (value::items(&text).map(|item| (item.to_string(), true)).collect(), unresolved),
    };
    for entry in section.entries {
        match entry {
            Entry::Setting(Setting { key, value: Value::Plain(text) | Value::Quoted(text), at, .. }) => {
                match value::boolean(&text) {
                    Ok(yes) => said.push((key, yes)),
                    Err(words) => problems.push(at.problem(words)),
                }
            }
            Entry::Setting(Setting { at, .. }) | Entry::Section(Section { at, .. }) => {
                problems.push(at.problem(format!("{name} is a list: write ITEM = yes or ITEM = no")));
            }
        }
    }
    let mut seen = HashSet::new();
    let mut items: Vec<&str> =
        said.iter().rev().filter(|(item, yes)| seen.insert(item) && *yes).map(|(item, _)| item.as_str()).collect();
    items.reverse();
    let value = Value::Quoted(items.join(" "));
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
