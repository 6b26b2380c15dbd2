//! The library's public face, read from the sources and compared with the list in `docs/public-api.txt`: nothing becomes
//! public, changes or goes without somebody having seen it.
//!
//! `VESTIBULE_WRITE_PUBLIC_API=1 cargo test --test integration public_api` writes the list anew. Items are found by name, as
//! the compiler would find them: modules, `pub use`, inherent methods and trait implementations wherever they stand. What
//! `#[doc(hidden)]` hides is no part of it, nor is what macros make, of which the library has none in public.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use quote::ToTokens;
use syn::{Attribute, Fields, ImplItem, Item, TraitItem, Type, UseTree, Visibility};

/// The module that is a crate of its own.
const DECODER: &str = "proxy";
const LIST: &str = "docs/public-api.txt";

#[test]
fn the_public_face_is_the_one_that_is_listed() {
    let library = Library::read();
    let now = library.listing();
    assert!(now.len() > 500, "{} lines: the reader has lost its way", now.len());
    let file = repository().join(LIST);
    if std::env::var_os("VESTIBULE_WRITE_PUBLIC_API").is_some() {
        fs::write(&file, now.join("\n") + "\n").expect("the list can be written");
    }
    let text = fs::read_to_string(&file).expect("the list is there");
    let listed: BTreeSet<&str> = text.lines().collect();
    let present: BTreeSet<&str> = now.iter().map(String::as_str).collect();
    let gone = listed.difference(&present).map(|line| format!("- {line}"));
    let new = present.difference(&listed).map(|line| format!("+ {line}"));
    let changes: Vec<String> = gone.chain(new).collect();
    assert!(
        changes.is_empty(),
        "the public interface differs from {LIST}; if that is meant, set VESTIBULE_WRITE_PUBLIC_API=1 and run this test \
         again:\n{}",
        changes.join("\n")
    );
}

#[test]
fn no_dependency_shows_that_was_not_meant_to() {
    let now = Library::read().listing();
    for hidden in ["crossbeam", "io_uring::", "rustix::", "socket2::", "libc::", "signal_hook", "nix::", "clap::"] {
        let shown: Vec<&String> = now.iter().filter(|line| line.contains(hidden)).collect();
        assert!(shown.is_empty(), "{hidden} stands in the public interface: {shown:#?}");
    }
}

/// A module's path from the crate's root.
type Place = Vec<String>;

#[derive(Default)]
struct Library {
    modules: BTreeMap<Place, Vec<Item>>,
}

impl Library {
    fn read() -> Library {
        let mut library = Library::default();
        library.read_module(Vec::new(), &repository().join("src/lib.rs"));
        // Re-exported as a whole.
        library.read_module(vec![DECODER.to_owned()], &repository().join("proxy/src/lib.rs"));
        library
    }

