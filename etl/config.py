"""Settings and the universe: the only reader of TOML files and of the environment (contract 3)."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from . import registry
from .errors import UsageError
from .ranges import parse_time


class _Start(NamedTuple):
    """What a default may depend on."""

    env: Mapping[str, str]
    cwd: Path
    network: str


class _Rule(NamedTuple):
    """How one setting is read."""

    kind: type[str | int | float]
    """The type in TOML; text from options and variables is converted to it."""
    check: Callable[[Any, Path], object]
    """From the value and the folder that relative paths start from to the setting; ValueError says what belongs there."""
    default: Callable[[_Start], Any]


def _rule(
    kind: type[str | int | float], check: Callable[[Any, Path], object], default: Callable[[_Start], Any]
) -> dict[str, _Rule]:
    return {"rule": _Rule(kind, check, default)}


def _folder(text: str, base: Path) -> Path:
    if not text or "\0" in text:
        raise ValueError("a folder")
    path = Path(text)
    with suppress(RuntimeError):  # an unknown ~user is taken by the letter, as in a shell
        path = path.expanduser()
    # By the text alone: `config/../data` lies beside `config`, also where `config` is a link.
    return Path(os.path.normpath(base / path))


def _lake(text: str, base: Path) -> Path:
    if "://" in text:
        raise ValueError("a folder of this machine; s3://bucket/prefix is reserved and not built yet")
    return _folder(text, base)


def _url(text: str, _: Path) -> str:
    if not re.fullmatch(r"https?://[^/?#\s]+[^?#\s@]*", text) or not _has_host(text):
        raise ValueError(
            "a URL that begins with http:// or https://, has a host and no query, nor an @ after its host (write %40)"
        )
    return text.rstrip("/")


def _has_host(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:  # half an IPv6 address, or a port that is no number
        return False


def _one_of(*names: str) -> Callable[[str, Path], str]:
    def check(text: str, _: Path) -> str:
        if text not in names:
            raise ValueError(" or ".join(names))
        return text

    return check


def _share(value: float, _: Path) -> float:
    if not 0 < value <= 1:
        raise ValueError("a number above 0 and at most 1")
    return float(value)


def _positive(value: int, _: Path) -> int:
    if value < 1:
        raise ValueError("a whole number of at least 1")
    return value


def _default_lake(start: _Start) -> Path:
    config = _upwards(start.cwd, "config", Path.is_dir)
    return (config.parent if config else start.cwd) / "data" / "lake"


def _market_url(name: str) -> Callable[[_Start], str]:
    market = registry.market(name)
    return lambda start: market.testnet_url if start.network == "testnet" else market.url


def _default_state_dir(start: _Start) -> Path:
    base = Path(start.env.get("XDG_STATE_HOME", ""))
    if not base.is_absolute():  # the XDG specification: a relative one is to be ignored
        try:
            base = Path(start.env.get("HOME") or Path.home()) / ".local" / "state"
        except RuntimeError:
            raise UsageError("this user has no home folder for the state of the weight budgets; set ETL_STATE_DIR") from None
    return base / "binance-futures-etl"


@dataclass(frozen=True, slots=True)
class Settings:
    """What a run may be told, resolved: absolute paths, URLs without a slash at the end. Made by `load`; picklable."""

    lake: Path = field(metadata=_rule(str, _lake, _default_lake))
    """Root folder of the lake."""
    network: str = field(metadata=_rule(str, _one_of("mainnet", "testnet"), lambda _: "mainnet"))
    """`mainnet` or `testnet`; a lake belongs to one."""
    um_url: str = field(metadata=_rule(str, _url, _market_url("um")))
    """Base URL of the REST interface of USD-M futures."""
    cm_url: str = field(metadata=_rule(str, _url, _market_url("cm")))
    """Base URL of the REST interface of COIN-M futures."""
    spot_url: str = field(metadata=_rule(str, _url, _market_url("spot")))
    """Base URL of the REST interface of spot."""
    archive_url: str = field(metadata=_rule(str, _url, lambda _: registry.ARCHIVE_URL))
    """Base URL of the bulk archive, above `/data/futures/um`."""
    archive_index_url: str = field(metadata=_rule(str, _url, lambda _: registry.ARCHIVE_INDEX_URL))
    """S3 listing of the bulk archive."""
    state_dir: Path = field(metadata=_rule(str, _folder, _default_state_dir))
    """Folder for the weight budgets and bans that the processes of this host share."""
    weight_share: float = field(metadata=_rule(float, _share, lambda _: 0.9))
    """Share of the exchange's weight limit to use, 0 < x <= 1."""
    workers: int = field(metadata=_rule(int, _positive, lambda _: 16))
    """Concurrent requests: they wait for answers, not for processors. At 0.1 s an answer 16 spend a minute's weight in 10 s."""
    log_format: str = field(metadata=_rule(str, _one_of("text", "json"), lambda _: "text"))
    """`text` or `json`, on stderr."""
    partition: str = field(metadata=_rule(str, _one_of("year", "month"), lambda _: "year"))
    """Period of a file, `year` or `month` (below 1h only); fixed when the lake is made."""


_RULES: dict[str, _Rule] = {one.name: one.metadata["rule"] for one in fields(Settings)}


