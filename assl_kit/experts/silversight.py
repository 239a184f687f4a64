"""SilverSight: base, experts and router together; ask it questions."""

from __future__ import annotations

import os
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from assl_kit.common.checks import positive
from assl_kit.data.conversations import Prompt, as_questions, is_conversation
from assl_kit.errors import AsslError, BankError, DataError, ParameterError
from assl_kit.model.generation import generate_answers
from assl_kit.model.identity import base_info
from assl_kit.model.loading import load_base
from assl_kit.model.streaming import stream_answers
from assl_kit.space.encoder import encode, encoder_fingerprint, load_encoder
from assl_kit.space.static_encoder import known_shares

from .adapters import load_adapters
from .bank import ExpertBank
from .bank_check import check_match
from .merging import rounds, serving
from .router import Mixture, Routes, fixed_mixtures

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

STRATEGIES = ("grouped", "mixed", "single")
MERGED_AT_ONCE = 16  #: adapters merged for questions between two experts, in memory at a time


@dataclass(frozen=True)
class Answer:
    """One question answered.

    Attributes
    ----------
    question : str or list of dict
        As it was asked.
    text : str
    expert : int
        −1 where the base answered alone.
    similarity, margin : float
        See `Routes`.
    mixture : tuple of (int, float)
        The experts merged for the answer and their shares; empty where one expert or the base answered.
    """

    question: Prompt
    text: str
    expert: int
    similarity: float
    margin: float
    mixture: Mixture = ()


