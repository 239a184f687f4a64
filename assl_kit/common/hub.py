"""The Hugging Face hub: whether it has a model; files sent in one commit; one clear message for what can go wrong."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

from assl_kit.errors import ParameterError

from .packages import reason
from .trust import inside

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*\Z")
"""``owner/name``, as the hub names repositories."""


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE says that nothing is to be asked of the hub."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


@cache
def check_model(name: str, what: str, files: tuple[str, ...] = ("config.json",)) -> None:
    """Refuse a model that the hub would have to give and cannot; of one in the cache nothing is asked.

    Parameters
    ----------
    name : str
    what : str
        Such as ``"the encoder"``, for messages.
    files : tuple of str
        One of these the model has.

    Raises
    ------
    ParameterError
        The name is none of the hub's; HF_HUB_OFFLINE is set and the model is not in the cache; the hub does not answer,
        has no such model, or refuses it.
    """
    from huggingface_hub import get_hf_file_metadata, get_token, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError

    hint = "Check the name and the network, or give a local folder."
    try:
        if any(isinstance(try_to_load_from_cache(name, file), str) for file in files):
            return
    except HFValidationError:
        raise ParameterError(f"{what} {name[:200]!r} is neither a folder nor a name of the hub", hint=hint) from None
    if is_offline():
        hint = "Unset it, get the model once with a network, or give a local folder."
        raise ParameterError(f"{what} {name!r} is not in the hub's cache, and HF_HUB_OFFLINE is set", hint=hint)
    for file in files:
        try:
            get_hf_file_metadata(hf_hub_url(name, file), token=get_token(), timeout=10)
            return
        except EntryNotFoundError:
            continue
        except Exception as error:  # the library raises many kinds, httpx its own
            status = getattr(getattr(error, "response", None), "status_code", None)
            if status in (401, 403, 404):
                hint = "Check the name; of a model with terms accept them on the hub, and run 'hf auth login'."
                why = f"the hub has or gives no such model ({status})"
            else:
                why = f"the hub cannot be reached: {reason(error)}"
            raise ParameterError(f"{what} {name!r} cannot be had, {why}", hint=hint) from None
    raise ParameterError(f"{what} {name!r} has no {' and no '.join(files)} on the hub", hint=hint)


def check_hub(repo_id: str, token: str | None = None) -> str:
    """The token to send files with.

    Raises
    ------
    ParameterError
        The name is none of the hub's, HF_HUB_OFFLINE is set, or there is no token.
    """
    from huggingface_hub import get_token

    if not HUB_ID.match(repo_id or ""):
        raise ParameterError(f"a hub repository is named owner/name, not {repo_id!r}", where="repo_id")
    if is_offline():
        hint = "Unset it, and send again; the folder is complete without the hub."
        raise ParameterError("HF_HUB_OFFLINE is set, so nothing is sent to the hub", where=repo_id, hint=hint)
    token = token or get_token()
    if not token:
        hint = "Make one that may write at huggingface.co/settings/tokens, then set HF_TOKEN or run 'hf auth login'."
        raise ParameterError("there is no token for the hub", where=repo_id, hint=hint)
    return token


def upload(
    folder: str | Path,
    repo_id: str,
    files: Iterable[str],
    *,
    kind: str,
    private: bool = True,
    token: str | None = None,
    message: str,
    texts: Mapping[str, str] | None = None,
) -> str:
    """Send files of a folder to a repository of the hub in one commit; the repository is made if it is missing.

    Parameters
    ----------
    folder : str or pathlib.Path
    repo_id : str
        ``owner/name``.
    files : iterable of str
        Names within the folder; nothing else is sent.
    kind : {"dataset", "model"}
    private : bool
        Of a repository that is made; one that is there stays as it is.
    token : str, optional
        By default the one of HF_TOKEN, or of ``hf auth login``. It is in no message.
    message : str
        Of the commit.
    texts : mapping, optional
        More files, by name: their content.

    Returns
    -------
    str
        The address of the commit.

    Raises
    ------
    ParameterError
        As `check_hub`; a file is missing or a link out of the folder; the hub cannot be reached or refuses.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    token = check_hub(repo_id, token)
    names = sorted(set(files))
    for name in names:
        if not inside(folder, Path(folder) / name, ParameterError).is_file():
            raise ParameterError(f"{name} is missing", where=str(folder))
    operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=str(Path(folder) / name)) for name in names]
    operations += [CommitOperationAdd(name, text.encode("utf-8")) for name, text in (texts or {}).items()]
    api = HfApi(token=token)
    try:
        api.create_repo(repo_id, repo_type=kind, private=private, exist_ok=True)
        commit = api.create_commit(repo_id, operations, commit_message=message, repo_type=kind)
    except Exception as error:  # the library raises many kinds, httpx its own
        raise _refused(error, repo_id, token) from None
    return str(commit.commit_url)


def _refused(error: Exception, repo_id: str, token: str) -> ParameterError:
    """What the hub said, without the token."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        hint = f"Give a token that may write to {repo_id.split('/')[0]}'s repositories."
        return ParameterError(f"the hub refuses the token ({status})", where=repo_id, hint=hint)
    answer = reason(error).replace(token, "…")
    if status is None:
        return ParameterError(f"the hub cannot be reached: {answer}", where=repo_id, hint="Check the network.")
    return ParameterError(f"the hub refuses: {answer}", where=repo_id, hint="Check the name and your rights.")
