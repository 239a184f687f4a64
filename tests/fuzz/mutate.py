"""Changes of bytes, each decided by a seeded random number generator alone."""

from __future__ import annotations

import re
from random import Random

MOST = 1 << 18  # bytes of a changed file
_TOKEN = re.compile(rb'"[^"\n]{0,60}"|-?\d+(?:\.\d+)?|true|false|null|\b\w+\b')
_ODD = (
    b"null", b"true", b"-1", b"0", b"1e999", b"NaN", b"-Infinity", b"99999999999999999999", b"9" * 5000, b'""', b"[]",
    b"{}", b'"../x"', b'"/etc/x"', b'"\\ud800"', b'"\\u0000"', b'"a\\nb"', b"[[]]", b'{"a": {}}', b"[" * 3000,
    b'{"a":' * 3000, b'"' + b"x" * 5000 + b'"', b"*a", b"&a", b"!!int", b"<<", b"2024-99-99", b"1.5", b"[null]",
    b'"\xe9\x95\xbf"', b"'", b"\\", b"{{ x }}", b"{% for a in 'aaaa' %}",
)  # fmt: skip
_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, (1 << 63) - 1, (1 << 64) - 1)


def _place(data: bytes, random: Random) -> int:
    return random.randrange(len(data) + 1)


def _span(data: bytes, random: Random) -> tuple[int, int]:
    start = _place(data, random)
    return start, min(len(data), start + random.choice((1, 2, 4, 16, 64, 256, 1024)))


def flip(data: bytes, other: bytes, random: Random) -> bytes:
    """Turn over one bit."""
    if not data:
        return data
    at = random.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << random.randrange(8)]) + data[at + 1 :]


def insert(data: bytes, other: bytes, random: Random) -> bytes:
    at = _place(data, random)
    return data[:at] + random.randbytes(random.choice((1, 1, 2, 4, 16))) + data[at:]


def delete(data: bytes, other: bytes, random: Random) -> bytes:
    start, end = _span(data, random)
    return data[:start] + data[end:]


def repeat(data: bytes, other: bytes, random: Random) -> bytes:
    """Write a span several times."""
    start, end = _span(data, random)
    return data[:end] + data[start:end] * random.choice((1, 2, 10, 1000)) + data[end:]


def splice(data: bytes, other: bytes, random: Random) -> bytes:
    """The beginning of one file and the end of another."""
    return data[: _place(data, random)] + other[_place(other, random) :]


def truncate(data: bytes, other: bytes, random: Random) -> bytes:
    return data[: _place(data, random)]


def number(data: bytes, other: bytes, random: Random) -> bytes:
    """Put a number of 1 to 8 bytes that often is a bound."""
    size, at = random.choice((1, 2, 4, 8)), _place(data, random)
    value = random.choice(_NUMBERS) & ((1 << 8 * size) - 1)
    return data[:at] + value.to_bytes(size, random.choice(("little", "big"))) + data[at + size :]


def token(data: bytes, other: bytes, random: Random) -> bytes:
    """Put an odd value in the place of a word, a number or a text."""
    places = [match.span() for match in _TOKEN.finditer(data)]
    if not places:
        return insert(data, other, random)
    start, end = random.choice(places)
    return data[:start] + random.choice(_ODD) + data[end:]


CHANGES = (flip, insert, delete, repeat, splice, truncate, number, token, token, token)


def mutated(data: bytes, other: bytes, random: Random) -> bytes:
    """One to four changes of a file; ``other`` is what may be spliced to it."""
    for _ in range(random.choice((1, 1, 2, 4))):
        data = random.choice(CHANGES)(data, other, random)[:MOST]
    return data
