"""Keeps a server and everything it has started in our hands: all of it ends when we do, however that comes.

Run as a script, and it imports nothing of `composer`. vLLM is several processes (its API, its engine, a worker per
device); when the first is killed the others stay behind with the weights. So they run in a process group of their own
under this one, which adopts whatever loses its parent and ends the group when its own stdin closes: that happens when
whoever started it closes it or dies. One JSON line comes in (`vllm_keeper.py` writes it), then one goes out at each
event: `{"pid": …}` once it runs, `{"ended": "…"}` when it has ended by itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

_SHARED = re.compile(r"(/dev/shm/\S+)")
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_LOOK = 0.02  # seconds
_GRACE, _LONGEST_END = 5.0, 10.0  # seconds a server has to end by itself, and those that it may take to be killed
_TRACKING = 3.0


def main() -> None:
    """Start the server, and wait for its end or for that of our parent."""
    config = json.loads(sys.stdin.buffer.readline())
    for ignored in (signal.SIGINT, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    try:
        with Path(config["log"]).open("ab") as log:
            server = subprocess.Popen(
                config["command"],
                env=config["environment"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_end_with_us,
                pass_fds=config["share"],
            )
    except OSError as why:
        shutil.rmtree(config["folder"], ignore_errors=True)
        _tell({"ended": f"it cannot be started: {why}"})
        return
    for shared in config["share"]:
        os.close(shared)  # so that the other end notices when the server ends
    _tell({"pid": server.pid})
    signal.signal(signal.SIGTERM, lambda *_: _end(server, config["folder"]))
    threading.Thread(target=_wait_for_parent, args=(server, config["folder"]), daemon=True).start()
    while (code := server.poll()) is None:  # not `wait`: it would hold the lock that `_end` needs
        time.sleep(_LOOK)
    how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    _clear_away(server.pid, config["folder"], set())
    _tell({"ended": how})


def _tell(event: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):  # nobody may be left to hear it
        sys.stdout.write(json.dumps(event) + "\n")
        sys.stdout.flush()


def _wait_for_parent(server: subprocess.Popen[bytes], folder: str) -> None:
    while os.read(0, 4096):
        pass
    _end(server, folder)


def _end(server: subprocess.Popen[bytes], folder: str) -> None:
    """Ask the server to end, give it a moment, and end all that is left."""
    shared = _shared()
    with contextlib.suppress(ProcessLookupError):
        os.kill(server.pid, signal.SIGTERM)
    until = time.monotonic() + _GRACE
    while time.monotonic() < until and server.poll() is None:
        time.sleep(_LOOK)
    _clear_away(server.pid, folder, shared)
    os._exit(0)


def _shared() -> set[str]:
    """What our family keeps in shared memory."""
    found = set[str]()
    for pid in _family(os.getpid()):
        with contextlib.suppress(OSError):
            found.update(_SHARED.findall(Path(f"/proc/{pid}/maps").read_text()))
    return found


def _clear_away(group: int, folder: str, shared: set[str]) -> None:
    """End all that the server has started, also what we have adopted, until none is left; remove what they kept in shared
    memory, which nobody else would do for a process that was killed, and their folder of sockets."""
    began = time.monotonic()
    while (spent := time.monotonic() - began) < _LONGEST_END:
        shared |= _shared()
        if sys.platform != "linux":  # no system that lists a family
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(group, signal.SIGKILL)
        for pid in _family(os.getpid()):
            # Python's own tracker of what is shared clears away when all others are gone, and then ends.
            if spent > _TRACKING or not _is_tracker(pid):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            break  # nobody is left
        time.sleep(_LOOK)
    for path in shared:
        Path(path).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _is_tracker(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return b"multiprocessing.resource_tracker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


def _family(parent: int) -> list[int]:
    """All that descend from a process, the adopted ones among them; none where the system does not say."""
    found: list[int] = []
    for path in Path(f"/proc/{parent}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for pid in map(int, path.read_text().split()):
                found += [pid, *_family(pid)]
    return found


def _end_with_us() -> None:
    """In the server, before it is one: the kernel ends it should we be killed."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value)


if __name__ == "__main__":
    main()