class SilverSight:
    """A base model with the experts of a bank, each question answered by the expert nearest to it.

    Parameters
    ----------
    model, tokenizer
        The base alone, as :func:`assl_kit.model.loading.load_base` gives it; PEFT puts the experts into its layers.
    encoder : SentenceTransformer
        The one the experts were chosen with.
    bank : ExpertBank
    base : mapping, optional
        :func:`assl_kit.model.identity.base_info` of the model, if it is known already.

    Attributes
    ----------
    model : peft.PeftModel
    router : CentroidRouter
    tokenizer, encoder, bank

    Raises
    ------
    BankError
        If encoder or base are not those of the bank, or the model carries adapters already.

    Notes
    -----
    arXiv 2404.04949 for routing; abstention (−1) is ours. The experts are PEFT adapters named ``expert-0`` …, so
    ``silversight.model`` can be used as any PEFT model.

    Threads may share one SilverSight: they answer one after the other, since a model has one set of active adapters.
    Concurrent answers are a server's work; see ``assl export vllm``.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        encoder: SentenceTransformer,
        bank: ExpertBank,
        *,
        base: Mapping[str, Any] | None = None,
    ):
        encoder_info = {"id": "the given encoder", "fingerprint": encoder_fingerprint(encoder)}
        _check(bank, encoder=encoder_info, base=base or base_info(model, tokenizer))
        self.tokenizer, self.encoder, self.bank = tokenizer, encoder, bank
        self.router = bank.router()
        self.model = load_adapters(model, bank)
        self._lock = threading.Lock()
        self._user: int | None = None

    @classmethod
    def from_pretrained(
        cls,
        bank_path: str | os.PathLike,
        *,
        base: str | None = None,
        encoder: SentenceTransformer | str | os.PathLike | None = None,
        device: str = "auto",
        dtype: str | None = None,
        revision: str | None = None,
    ) -> SilverSight:
        """Load bank, encoder and base, and put them together.

        Parameters
        ----------
        bank_path : path-like
            A bank's folder or hub id.
        base : str, optional
            Name of the base for :func:`assl_kit.model.loading.load_base`; default: the id the bank names.
        encoder : SentenceTransformer or str, optional
            The encoder, or its name for :func:`assl_kit.space.encoder.load_encoder`; default: the bank's own `encoder/`
            folder if it has one, else the id the bank names.
        device, dtype : str, optional
            See :func:`assl_kit.model.loading.load_base`.
        revision : str, optional
            Of the bank on the hub.

        Returns
        -------
        SilverSight

        Raises
        ------
        BankError
            If the bank is damaged, or encoder or base do not fit it. The encoder is compared before the base is loaded.
        ParameterError
            If the base or encoder cannot be loaded.
        """
        bank = ExpertBank.from_pretrained(bank_path, revision=revision)
        if encoder is None:
            if bank.encoder_path is None and bank.encoder["id"] == "fit":
                raise BankError(
                    "the bank was made with an encoder fitted on its corpus, and does not carry it",
                    where=str(bank_path),
                    hint="Give encoder=…, for instance the folder of the encoder in the run that made the bank.",
                )
            encoder = str(bank.encoder_path or bank.encoder["id"])
        if isinstance(encoder, str | os.PathLike):
            encoder_name, encoder_model = str(encoder), load_encoder(str(encoder))
        else:
            encoder_name, encoder_model = "the given encoder", encoder
        _check(bank, encoder={"id": encoder_name, "fingerprint": encoder_fingerprint(encoder_model)})
        name = base if base is not None else bank.base["id"]
        thinking = bank.base.get("thinking", True)  # as it was trained; older banks left the template as it is
        model, tokenizer = load_base(name, device=device, dtype=dtype, thinking=thinking)
        return cls(model, tokenizer, encoder_model, bank, base=base_info(model, tokenizer, name))

    def __repr__(self) -> str:
        return f"SilverSight({len(self.bank)} experts on {self.bank.base['id']}, {self.model.device})"

    def route(self, questions: Sequence[Prompt], *, min_similarity: float | None = None) -> Routes:
        """Which expert would answer each question.

        Parameters
        ----------
        questions : sequence of str or list of dict, length n
            What records ask (`assl_kit.prompts`), or anything a person does: a text, or the messages of a conversation.
        min_similarity : float, optional
            Overrides the bank's for this call.

        Returns
        -------
        Routes

        Raises
        ------
        DataError
            If a question is no prompt, or is empty.
        """
        questions = as_questions(questions)
        if not questions:
            return self.router.route(self.bank.centroids[:0], min_similarity=min_similarity)
        known = known_shares(self.encoder, questions)
        return self.router.route(encode(self.encoder, questions), known=known, min_similarity=min_similarity)

    def generate(
        self,
        questions: Sequence[Prompt],
        *,
        strategy: str = "auto",
        max_new_tokens: int = 64,
        batch_size: int | None = None,
        max_length: int = 512,
        min_similarity: float | None = None,
        experts: Sequence[int] | None = None,
        top_k: int = 1,
        temperature: float = 0.1,
        progress: bool = False,
    ) -> list[Answer]:
        """Route questions and answer them, greedily.

        Parameters
        ----------
        questions : sequence of str or list of dict, length n
        strategy : {"auto", "grouped", "mixed", "single"}
            ``"grouped"``: for each expert its questions in batches. ``"mixed"``: batches across experts, each row
            through its own adapter (PEFT's ``adapter_names``). ``"single"``: one question at a time, the reference.
            All give the same tokens. ``"auto"``: mixed on a GPU, grouped elsewhere: the faster one there.
        max_new_tokens, batch_size, max_length : int
            See `assl_kit.model.generation.generate_answers`.
        min_similarity : float, optional
            Overrides the bank's for this call.
        experts : sequence of int, length n, optional
            The expert of each question (−1: base alone) instead of the router's; for comparisons.
        top_k : int
            Merge up to so many nearest experts for each question, in the shares of :meth:`Routes.mixtures`
            (:func:`assl_kit.experts.merging.merged`, exactly). Merged adapters are removed again.
        temperature : float
            See :meth:`Routes.mixtures`.
        progress : bool

        Returns
        -------
        list of Answer, length n
            In the order of the questions.

        Raises
        ------
        DataError
            If a question is no prompt or empty, or an expert does not exist.
        ParameterError
            If the strategy is unknown or a number out of range, or a stream of this object is still open.
        """
        if strategy == "auto":
            strategy = "mixed" if self.model.device.type == "cuda" else "grouped"
        if strategy not in STRATEGIES:
            raise ParameterError(f"unknown strategy {strategy!r}", hint=f"Use auto, {', '.join(STRATEGIES)}.")
        questions = as_questions(questions)
        routes = self.route(questions, min_similarity=min_similarity)
        mixtures = self._mixtures(routes, experts, top_k, temperature)
        options = {"max_new_tokens": max_new_tokens, "batch_size": batch_size, "max_length": max_length}
        with self._alone():
            texts = self._answer(questions, mixtures, strategy, progress, options)
        return [
            Answer(
                question,
                text,
                mixture[0][0] if mixture else -1,
                float(similarity),
                float(margin),
                mixture if len(mixture) > 1 else (),
            )
            for question, text, mixture, similarity, margin in zip(
                questions, texts, mixtures, routes.similarity, routes.margin, strict=True
            )
        ]

    def stream(self, question: Prompt, **options: Any) -> Generator[str]:
        """Answer one question in pieces, each as soon as it is certain.

        Parameters
        ----------
        question : str or list of dict
        **options
            As in :meth:`stream_batch`.

        Returns
        -------
        iterator of str
            Together they are the text that :meth:`generate` gives.

        Examples
        --------
        >>> for piece in silversight.stream("公司净利润增长三成，情绪如何？"):  # doctest: +SKIP
        ...     print(piece, end="", flush=True)
        """
        if not isinstance(question, str) and not is_conversation(question):
            raise DataError(f"a question is {type(question).__name__}, not a string", hint="Use stream_batch for many.")
        pieces = self.stream_batch([question], **options)
        return (piece for _, piece in pieces)

    def stream_batch(
        self,
        questions: Sequence[Prompt],
        *,
        max_new_tokens: int = 64,
        batch_size: int = 32,
        max_length: int = 512,
        min_similarity: float | None = None,
        experts: Sequence[int] | None = None,
        top_k: int = 1,
        temperature: float = 0.1,
    ) -> Generator[tuple[int, str]]:
        """Answer questions in mixed batches, each row through its own expert, in pieces as they come.

        Parameters
        ----------
        questions : sequence of str or list of dict, length n
        max_new_tokens, batch_size, max_length, min_similarity, experts, top_k, temperature
            As in :meth:`generate`. Batches are taken in the order of the questions.

        Returns
        -------
        iterator of (int, str)
            Number of the question, and a piece of its answer; see `stream_answers`. Routing
            is done at the call. Closing the iterator, dropping it, or an interrupt stops the answers; until it has
            ended, this object answers nothing else.

        Raises
        ------
        DataError, ParameterError
            As :meth:`generate`; those about questions at the call.
        """
        questions = as_questions(questions)
        positive(max_new_tokens=max_new_tokens, batch_size=batch_size, max_length=max_length)
        routes = self.route(questions, min_similarity=min_similarity)
        mixtures = self._mixtures(routes, experts, top_k, temperature)
        lengths = {"max_new_tokens": max_new_tokens, "max_length": max_length}
        return self._stream(questions, mixtures, batch_size, lengths)

    def _stream(
        self, questions: list[Prompt], mixtures: list[Mixture], batch_size: int, options: dict[str, int]
    ) -> Generator[tuple[int, str]]:
        with self._alone():
            for start in range(0, len(questions), batch_size):
                part = slice(start, start + batch_size)
                with serving(self.model, self.bank.names, mixtures[part]) as names:
                    stream = stream_answers(self.model, self.tokenizer, questions[part], adapter_names=names, **options)
                    with closing(stream) as pieces:
                        for row, piece in pieces:
                            yield start + row, piece

    def _mixtures(self, routes: Routes, experts: Sequence[int] | None, top_k: int, temperature: float) -> list[Mixture]:
        """The experts and shares of each question; empty for the base alone."""
        if experts is None:
            return routes.mixtures(top_k, temperature=temperature)
        if top_k != 1:
            raise ParameterError("top_k merges the experts the router finds; here experts are given", where="top_k")
        return fixed_mixtures(experts, len(routes), len(self.bank))

    def _answer(
        self, questions: list[Prompt], mixtures: list[Mixture], strategy: str, progress: bool, options: dict[str, Any]
    ) -> list[str]:
        from tqdm.auto import tqdm

        texts = [""] * len(questions)
        parts = rounds(mixtures, strategy, max(MERGED_AT_ONCE, len(self.bank) + 1))
        inner = progress and len(parts) == 1
        with tqdm(total=len(questions), desc="answers", unit="question", disable=inner or not progress) as bar:
            for rows in parts:
                with serving(self.model, self.bank.names, [mixtures[i] for i in rows]) as names:
                    answers = generate_answers(
                        self.model,
                        self.tokenizer,
                        [questions[i] for i in rows],
                        adapter_names=names,
                        progress=inner,
                        **options,
                    )
                for i, text in zip(rows, answers, strict=True):
                    texts[i] = text
                bar.update(len(rows))
        return texts

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One answer at a time; a thread that would wait for itself is told so."""
        if self._user == threading.get_ident():
            raise AsslError("a stream is still open", hint="Read it to its end, or close it, before asking again.")
        with self._lock:
            self._user = threading.get_ident()
            try:
                yield
            finally:
                self._user = None


def _check(bank: ExpertBank, *, encoder: Mapping | None = None, base: Mapping | None = None) -> None:
    """Raise `BankError` unless encoder and base are those the bank was made with."""
    check_match("encoder", bank.encoder, encoder, "Use the bank's encoder, or train a bank with yours.")
    check_match("base model", bank.base, base, "Use the base the experts were trained on.")
