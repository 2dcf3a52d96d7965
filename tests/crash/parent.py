"""A process that has imported everything once and forks what tests kill: each is a process of its own, a second sooner.

Orders are JSON lines on stdin, each is answered by one on stdout: `{"argv": …, "env": …, "cwd": …, "out": …, "err": …,
"gate": …, "user": …}` starts a process and gives its `pid`; `{"poll": pid}` gives its exit code, null while it runs. argv[0] is
`etl` or a Python script. With `gate`, a FIFO, it waits until somebody has opened that for writing and closed it again.
"""

import ctypes
import importlib
import json
import os
import runpy
import sys
import traceback
from typing import Any, NoReturn

PR_SET_PTRACER, ANYBODY = 0x59616D61, -1
HEAVY = (
    "encodings.idna",
    "duckdb",
    "pyarrow.parquet",
    "etl.cli",
    "etl.pipeline",
    "etl.verify",
    "etl.lake.query",
    "etl.progress",
)


def child(order: dict[str, Any]) -> NoReturn:
    code = 1
    try:
        for number, (path, flags) in enumerate(
            [
                (os.devnull, os.O_RDONLY),
                (order["out"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
                (order["err"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
            ]
        ):
            handle = os.open(path, flags, 0o666)
            os.dup2(handle, number)
            os.close(handle)
        os.environ.clear()
        os.environ.update(order["env"])
        os.chdir(order["cwd"])
        if order["user"] is not None:
            os.setgroups([])
            os.setgid(order["user"])
            os.setuid(order["user"])
        if order["gate"] is not None:
            ctypes.CDLL(None).prctl(PR_SET_PTRACER, ANYBODY, 0, 0, 0)  # where only parents may trace (yama)
            with open(order["gate"], "rb") as gate:  # noqa: PTH123 - nothing is imported between fork and gate
                gate.read()
        sys.argv = order["argv"]
        if sys.argv[0] == "etl":
            importlib.import_module("etl.cli").main()
        else:
            runpy.run_path(sys.argv[0], run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:  # noqa: BLE001 - what a process dies of is shown, as the interpreter would
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main() -> None:
    for name in HEAVY:
        importlib.import_module(name)
    for line in sys.stdin:
        order = json.loads(line)
        if "poll" in order:
            pid, status = os.waitpid(order["poll"], os.WNOHANG)
            answer = {"exit": os.waitstatus_to_exitcode(status) if pid else None}
        else:
            pid = os.fork()
            if pid == 0:
                child(order)
            answer = {"pid": pid}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
