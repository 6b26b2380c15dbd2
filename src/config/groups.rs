//! Dovecot 2.4's `group @LABEL NAME { ... }` and `@LABEL = NAME`, and settings of listeners that stand further outside:
//! what a listener has that does not say otherwise.
//!
//! ```text
//! group @hap lb { inet_listener_haproxy = yes }      service imap-login { @hap = lb    inet_listener imap { ... } }
//! ```
//!
//! Measured with Dovecot 2.4.1: of two values for one setting that of the inner scope counts; within a scope what is
//! written there counts, wherever it stands, before what comes by a group; of two groups the one that is defined last.

use super::gather::{Gathered, RawListener, Values};
use super::names::{self, Scope};
use super::source::{Entry, Section, Setting};
use super::syntax::Value;
use super::{Place, value};

/// Settings of listeners that stand outside of them.
#[derive(Debug)]
pub(super) struct Layer {
    /// `None`: of all services.
    pub(super) service: Option<String>,
    /// `None`: of all listeners.
    pub(super) listener: Option<String>,
    pub(super) rank: Rank,
    pub(super) values: Values,
}

/// The greater one counts; of two equal ones the later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    /// How many sections the setting, or the line `@LABEL = NAME` that brings it, stands in.
    scope: usize,
    /// The group, in the order of definition; what stands there itself comes after all groups.
    source: usize,
    /// How many sections it stands in, those in the group included.
    depth: usize,
}

impl Rank {
    /// Of what stands in so many sections itself.
    pub(super) fn written(depth: usize) -> Rank {
        Rank { scope: depth, source: usize::MAX, depth }
    }
}

#[derive(Debug)]
pub(super) struct Group {
    label: String,
    name: String,
    entries: Vec<Entry>,
}

/// A line `@LABEL = NAME`.
#[derive(Debug)]
pub(super) struct Include {
    /// The service that it stands in, and the listener.
    pub(super) inside: (Option<String>, Option<String>),
    pub(super) setting: Setting,
}

impl Gathered {
    /// `group @LABEL NAME {`: the syntax has both words in the name. Groups of one name merge.
    pub(super) fn group(&mut self, section: Section) {
        let head = section.name.as_deref().unwrap_or_default();
        let (label, name) = match head.split_once(' ') {
            Some((label, name)) if label.starts_with('@') && !name.is_empty() => (label.to_string(), name.to_string()),
            _ => return self.problem(&section.at, "A group is written as group @LABEL NAME { ... }"),
        };
        match self.groups.iter_mut().find(|group| group.label == label && group.name == name) {
            Some(known) => known.entries.extend(section.entries),
            None => self.groups.push(Group { label, name, entries: section.entries }),
        }
    }

    /// Puts what groups hold to where they are asked for.
    pub(super) fn include_groups(&mut self) {
        let includes = std::mem::take(&mut self.includes);
        let groups = std::mem::take(&mut self.groups);
        let mut found: Vec<(usize, Include)> = Vec::new();
        for include in includes {
            let label = include.setting.key.as_str();
            let name = match &include.setting.value {
                Value::Plain(name) | Value::Quoted(name) => name.as_str(),
                Value::File(_) | Value::Update(_) => "",
            };
            let words = match groups.iter().position(|group| group.label == label && group.name == name) {
                Some(index) => {
                    found.push((index, include));
                    continue;
                }
                None if groups.iter().any(|group| group.label == label) => format!("Unknown group {label}={name}"),
                None => format!("Unknown group label {label}"),
            };
            let at = include.setting.at.clone();
            self.problem(&at, format!("{words} (write group {label} NAME {{ ... }})"));
        }
        // The one that is defined last counts, so it is put in first.
        found.sort_by_key(|(index, _)| std::cmp::Reverse(*index));
        for (index, include) in found {
            self.include(&groups[index], index, include);
        }
    }

    fn include(&mut self, group: &Group, index: usize, include: Include) {
        let Include { inside: (service, listener), setting } = include;
        let scope = usize::from(service.is_some()) + usize::from(listener.is_some());
        let mut entries = group.entries.clone();
        if let Some(listener) = &listener {
            entries.retain(|entry| self.concerns_listener(entry));
            entries = section_around("inet_listener", listener, &setting.at, entries);
        }
        if let Some(service) = &service {
            entries = section_around("service", service, &setting.at, entries);
        }
        let mut brought = Gathered { dovecot: self.dovecot, ..Gathered::default() };
        entries.into_iter().for_each(|entry| brought.entry(entry));
        if let Some(inner) = brought.includes.first() {
            self.problem(
                &inner.setting.at.clone(),
                "Recursive include groups not allowed (a group holds no other group)",
            );
        }
        if let Some(backend) = brought.backends.first() {
            self.problem(&backend.at.clone(), "A backend cannot stand in a group");
        }
        self.take(brought, Rank { scope, source: index, depth: 0 });
    }

