"""The typed parameters of a run, and the profiles that set them.

A profile is a YAML file of the package, ``assl_kit/profiles/NAME.yaml``. ``tiny.yaml`` is complete; the others hold
only what differs from it.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypedDict

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from assl_kit.common.limits import MAX_YAML, BadYaml, check_size, parse_json, parse_yaml
from assl_kit.common.names import first_unwritable, shown
from assl_kit.errors import DataError, ParameterError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

DEFAULT_PROFILE = "tiny"
_SCORE = r"^(none|nll|ifd|rouge_gap|column:.+)$"


def _field(default: Any, description: str, **limits: Any) -> Any:
    return Field(default, description=description, **limits)


class Lengths(TypedDict, total=False):
    """How much of a prompt is read and the longest answer, in tokens."""

    max_length: int
    max_new_tokens: int


class Parameters(BaseModel):
    """Every parameter of a run: flat, typed, in range; nothing else is accepted.

    The defaults are those of the profile ``tiny``. Use :func:`resolve` to make one: it turns what pydantic finds into
    one clear :class:`~assl_kit.errors.ParameterError`.

    Examples
    --------
    >>> resolve("tiny", n_clusters=4).n_clusters
    4
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    # data
    data: str = _field("embedded", "'embedded', a file, a folder, or the id of a hub dataset", min_length=1)
    data_format: str = _field("auto", "how to read the data; 'auto' looks at it", min_length=1)
    n_records: int = _field(2300, "records to make, or at most to take from your own data (0 = all of them)", ge=0)
    on_bad: Literal["refuse", "skip"] = _field("refuse", "records that are wrong: refuse all, or leave those out")
    longest_answer: int = _field(0, "answers of more characters count as wrong (0: what the base can learn)", ge=0)
    test_share: float = _field(0.1, "share held out for the test where the data has no test split", gt=0, lt=1)
    seed: int = _field(0, "seed of every random draw", ge=0, lt=2**32)
    # space and clusters
    encoder: str = _field("fit", "'fit' (fitted on the corpus), a hub id, or a local folder", min_length=1)
    encoder_dim: int = _field(256, "dimensions of the fitted encoder", ge=2, le=4096)
    n_clusters: int = _field(6, "number of clusters, so of experts", ge=1, le=256)
    # redistribution
    min_samples: int = _field(10, "A-DBSCAN: points of a core neighbourhood, itself counted", ge=1)
    flattening: float = _field(0.0, "A-DBSCAN: exponent of the thinning radius (0: as dense as the data)", ge=0, le=1)
    link_flattening: float = _field(0.75, "A-DBSCAN: exponent of the linking radius", ge=0, le=1)
    noise: Literal["thin", "drop", "keep"] = _field("thin", "A-DBSCAN: what to do with noise")
    cell_rows: int = _field(0, "most rows that both stages work on at a time; larger cells are cut (0: none is)", ge=0)
    select_share: float = _field(0.1, "share of the training records to choose", gt=0, le=1)
    n_select: int = _field(0, "records to choose, copies counted (0 = by select_share)", ge=0)
    selection: Literal["default", "literal"] = _field(
        "default", "'literal': what the paper says, word for word; the settings of both stages below are then its own"
    )
    groups: Literal["auto", "task", "source", "instruction", "cluster"] = _field(
        "auto", "what budgets are divided among first; 'auto': tasks, else sources, else instructions, else clusters"
    )
    budget: Literal["power", "curve"] = _field(
        "power", "budgets of groups by their size, or by measured learning curves"
    )
    budget_power: float = _field(0.25, "budgets grow as a group's size to this power (0: equal)", ge=0, le=1)
    objective: Literal["groups", "records"] = _field("groups", "what curves maximise: the mean over these")
    pool_factor: float = _field(1.0, "size of the pool, in multiples of what is chosen from it", ge=1, le=1000)
    repeat_share: float = _field(0.0, "share of the chosen size given to repeats of sparse records", ge=0, lt=1)
    max_repeat: int = _field(1, "most copies of one record (1 = no repeats)", ge=1, le=100)
    mmr_relevance: float = _field(0.5, "MMR weight of the similarity to the centroid", ge=0, le=1)
    mmr_score: float = _field(0.0, "MMR weight of the model score", ge=0, le=1)
    mmr_diversity: float = _field(0.5, "MMR weight of the distance to what is chosen", ge=0, le=1)
    mmr_scale: Literal["spread", "raw"] = _field("spread", "divide MMR's terms by their spread over the pool, or not")
    score: str = _field("none", "model score: none, nll, ifd, rouge_gap or column:NAME", pattern=_SCORE)
    score_tail: float = _field(0.05, "share of the hardest records, among those alike, that is left out", ge=0, lt=1)
    warmup_records: int = _field(256, "records the model is warmed up on before it scores (0 = none)", ge=0)
    # experts
    base_model: str = _field("tiny", "'tiny', 'gemma3-270m', a GGUF file, a folder, or a hub id", min_length=1)
    device: Literal["auto", "cpu", "cuda", "mps"] = _field("auto", "where to compute")
    lora_rank: int = _field(16, "rank of the adapters", ge=1, le=1024)
    lora_alpha: int = _field(32, "scale of the adapters, as alpha / rank", ge=1, le=4096)
    epochs: int = _field(4, "passes over the chosen records", ge=1, le=1000)
    full_epochs: int = _field(1, "passes of the one adapter trained on all records (0 = leave it out)", ge=0, le=1000)
    learning_rate: float = _field(2e-3, "peak learning rate", gt=0, le=1)
    train_batch_size: Annotated[int, Field(ge=1, le=4096)] | Literal["auto"] = _field(
        4, "records of one optimiser step; 'auto': 8, computed in as few parts as fit the card's memory"
    )
    gradient_accumulation: int = _field(1, "parts that a step is computed in: less memory, same result", ge=1, le=4096)
    gradient_checkpointing: bool = _field(False, "recompute activations: much less memory, a third more time")
    packing: bool = _field(False, "fill rows of max_length with several records; train_batch_size counts rows then")
    quantization: Literal["none", "nf4"] = _field("none", "'nf4' loads the base in 4 bits (QLoRA)")
    holdout_share: float = _field(0.0, "share of each expert's records held out for early stopping", ge=0, le=0.5)
    patience: int = _field(2, "held-out losses (two an epoch) without a new best before it stops", ge=1, le=100)
    tensorboard: bool = _field(False, "write TensorBoard's files into the run's logs/ while experts are trained")
    max_length: int = _field(512, "longest record in tokens; longer prompts lose their start", ge=16, le=1 << 20)
    max_new_tokens: int = _field(40, "longest generated answer in tokens", ge=1, le=1 << 16)
    # routing and evaluation
    min_similarity: Annotated[float, Field(ge=-1, le=1)] | Literal["auto"] = _field(
        "auto", "below this similarity the base answers alone (-1: never); 'auto': what 1 % of the chosen fall below"
    )
    strategy: Literal["auto", "grouped", "mixed", "single"] = _field("auto", "how routed batches are generated")
    n_test: int = _field(0, "test records per task at most (0 = all; of your own data 50)", ge=0)
    affinity_records: int = _field(16, "records per task that measure how tasks help each other (0 = skip)", ge=0)
    referee_draws: int = _field(5, "random draws that the referee compares the chosen records with (0 = skip)", ge=0)
    regret_per_task: int = _field(10, "test records per task that every expert answers (0 = skip)", ge=0)

    @model_validator(mode="after")
    def _check_together(self) -> Parameters:
        total = self.mmr_relevance + self.mmr_score + self.mmr_diversity
        if not math.isclose(total, 1.0, abs_tol=1e-6):
            raise ValueError(f"mmr_relevance + mmr_score + mmr_diversity must be 1, they are {total:g}")
        if self.mmr_score > 0 and self.score == "none":
            raise ValueError("mmr_score is above 0, but there is no score: set score to nll, ifd, …")
        if self.mmr_score > 0 and self.pool_factor < 1.5:
            raise ValueError(f"with mmr_score above 0, pool_factor must be at least 1.5, it is {self.pool_factor:g}")
        if 0 < self.cell_rows < (least := 10 * self.min_samples):
            raise ValueError(f"cell_rows must be 0 or at least {least} (10 · min_samples), it is {self.cell_rows}")
        if self.referee_draws == 1:
            raise ValueError("referee_draws must be 0 or at least 2")
        if self.train_batch_size != "auto" and self.train_batch_size % self.gradient_accumulation:
            raise ValueError(
                f"train_batch_size must be a multiple of gradient_accumulation, "
                f"{self.train_batch_size} is none of {self.gradient_accumulation}"
            )
        if self.data == "embedded" and self.n_records < 200:
            raise ValueError(f"n_records must be at least 200 for the embedded corpus, got {self.n_records}")
        return self

    @property
    def lengths(self) -> Lengths:
        """How much of a prompt is read and the longest answer, in tokens, by the names that all that answers takes."""
        return {"max_length": self.max_length, "max_new_tokens": self.max_new_tokens}

    @property
    def floor(self) -> float | None:
        """``min_similarity`` if it is a number; None: the bank's, which is chosen from the training records."""
        return None if self.min_similarity == "auto" else self.min_similarity


