//! The patterns of `!include`: `*`, `?`, `[a-z]` within a path component, and `{a,b}` alternatives.

use std::fs;
use std::path::{Path, PathBuf};

/// Files that one pattern may name.
const MATCHES_MAX: usize = 1000;
/// Alternatives that the braces of one pattern may spell out.
const ALTERNATIVES_MAX: usize = 64;

/// Whether a pattern can match one path only.
pub(super) fn is_literal(pattern: &str) -> bool {
    !pattern.contains(['*', '?', '[', '{'])
}

/// The files that match, sorted within each alternative; a relative pattern starts at `base`. Directories are left out.
pub(super) fn files(base: &Path, pattern: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for alternative in alternatives(pattern) {
        let absolute = base.join(alternative);
        let mut paths = vec![PathBuf::new()];
        for component in absolute.components() {
            let component = component.as_os_str().to_string_lossy();
            paths = paths.iter().flat_map(|path| step(path, &component)).take(MATCHES_MAX).collect();
        }
        found.extend(paths.into_iter().filter(|path| path.is_file()));
    }
    found.truncate(MATCHES_MAX);
    found
}

fn step(path: &Path, component: &str) -> Vec<PathBuf> {
    if !component.contains(['*', '?', '[']) {
        let next = path.join(component);
        return if next.exists() { vec![next] } else { Vec::new() };
    }
    let directory = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let pattern: Vec<char> = component.chars().collect();
    let mut names: Vec<_> = entries
        .filter_map(|entry| Some(entry.ok()?.file_name()))
        .filter(|name| {
            let name: Vec<char> = name.to_string_lossy().chars().collect();
            (name.first() != Some(&'.') || pattern.first() == Some(&'.')) && matches(&pattern, &name)
        })
        .collect();
    names.sort();
    names.into_iter().map(|name| path.join(name)).collect()
}

/// Whether the name matches: greedy, with one place to come back to (the last `*`), so never exponential.
fn matches(pattern: &[char], name: &[char]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        if pattern.get(p) == Some(&'*') {
            star = Some((p, n));
            p += 1;
        } else if let Some(next) = one(pattern, p, name[n]) {
            p = next;
            n += 1;
        } else if let Some((at, taken)) = star {
            star = Some((at, taken + 1));
            (p, n) = (at + 1, taken + 1);
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|&c| c == '*')
}

/// Matches one character; the pattern's next position.
fn one(pattern: &[char], at: usize, c: char) -> Option<usize> {
    match *pattern.get(at)? {
        '?' => Some(at + 1),
        '[' => class(pattern, at, c).unwrap_or((c == '[').then_some(at + 1)),
        literal => (literal == c).then_some(at + 1),
    }
}

/// `[a-z]`, `[!a-z]`: outer `None` if the bracket never closes, inner `None` if the character is not in it.
fn class(pattern: &[char], at: usize, c: char) -> Option<Option<usize>> {
    let negated = matches!(pattern.get(at + 1), Some('!' | '^'));
    let first = at + 1 + usize::from(negated);
    // A `]` in first place stands for itself.
    let end = first + 1 + pattern.get(first + 1..)?.iter().position(|&c| c == ']')?;
    let set = &pattern[first..end];
    let (mut inside, mut i) = (false, 0);
    while i < set.len() {
        if set.get(i + 1) == Some(&'-') && i + 2 < set.len() {
            inside |= (set[i]..=set[i + 2]).contains(&c);
            i += 3;
        } else {
            inside |= set[i] == c;
            i += 1;
        }
    }
    Some((inside != negated).then_some(end + 1))
}

/// Spells out `{a,b}`, the leftmost pair first.
fn alternatives(pattern: &str) -> Vec<String> {
    let mut waiting = vec![pattern.to_string()];
    let mut done = Vec::new();
    while let Some(next) = waiting.pop() {
        match split_braces(&next) {
            Some((before, inside, after)) if done.len() + waiting.len() < ALTERNATIVES_MAX => {
                waiting.extend(inside.split(',').rev().map(|choice| format!("{before}{choice}{after}")));
            }
            _ => done.push(next),
        }
    }
    done
}

fn split_braces(pattern: &str) -> Option<(&str, &str, &str)> {
    let (before, rest) = pattern.split_once('{')?;
    let (inside, after) = rest.split_once('}')?;
    Some((before, inside, after))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_match(pattern: &str, name: &str) -> bool {
        matches(&pattern.chars().collect::<Vec<_>>(), &name.chars().collect::<Vec<_>>())
    }

    #[test]
    fn patterns() {
        for (pattern, name, expected) in [
            ("*.conf", "10-mail.conf", true),
            ("*.conf", "10-mail.conf.bak", false),
            ("*", "", true),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbYbZ", false),
            ("1?-*", "10-mail", true),
            ("1?-*", "1-mail", false),
            ("[0-9]*", "10", true),
            ("[!0-9]*", "10", false),
            ("[]x]", "]", true),
            ("[", "[", true),
            ("[a", "[a", true),
            ("[a-]", "-", true),
        ] {
            assert_eq!(is_match(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn a_pattern_of_many_stars_ends() {
        assert!(!is_match(&"*a".repeat(40), &"a".repeat(39)));
    }

    #[test]
    fn braces_are_spelled_out_within_bounds() {
        assert_eq!(alternatives("x/{a,b}.conf"), ["x/a.conf", "x/b.conf"]);
        assert_eq!(alternatives("{a,b}{1,2}"), ["a1", "a2", "b1", "b2"]);
        assert_eq!(alternatives("{open"), ["{open"]);
        assert!(alternatives(&"{a,b}".repeat(30)).len() <= ALTERNATIVES_MAX + 1);
    }

    #[test]
    fn finds_files_in_order_and_no_hidden_ones() {
        let directory = std::env::temp_dir().join(format!("vestibule-glob-{}", std::process::id()));
        fs::create_dir_all(directory.join("conf.d/sub.conf")).expect("a temporary directory");
        for name in ["conf.d/b.conf", "conf.d/a.conf", "conf.d/.hidden.conf", "conf.d/c.txt"] {
            fs::write(directory.join(name), "").expect("a temporary file");
        }
        let names = |pattern| -> Vec<_> {
            files(&directory, pattern).iter().map(|p| p.file_name().expect("a name").to_os_string()).collect()
        };
        assert_eq!(names("conf.d/*.conf"), ["a.conf", "b.conf"]);
        assert_eq!(names("conf.d/{b,a}.conf"), ["b.conf", "a.conf"]);
        assert_eq!(names("*/a.conf"), ["a.conf"]);
        assert!(names("conf.d/none*").is_empty() && names("conf.d").is_empty());
        fs::remove_dir_all(&directory).expect("removing the temporary directory");
    }
}
