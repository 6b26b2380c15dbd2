"""Decoders among the crates: each is asked by a small program, `crates/src/main.rs`."""

import functools
import pathlib
import re
import shutil
import subprocess

from .server import CACHE, Missing, Receiver, output, unmapped

PROJECT = pathlib.Path(__file__).resolve().parent / "crates"
PROGRAM = CACHE / "crates/release/conformance-crates"


@functools.cache
def build():
    if not shutil.which("cargo"):
        raise Missing("cargo installed")
    try:
        manifest = PROJECT / "Cargo.toml"
        target = CACHE / "crates"
        options = ["--quiet", "--release", "--locked", "--manifest-path", manifest, "--target-dir", target]
        output("cargo", "build", *options)
    except RuntimeError as error:
        raise Missing("the crates of tools/receivers/crates") from error


class Crate(Receiver):
    def __init__(self, _):
        pass

    @classmethod
    def prepare(cls):
        build()

    @classmethod
    def version(cls):
        return re.search(rf'^{cls.name} = "=(.*)"$', (PROJECT / "Cargo.toml").read_text(), re.MULTILINE)[1]

    def answers(self, vectors):
        lines = "".join(vector["hex"] + "\n" for vector in vectors)
        said = subprocess.run([PROGRAM, self.name], input=lines, text=True, stdout=subprocess.PIPE, check=True)
        return [answer(line) for line in said.stdout.splitlines()]


def answer(line):
    word, *endpoints = line.split(" ")
    if word == "accepts":
        return tuple("own" if it == "none" else unmapped(it) for it in endpoints)
    return "disturbed" if word == "panics" else word


class Ppp(Crate):
    name = "ppp"


class ProxyHeader(Crate):
    name = "proxy-header"


class ProxyProtocol(Crate):
    name = "proxy-protocol"


class ProxyProtocolRs(Crate):
    name = "proxy-protocol-rs"
