"""Documents that were right once: the same bytes, or the same JSON, with something wrong in them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

from hypothesis import strategies as st

# What parsers stumble over: other types, ends of ranges, depth, what looks like markup, encodings, paths or numbers.
TOKENS = [
    b"null", b"true", b"NaN", b"Infinity", b"-1", b"1e999", b"9" * 5000, b"9223372036854775808", b"0x1F", b"1_000",
    b"\0", b"\r\n", b"\xff\xfe", b"\xef\xbb\xbf", b'"', b"'", b"\\ud800", b",", b";", b"[" * 3000, b"{}", b"=", b"<!DOCTYPE x>",
    b"<", b"&amp;", b"%2e%2e%2f", b"../../", "币安".encode(), "\u202e".encode(), "٣".encode(),
]  # fmt: skip  # a table, read by its rows

# JSON values of every type, and the numbers and texts at the ends of what fits.
VALUES = st.sampled_from(
    [None, True, False, 0, -1, 1.5, 2**31, 2**63, 10**30, 1e308, "", "x", "NaN", "inf", "-0", "1e999", "9" * 400, [], {}, [[]],
     {"a": []}, "\0", "..", "2024-01-01"]
).map(deepcopy)  # fmt: skip  # else the next accident inside one of them would change it for all documents to come


@st.composite
def spoilt(draw: Callable[..., Any], document: bytes) -> bytes:
    """The document after one to four accidents: flipped bits, lost, doubled or foreign bytes, an early end."""
    body = bytearray(document)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(body)))
        end = min(len(body), at + draw(st.integers(1, 40)))
        match draw(st.sampled_from(["flip", "lose", "double", "token", "overwrite", "random", "end"])):
            case "flip" if at < len(body):
                body[at] ^= 1 << draw(st.integers(0, 7))
            case "lose":
                del body[at:end]
            case "double":
                body[at:at] = body[at:end]
            case "token":
                body[at:at] = draw(st.sampled_from(TOKENS))
            case "overwrite":
                body[at:end] = draw(st.sampled_from(TOKENS))
            case "random":
                body[at:end] = draw(st.binary(max_size=20))
            case "end":
                del body[at:]
    return bytes(body)


@st.composite
def reshaped(draw: Callable[..., Any], document: bytes) -> bytes:
    """The JSON document with one to three of its parts lost, doubled or replaced by values of any type."""
    value = json.loads(document)
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(value))
        if not places:
            return json.dumps(draw(VALUES)).encode()
        holder, key = draw(st.sampled_from(places))
        match draw(st.sampled_from(["replace", "lose", "double"])):
            case "replace":
                holder[key] = draw(VALUES)
            case "lose":
                del holder[key]
            case "double":
                if isinstance(holder, list):
                    holder.insert(key, holder[key])
                else:
                    holder[f"{key}{key}"] = holder[key]
    return json.dumps(value).encode()


def wrong(document: bytes) -> st.SearchStrategy[bytes]:
    """The document spoilt, or anything at all."""
    return spoilt(document) | st.binary(max_size=300)


def wrong_json(document: bytes) -> st.SearchStrategy[bytes]:
    """The JSON document spoilt, reshaped, or anything at all."""
    return reshaped(document) | wrong(document)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place inside the value, as its holder and key."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _places(value[key])