NAMES: tuple[str, ...] = tuple(Parameters.model_fields)
_SHOWN = 10  # unknown names in a message
_OR_AUTO = {"min_similarity": "a number from -1 to 1", "train_batch_size": "a whole number from 1 to 4096"}
KINDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}


def near(name: str, known: Iterable[str]) -> str | None:
    """A hint that names the nearest known names, or None.

    Examples
    --------
    >>> near("n_cluster", ["n_clusters", "seed"])
    "Did you mean 'n_clusters'?"
    """
    matches = difflib.get_close_matches(name, list(known), n=3, cutoff=0.6)
    return f"Did you mean {' or '.join(map(repr, matches))}?" if matches else None


def profile_names() -> list[str]:
    """Names of the profiles in the package.

    Examples
    --------
    >>> "tiny" in profile_names()
    True
    """
    files = (resources.files(__package__) / "profiles").iterdir()
    return sorted(file.name[: -len(".yaml")] for file in files if file.name.endswith(".yaml"))


def read_parameters(text: str, *, where: str) -> dict[str, Any]:
    """Read a YAML mapping of parameter names to plain values; ``where`` names its source in messages.

    Raises
    ------
    ParameterError
        If it is not YAML as `assl_kit.common.limits.parse_yaml` reads it (a name twice is refused), or not a mapping
        of names to plain values.

    Examples
    --------
    >>> read_parameters("learning_rate: 2e-3", where="a test")
    {'learning_rate': 0.002}
    """
    try:
        values = parse_yaml(text)
    except BadYaml as error:
        place = where if error.line is None else f"{where}, line {error.line}"
        raise ParameterError(f"the parameter file is not valid YAML: {error.what}", where=place) from error
    values = {} if values is None else values
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise ParameterError("a parameter file holds lines of 'name: value'", where=where)
    return values


