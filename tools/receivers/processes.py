"""What a server consists of as processes, so that none is left behind. Linux: it reads /proc."""

import collections
import contextlib
import ctypes
import os
import pathlib
import signal
import time

PR_SET_CHILD_SUBREAPER = 36
# How long processes may take to be gone once they are killed.
GONE = 10.0
TICKS = os.sysconf("SC_CLK_TCK")

Process = collections.namedtuple("Process", "parent session start ticks")


def adopt():
    """From now on a process that loses its parent becomes ours, if it descends from us."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def table():
    """All living processes by their numbers."""
    found = {}
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # Behind the name, which may hold anything: state, parent, group, session ..
            state, parent, _, session, *rest = path.read_text(errors="replace").rpartition(") ")[2].split()
            if state not in "ZX":
                ticks = int(rest[7]) + int(rest[8])
                found[int(path.parent.name)] = Process(int(parent), int(session), rest[15], ticks)
    return found


def family(leader):
    """The processes of the session that `leader` leads, and all that descend from them: start times by number, since
    numbers come back."""
    living = table()
    members = {number for number, it in living.items() if it.session == leader}
    return {number: living[number].start for number in with_descendants(members, living)}


def with_descendants(members, living):
    while more := {number for number, it in living.items() if it.parent in members} - members:
        members = members | more
    return members


def descendants():
    """The processes that descend from this one."""
    living = table()
    return {number: living[number].start for number in with_descendants({os.getpid()}, living) - {os.getpid()}}


def end(look):
    """Kills what `look` finds until it finds nothing more; the numbers of those killed."""
    killed, deadline = set(), time.monotonic() + GONE
    while left := look():
        for number in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        killed |= left.keys()
        if time.monotonic() > deadline:
            raise RuntimeError(f"processes {sorted(left)} are still there {GONE:.0f} s after they were killed")
        time.sleep(0.02)
    return killed


def end_family(leader, known):
    """Ends the family of `leader`, and of those `known` to have belonged to it the ones that have left it."""
    def look():
        living = table()
        strays = {it: start for it, start in known.items() if it in living and living[it].start == start}
        return strays | family(leader)
    return end(look)


def busy(leader, seconds, share=0.1):
    """The processes of a family that use more than a share of one processor's time."""
    before = table()
    time.sleep(seconds)
    after = table()
    limit = seconds * share * TICKS
    return [it for it in family(leader) if it in before and it in after and after[it].ticks - before[it].ticks > limit]