    fn read_module(&mut self, place: Place, file: &Path) {
        let text = fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let items = syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display())).items;
        let is_root = file.file_name().is_some_and(|name| name == "mod.rs" || name == "lib.rs");
        let parent = file.parent().expect("a file lies in a directory");
        let below = if is_root { parent.to_owned() } else { file.with_extension("") };
        for item in &items {
            if let Item::Mod(module) = item
                && module.content.is_none()
                && !is_for_tests(&module.attrs)
            {
                let name = module.ident.to_string();
                let files = [below.join(format!("{name}.rs")), below.join(&name).join("mod.rs")];
                let file = files.iter().find(|file| file.is_file()).unwrap_or_else(|| panic!("no file of {name}"));
                self.read_module([&place[..], &[name]].concat(), file);
            }
        }
        self.modules.insert(place, items);
    }

    /// One line an item, sorted.
    fn listing(&self) -> Vec<String> {
        let mut shown = Shown { library: self, at: BTreeMap::new(), lines: BTreeSet::new() };
        // First those with a module of their own: names at the root are shorter ways to them.
        for place in self.modules.keys().filter(|place| !place.is_empty() && self.is_public(place)) {
            shown.module(place);
        }
        shown.module(&Vec::new());
        shown.implementations();
        shown.lines.into_iter().collect()
    }

    fn is_public(&self, place: &[String]) -> bool {
        // What is re-exported stands in the root as a name, not as a module.
        let from = usize::from(place.first().is_some_and(|root| root == DECODER));
        (from..place.len()).all(|depth| {
            self.modules[&place[..depth].to_vec()].iter().any(|item| match item {
                Item::Mod(module) => {
                    module.ident == place[depth] && is_public(&module.vis) && !is_hidden(&module.attrs)
                }
                _ => false,
            })
        })
    }

    /// Where the item is defined that `path` means in `place`.
    fn resolve(&self, place: &[String], path: &[String], depth: usize) -> Option<(Place, String)> {
        let (first, rest) = path.split_first().filter(|_| depth < 16)?;
        let above = || place.split_last().map(|(_, above)| above.to_vec());
        match (first.as_str(), rest) {
            ("crate", rest) if place.first().is_some_and(|root| root == DECODER) => {
                self.resolve(&[DECODER.to_owned()], rest, depth + 1)
            }
            ("crate", rest) => self.resolve(&[], rest, depth + 1),
            ("super", rest) => self.resolve(&above()?, rest, depth + 1),
            ("self", rest) => self.resolve(place, rest, depth + 1),
            (name, []) if self.definition(place, name).is_some() => Some((place.to_vec(), name.to_owned())),
            (name, rest) => {
                let child = [place, &[name.to_owned()]].concat();
                if !rest.is_empty() && self.modules.contains_key(&child) {
                    return self.resolve(&child, rest, depth + 1);
                }
                let uses = self.uses(place);
                let named = uses.iter().find(|one| one.name == name && one.path != path);
                let by_name = named.and_then(|one| self.resolve(place, &[&one.path[..], rest].concat(), depth + 1));
                let globs = || uses.iter().filter(|one| one.name == "*");
                by_name.or_else(|| {
                    globs().find_map(|glob| self.resolve(place, &[&glob.path[..], path].concat(), depth + 1))
                })
            }
        }
    }

    fn definition(&self, place: &[String], name: &str) -> Option<&Item> {
        self.modules.get(place)?.iter().find(|item| name_of(item).is_some_and(|(ident, _)| ident == name))
    }

    fn uses(&self, place: &[String]) -> Vec<Use> {
        let mut all = Vec::new();
        for item in self.modules.get(place).into_iter().flatten() {
            if let Item::Use(one) = item
                && !is_for_tests(&one.attrs)
            {
                collect_uses(&one.tree, &[], is_public(&one.vis), &mut all);
            }
        }
        all
    }
}

struct Use {
    name: String,
    path: Vec<String>,
    public: bool,
}

fn collect_uses(tree: &UseTree, before: &[String], public: bool, all: &mut Vec<Use>) {
    let and = |name: String| [before, &[name]].concat();
    let mut leaf = |name: String, path| all.push(Use { name, path, public });
    match tree {
        UseTree::Path(path) => collect_uses(&path.tree, &and(path.ident.to_string()), public, all),
        UseTree::Name(name) if name.ident == "self" => {
            leaf(before.last().cloned().unwrap_or_default(), before.to_vec())
        }
        UseTree::Name(name) => leaf(name.ident.to_string(), and(name.ident.to_string())),
        UseTree::Rename(rename) => leaf(rename.rename.to_string(), and(rename.ident.to_string())),
        UseTree::Glob(_) => leaf("*".to_owned(), before.to_vec()),
        UseTree::Group(group) => group.items.iter().for_each(|tree| collect_uses(tree, before, public, all)),
    }
}

/// What has been found to be public.
struct Shown<'a> {
    library: &'a Library,
    /// Definitions, and the paths they are public at.
    at: BTreeMap<(Place, String), String>,
    lines: BTreeSet<String>,
}

