//! How values are read: text that was set to what it means, or a problem at its place.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use super::Check;
use crate::config::gather::Values;
use crate::config::settings::*;
use crate::config::source::{self, Setting};
use crate::config::syntax::Value;
use crate::config::{Place, groups, slips, value};

impl Check<'_> {
    pub(in crate::config) fn boolean(&mut self, values: &Values, name: &str) -> Option<bool> {
        self.with(values, name, value::boolean)
    }

    pub(in crate::config) fn number(&mut self, values: &Values, name: &str, min: u64, max: u64) -> Option<u64> {
        self.with(values, name, |text| value::number(text, min, max))
    }

    pub(super) fn locked_memory(&mut self, values: &Values) -> u64 {
        let parse = |text: &str| value::size_limit(text, LOCKED_MEMORY_MIN, LOCKED_MEMORY_MAX);
        self.with(values, "locked_memory_limit", parse).unwrap_or(0)
    }

    /// `auto`, or 1..=max.
    pub(super) fn auto_or_number(&mut self, values: &Values, name: &str, max: usize) -> Option<NonZeroUsize> {
        self.with(values, name, |text| match text {
            "auto" => Ok(None),
            _ => value::number(text, 1, max as u64)
                .map(|n| NonZeroUsize::new(n as usize))
                .map_err(|words| format!("{words} (or auto)")),
        })
        .flatten()
    }

    pub(in crate::config) fn choice<T: Copy>(
        &mut self,
        values: &Values,
        name: &str,
        choices: &[(&str, T)],
    ) -> Option<T> {
        self.with(values, name, |text| {
            choices.iter().find(|(word, _)| *word == text).map(|(_, meaning)| *meaning).ok_or_else(|| {
                let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
                format!("Invalid {name}: {text} (use {})", words.join(" or "))
            })
        })
    }

    /// The parsed value, if it is set and right.
    pub(in crate::config) fn with<T>(
        &mut self,
        values: &Values,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let setting = values.get(name)?;
        let text = self.text(setting)?;
        parse(&text).map_err(|words| self.problem(&setting.at, slips::noted(&text, words))).ok()
    }

    /// The value of a setting in use: variables must have been resolved, and `<path` is read now.
    pub(in crate::config) fn text(&mut self, setting: &Setting) -> Option<String> {
        if let Some(words) = &setting.unresolved {
            self.problem(&setting.at, format!("{}: {words}", setting.key));
            return None;
        }
        match &setting.value {
            Value::Plain(text) | Value::Quoted(text) => Some(text.clone()),
            // Where nothing is outside that could be updated.
            Value::Update(changes) => Some(groups::updated("", changes)),
            Value::File(path) => {
                let path = beside(&setting.at, path);
                match source::value_file(&path) {
                    Ok(text) => Some(text.trim_end().to_string()),
                    Err(error) => {
                        self.problem(
                            &setting.at,
                            format!("{}: {} cannot be read: {error}", setting.key, path.display()),
                        );
                        None
                    }
                }
            }
        }
    }

    /// Beyond [`PROBLEMS_MAX`](source::PROBLEMS_MAX) nobody would read on: a file of networks may hold any number.
    pub(in crate::config) fn problem(&mut self, at: &Place, message: String) {
        if self.problems.len() < source::PROBLEMS_MAX {
            self.problems.push(at.problem(message));
        }
    }

    pub(in crate::config) fn warn(&mut self, at: &Place, message: String) {
        self.warnings.push(at.problem(message));
    }
}

/// A path as it is meant in a configuration file: relative to that file.
pub(in crate::config) fn beside(at: &Place, path: &str) -> PathBuf {
    at.file.parent().unwrap_or(Path::new("")).join(path)
}
