"""Where servers come from: packages installed on this machine, or Debian 13's, unpacked into a folder."""

import contextlib
import functools
import os
import pathlib
import shutil
import subprocess
import tempfile
import threading

from .server import ROOT, Missing, output

FETCHER = ROOT / "tools/debian13"
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
            folder()

    @staticmethod
    def command(directory, *command):
        """The command with `directory` visible at its own path."""
        root = folder()
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
        versions = (folder().parent / "versions").read_text().splitlines()
        return next(line.split(" ")[1] for line in versions if line.startswith(f"{package} "))

    @staticmethod
    def user(name):
        """The number of a user that the packages' scripts would make."""
        users = (folder() / "etc/passwd").read_text().splitlines()
        return next(int(line.split(":")[2]) for line in users if line.startswith(f"{name}:"))


def needs_root():
    if os.geteuid() != 0:
        raise Missing("root")


@functools.cache
def folder():
    """The packages with all that they depend on, unpacked; fetched once, as long as `target` is kept."""
    if missing := [name for name in ["bash", "unshare"] if not shutil.which(name)]:
        raise Missing(f"Debian 13's packages, and for them {', '.join(missing)}")
    done = subprocess.run([FETCHER], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if done.returncode != 0:
        raise Missing(f"Debian 13's packages: {(done.stderr.splitlines() or ['no reason is told'])[-1]}")
    return pathlib.Path(done.stdout.strip())


@contextlib.contextmanager
def scratch_directory():
    """A temporary directory that servers may enter as their own users."""
    with tempfile.TemporaryDirectory(prefix="conformance-") as directory:
        os.chmod(directory, 0o755)
        yield directory
