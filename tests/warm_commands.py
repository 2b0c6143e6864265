"""Commands as processes of their own that need not import everything first: each is a fork of this one.

Run as a program, with a socket as its standard input. A request is JSON, with the three files of the command; the
answers are its process id and, once it has ended, its exit code. It ends with the socket.
"""

from __future__ import annotations

import json
import os
import runpy
import socket
import sys
import traceback
from typing import Any, NoReturn

WHAT_COMMANDS_NEED = (
    "dataqueue.cli", "dataqueue.queue", "dataqueue.sync", "dataqueue.worker.processor", "dataqueue.explain",
    "dataqueue.backends.postgres.backend", "dataqueue.backends.redis.backend", "pydantic", "rich.table",
)  # fmt: skip


def main() -> None:
    requests = socket.socket(fileno=os.dup(0))
    for name in WHAT_COMMANDS_NEED:
        __import__(name)
    while True:
        message, files, _, _ = socket.recv_fds(requests, 1 << 20, 3)
        if not message:
            return
        child = os.fork()
        if child == 0:
            requests.close()
            _run(json.loads(message), files)
        for file in files:
            os.close(file)
        requests.sendall(f"{child}\n".encode())
        _, status = os.waitpid(child, 0)
        requests.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())


def _run(request: dict[str, Any], files: list[int]) -> NoReturn:
    code: object = 1
    try:
        for standard, file in enumerate(files):
            os.dup2(file, standard)
            os.close(file)
        os.chdir(request["folder"])
        os.environ.clear()
        os.environ.update(request["env"])
        sys.path[0] = request["folder"]
        sys.argv = ["dataqueue", *request["args"]]
        runpy.run_module("dataqueue", run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
    if code is not None and not isinstance(code, int):
        print(code, file=sys.stderr)
        code = 1
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code or 0)


if __name__ == "__main__":
    main()
