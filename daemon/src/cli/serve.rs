//! `vestibule serve`: the daemon.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::daemon::{self, Error};

/// Accept, verify and carry on connections until told to stop (this is what `vestibule` alone does).
#[derive(clap::Args, Default)]
#[command(after_help = "\
Examples:
  vestibule
      the built-in configuration: 127.0.0.1:10143, haproxy = yes, worker whoami
  curl -s --haproxy-protocol telnet://127.0.0.1:10143 </dev/null
      ask it who you are
  vestibule serve -c /etc/vestibule.conf
      the listeners of a file in Dovecot's syntax
  vestibule serve -c /etc/vestibule.conf --takeover /run/vestibule/takeover.sock
      upgrade: this process takes the place of the running one, which has that path as its
      takeover_socket and takes its live sessions along; that one finishes what its workers
      hold within its drain_timeout and leaves. On addresses that both configurations have no
      connection is refused meanwhile. If this process cannot start, the running one goes on as
      if nothing had happened

Signals:
  TERM, INT  stop accepting, let connections reach their workers, let sessions go over
             drain_timeout, end with a table of what happened; again, or before it serves: end
             at once
  HUP        re-read the configuration and put it in force while everything goes on; who is
             connected keeps the terms that he came under; a configuration that does not check
             is refused and the present one stays
  USR1       stop accepting and finish as TERM does, but stay until TERM; `vestibule ctl resume`
             takes it back
  USR2       start the program anew, perhaps a newer version, with the same configuration file
             and --takeover: live sessions go on there

Exit codes: 0 after a complete drain, however many sessions were let go; 1 if it could not start
(too few threads, descriptors or locked memory allowed, a port in use), or if anything it let
finish did not end within drain_timeout; 78 if the configuration is wrong.")]
pub struct Args {
    /// Configuration in Dovecot's syntax; the built-in one if not given
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Take over from the running daemon whose takeover_socket is PATH: its listening sockets, the connections whose
    /// header is half read, and its live sessions
    #[arg(long, value_name = "PATH")]
    takeover: Option<PathBuf>,
}

/// Runs the daemon.
pub fn run(args: Args) -> Result<ExitCode, Error> {
    daemon::run(args.config, args.takeover)
}