impl Shown<'_> {
    fn module(&mut self, place: &Place) {
        self.stands_in(place, place);
    }

    /// What a module brings, under the path of the one that re-exports it all, if it is not that itself.
    fn stands_in(&mut self, from: &Place, place: &Place) {
        let path = |name: &str| [&["vestibule".to_owned()], &place[..], &[name.to_owned()]].concat().join("::");
        for item in &self.library.modules[from] {
            if let Some((name, true)) = name_of(item) {
                self.item(item, (from.clone(), name.clone()), path(&name));
            }
        }
        for one in self.library.uses(from).into_iter().filter(|one| one.public) {
            if one.name == "*" {
                self.stands_in(&[&from[..], &one.path[..]].concat(), place);
                continue;
            }
            match self.library.resolve(from, &one.path, 0) {
                Some(at) => {
                    let library = self.library;
                    let item = library.definition(&at.0, &at.1).expect("it was found there");
                    self.item(item, at, path(&one.name));
                }
                None => self.line(format!("{} = {}", path(&one.name), one.path.join("::"))),
            }
        }
    }

    fn line(&mut self, line: String) {
        self.lines.insert(line);
    }

    fn item(&mut self, item: &Item, at: (Place, String), path: String) {
        if is_hidden(attributes(item)) || is_for_tests(attributes(item)) {
            return;
        }
        if let Some(known) = self.at.get(&at).filter(|known| **known != path) {
            return self.line(format!("{path} = {known}"));
        }
        self.at.insert(at, path.clone());
        let notes = notes(attributes(item));
        match item {
            Item::Struct(one) => {
                self.line(format!("{path}: struct{}{notes}", tokens(&one.generics)));
                self.fields(&path, &one.fields, false);
            }
            Item::Enum(one) => {
                self.line(format!("{path}: enum{}{notes}", tokens(&one.generics)));
                for variant in &one.variants {
                    let path = format!("{path}::{}", variant.ident);
                    self.line(format!("{path}: variant"));
                    self.fields(&path, &variant.fields, true);
                }
            }
            Item::Trait(one) => {
                self.line(format!("{path}: trait{}: {}{notes}", tokens(&one.generics), tokens(&one.supertraits)));
                for item in &one.items {
                    match item {
                        TraitItem::Fn(function) => self.line(format!("{path}: {}", tokens(&function.sig))),
                        other => self.line(format!("{path}: {}", tokens(other))),
                    }
                }
            }
            Item::Fn(one) => self.line(format!("{path}: {}{notes}", tokens(&one.sig))),
            Item::Const(one) => self.line(format!("{path}: const {}{notes}", tokens(&one.ty))),
            Item::Static(one) => self.line(format!("{path}: static {}{notes}", tokens(&one.ty))),
            Item::Type(one) => self.line(format!("{path}: type {}{notes}", tokens(&one.ty))),
            _ => {}
        }
        for derived in derives(attributes(item)) {
            self.line(format!("{path}: impl {derived}"));
        }
    }

    fn fields(&mut self, path: &str, fields: &Fields, all: bool) {
        for (index, field) in fields.iter().enumerate().filter(|(_, field)| all || is_public(&field.vis)) {
            let name = field.ident.as_ref().map_or(index.to_string(), ToString::to_string);
            self.line(format!("{path}.{name}: {}", tokens(&field.ty)));
        }
    }

    /// Methods and traits of all types that are public.
    fn implementations(&mut self) {
        let library = self.library;
        for (place, items) in &library.modules {
            for item in items {
                let Item::Impl(one) = item else { continue };
                let Type::Path(of) = &*one.self_ty else { continue };
                if is_for_tests(&one.attrs) {
                    continue;
                }
                let names: Vec<String> = of.path.segments.iter().map(|segment| segment.ident.to_string()).collect();
                let found = library.resolve(place, &names, 0).and_then(|at| self.at.get(&at)).cloned();
                let Some(path) = found else { continue };
                let subject = format!("{path}{}", arguments(of));
                let notes = notes(&one.attrs) + &of_module(library, place);
                match &one.trait_ {
                    Some((_, name, _)) => {
                        self.line(format!("{subject}: impl{} {}{notes}", tokens(&one.generics), tokens(name)))
                    }
                    None => self.methods(&subject, &one.items, &notes),
                }
            }
        }
    }

    fn methods(&mut self, subject: &str, items: &[ImplItem], of_block: &str) {
        for item in items {
            match item {
                ImplItem::Fn(one) if is_public(&one.vis) && !is_hidden(&one.attrs) => {
                    self.line(format!("{subject}: {}{}{of_block}", tokens(&one.sig), notes(&one.attrs)));
                }
                ImplItem::Const(one) if is_public(&one.vis) => {
                    self.line(format!("{subject}::{}: const {}", one.ident, tokens(&one.ty)));
                }
                _ => {}
            }
        }
    }
}

