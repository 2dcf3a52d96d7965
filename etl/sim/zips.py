"""Zip files as the archive has them, and as it should not have them."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from isal import isal_zlib

from ..ranges import to_datetime

_MEGABYTE = bytes(1 << 20)


@dataclass(frozen=True, slots=True)
class Member:
    """A file in a zip. `method` is 8 (deflated) or 0 (stored); after the text come `bomb` megabytes of NUL, which the headers
    tell if `honest`; `flags` are those of the headers (1: encrypted).
    """

    name: str
    text: bytes
    method: int = 8
    flags: int = 0
    bomb: int = 0
    honest: bool = True


def pack(members: Sequence[Member], time: int, size: int = 0) -> bytes:
    """A zip dated `time` (ms UTC), at least `size` bytes long: between data and directory it is filled up with NUL."""
    moment = to_datetime(time)
    stamp = moment.hour << 11 | moment.minute << 5, (moment.year - 1980) << 9 | moment.month << 5 | moment.day
    local, directory = b"", b""
    for member in members:
        name, data, offset = member.name.encode(), _data(member), len(local)
        check, length = isal_zlib.crc32(member.text), len(member.text)
        if member.honest:
            for _ in range(member.bomb):
                check = isal_zlib.crc32(_MEGABYTE, check)
            length += member.bomb << 20
        flags = member.flags | (0 if name.isascii() else 0x800)  # UTF-8
        common = struct.pack("<HHHHHIIIHH", 20, flags, member.method, *stamp, check, len(data), length, len(name), 0)
        local += b"PK\3\4" + common + name + data
        directory += b"PK\1\2" + struct.pack("<H", 20) + common + struct.pack("<HHHII", 0, 0, 0, 0, offset) + name
    room = bytes(max(size - len(local) - len(directory) - 22, 0))
    count = len(members)
    end = struct.pack("<HHHHIIH", 0, 0, count, count, len(directory), len(local) + len(room), 0)
    return b"".join([local, room, directory, b"PK\5\6", end])


def _data(member: Member) -> bytes:
    if member.method == 0:
        return member.text + _MEGABYTE * member.bomb
    deflate = isal_zlib.compressobj(1, isal_zlib.DEFLATED, -15)
    data = deflate.compress(member.text)
    if not member.bomb:
        return data + deflate.flush()
    # A megabyte that refers to nothing before it can be repeated as it is.
    nothing = zlib.compressobj(9, zlib.DEFLATED, -15)
    megabyte = nothing.compress(_MEGABYTE) + nothing.flush(zlib.Z_FULL_FLUSH)
    return data + deflate.flush(isal_zlib.Z_FULL_FLUSH) + megabyte * member.bomb + b"\3\0"
