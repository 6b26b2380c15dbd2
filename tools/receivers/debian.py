"""Where servers come from: packages installed on this machine, or Debian 13's, unpacked into a folder."""

import contextlib
import functools
import os
import pathlib
import shutil
import subprocess
import tempfile
import threading

from .server import CACHE, Missing, output

FOLDER = CACHE / "debian13"
# Each set is resolved by itself: two mail servers are never installed together.
SETS = [
    ["bash", "coreutils", "dash", "findutils", "grep", "sed"],
    ["dovecot-imapd", "haproxy", "nginx", "libnginx-mod-mail"],
    ["exim4-daemon-heavy"],
    ["opensmtpd"],
    ["postfix"],
]
# Users that the packages' scripts would make; nothing of theirs is run. The numbers are nobody's on this machine.
USERS = {
    "dovecot": 61101, "dovenull": 61102, "Debian-exim": 61103, "opensmtpd": 61104, "opensmtpq": 61105,
    "postfix": 61106, "postdrop": 61107, "www-data": 61108,
}
LOCK = threading.Lock()


class Installed:
    """The programs of this machine."""

    @staticmethod
    def prepare(*programs):
        needs_root()
        missing = [name for name in programs if not shutil.which(name)]
        if missing:
            raise Missing(f"{', '.join(missing)} installed")

    @staticmethod
    def command(_, *command):
        return list(command)

    @staticmethod
    def version(package):
        return output("dpkg-query", "--show", "--showformat=${Version}", package)


class Debian13:
    """The programs of the folder: each runs in a mount namespace of its own with the folder as its root."""

    @staticmethod
    def prepare(*_):
        needs_root()
        with LOCK:
            fetch()

    @staticmethod
    def command(directory, *command):
        """The command with `directory` visible at its own path."""
        root = FOLDER / "root"
        steps = [
            f"mount -t tmpfs tmpfs {root}/tmp",
            f"mkdir -p {root}{directory}",
            f"mount --bind {directory} {root}{directory}",
            f"mount --rbind /dev {root}/dev", f"mount -t proc proc {root}/proc", f'exec chroot {root} "$@"',
        ]
        script = " && ".join(steps)
        return ["unshare", "--mount", "sh", "-c", script, "sh", *command]

    @staticmethod
    def version(package):
        # As in NAME_EPOCH%3aVERSION_ARCHITECTURE.deb.
        return next(FOLDER.glob(f"archives/{package}_*.deb")).name.split("_")[1].replace("%3a", ":")


def needs_root():
    if os.geteuid() != 0:
        raise Missing("root")


@functools.cache
def fetch():
    """Downloads the packages with all that they depend on, and unpacks them; once, as long as `target` is kept."""
    if (FOLDER / "root/etc/passwd").exists():
        return
    missing = [name for name in ["apt-get", "dpkg-deb", "unshare"] if not shutil.which(name)]
    if missing:
        raise Missing(f"Debian 13's packages, and for them {', '.join(missing)}")
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="conformance-apt-") as scratch:
        options = apt_options(scratch)
        try:
            output("apt-get", *options, "update")
            for packages in SETS:
                output("apt-get", *options, "--yes", "--download-only", "install", "base-files", *packages)
        except RuntimeError as error:
            raise Missing(f"Debian 13's packages: {str(error).splitlines()[-1]}") from error
    unpack()


def apt_options(scratch):
    """Options by which apt-get works beside this machine's own state, for a machine that has no package yet."""
    state = pathlib.Path(scratch)
    (state / "lists/partial").mkdir(parents=True)
    (FOLDER / "archives/partial").mkdir(parents=True, exist_ok=True)
    (state / "status").touch()
    (state / "sources.list").write_text("".join(sources()))
    settings = {
        "Dir::Etc::SourceList": state / "sources.list", "Dir::Etc::SourceParts": "-", "Dir::State": state,
        "Dir::State::Status": state / "status", "Dir::Cache": FOLDER, "APT::Sandbox::User": "root",
        "APT::Install-Recommends": "false", "APT::Update::Post-Invoke-Success::": "",
    }
    return [f"--option={name}={value}" for name, value in settings.items()]


def sources():
    """Debian 13 on the servers from which this machine has its own Debian."""
    told = output("apt-get", "indextargets", "--format", "$(ORIGIN) $(SUITE) $(REPO_URI)", "Created-By: Packages")
    seen = set()
    for origin, suite, uri in (line.split() for line in told.splitlines()):
        name = "trixie-security" if suite.endswith("-security") else "trixie"
        if origin == "Debian" and name not in seen:
            seen.add(name)
            yield f"deb {uri} {name} main\n"
    if not seen:
        raise Missing("Debian's package sources (run apt-get update)")


def unpack():
    root = FOLDER / "root"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    # base-files first: it has the links from /lib to /usr/lib.
    for package in sorted(FOLDER.glob("archives/*.deb"), key=lambda it: not it.name.startswith("base-files")):
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE) as archive:
            output("tar", "-x", "-C", root, "--keep-directory-symlink", stdin=archive.stdout)
    output("ldconfig", "-r", root)
    users = {"root": 0, "nobody": 65534, **USERS}
    (root / "etc/group").write_text("".join(f"{name}:x:{number}:\n" for name, number in users.items()))
    (root / "etc/hosts").write_text("127.0.0.1 localhost\n")
    # Last: it says that the rest is there.
    (root / "etc/passwd").write_text("".join(f"{name}:x:{n}:{n}::/:/bin/sh\n" for name, n in users.items()))


@contextlib.contextmanager
def scratch_directory():
    """A temporary directory that servers may enter as their own users."""
    with tempfile.TemporaryDirectory(prefix="conformance-") as directory:
        os.chmod(directory, 0o755)
        yield directory
