"""What travels between runner and workers: plain data, framed JSON, never pixels and never code."""

from __future__ import annotations

import json
import struct
from typing import IO, Any

from starmill.errors import RepositoryError

_HEADER = struct.Struct(">I")
_MAX_LENGTH = 256 * 1024 * 1024


def encode(message: dict[str, Any]) -> bytes:
    """Return a message as four bytes of length and JSON text."""
    body = json.dumps(message, separators=(",", ":")).encode()
    return _HEADER.pack(len(body)) + body


def read_message(stream: IO[bytes]) -> dict[str, Any] | None:
    """Read one message; None at the end of the stream."""
    header = _read_exactly(stream, _HEADER.size)
    if header is None:
        return None
    (length,) = _HEADER.unpack(header)
    if length > _MAX_LENGTH:
        raise RepositoryError(f"a message of {length} bytes is no message of a worker")
    body = _read_exactly(stream, length)
    if body is None:
        return None
    message = json.loads(body)
    if not isinstance(message, dict):
        raise RepositoryError("a message of a worker is no mapping")
    return message


def _read_exactly(stream: IO[bytes], length: int) -> bytes | None:
    parts = []
    while length:
        part = stream.read(length)
        if not part:
            return None
        parts.append(part)
        length -= len(part)
    return b"".join(parts)


class MessageBuffer:
    """Cuts the bytes that arrive from a pipe into messages."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """Add bytes and return the messages that are complete."""
        self._bytes += data
        messages = []
        while len(self._bytes) >= _HEADER.size:
            (length,) = _HEADER.unpack_from(self._bytes)
            end = _HEADER.size + length
            if len(self._bytes) < end:
                break
            messages.append(json.loads(bytes(self._bytes[_HEADER.size : end])))
            del self._bytes[:end]
        return messages
