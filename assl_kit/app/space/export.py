"""An expert bank as the folder of a Gradio Space."""

from __future__ import annotations

import os
import re
import shutil
from importlib.metadata import version
from pathlib import Path

from assl_kit.common.cards import as_text, front_matter
from assl_kit.common.files import atomic_path, write_json
from assl_kit.common.hub import HUB_ID
from assl_kit.common.packages import need
from assl_kit.common.trust import check_model_folder
from assl_kit.errors import BankError, ParameterError
from assl_kit.experts.bank import ExpertBank
from assl_kit.experts.bank_check import check_match
from assl_kit.model.gguf import GEMMA, is_gguf
from assl_kit.model.identity import base_info, base_source
from assl_kit.model.loading import load_base
from assl_kit.space.encoder import encoder_fingerprint, load_encoder
from assl_kit.version import __version__

from ..exports.place import check_place

FORMAT = "assl-kit Space export"
FORMAT_VERSION = 1
MAX_TITLE = 60
EXTRAS = "app,train"
TORCH_FOR_CPU = "https://download.pytorch.org/whl/cpu"
_MODEL_FILES = ("*.json", "*.safetensors", "*.jinja", "*.txt", "*.model")
_PACKAGE = re.compile(r"git\+https://[\w.-]+(/[\w.@-]+)+|[0-9][\w.+!-]*")


def export_space(
    bank: ExpertBank,
    out: str | os.PathLike,
    *,
    base: str | None = None,
    encoder: str | None = None,
    title: str = "Ask the experts",
    package: str = __version__,
) -> Path:
    """Write the folder of a Gradio Space that answers with the experts of a bank.

    Parameters
    ----------
    bank : ExpertBank
    out : path-like
        A new folder, or one that holds an earlier export, which is replaced::

            README.md          the Space's card: Gradio's version, the program
            app.py             the page of `assl chat`, without training records
            requirements.txt   this package with its extras, torch for a CPU
            space.json         title, base, encoder
            bank/              the bank's listed files and nothing else
            base/              the base, if it lies in a folder

    base : str, optional
        ``"tiny"``, ``"gemma3-270m"``, a hub id, or a folder, which is copied. Default: the base that the bank names.
    encoder : str, optional
        Hub id of the encoder, or its folder for the look at it, if the bank does not carry it.
    title : str
        Of the page and the card, at most 60 characters.
    package : str
        What the Space installs: a version of assl-kit on the package index, or ``git+https://…``.

    Returns
    -------
    pathlib.Path
        ``out``.

    Raises
    ------
    BankError
        If base or encoder are not those of the bank.
    ParameterError
        If ``out`` holds something else, the base or encoder cannot be had or no Space can have them, Gradio is not
        installed, or title or package are none.

    Notes
    -----
    A base of the hub is compared by its name here, and by its weights when the Space starts.
    """
    need("gradio", "assl export space", "app", name="Gradio")
    out = Path(out)
    check_place(out, bank, "space.json", FORMAT)
    if not title.strip() or len(title) > MAX_TITLE or not title.isprintable():  # a lone surrogate is not printable
        raise ParameterError(f"a title is a line of 1 to {MAX_TITLE} characters, not {title[:80]!r}", where="title")
    if not _PACKAGE.fullmatch(package):
        hint = "Give a version, such as 0.2.0, or git+https://github.com/OWNER/REPO."
        raise ParameterError(f"{package[:80]!r} is neither a version nor a git address", where="package", hint=hint)
    encoder_name = _encoder(bank, encoder)
    name = base or bank.base["id"]
    folder = _base(bank, name)
    with atomic_path(out) as temporary:
        temporary.mkdir()
        bank.save_pretrained(temporary / "bank")
        if folder is not None:
            _copy_model(folder, temporary / "base")
        settings = {"format": FORMAT, "format_version": FORMAT_VERSION, "assl_kit": __version__, "title": title}
        settings |= {"base": name if folder is None else None, "encoder": encoder_name}
        write_json(temporary / "space.json", settings)
        source = (Path(__file__).parent / "page.py").read_text(encoding="utf-8")
        program = source.replace("\nfrom ..", "\nfrom assl_kit.app.")  # there it is a file of its own
        texts = {"app.py": program, "requirements.txt": requirements(package, name), "README.md": card(bank, title)}
        for file, text in texts.items():
            (temporary / file).write_text(text, encoding="utf-8", newline="\n")
    return out


