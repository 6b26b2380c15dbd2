//! Authorities that sign certificates, made by openssl(1).

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::process::run;
use super::temp_dir;

/// An authority with its files in a directory of its own. `needs!("openssl")`.
pub struct Authority {
    directory: TempDir,
}

impl Authority {
    /// A new one of that name.
    pub fn new(name: &str) -> Authority {
        let authority = Authority { directory: temp_dir() };
        let subject = format!("/CN={name}");
        authority.openssl(&[
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
            "-subj",
            &subject,
            "-keyout",
            "ca.key",
            "-out",
            "ca.crt",
            "-addext",
            "keyUsage=keyCertSign,cRLSign",
        ]);
        let settings = "[ca]\ndefault_ca=d\n[d]\ndatabase=db\ndefault_md=sha256\ndefault_crl_days=2\ncrlnumber=number\n\
                        crl_extensions=e\n[e]\nauthorityKeyIdentifier=keyid:always\n";
        authority.write("ca.cnf", settings);
        authority.write("db", "");
        authority.write("number", "01\n");
        authority
    }

    /// Its certificate.
    pub fn certificate(&self) -> PathBuf {
        self.path("ca.crt")
    }

    /// Its certificate, and behind it the list of those that it has revoked so far.
    pub fn with_list(&self) -> PathBuf {
        self.ca(&["-gencrl", "-out", "ca.crl"]);
        let read = |name| std::fs::read_to_string(self.path(name)).expect("it was made");
        self.write("ca-crl.pem", &(read("ca.crt") + &read("ca.crl")));
        self.path("ca-crl.pem")
    }

    /// A certificate for a client or a host, and its key.
    pub fn sign(&self, name: &str) -> (PathBuf, PathBuf) {
        let (key, request, certificate) = (format!("{name}.key"), format!("{name}.csr"), format!("{name}.crt"));
        let subject = format!("/CN={name}");
        self.openssl(&[
            "req",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-subj",
            &subject,
            "-keyout",
            &key,
            "-out",
            &request,
        ]);
        self.write("extensions", &format!("subjectAltName=DNS:{name}.test\nextendedKeyUsage=clientAuth,serverAuth\n"));
        self.openssl(&[
            "x509",
            "-req",
            "-in",
            &request,
            "-CA",
            "ca.crt",
            "-CAkey",
            "ca.key",
            "-CAcreateserial",
            "-days",
            "1",
            "-extfile",
            "extensions",
            "-out",
            &certificate,
        ]);
        (self.path(&certificate), self.path(&key))
    }

    /// Puts the certificate of that name on the list.
    pub fn revoke(&self, name: &str) {
        self.ca(&["-revoke", &format!("{name}.crt")]);
    }

    fn ca(&self, arguments: &[&str]) {
        self.openssl(&[&["ca", "-config", "ca.cnf", "-keyfile", "ca.key", "-cert", "ca.crt"], arguments].concat());
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).expect("our own directory");
    }

    fn openssl(&self, arguments: &[&str]) {
        let mut command = Command::new("openssl");
        command.args(arguments).current_dir(self.directory.path());
        let finished = run(command, b"");
        assert_eq!(finished.code, Some(0), "openssl {arguments:?}: {finished:?}");
    }
}

/// Runs `openssl s_client` against a port of 127.0.0.1, with more arguments, until the server closes.
pub fn s_client(port: u16, arguments: &[&str]) -> super::process::Finished {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-ign_eof", "-connect", &format!("127.0.0.1:{port}")]).args(arguments);
    run(command, b"")
}

/// The same, but only until the handshake is done.
pub fn s_client_briefly(port: u16, arguments: &[&str]) -> super::process::Finished {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &format!("127.0.0.1:{port}")]).args(arguments);
    run(command, b"")
}

/// The arguments by which `s_client` shows a certificate.
pub fn showing((certificate, key): &(PathBuf, PathBuf)) -> [String; 4] {
    let text = |path: &Path| path.display().to_string();
    ["-cert".into(), text(certificate), "-key".into(), text(key)]
}
