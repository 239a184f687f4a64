"""Texts as numbers: TF-IDF of character n-grams, named parts kept apart; and what a tagger sees around a character."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import sparse

from assl_kit.common.jit import jit

LONGEST = 1000  #: characters of a text that are read
N_COLUMNS = 1 << 18  #: of the hashed n-grams
N_SEEN = 28  #: features of a character
_NAMED = re.compile(r"^([^：:\n]{1,6})[：:]", re.MULTILINE)
_LONGEST_VALUE = 30
_FIRST_SIGN = 0xE000  # of Unicode's private use area
_MIX = np.int64(-7046029254386353131)  # 0x9E3779B97F4A7C15, the golden ratio of 64 bits


def codes_of(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """The characters of all texts one after the other, and where each text begins.

    Parameters
    ----------
    texts : sequence of str
        The first `LONGEST` characters of each are taken.

    Returns
    -------
    codes : ndarray of int32
        Unicode numbers.
    starts : ndarray of shape (n + 1,), int64

    Examples
    --------
    >>> codes, starts = codes_of(["ab", "", "c"])
    >>> codes.tolist(), starts.tolist()
    ([97, 98, 99], [0, 2, 2, 3])
    """
    texts = [text[:LONGEST] for text in texts]
    starts = np.zeros(len(texts) + 1, np.int64)
    np.cumsum([len(text) for text in texts], out=starts[1:])
    codes = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), dtype=np.int32)
    return codes, starts


def hashed_ngrams(texts: Sequence[str]) -> sparse.csr_matrix:
    """Counts of character n-grams of 1 to 3 characters, hashed into `N_COLUMNS` columns.

    Returns
    -------
    csr_matrix of shape (n, N_COLUMNS), float32
        ``1 + log(count)`` of each n-gram of the first `LONGEST` characters.

    Examples
    --------
    >>> hashed_ngrams(["涨停", ""]).getnnz(axis=1).tolist()
    [3, 0]
    """
    columns, values, ends = _ngrams(*codes_of(texts))
    rows = (np.log(values) + 1).astype(np.float32), columns, ends
    return sparse.csr_matrix(rows, shape=(len(texts), N_COLUMNS))


def tf_idf(counts: sparse.csr_matrix, of: sparse.csr_matrix | None = None) -> sparse.csr_matrix:
    """Rows of unit length, each n-gram weighted by how rare it is among the rows ``of`` (default: the same rows).

    Examples
    --------
    >>> rows = tf_idf(hashed_ngrams(["涨停", "涨", "跌"]))
    >>> [round(float(rows[i].dot(rows[i].T).sum()), 4) for i in range(3)]
    [1.0, 1.0, 1.0]
    """
    of = counts if of is None else of
    n_rows_with = np.bincount(of.indices, minlength=N_COLUMNS)
    weight = (np.log((1 + of.shape[0]) / (1 + n_rows_with)) + 1).astype(np.float32)
    rows = counts.copy()
    rows.data *= weight[rows.indices]
    return _unit(rows)


def part_names(texts: Sequence[str]) -> tuple[str, ...]:
    """Names of parts that at least half of the texts have, in alphabetical order; none if there would be one only.

    Examples
    --------
    >>> part_names(["问题：谁？\\n材料：甲。", "问题：何时？\\n材料：今日。"])
    ('材料', '问题')
    """
    texts_with = Counter(name for text in texts for name in set(_NAMED.findall(text)))
    names = sorted(name for name, count in texts_with.items() if 2 * count >= len(texts))
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
        named = _NAMED.match(line)
        if named and named[1] in names:
            now, line = 1 + names.index(named[1]), line[named.end() :]
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
    names = part_names(shown_texts(records))
    with_instruction = records["instruction"].nunique() > 1
    counts, asked = (_part_counts(frame, names, with_instruction) for frame in (records, questions))
    train = [tf_idf(part) for part in counts]
    held = [tf_idf(part, of) for part, of in zip(asked, counts, strict=True)]
    return _unit(sparse.hstack(train, format="csr")), _unit(sparse.hstack(held, format="csr"))


def _part_counts(records: pd.DataFrame, names: Sequence[str], with_instruction: bool) -> list[sparse.csr_matrix]:
    """`hashed_ngrams` of each part: what has no name, each name's, and the instruction."""
    texts = shown_texts(records)
    parts = [texts]
    if names:
        in_parts = [divided(text, names) for text in texts]
        parts = [[text[place] for text in in_parts] for place in range(len(names) + 1)]
    if with_instruction:
        parts.append(list(records["instruction"]))
    return [hashed_ngrams(part) for part in parts]


