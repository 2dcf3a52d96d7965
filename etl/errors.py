"""Errors, named by what the caller should do.

EtlError
├── UsageError        correct the command or the configuration     exit 2
├── Refused           stop asking: the exchange refuses this host  exit 4
├── Transient         ask again later: network, 5xx, 429, cut body exit 1
├── Rejected          our request was wrong: a 4xx of the exchange exit 1
│   └── NotServed     ask the archive: a contract that is over     exit 1
├── NotPublished      ask another source, or later: no such file   exit 1
├── BadAnswer         the answer does not make sense: report it    exit 1
├── LakeError         look at the disk or the lake                 exit 1
│   ├── LakeLocked    wait for the other writer                    exit 1
│   └── Damaged       fetch the file again, this one is set aside  exit 1
├── SeriesFailed      run again: some series failed, rest is kept  exit 3
└── Cancelled         nothing: somebody asked us to stop           exit 130 or 143
"""

from __future__ import annotations

from pathlib import Path


class EtlError(Exception):
    """Base of every error that this package raises on purpose."""

    exit_code = 1


class UsageError(EtlError):
    """The command or the configuration is wrong; nothing was started."""

    exit_code = 2


class Refused(EtlError):
    """The exchange refuses this host (403, 418, 451); no request may follow before `until` (ms UTC, None if unknown).

    `instead` is what to do while another source may not refuse it; `said` is all else.
    """

    exit_code = 4

    def __init__(self, message: str, until: int | None = None, instead: str = "") -> None:
        super().__init__(f"{message}; {instead}" if instead else message)
        self.until = until
        self.said = message


class Transient(EtlError):
    """Asking again may help; `retry_after` is the wait in seconds that the server asked for, None if it did not."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Rejected(EtlError):
    """The exchange answered 4xx: asking the same again cannot help. `code` is its own error code, number or text."""

    # The default is for pickle, which calls with the message alone and restores the attributes afterwards.
    def __init__(self, message: str, status: int = 400, code: int | str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class NotServed(Rejected):
    """The exchange does not answer about this contract any more (-1122); the archive may have it."""


class NotPublished(EtlError):
    """The archive has no such file: it does not exist, or not yet."""


class BadAnswer(EtlError):
    """The exchange answered 200 with something that is not the documented shape, or contradicts itself."""


class LakeError(EtlError):
    """A file of the lake cannot be read or written."""


class LakeLocked(LakeError):
    """Another process writes to this lake."""


class Damaged(LakeError):
    """The file at `path` does not hold what it should: it can only be set aside, and its rows fetched again."""

    # The default is for pickle, as above.
    def __init__(self, message: str, path: Path = Path()) -> None:
        super().__init__(message)
        self.path = path


class SeriesFailed(EtlError):
    """Some series failed; what could be fetched is stored."""

    exit_code = 3


class Cancelled(EtlError):
    """A signal or --max-duration ended the run; what was finished is stored."""

    exit_code = 130
