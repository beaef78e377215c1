"""Runs one test of one program, walled off as far as the system allows: `trial.py` starts it and kills it.

Run as a script, and it imports nothing of `composer`. A JSON job comes in on stdin, `{"program", "test", "folder",
"limits"}`; `{"passed", "walls"}` goes out. This process never runs the program: it waits for a child that does, and
believes that a test has passed when that child tells it a word that was made up for this test.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import resource
import secrets
import signal
import struct
import sys
import types
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn

_NEW_NAMESPACES = 0x10000000 | 0x40000000 | 0x20000000 | 0x08000000  # user, network, processes, IPC
_NEW_USER = 0x10000000
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # Landlock's calls, alike on every architecture
_RULE_PATH_BENEATH = 1
# All that changes files, and running others; what each version of Landlock (from 1) knows of it.
_EXECUTE, _WRITE_FILE = 1 << 0, 1 << 1
_CHANGES = [_WRITE_FILE | sum(1 << bit for bit in range(4, 13)), 1 << 13, 1 << 14]
_REFUSED = (
    *("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "os.kill", "os.killpg"),
    *("subprocess.Popen", "socket.bind", "socket.connect", "socket.sendto", "socket.sendmsg"),
    *("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"),
)


def main() -> None:
    """Tell whether the test passed, and which walls stood: `namespaces`, `files`."""
    job = json.load(sys.stdin)
    _call("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL)
    walls = ["namespaces"] if _unshare() else []
    word = secrets.token_bytes(16)
    reader, writer = os.pipe()
    walled_reader, walled_writer = os.pipe()
    child = os.fork()
    if child == 0:
        _run(job, lambda: os.write(writer, word), lambda: os.write(walled_writer, b"1"))
    os.waitpid(child, 0)
    passed = _left_in(reader) == word
    walls += ["files"] if _left_in(walled_reader) else []
    sys.stdout.write(json.dumps({"passed": passed, "walls": walls}))


def _run(job: dict[str, Any], tell: Callable[[], int], walled: Callable[[], int]) -> NoReturn:
    """Run program and test, in the process that is given up to them."""
    status = 1
    try:
        _call("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.dup2(2, 1)  # what it prints cannot be taken for our reply
        for name, value in job["limits"].items():
            with suppress(ValueError, OSError):  # the system has a lower one already, or none
                resource.setrlimit(getattr(resource, name), (value, value))
        if _lock_files(job["folder"]):
            walled()
        sys.addaudithook(_refuse)
        module = types.ModuleType("program")  # not "__main__": what a script does when it is started is not wanted
        sys.modules["program"] = module
        exec(compile(job["program"], "program", "exec"), module.__dict__)
        exec(compile(job["test"], "test", "exec"), module.__dict__)
        tell()
        status = 0
    except BaseException as why:  # SystemExit too: a program that ends itself has passed nothing
        sys.excepthook(type(why), why, why.__traceback__)
    finally:
        with suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _left_in(pipe: int) -> bytes:
    os.set_blocking(pipe, False)  # descendants of the child may hold the other end open
    with suppress(BlockingIOError):
        return os.read(pipe, 64)
    return b""


def _refuse(event: str, _: tuple[object, ...]) -> None:
    if event in _REFUSED:
        raise PermissionError(errno.EPERM, f"{event} is not allowed to a program that is tried")


# --- walls


def _call(name: str, *arguments: object) -> int:
    """A call of the C library; -1 where it fails or there is none of that name."""
    function = getattr(ctypes.CDLL(None, use_errno=True), name, None) if sys.platform == "linux" else None
    return int(function(*arguments)) if function else -1


def _unshare() -> bool:
    """No network and no processes but its own, for the next child; all of them end with it."""
    return _call("unshare", _NEW_NAMESPACES) == 0 or _call("unshare", _NEW_NAMESPACES & ~_NEW_USER) == 0


def _lock_files(folder: str) -> bool:
    """Change files in `folder` alone, run no other program, signal nobody outside; by Landlock, where the kernel has it."""
    version = _call("syscall", _CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(1))
    if version < 1:
        return False
    changes = sum(_CHANGES[:version])
    handled = [changes | _EXECUTE, *([0b11] if version >= 4 else []), *([0b11] if version >= 6 else [])]
    rules = struct.pack(f"={len(handled)}Q", *handled)  # files; TCP; abstract sockets and signals
    ruleset = _call("syscall", _CREATE_RULESET, rules, ctypes.c_size_t(len(rules)), ctypes.c_uint32(0))
    for path, allowed in ((folder, changes), (os.devnull, _WRITE_FILE)):
        rule = struct.pack("=Qi", allowed, os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        if _call("syscall", _ADD_RULE, ruleset, _RULE_PATH_BENEATH, rule, ctypes.c_uint32(0)) != 0:
            return False
    _call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    return _call("syscall", _RESTRICT_SELF, ruleset, ctypes.c_uint32(0)) == 0


if __name__ == "__main__":
    main()