def read_parameter_file(path: Path, what: str = "parameter file") -> dict[str, Any]:
    """As `read_parameters`, from a file; ``what`` names its kind where it cannot be read."""
    try:
        check_size(path, 4 * MAX_YAML)  # of bytes, which are more than characters
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ParameterError(f"the {what} cannot be read as text", where=str(path)) from error
    except DataError as error:
        raise ParameterError(error.what, where=error.where, hint=error.hint) from None
    return read_parameters(text, where=str(path))


def load_profile(name: str) -> dict[str, Any]:
    """The values a profile sets.

    Parameters
    ----------
    name : str
        One of :func:`profile_names`.

    Returns
    -------
    dict of str to plain value

    Raises
    ------
    ParameterError
        If there is no such profile.

    Examples
    --------
    >>> load_profile("tiny")["base_model"]
    'tiny'
    """
    known = profile_names()
    if name not in known:
        hint = near(str(name), known)
        known_text = f"The profiles are {', '.join(known)}."
        raise ParameterError(f"unknown profile {name!r}", hint=f"{hint} {known_text}" if hint else known_text)
    file = resources.files(__package__) / "profiles" / f"{name}.yaml"
    return read_parameters(file.read_text(encoding="utf-8"), where=f"profile {name}")


def resolve(profile: str = DEFAULT_PROFILE, **overrides: Any) -> Parameters:
    """The parameters of a profile with some of them changed.

    Parameters
    ----------
    profile : str
        One of :func:`profile_names`.
    **overrides
        Parameters that differ from the profile.

    Returns
    -------
    Parameters

    Raises
    ------
    ParameterError
        If the profile or a name is unknown, a value has the wrong type, or is out of range. The message names the
        parameter, what it must be, and what was given.

    Examples
    --------
    >>> resolve("tiny", n_select="abc")
    Traceback (most recent call last):
    ...
    assl_kit.errors.ParameterError: n_select must be a whole number, got 'abc'
    """
    return validate({**load_profile(DEFAULT_PROFILE), **load_profile(profile), **overrides})


