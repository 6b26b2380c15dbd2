//! What operators are told when a takeover does not come about: the library's words, and what they can do in the
//! daemon's.

use std::io;
use std::path::Path;

use rustix::io::Errno;
use vestibule::takeover::Error;

/// Why the process that listens at `path` cannot be asked. `otherwise` is what to do if there is none.
pub fn not_asked(path: &Path, error: &Error, otherwise: &str) -> String {
    match error {
        Error::Nobody { .. } => format!("{error}: {otherwise}"),
        Error::Path { error: cause, .. } if cause.kind() == io::ErrorKind::PermissionDenied => {
            format!("{error}; only root and the user of the running daemon may ask")
        }
        Error::Path { error: cause, .. } if cause.raw_os_error() == Some(Errno::PROTOTYPE.raw_os_error()) => {
            format!("{error}; a socket of another kind is there, such as a control_socket: {otherwise}")
        }
        Error::Path { .. } => error.to_string(),
        _ => format!("{}: {error}", path.display()),
    }
}

/// Why the daemon's own socket cannot be at the path that a setting names.
pub fn not_placed(setting: &str, error: &Error) -> String {
    let remedy = match error {
        Error::Path { error, .. } => remedy(error.kind()),
        _ => "",
    };
    format!("{setting} = {error}{remedy}")
}

fn remedy(kind: io::ErrorKind) -> &'static str {
    match kind {
        io::ErrorKind::NotFound => "; its directory must exist (RuntimeDirectory= in the unit makes one)",
        io::ErrorKind::PermissionDenied => "; its directory must be writable for the user that the daemon runs as",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use vestibule::takeover::{Claim, Offer};

    use super::*;

    #[test]
    fn an_unreachable_place_is_named_with_a_remedy() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("nobody");
        let nobody = not_asked(&path, &Claim::connect(&path).expect_err("nobody listens"), "start one");
        assert!(nobody.ends_with("nobody listens there: start one"), "{nobody}");
        let missing = Offer::prepare(directory.path().join("missing/socket")).expect_err("no directory");
        let missing = not_placed("takeover_socket", &missing);
        assert!(
            missing.starts_with("takeover_socket = /") && missing.contains("its directory must exist"),
            "{missing}"
        );
    }
}