def load(options: Mapping[str, object] | None = None, *, env: Mapping[str, str], cwd: Path) -> Settings:
    """The settings: option > environment > TOML file of option `config` or ETL_CONFIG > nearest config/default.toml > default.

    Options that are None and variables that are empty count as not given. Relative paths in a TOML file are relative to it,
    elsewhere to `cwd`. All that is given is checked, also what something stronger overrides: UsageError names the key and
    the file, the option or the variable.
    """
    cwd = cwd.absolute()
    given = {key: value for key, value in (options or {}).items() if value is not None}
    chosen = given.pop("config", None) or env.get("ETL_CONFIG")
    found: dict[str, Any] = {}
    if nearest := _upwards(cwd, "config/default.toml", _stands):
        found |= _settings_of(nearest)
    if chosen:
        found |= _settings_of(_folder(str(chosen), cwd))
    for name in _RULES:
        if text := env.get(variable := f"ETL_{name.upper()}"):
            found[name] = _setting(name, text, cwd, variable, from_text=True)
    for name, value in given.items():
        found[name] = _setting(name, value, cwd, f"option --{name.replace('_', '-')}", from_text=True)
    start = _Start(env, cwd, found.get("network", "mainnet"))
    return Settings(**{name: rule.default(start) for name, rule in _RULES.items() if name not in found}, **found)


def _settings_of(path: Path) -> dict[str, object]:
    return {name: _setting(name, value, path.parent, f"{path}: {name}") for name, value in _toml(path).items()}


def _setting(name: str, value: object, base: Path, where: str, *, from_text: bool = False) -> object:
    """The checked setting; UsageError that says `where` the value stands and what belongs there otherwise."""
    if name not in _RULES:
        raise UsageError(f"{where}: there is no such setting; known are {', '.join(_RULES)}")
    kind, check, _ = _RULES[name]
    if from_text and isinstance(value, str | Path):
        with suppress(ValueError):  # text that is no number is refused by its type
            value = kind(str(value))
    try:
        return check(_of_kind(kind, value), base)
    except (TypeError, ValueError) as error:
        shown = re.sub(r".*@", "***@", value, flags=re.DOTALL) if isinstance(value, str) and check is _url else value
        raise UsageError(f"{where} is {shown!r}, but must be {error}") from None


def _of_kind(kind: type[str | int | float], value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, (int, float) if kind is float else kind):
        raise TypeError({str: "a text", int: "a whole number", float: "a number"}[kind])
    return value


@dataclass(frozen=True, slots=True)
class UniverseEntry:
    """Series to keep up to date: one `[[series]]` table of config/universe.toml."""

    datasets: tuple[str, ...]
    symbols: tuple[str, ...]
    """Names, or `all` for what trades now."""
    market: str = "um"
    intervals: tuple[str, ...] = ("1m",)
    start: int | None = None
    """Milliseconds UTC; None is the first bar of each series."""


def universe_path(cwd: Path) -> Path | None:
    """The nearest config/universe.toml upwards from `cwd`, None if there is none."""
    return _upwards(cwd.absolute(), "config/universe.toml", _stands)


def load_universe(path: Path) -> tuple[UniverseEntry, ...]:
    """The entries of a universe file; UsageError names the file, the table and the key of what is wrong."""
    content = _toml(path)
    tables = content.pop("series", [])
    if content or not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise UsageError(f"{path}: {next(iter(content), 'series')}: a universe holds [[series]] tables and nothing else")
    return tuple(_entry(table, f"{path}: series {number}") for number, table in enumerate(tables, start=1))


def _entry(table: dict[str, Any], where: str) -> UniverseEntry:
    found: dict[str, Any] = {}
    for key, value in table.items():
        if key not in _ENTRY_KEYS:
            raise UsageError(f"{where}: {key}: there is no such key; known are {', '.join(_ENTRY_KEYS)}")
        name, check = _ENTRY_KEYS[key]
        try:
            found[name] = check(value)
        except UsageError as error:
            raise UsageError(f"{where}: {key}: {error}") from None
    for key in ("datasets", "symbols"):
        if key not in found:
            raise UsageError(f"{where}: {key}: is missing")
    entry = UniverseEntry(**found)
    for dataset in entry.datasets:
        if entry.market not in registry.dataset(dataset).endpoints:
            raise UsageError(f"{where}: datasets: market {entry.market} has no {dataset}")
    return entry


def _names(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(one, str) and one for one in value):
        raise UsageError(f'{value!r} is no list of names; write for example ["BTCUSDT", "ETHUSDT"]')
    return tuple(value)


def _moment(value: object) -> int:
    if not isinstance(value, str | date):
        raise UsageError(f"{value!r} is no date or date-time; write for example 2024-01-31 (UTC)")
    return parse_time(value if isinstance(value, str) else value.isoformat())


_ENTRY_KEYS: dict[str, tuple[str, Callable[[Any], object]]] = {
    "market": ("market", lambda value: registry.market(str(value)).name),
    "datasets": ("datasets", lambda value: tuple(registry.dataset(name).name for name in _names(value))),
    "symbols": ("symbols", _names),
    "interval": ("intervals", lambda value: tuple(registry.interval(name).name for name in _names(value))),
    "start": ("start", _moment),
}


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: is no TOML: {error}") from None


def _stands(path: Path) -> bool:
    """Whether anything has that name, also what cannot be read: left out, it would go on without the user's word."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return path.parent.is_symlink() and not path.parent.exists()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    return True


def _upwards(cwd: Path, name: str, is_there: Callable[[Path], bool]) -> Path | None:
    """`name` in `cwd` or in the nearest folder above that has it."""
    return next((path for folder in (cwd, *cwd.parents) if is_there(path := folder / name)), None)
