"""Which answers are too long for a base language model, told without loading its weights."""

from __future__ import annotations

import json
import math
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assl_kit.common.limits import MAX_JSON, check_size, parse_json
from assl_kit.common.packages import panics_caught, reason
from assl_kit.common.trust import check_model_folder
from assl_kit.errors import DataError, ParameterError

from .gguf import is_gguf
from .identity import base_source
from .tokens import check_tokenizer
from .turns import text_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class AnswerBound:
    """Says of an answer whether a base has positions for it, the token that ends it and one of a prompt.

    Parameters
    ----------
    name : str
        The base, as :func:`assl_kit.model.loading.load_base` takes it. Of a GGUF file, and of a hub model that is not
        in the cache, nothing is known before it is loaded: then every answer passes.

    Attributes
    ----------
    shortest : int or None
        Characters of the shortest answer that was too long.

    Raises
    ------
    ParameterError
        There is no such base, or its tokenizer cannot be loaded.

    Examples
    --------
    >>> bound = AnswerBound("tiny")
    >>> bound("积极"), bound("很长" * 2000)
    (None, "the answer has 4,000 tokens, the base model 'tiny' has room for 1,022")
    >>> bound.shortest
    4000
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.shortest: int | None = None
        self._folder = _folder_of(name)
        self._room = _positions_of(self._folder) - 2

    def __call__(self, answer: str) -> str | None:
        if 2 * len(answer.encode("utf-8", "replace")) <= self._room:  # a token is a byte or more, mostly
            return None
        n_tokens = len(text_ids(self._tokenizer, [answer])[0])
        if n_tokens <= self._room:
            return None
        self.shortest = min(len(answer), self.shortest or len(answer))
        return f"the answer has {n_tokens:,} tokens, the base model {self.name!r} has room for {self._room:,}"

    @cached_property
    def _tokenizer(self) -> PreTrainedTokenizerBase:
        from transformers import AutoTokenizer

        assert self._folder is not None, "without a folder there is room for all"
        check_model_folder(self._folder, f"the base model {self.name!r}")
        try:
            with panics_caught():
                tokenizer = AutoTokenizer.from_pretrained(self._folder, trust_remote_code=False)
        except Exception as error:  # the library raises many kinds
            what = f"the tokenizer of the base model {self.name!r} could not be loaded: {reason(error)}"
            raise ParameterError(what, where=str(self._folder)) from error
        check_tokenizer(tokenizer, self.name)
        return tokenizer


def _folder_of(name: str) -> Path | None:
    """The folder that a base's configuration and tokenizer lie in, if they are on this machine."""
    source = base_source(name)
    if is_gguf(source):
        return None
    if Path(source).expanduser().is_dir():
        return Path(source).expanduser()
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        files = [try_to_load_from_cache(source, file) for file in ("config.json", "tokenizer_config.json")]
    except HFValidationError:
        return None
    return Path(str(files[0])).parent if all(isinstance(file, str) for file in files) else None


def _positions_of(folder: Path | None) -> float:
    """How many tokens a model sees at once, by its configuration; infinity where that names no bound."""
    if folder is None:
        return math.inf
    config: Any = None
    try:
        check_size(folder / "config.json", MAX_JSON)
        config = parse_json((folder / "config.json").read_bytes())
    except (OSError, json.JSONDecodeError, UnicodeDecodeError, DataError):
        pass  # what is wrong with it is said where it is loaded
    bound = config.get("max_position_embeddings", config.get("n_positions")) if isinstance(config, dict) else None
    return bound if isinstance(bound, int) and not isinstance(bound, bool) and bound > 2 else math.inf
