"""Values of the small world in two languages: names kept apart by split, and numbers, dates and codes drawn by rule.

Every value belongs to one side for good, by a checksum of its Chinese (of a number, of its digits), so what fills a
test record can never fill a training record.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from random import Random
from typing import NamedTuple, TypeVar
from zlib import crc32

T = TypeVar("T")

TEST_PART = 3
"""One value in ``TEST_PART`` belongs to the test side."""


class Pair(NamedTuple):
    """The same text in Chinese and in English."""

    zh: str
    en: str


def is_test_value(key: str) -> bool:
    """Whether a value (or, for a number, its digits) belongs to the test side.

    Examples
    --------
    >>> is_test_value("远航") == is_test_value("远航")
    True
    """
    return crc32(key.encode("utf-8")) % TEST_PART == 0


def digits_key(number: str) -> str:
    """The significant digits of a number: the same for every format of it.

    Examples
    --------
    >>> digits_key("1,250.0"), digits_key("0.125")
    ('125', '125')
    """
    return re.sub(r"\D", "", number).strip("0") or "0"


class Context:
    """What one text is being made with.

    Attributes
    ----------
    rng, random : Random, callable
        The random source, and its method, since most draws are by it.
    test : bool
        The side of the values.
    bound : dict of Pair
        Names of the text, and what they stand for.
    taken : list of str
        What is named so far, also in earlier parts of the text: no two names are alike.
    slots : list of (str, str)
        Rule and value of what was filled in so far.
    inside : int
        How many values are being made one within the other; only the outermost is a slot.
    spoken : bool
        Whether people talk: of "the company", and of three tenths instead of 30 %.
    """

    __slots__ = ("bound", "inside", "random", "rng", "slots", "spoken", "taken", "test")

    def __init__(self, rng: Random, test: bool) -> None:
        self.rng, self.random, self.test = rng, rng.random, test
        self.bound: dict[str, Pair] = {}
        self.taken: list[str] = []
        self.slots: list[tuple[str, str]] = []
        self.inside = 0
        self.spoken = False

    def choose(self, items: Sequence[T]) -> T:
        """One of ``items``."""
        return items[int(self.random() * len(items))]


Node = Callable[[Context], Pair]


# --- numbers: each function draws one number of its side ------------------------------------------------------------


def _digits(context: Context, low: int, high: int) -> int:
    while True:
        value = low + int(context.random() * (high - low + 1))
        if is_test_value(digits_key(str(value))) == context.test:
            return value


def _decimal(context: Context, low: int, high: int) -> str:
    """A number with 0 to 2 decimals whose integer part lies in [low, high]."""
    places = context.choose((0, 1, 1, 2, 2))
    value = _digits(context, low * 10**places or 1, high * 10**places)
    return f"{value / 10**places:.{places}f}"


def _in_millions(millions: float, what: str) -> str:
    """A large number as English says it.

    Examples
    --------
    >>> _in_millions(325.0, "yuan"), _in_millions(1200, "yuan"), _in_millions(0.03, "yuan")
    ('325 million yuan', '1.2 billion yuan', '30,000 yuan')
    """
    if millions >= 1000:
        return f"{millions / 1000:g} billion {what}"
    return f"{millions:g} million {what}" if millions >= 1 else f"{millions * 1e6:,.0f} {what}"


def _hundred_millions(number: str) -> Pair:
    return Pair(number + "亿元", _in_millions(round(float(number) * 100, 4), "yuan"))


def _ten_thousands(number: str, what: tuple[str, str] = ("元", "yuan")) -> Pair:
    return Pair(f"{number}万{what[0]}", _in_millions(round(float(number.replace(",", "")) / 100, 4), what[1]))


def _money(context: Context) -> Pair:
    kind = context.random()
    if kind < 0.55:
        return _hundred_millions(_decimal(context, 1, 60))
    value = _digits(context, 110, 9800) if kind < 0.8 else _digits(context, 11, 98) * 100
    return _ten_thousands(f"{value:,}" if kind > 0.9 else str(value))


_MONTHS = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
]


def _date(context: Context) -> Pair:
    while True:
        month, day = 1 + int(context.random() * 12), 1 + int(context.random() * 28)
        if is_test_value(f"{month}-{day}") == context.test:
            return Pair(f"{month}月{day}日", f"{day} {_MONTHS[month - 1]}")


def _year(context: Context) -> Pair:
    value = _digits(context, 2004, 2025)
    return Pair(f"{value}年", str(value))


def _full_date(context: Context) -> Pair:
    year, date = _year(context), _date(context)
    return Pair(year.zh + date.zh, f"{date.en} {year.en}")


TENTHS = {f"{word}成": f"{10 * number}%" for number, word in enumerate("一两三四五六", 1)} | {"一半": "one half"}
"""Shares as people say them: grammar, no values."""
SOMEBODY = ("公司", "公司", "这家公司", "该公司", "某公司", "")
"""How people call a company they do not name."""


def somebody(context: Context) -> Pair:
    """A company without a name.

    Examples
    --------
    >>> somebody(Context(Random(0), test=False)).en
    'the company'
    """
    return Pair(context.choose(SOMEBODY), "the company")


def _percent(context: Context) -> Pair:
    if context.spoken and context.random() < 0.3:
        return Pair(*context.choose(tuple(TENTHS.items())))
    return _same(_decimal(context, 1, 68) + "%")


def _same(text: str) -> Pair:
    return Pair(text, text)


def _hundredths(low: int, high: int, zh: str, en: str) -> Node:
    def node(context: Context) -> Pair:
        value = f"{_digits(context, low, high) / 100:.2f}"
        return Pair(value + zh, value + en)

    return node


def _whole(low: int, high: int, zh: str = "", en: str = "") -> Node:
    def node(context: Context) -> Pair:
        value = str(_digits(context, low, high))
        return Pair(value + zh, value + en)

    return node


NUMBERS: dict[str, Node] = {
    "amount": _money,
    "revenue": lambda context: _hundred_millions(_decimal(context, 8, 900)),
    "small_amount": lambda context: _ten_thousands(str(_digits(context, 12, 9800))),
    "fine": lambda context: _ten_thousands(str(_digits(context, 3, 990) * context.choose((1, 1, 10)))),
    "billions": lambda context: _hundred_millions(str(_digits(context, 2, 98))),
    "huge": lambda context: _hundred_millions(str(_digits(context, 110, 98000))),
    "percent": _percent,
    "small_percent": lambda context: _same(_decimal(context, 0, 9) + "%"),
    "high_percent": lambda context: _same(_decimal(context, 72, 98) + "%"),
    "move": _hundredths(5, 399, "%", "%"),
    "coupon": _hundredths(105, 499, "%", "%"),
    "rate": _hundredths(101, 899, "%", "%"),
    "points": _whole(2, 95, "个基点", " basis points"),
    "dividend": _hundredths(5, 390, "元", " yuan"),
    "price": _hundredths(201, 9900, "元", " yuan"),
    "count": _whole(3, 960),
    "few": _whole(2, 39),
    "term": _whole(2, 15),
    "shares": lambda context: _ten_thousands(str(_digits(context, 120, 9900)), ("股", "shares")),
    "index": lambda context: (lambda value: Pair(value + "点", value))(f"{_digits(context, 20010, 69990) / 10:.1f}"),
    "date": _date,
    "full_date": _full_date,
    "year": _year,
    "code": lambda context: _same(context.choose(("60", "30", "00", "68")) + f"{_digits(context, 1011, 9899)}"),
}
"""Generators of numbers, dates and codes by slot name."""
