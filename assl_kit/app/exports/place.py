"""Where an export may be written."""

from __future__ import annotations

from pathlib import Path

from assl_kit.common.files import read_json
from assl_kit.errors import ParameterError
from assl_kit.experts.bank import ExpertBank


def check_place(out: Path, bank: ExpertBank, file: str, form: str) -> None:
    """Refuse a place for an export that holds something else, or lies inside the bank.

    Parameters
    ----------
    out : pathlib.Path
    bank : ExpertBank
    file, form : str
        What an earlier export holds, which may be replaced: a JSON file, and its entry ``"format"``.

    Raises
    ------
    ParameterError
        If it does.
    """
    if out.exists() and not _is_export(out / file, form):
        raise ParameterError("there is something else already", where=str(out), hint="Give a new folder.")
    if out.resolve().is_relative_to(bank.path.resolve()):
        raise ParameterError("an export cannot lie inside its bank", where=str(out), hint="Give another folder.")


def _is_export(file: Path, form: str) -> bool:
    try:
        return read_json(file).get("format") == form
    except (OSError, ValueError, AttributeError):
        return False