    /// Of a group that stands in a listener: what a listener has.
    fn concerns_listener(&mut self, entry: &Entry) -> bool {
        let Entry::Setting(setting) = entry else { return false };
        let key = setting.key.as_str();
        let of_listeners = names::canonical(Scope::Listener, key).is_some();
        if of_listeners && names::inherited(key).is_none() && names::canonical(Scope::Global, key).is_none() {
            self.problem(&setting.at, format!("Unknown setting: {key} (in a group write inet_listener_{key})"));
        }
        // Without the prefix `ssl` is the global one.
        of_listeners && key != "ssl"
    }

    /// Adds what a group has brought, below what is there.
    fn take(&mut self, brought: Gathered, rank: Rank) {
        put_below(&mut self.values, brought.values);
        for layer in brought.inherited {
            self.inherited.push(Layer { rank: Rank { depth: layer.rank.depth, ..rank }, ..layer });
        }
        for theirs in brought.services {
            let index = self.service_index(&theirs.name, &theirs.at);
            let ours = &mut self.services[index];
            put_below(&mut ours.values, theirs.values);
            for RawListener { name, at, files, values } in theirs.listeners {
                if !ours.listeners.iter().any(|listener| listener.name == name) {
                    ours.listeners.push(RawListener { name: name.clone(), at, files, values: Values::new() });
                }
                let rank = Rank { depth: 2, ..rank };
                self.inherited.push(Layer { service: Some(ours.name.clone()), listener: name, rank, values });
            }
        }
        self.tls_policy.extend(brought.tls_policy);
        self.ignored.extend(brought.ignored);
        self.problems.extend(brought.problems);
        self.warnings.extend(brought.warnings);
    }

    /// Fills in what listeners do not say themselves.
    pub(super) fn inherit(&mut self) {
        let mut layers = std::mem::take(&mut self.inherited);
        layers.sort_by_key(|layer| layer.rank);
        for service in &mut self.services {
            for listener in &mut service.listeners {
                let RawListener { name, values, .. } = listener;
                for layer in layers.iter().rev().filter(|layer| layer.concerns(&service.name, name.as_deref())) {
                    put_below(values, layer.values.clone());
                }
            }
        }
    }
}

impl Layer {
    fn concerns(&self, service: &str, listener: Option<&str>) -> bool {
        self.service.as_deref().is_none_or(|name| name == service)
            && self.listener.as_deref().is_none_or(|name| Some(name) == listener)
    }
}

/// Settings that count where there is none of their name yet; a list that only says what changes changes them.
pub(super) fn put_below(values: &mut Values, below: Values) {
    for (name, setting) in below {
        let over = match values.get(name) {
            None => None,
            Some(Setting { value: Value::Update(changes), .. }) => Some(changes.clone()),
            Some(_) => continue,
        };
        let Some(changes) = over else {
            values.insert(name, setting);
            continue;
        };
        let value = match setting.value {
            Value::Plain(text) | Value::Quoted(text) => Value::Quoted(updated(&text, &changes)),
            Value::Update(below) => Value::Update([below, changes].concat()),
            file @ Value::File(_) => file,
        };
        values.insert(name, Setting { value, ..setting });
    }
}

/// A list with items put in or taken out; of what is said of an item the last counts.
pub(super) fn updated(list: &str, changes: &[(String, bool)]) -> String {
    let before = value::items(list).map(|item| (item, true));
    let said: Vec<(&str, bool)> = before.chain(changes.iter().map(|(item, yes)| (item.as_str(), *yes))).collect();
    let mut seen = std::collections::HashSet::new();
    let mut items: Vec<&str> =
        said.iter().rev().filter(|(item, yes)| seen.insert(*item) && *yes).map(|(item, _)| *item).collect();
    items.reverse();
    items.join(" ")
}

fn section_around(kind: &str, name: &str, at: &Place, entries: Vec<Entry>) -> Vec<Entry> {
    vec![Entry::Section(Section { kind: kind.into(), name: Some(name.into()), at: at.clone(), entries })]
}
