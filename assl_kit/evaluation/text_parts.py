"""A text in its named parts ("问题：…", "材料：…"), and TF-IDF rows that keep the parts apart."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import sparse

from .char_features import LONGEST, hashed_ngrams, tf_idf

_NAMED = re.compile(r"^([^：:\n]{1,6})[：:]", re.MULTILINE)
_LONGEST_VALUE = 30
_FIRST_SIGN = 0xE000  # of Unicode's private use area


def part_names(texts: Sequence[str]) -> tuple[str, ...]:
    """Names of parts that at least half of the texts have, in alphabetical order; none if there would be one only.

    Examples
    --------
    >>> part_names(["问题：谁？\\n材料：甲。", "问题：何时？\\n材料：今日。"])
    ('材料', '问题')
    """
    found = Counter(name for text in texts for name in set(_NAMED.findall(text)))
    names = sorted(name for name, count in found.items() if 2 * count >= len(texts))
    return tuple(names) if len(names) > 1 else ()


def divided(text: str, names: Sequence[str]) -> list[str]:
    """What stands before the first named part, then each named part; short ones are replaced by a sign in the others.

    Examples
    --------
    >>> divided("新闻：甲收购乙\\n实体一：甲\\n实体二：乙", ("实体一", "实体二", "新闻"))
    ['', '甲', '乙', '\\ue000收购\\ue001']
    """
    parts, now = [""] * (len(names) + 1), 0
    for line in text[:LONGEST].split("\n"):
        found = _NAMED.match(line)
        if found and found.group(1) in names:
            now, line = 1 + names.index(found.group(1)), line[found.end() :]
        parts[now] += ("\n" if parts[now] else "") + line
    values = [(part, number) for number, part in enumerate(parts[1:]) if 0 < len(part) <= _LONGEST_VALUE]
    for value, number in sorted(values, key=lambda pair: (-len(pair[0]), pair)):
        sign = chr(_FIRST_SIGN + number)
        parts = [part if part == value else part.replace(value, sign) for part in parts]
    return parts


def text_rows(records: pd.DataFrame, questions: pd.DataFrame) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
    """TF-IDF rows of records and of questions, weighted by the records; each part has the same length.

    Parameters
    ----------
    records, questions : DataFrame
        With ``instruction`` and ``input``. The instruction is a part of its own where there are several.

    Returns
    -------
    csr_matrix, csr_matrix
        float32, with `char_features.N_COLUMNS` columns a part; rows of unit length (zero where there is no text).

    Examples
    --------
    >>> rows = pd.DataFrame({"instruction": "判断", "input": ["大涨", "大跌"]})
    >>> [part.shape[0] for part in text_rows(rows, rows.head(1))]
    [2, 1]
    """
    texts = [_inputs(records), _inputs(questions)]
    names, blocks = part_names(texts[0]), ([], [])
    for side, (frame, own) in enumerate(zip((records, questions), texts, strict=True)):
        columns = list(zip(*(divided(text, names) for text in own), strict=True)) if names else [own]
        columns = columns or [[]] * (len(names) + 1)
        if records["instruction"].nunique() > 1:
            columns.append(list(frame["instruction"]))
        blocks[side].extend(hashed_ngrams(column) for column in columns)
    train = [tf_idf(counts) for counts in blocks[0]]
    held = [tf_idf(counts, of) for counts, of in zip(blocks[1], blocks[0], strict=True)]
    return tuple(_unit(sparse.hstack(parts, format="csr")) for parts in (train, held))


def _inputs(records: pd.DataFrame) -> list[str]:
    return [a if a.strip() else b for a, b in zip(records["input"], records["instruction"], strict=True)]


def _unit(rows: sparse.csr_matrix) -> sparse.csr_matrix:
    """Rows of unit length."""
    length = np.sqrt(np.asarray(rows.multiply(rows).sum(axis=1)).ravel())
    rows.data /= np.repeat(np.where(length > 0, length, 1), np.diff(rows.indptr)).astype(np.float32)
    return rows
