"""The servers that load many LoRA adapters beside one base: vLLM, SGLang, LoRAX."""

from __future__ import annotations

import shlex

from assl_kit.common.hub import HUB_ID
from assl_kit.errors import ParameterError
from assl_kit.experts.bank import ExpertBank

from .folder import Server, shell_script

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  #: what vLLM's --max-lora-rank takes
MOUNT = "/data"  #: where the export lies in LoRAX's container
LORAX_IMAGE = "ghcr.io/predibase/lorax:main"
_ABOUT = "Serve the base and its experts, each under a model name of its own"


def vllm_script(bank: ExpertBank, base: str, rank: int) -> str:
    """The shell script that starts vLLM.

    Parameters
    ----------
    bank : ExpertBank
    base : str
        Hub id, or folder, seen from the script's.
    rank : int
        The largest of the adapters.

    Notes
    -----
    The form is that of vLLM 0.33: ``--lora-modules name=path``, and requests whose ``model`` is an adapter's name.
    """
    revision = _revision(bank, base)
    allowed = next(allowed for allowed in RANKS if allowed >= rank)
    return shell_script(
        _ABOUT,
        [
            f"vllm serve {shlex.quote(base)}",
            *([f"--revision {revision} --tokenizer-revision {revision}"] if revision else []),
            f"--served-model-name {shlex.quote(bank.base['id'])}",
            "--generation-config vllm",
            f"--enable-lora --max-lora-rank {allowed} --max-loras {len(bank)}",
            f"--lora-modules {_named_paths(bank)}",
        ],
    )


def sglang_script(bank: ExpertBank, base: str, rank: int) -> str:
    """The shell script that starts SGLang.

    Parameters
    ----------
    bank, base, rank
        As in `vllm_script`.

    Raises
    ------
    ParameterError
        If the base's name holds a colon, which is what SGLang puts before an adapter's name.

    Notes
    -----
    The form is that of SGLang 0.5.23: ``--lora-paths name=path``, and requests whose ``model`` is ``base:adapter``. A
    batch's adapters count the base as one.
    """
    if ":" in bank.base["id"]:
        raise ParameterError(f"SGLang takes no base with a colon in its name, {bank.base['id']!r}", where="base")
    revision = _revision(bank, base)
    return shell_script(
        _ABOUT,
        [
            f"python -m sglang.launch_server --model-path {shlex.quote(base)}",
            *([f"--revision {revision}"] if revision else []),
            f"--served-model-name {shlex.quote(bank.base['id'])}",
            "--sampling-defaults openai",
            f"--enable-lora --max-lora-rank {rank} --max-loras-per-batch {len(bank) + 1}",
            f"--lora-paths {_named_paths(bank)}",
        ],
    )


def lorax_script(bank: ExpertBank, base: str, rank: int) -> str:
    """The shell script that starts LoRAX in its container, with the export's folder mounted at ``/data``.

    Parameters
    ----------
    bank, base, rank
        As in `vllm_script`; a base in a folder is mounted too.

    Notes
    -----
    The form is that of LoRAX's launcher and container. It loads an adapter when a request asks for its folder, so the
    experts are not named here.
    """
    revision = _revision(bank, base)
    mounts, model = f'-v "$PWD":{MOUNT}', base
    if base.startswith("."):
        model = f"{MOUNT}/{base.removeprefix('./')}"
    elif not HUB_ID.match(base):
        mounts, model = f"{mounts} -v {shlex.quote(base)}:/base:ro", "/base"
    lines = [
        f"docker run --rm --gpus all --shm-size 1g -p 8080:80 {mounts}",
        f"{LORAX_IMAGE} --model-id {shlex.quote(model)}",
        *([f"--revision {revision}"] if revision else []),
        "--adapter-source local",
    ]
    return shell_script("Serve the base in a container; experts are loaded when they are asked for", lines)


def _revision(bank: ExpertBank, base: str) -> str | None:
    revision = bank.base.get("revision") if HUB_ID.match(base) else None
    return shlex.quote(revision) if revision else None


def _named_paths(bank: ExpertBank) -> str:
    return " ".join(f"{name}=adapters/{name}" for name in bank.names)


VLLM = Server("vllm", "vLLM", vllm_script, highest_rank=RANKS[-1])
SGLANG = Server(
    "sglang",
    "SGLang",
    sglang_script,
    asked_as=lambda bank, expert: f"{bank.base['id']}:{expert}" if expert else bank.base["id"],
)
LORAX = Server(
    "lorax", "LoRAX", lorax_script, asked_as=lambda bank, expert: f"{MOUNT}/adapters/{expert}" if expert else ""
)
