"""Chinese records beside their English, for readers who have only one of the two languages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from assl_kit.data.records import without_extras

FIELDS = ("instruction", "input", "output")
"""The three texts of a record; the corpus has each in English too, in ``instruction_en`` and so on."""
_MARGIN = 13


def with_english(records: pd.DataFrame) -> pd.DataFrame:
    """The fields of records that we know of, and their English where it is there; nothing else that a user's data has.

    Examples
    --------
    >>> row = {"id": "a", "output": "积极", "output_en": "positive", "cluster": 7}
    >>> list(with_english(pd.DataFrame([row])))
    ['id', 'output', 'output_en']
    """
    english = [f"{field}_en" for field in FIELDS if f"{field}_en" in records]
    return records[[*without_extras(records), *english]]


def record_lines(record: Mapping[str, Any], *, fields: Sequence[str] = FIELDS, longest: int = 110) -> str:
    """A record as lines: each text with its name before it, and its English below it where the record has one.

    Parameters
    ----------
    record : mapping
        A row of a table of records. Fields that are empty are left out; data of your own need no English.
    fields : sequence of str
    longest : int
        Characters shown of each text; of its English twice as many, since a Chinese character says as much as a word.

    Returns
    -------
    str

    Examples
    --------
    >>> print(record_lines({"input": "净利润增长", "input_en": "Net profit rose", "output": "up"}))
           input  净利润增长
                  Net profit rose
          output  up
    """
    lines = []
    for field in fields:
        text, english = _text(record, field), _text(record, f"{field}_en")
        if text:
            lines.append(f"{field:>{_MARGIN - 1}}  {_short(text, longest)}")
        if english and english != text:
            lines.append(f"{'':>{_MARGIN - 1}}  {_short(english, 2 * longest)}")
    return "\n".join(lines)


class English:
    """The English of the texts of some records, looked up by their Chinese.

    Parameters
    ----------
    records : DataFrame
        With ``instruction``, ``input``, ``output``; English is known where ``instruction_en`` and so on are there.
    more : mapping, optional
        Other texts and their English: those of a notebook.

    Examples
    --------
    >>> english = English(pd.DataFrame({"output": ["积极"], "output_en": ["positive"]}), {"你好": "hello"})
    >>> english("积极"), english("你好"), english("天气")
    ('positive', 'hello', '')
    >>> english.beside("积极")
    '积极 (positive)'
    """

    def __init__(self, records: pd.DataFrame, more: Mapping[str, str] | None = None) -> None:
        self._known: dict[str, str] = {}
        for field in FIELDS:
            if field in records and f"{field}_en" in records:
                pairs = zip(records[field], records[f"{field}_en"], strict=True)
                self._known |= {str(text): str(english) for text, english in pairs if pd.notna(english)}
        self._known |= dict(more or {})

    def __call__(self, text: str) -> str:
        """The English of a text; nothing if it is not known."""
        return self._known.get(text.strip(), "")

    def beside(self, text: str, longest: int = 60) -> str:
        """A text with its English in brackets after it, where it has one that differs."""
        english, text = self(text), text.strip()
        return _short(text, longest) + (f" ({_short(english, longest)})" if english not in ("", text) else "")


def _text(record: Mapping[str, Any], field: str) -> str:
    value = record.get(field)
    return "" if value is None or value != value else str(value)


def _short(text: str, longest: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= longest else text[: longest - 1] + "…"