def validate(values: Mapping[str, Any], *, where: str | None = None) -> Parameters:
    """Check plain values and make :class:`Parameters` of them; see :func:`resolve` for the errors."""
    check_names(values, where=where)
    if broken := first_unwritable(values.items()):
        raise ParameterError(f"{broken} holds bytes that are not UTF-8", where=where, hint="Rename the file to UTF-8.")
    try:
        return Parameters(**values)
    except ValidationError as error:
        raise ParameterError("; ".join(dict.fromkeys(map(_explain, error.errors()))), where=where) from None


def check_names(names: Iterable[str], known: Iterable[str] = NAMES, *, where: str | None = None) -> None:
    """Refuse names that are no parameters, suggesting the nearest.

    Examples
    --------
    >>> check_names(["n_cluster"])
    Traceback (most recent call last):
    ...
    assl_kit.errors.ParameterError: unknown parameter 'n_cluster'. Did you mean 'n_clusters'?
    """
    known = tuple(known)
    unknown = [name for name in names if name not in known]
    if unknown:
        listed = [name[:80] for name in unknown[:_SHOWN]]
        hints = [hint for hint in (near(name, known) for name in listed) if hint]
        plural = "s" if len(unknown) > 1 else ""
        more = f" and {len(unknown) - _SHOWN:,} more" if len(unknown) > _SHOWN else ""
        what = f"unknown parameter{plural} {', '.join(map(repr, listed))}{more}"
        raise ParameterError(what, where=where, hint=" ".join(hints) or f"The parameters are {', '.join(known)}.")


def parse_assignment(name: str, text: str) -> Any:
    """Read the value of ``-p NAME VALUE`` as the type the parameter has; text that does not fit stays text.

    Parameters
    ----------
    name : str
        A name of :class:`Parameters`; others are read as JSON if they can be.
    text : str
        What stands on the command line.

    Returns
    -------
    str, int, float, bool or None
        A value for :func:`resolve`, which refuses what does not fit.

    Examples
    --------
    >>> parse_assignment("learning_rate", "2e-3"), parse_assignment("data", "12"), parse_assignment("n_select", "abc")
    (0.002, '12', 'abc')
    """
    field = Parameters.model_fields.get(name)
    if field is not None and field.annotation not in (int, float, bool) and name not in _OR_AUTO:
        return text
    try:
        return parse_json(text)
    except ValueError:
        return text


def describe() -> list[dict[str, Any]]:
    """One row per parameter: name, type, default, description.

    Examples
    --------
    >>> describe()[0]["name"]
    'data'
    """
    rows = []
    for name, field in Parameters.model_fields.items():
        kind = getattr(field.annotation, "__name__", str(field.annotation))
        rows.append({"name": name, "type": kind, "default": field.default, "description": field.description})
    return rows


def _explain(finding: ErrorDetails) -> str:
    """One pydantic finding in plain words."""
    name = str(finding["loc"][0]) if finding["loc"] else ""  # of a union each kind of value has a finding of its own
    value, kind, context = finding["input"], finding["type"], finding.get("ctx", {})
    if not name:
        return str(context.get("error", finding["msg"]))
    if name in _OR_AUTO:
        return f"{name} must be {_OR_AUTO[name]}, or 'auto', got {shown(value)}"
    annotation: Any = Parameters.model_fields[name].annotation
    if kind.endswith("_type") or kind.endswith("_parsing") or kind in {"int_from_float", "finite_number"}:
        wanted = KINDS.get(annotation, "one of the allowed values")
        return f"{name} must be {wanted}, got {shown(value)}"
    limits = {
        "greater_than": "more than {gt:g}",
        "greater_than_equal": "at least {ge:g}",
        "less_than": "less than {lt:g}",
        "less_than_equal": "at most {le:g}",
        "literal_error": "{expected}",
        "string_too_short": "some text",
        "string_pattern_mismatch": "none, nll, ifd, rouge_gap or column:NAME",
    }
    if kind in limits:
        return f"{name} must be {limits[kind].format(**context)}, got {shown(value)}"
    return f"{name}: {finding['msg']}, got {shown(value)}"