def requirements(package: str, base: str) -> str:
    """The Space's requirements.txt.

    Parameters
    ----------
    package : str
        A version, or a git address.
    base : str
        Name of the base: one that comes in a package asks for it.

    Examples
    --------
    >>> print(requirements("0.2.0", "tiny"), end="")
    --extra-index-url https://download.pytorch.org/whl/cpu
    assl-kit[app,train]==0.2.0
    >>> requirements("git+https://github.com/owner/repo", "gemma3-270m").splitlines()[1]
    'assl-kit[app,train,llm-offline] @ git+https://github.com/owner/repo'
    """
    extras = EXTRAS + (",llm-offline" if base == GEMMA else "")
    where = f" @ {package}" if package.startswith("git+") else f"=={package}"
    return f"--extra-index-url {TORCH_FOR_CPU}\nassl-kit[{extras}]{where}\n"


def card(bank: ExpertBank, title: str) -> str:
    """The Space's README.md, whose head its host reads."""
    head = {
        "title": title,
        "sdk": "gradio",
        "sdk_version": version("gradio"),
        "python_version": "3.11",
        "app_file": "app.py",
        "pinned": False,
    }
    about = f"{len(bank)} LoRA experts on {as_text(bank.base['id'])}; each question goes to the nearest, by assl-kit."
    return (
        f"{front_matter(head)}\n# {as_text(title)}\n\n{about} Answers can be wrong.\n\n"
        "Here as there: `pip install -r requirements.txt`, then `python app.py`. Whoever reaches the page can ask. It "
        "holds the bank and no training record. With a GPU, take the first line out of `requirements.txt`.\n"
    )


def _encoder(bank: ExpertBank, encoder: str | None) -> str | None:
    """What the Space loads its encoder by; None: the bank carries it."""
    name = encoder or str(bank.encoder_path or bank.encoder["id"])
    if name == "fit":
        raise BankError("the bank does not carry its encoder", where=str(bank.path), hint="Give a bank that does.")
    found_by = bank.encoder | {"fingerprint": encoder_fingerprint(load_encoder(name))}
    check_match("encoder", bank.encoder, found_by, "Use the bank's encoder.")
    if bank.encoder_path is not None:
        return None
    public = name if not Path(name).expanduser().is_dir() else bank.encoder["id"]
    if public == "fit" or Path(public).is_dir():
        hint = "Give its hub id, or a bank that carries it."
        raise ParameterError("a Space cannot have an encoder from a folder", where="encoder", hint=hint)
    return public


def _base(bank: ExpertBank, name: str) -> Path | None:
    """The base's folder, to be copied, or None where the Space gets it by its name; compared with the bank's."""
    hint = "Use the base the experts were trained on."
    source = base_source(name)
    folder = Path(name).expanduser()
    if is_gguf(name) and name != GEMMA:
        more = "Give the folder into which it was converted, or a hub id."
        raise ParameterError(f"a Space cannot have the base model {name!r}", where="base", hint=more)
    if name in ("tiny", GEMMA) or folder.is_dir():
        model, tokenizer = load_base(name, device="cpu", thinking=bank.base.get("thinking", True))
        check_match("base model", bank.base, base_info(model, tokenizer, name), hint)
        if name in ("tiny", GEMMA):
            return None
        check_model_folder(folder, "the base model")
        return folder
    if not HUB_ID.match(source):
        more = "Give its folder or hub id: --base …."
        raise ParameterError(f"the base model {name!r} cannot be found by its name", where="base", hint=more)
    if name != bank.base["id"]:
        raise BankError(f"the bank was made with another base model: {bank.base['id']}, not {name}", hint=hint)
    return None


def _copy_model(source: Path, target: Path) -> None:
    target.mkdir()
    for file in sorted({file for pattern in _MODEL_FILES for file in source.glob(pattern) if file.is_file()}):
        shutil.copyfile(file, target / file.name)
