//! Words of a value that stand for something else, as the Dovecot has them that the files are written for:
//!
//! | | 2.3 | 2.4 |
//! |---|---|---|
//! | `$NAME` | the global setting so far, else its default | text |
//! | `$SET:NAME` | unknown | the global setting so far, else its default; inside a section always the default |
//! | `$ENV:NAME` | the environment, empty if it is not there | the same |
//!
//! Only whole words between spaces, and only outside quotes. Measured with 2.3.19 and 2.4.1.

use std::collections::HashMap;
use std::sync::Arc;

use super::lint::Dovecot;
use super::names;
use super::source::LINE_LENGTH_MAX;

/// Settings whose type Dovecot 2.4 cannot put into a text.
const LISTS: [&str; 3] = ["listen", "protocols", "login_trusted_networks"];

/// What words can stand for.
#[derive(Default)]
pub(super) struct Variables {
    pub(super) dovecot: Dovecot,
    /// Global settings so far: their values, or why there is none to put in its place.
    pub(super) globals: HashMap<String, Result<String, Arc<str>>>,
}

/// A value with its words replaced.
#[derive(Default)]
pub(super) struct Expanded {
    pub(super) text: String,
    /// Why one of the words stays as it is.
    pub(super) unresolved: Option<Arc<str>>,
    /// A name that the environment does not have.
    pub(super) missing: Option<String>,
}

impl Variables {
    /// Replaces the words of a value that stands in a section, or in none.
    pub(super) fn expand(&self, value: &str, in_section: bool) -> Expanded {
        let mut expanded = Expanded::default();
        for word in value.split(' ') {
            match self.word(word, in_section, &mut expanded.missing) {
                Ok(text) if expanded.text.len() + text.len() < LINE_LENGTH_MAX => expanded.text.push_str(&text),
                outcome => {
                    let too_long =
                        || format!("{word} makes the value longer than {LINE_LENGTH_MAX} bytes (keep it in a file)");
                    let why = outcome.err().unwrap_or_else(|| too_long().into());
                    expanded.text.push_str(word);
                    expanded.unresolved.get_or_insert(why);
                }
            }
            expanded.text.push(' ');
        }
        expanded.text.pop();
        expanded
    }

    fn word(&self, word: &str, in_section: bool, missing: &mut Option<String>) -> Result<String, Arc<str>> {
        let Some(name) = word.strip_prefix('$') else { return Ok(word.into()) };
        if let Some(name) = name.strip_prefix("ENV:") {
            return Ok(std::env::var(name).unwrap_or_else(|_| {
                missing.get_or_insert(name.into());
                String::new()
            }));
        }
        match (self.dovecot, name.strip_prefix("SET:")) {
            (Dovecot::V23, _) => self.setting(word, name),
            (Dovecot::V24, None) => Ok(word.into()),
            (Dovecot::V24, Some(name)) if LISTS.contains(&name) => Err(format!(
                "Failed to expand {word}: Setting type can't be expanded to string (write the value itself)"
            )
            .into()),
            (Dovecot::V24, Some(name)) if in_section && self.globals.contains_key(name) => {
                let words = "inside a section it stands for the default of the setting, not for what is set";
                Err(format!("Failed to expand {word}: {words} (write the value itself)").into())
            }
            (Dovecot::V24, Some(name)) => self.setting(word, name),
        }
    }

    /// What the files have said so far, else Dovecot's default.
    fn setting(&self, word: &str, name: &str) -> Result<String, Arc<str>> {
        match self.globals.get(name) {
            Some(value) => value.clone(),
            None => names::dovecot_default(name).map(Into::into).ok_or_else(|| {
                let remedy = match name.strip_prefix("SET:") {
                    Some(name) => format!("Dovecot 2.3 has no $SET: write ${name}"),
                    None => "no earlier setting of that name; write the value itself".into(),
                };
                format!("Unknown variable: {word} ({remedy})").into()
            }),
        }
    }
}