def shown_texts(records: pd.DataFrame) -> list[str]:
    """The input of each record, or its instruction where there is none.

    Examples
    --------
    >>> shown_texts(pd.DataFrame({"instruction": ["判断", "涨了吗？"], "input": ["大涨", ""]}))
    ['大涨', '涨了吗？']
    """
    return [a if a.strip() else b for a, b in zip(records["input"], records["instruction"], strict=True)]


def _unit(rows: sparse.csr_matrix) -> sparse.csr_matrix:
    """Rows of unit length."""
    length = np.sqrt(np.asarray(rows.multiply(rows).sum(axis=1)).ravel())
    rows.data /= np.repeat(np.where(length > 0, length, 1), np.diff(rows.indptr)).astype(np.float32)
    return rows


# compiled ------------------------------------------------------------------------------------------------------------
@jit
def _ngrams(codes: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Columns, counts and ends of the rows of a CSR matrix, columns ascending in each row."""
    n = len(starts) - 1
    columns, values = np.empty(3 * len(codes), np.int32), np.empty(3 * len(codes), np.float32)
    ends, place = np.zeros(n + 1, np.int64), 0
    for row in range(n):
        a, b = starts[row], starts[row + 1]
        hashes = np.empty(3 * (b - a), np.int64)
        count = 0
        for i in range(a, b):
            h = np.int64(0)
            for j in range(i, min(i + 3, b)):
                h = _next(h, codes[j])
                hashes[count] = h & (N_COLUMNS - 1)
                count += 1
        hashes[:count].sort()
        for k in range(count):
            if k and hashes[k] == hashes[k - 1]:
                values[place - 1] += 1
            else:
                columns[place], values[place] = hashes[k], 1
                place += 1
        ends[row + 1] = place
    return columns[:place].copy(), values[:place].copy(), ends


@jit
def _next(h: np.int64, code: int) -> np.int64:
    """A hash that has also seen ``code``."""
    h = (h ^ np.int64(code)) * _MIX
    return h ^ (h >> 31)


@jit
def kind_of(code: int) -> int:
    """0 other, 1 digit, 2 Latin letter, 3 Chinese character, 4 white space, 5 punctuation."""
    if 48 <= code <= 57:
        return 1
    if 65 <= code <= 90 or 97 <= code <= 122:
        return 2
    if 0x4E00 <= code <= 0x9FFF:
        return 3
    if code == 32 or code == 10 or code == 9 or code == 13 or code == 0x3000:
        return 4
    if code < 128 or 0x3000 <= code <= 0x303F or 0xFF00 <= code <= 0xFF65 or 0x2010 <= code <= 0x2030:
        return 5
    return 0


@jit
def seen_around(
    codes: np.ndarray, keys: np.ndarray, marks: np.ndarray, short: int, long: int, seen: np.ndarray
) -> None:
    """Fill ``seen`` (characters, N_SEEN) with the hashed features of each character of one text.

    ``keys``: a number for what names the character's line; ``marks``: whether it is in the question (1), elsewhere in
    the text (2), or both (3); ``short`` and ``long``: the question's last characters as numbers.
    ``seen[0, 0]`` comes in as the largest hash, all ones in binary.
    """
    n, top = len(codes), np.int64(seen[0, 0])
    for i in range(n):
        c0 = np.int64(codes[i])
        b1 = np.int64(codes[i - 1]) if i > 0 else np.int64(-1)
        b2 = np.int64(codes[i - 2]) if i > 1 else np.int64(-2)
        a1 = np.int64(codes[i + 1]) if i + 1 < n else np.int64(-1)
        a2 = np.int64(codes[i + 2]) if i + 2 < n else np.int64(-2)
        shape = np.int64(0)
        for j in range(i - 3, i + 4):
            shape = shape * 7 + (kind_of(codes[j]) if 0 <= j < n else 6)
        near = (shape // 49) % 343
        m, key = np.int64(marks[i]), np.int64(keys[i])
        views = (
            (c0, 0, 0), (b1, 0, 0), (a1, 0, 0), (b2, 0, 0), (a2, 0, 0),
            (b1, c0, 0), (c0, a1, 0), (b2, b1, 0), (a1, a2, 0),
            (b1, c0, a1), (b2, b1, c0), (c0, a1, a2),
            (shape, 0, 0), (near, 0, 0), (near, m, 0),
            (key, 0, 0), (key, m, 0), (key, m, near), (m, c0, 0), (key, b1, 0),
            (short, near, 0), (long, near, 0), (short, c0, 0), (short, b1, b2),
            (short, a1, a2), (long, b1, 0), (long, key, m), (short, key, m),
        )  # fmt: skip
        for k in range(N_SEEN):
            a, b, c = views[k]
            seen[i, k] = _next(_next(_next(np.int64(k + 1), a), b), c) & top