/// What a module's own condition says of what stands in it.
fn of_module(library: &Library, place: &[String]) -> String {
    let Some((name, above)) = place.split_last() else { return String::new() };
    let declared = library.modules[above].iter().find_map(|item| match item {
        Item::Mod(module) if module.ident == *name => Some(notes(&module.attrs)),
        _ => None,
    });
    declared.unwrap_or_default()
}

fn name_of(item: &Item) -> Option<(String, bool)> {
    let (ident, visibility) = match item {
        Item::Struct(one) => (&one.ident, &one.vis),
        Item::Enum(one) => (&one.ident, &one.vis),
        Item::Trait(one) => (&one.ident, &one.vis),
        Item::Fn(one) => (&one.sig.ident, &one.vis),
        Item::Const(one) => (&one.ident, &one.vis),
        Item::Static(one) => (&one.ident, &one.vis),
        Item::Type(one) => (&one.ident, &one.vis),
        _ => return None,
    };
    Some((ident.to_string(), is_public(visibility)))
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Struct(one) => &one.attrs,
        Item::Enum(one) => &one.attrs,
        Item::Trait(one) => &one.attrs,
        Item::Fn(one) => &one.attrs,
        Item::Const(one) => &one.attrs,
        Item::Static(one) => &one.attrs,
        Item::Type(one) => &one.attrs,
        _ => &[],
    }
}

fn is_public(visibility: &Visibility) -> bool {
    matches!(visibility, Visibility::Public(_))
}

fn is_hidden(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|one| one.path().is_ident("doc") && tokens(one).contains("hidden"))
}

fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|one| matches!(&*tokens(one), "#[cfg(test)]" | "#[cfg(doctest)]"))
}

/// The features that an item needs, and whether it may grow.
fn notes(attributes: &[Attribute]) -> String {
    let all = attributes.iter().map(tokens);
    all.filter(|text| text.starts_with("#[cfg(") || text == "#[non_exhaustive]")
        .map(|text| format!(" {text}"))
        .collect()
}

fn derives(attributes: &[Attribute]) -> Vec<String> {
    let derives = attributes.iter().filter(|one| one.path().is_ident("derive"));
    let lists = derives.filter_map(|one| one.meta.require_list().ok()).map(|list| list.tokens.to_string());
    lists.flat_map(|list| list.split(',').map(|one| one.trim().replace(' ', "")).collect::<Vec<_>>()).collect()
}

/// What a type is an instance of: `<TcpStream>`.
fn arguments(of: &syn::TypePath) -> String {
    of.path.segments.last().map_or(String::new(), |segment| tokens(&segment.arguments))
}

/// Code as one would write it, near enough.
fn tokens(code: &impl ToTokens) -> String {
    let mut text = code.to_token_stream().to_string().replace('\n', " ");
    while text.contains("  ") {
        text = text.replace("  ", " ");
    }
    for (from, to) in [
        (" :: ", "::"),
        (":: ", "::"),
        (" ::", "::"),
        (" < ", "<"),
        ("< ", "<"),
        (" <", "<"),
        (" >", ">"),
        ("& ", "&"),
        (" (", "("),
        ("( ", "("),
        (" )", ")"),
        (" ,", ","),
        (" :", ":"),
        (" ;", ";"),
        ("# [", "#["),
        ("[ ", "["),
        (" ]", "]"),
        ("- >", "->"),
        ("' ", "'"),
        ("->", " -> "),
        ("  ", " "),
        (",)", ")"),
        (", >", ">"),
        ("& mut", "&mut"),
        ("= >", "=>"),
    ] {
        text = text.replace(from, to);
    }
    text.replace(" - >", " ->").replace("> {", ">{").trim().to_owned()
}

fn repository() -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).to_owned()
}
