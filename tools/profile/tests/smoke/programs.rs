//! Where our own programs lie beside each other.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Their directory. The daemon and the load generator belong to other packages: they are built now, which does nothing
/// where they are up to date.
pub fn programs() -> &'static Path {
    static PROGRAMS: OnceLock<PathBuf> = OnceLock::new();
    PROGRAMS.get_or_init(|| {
        let directory = Path::new(env!("CARGO_BIN_EXE_vestibule-profile")).parent().expect("it is in a directory");
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--package", "vestibule-daemon", "--package", "vestibule-load", "--bins"]);
        build.arg("--target-dir").arg(directory.parent().expect("target/PROFILE"));
        build.args((directory.file_name() == Some("release".as_ref())).then_some("--release"));
        // What describes this package would make build scripts run again that look at it, as ring's does.
        let about_this_package = ["CARGO_PKG_", "CARGO_MANIFEST_"];
        for (name, _) in std::env::vars().filter(|(name, _)| about_this_package.iter().any(|it| name.starts_with(it))) {
            build.env_remove(name);
        }
        assert!(build.status().expect("cargo runs").success(), "vestibule and vestibule-load do not build");
        directory.to_owned()
    })
}
