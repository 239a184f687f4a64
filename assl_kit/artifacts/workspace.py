"""The folder of one run: its artifacts, written whole or not at all, and the manifest that vouches for them."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from assl_kit.common.files import atomic_path, lock_at, read_json, resolved, sha256_file, write_json
from assl_kit.common.names import first_unwritable
from assl_kit.data.parquet import read_table
from assl_kit.errors import AsslError, WorkspaceError

from .parameters import DEFAULT_PROFILE, NAMES, Parameters, check_names, load_profile, validate

if TYPE_CHECKING:
    import pandas as pd
    from filelock import FileLock

FORMAT = 1
MANIFEST = "manifest.json"
SWEEP = "sweep.json"
_LONGEST = 200  # bytes of an artifact's name, which no file system refuses
_MEND = "Put back a copy of it, or delete it and run again: all is then made anew."
_PACKAGES = ("assl-kit", "numpy", "pandas", "scikit-learn", "sentence-transformers", "torch", "transformers", "trl")


class Workspace:
    """The artifacts of one run and its ``manifest.json``.

    The manifest holds ``format``, ``created``, ``versions``, ``profile``, ``parameters``, ``artifacts`` (for each name
    ``sha256``, ``key``, ``parents``, ``parameters``, ``seconds``, ``peak_memory_mb``, ``notebook``) and ``notebooks``
    (for each what the runner saw of it).

    Parameters
    ----------
    folder : path-like
        The run's folder; it is made when something is written.

    Raises
    ------
    WorkspaceError
        If there is a manifest that cannot be read, or of another format.

    Examples
    --------
    >>> import tempfile
    >>> ws = Workspace.open(tempfile.mkdtemp())
    >>> with ws.writing("notes.json") as temporary:
    ...     _ = temporary.write_text("[1]", encoding="utf-8")
    >>> ws.commit("notes.json", key="k1")
    >>> ws.is_current("notes.json", "k1"), ws.is_current("notes.json", "k2"), ws.json("notes.json")
    (True, False, [1])
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = resolved(folder)
        if self.folder.exists() and not self.folder.is_dir():
            raise WorkspaceError("the workspace is a file, not a folder", where=str(folder))
        self.manifest()  # refuses a damaged one at once

    @classmethod
    def open(cls, path: str | os.PathLike = "") -> Workspace:
        """Open the workspace at ``path``; with no path, the one everybody shares.

        Parameters
        ----------
        path : path-like, optional
            ``""`` takes the environment variable ``ASSL_WORKSPACE``, else ``lab`` in the runs' folder: that of
            ``ASSL_RUNS``, else ``runs`` under the project's root (the nearest folder upwards that holds assl-kit's
            ``pyproject.toml``), else under the current folder.

        Returns
        -------
        Workspace
        """
        return cls(path or os.environ.get("ASSL_WORKSPACE") or runs_folder() / "lab")

    def __repr__(self) -> str:
        return f"Workspace({self.display_path()!r})"

    # places

    def path_of(self, name: str) -> Path:
        """The absolute path of an artifact.

        Parameters
        ----------
        name : str
            A relative POSIX path inside the workspace, as ``records.parquet`` or ``experts``.

        Raises
        ------
        WorkspaceError
            If the name leads out of the workspace.
        """
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or ".." in parts or "\\" in name or ":" in name or "\0" in name:
            raise WorkspaceError(f"{name!r} is not a name inside a workspace", hint="Use a relative name without '..'.")
        if len(name.encode("utf-8", "replace")) > _LONGEST or first_unwritable([("name", name)]):
            raise WorkspaceError(f"{name[:80]!r} is no name of a file", where=self.display_path())
        path = self.folder.joinpath(*parts)
        if not path.resolve().is_relative_to(self.folder):
            raise WorkspaceError(f"{name!r} leads out of the workspace through a link", where=self.display_path())
        return path

    def display_path(self, name: str = "") -> str:
        """The path to show a person, ``runs/NAME/...``: no absolute one, and the same wherever it is asked for."""
        path, base = self.path_of(name) if name else self.folder, self.folder.parent
        return path.relative_to(base.parent if base.name == "runs" else base).as_posix()

    def has(self, name: str) -> bool:
        """Whether the artifact is there; :meth:`is_current` says whether it can be trusted."""
        return self.path_of(name).exists()

    def _existing(self, name: str) -> Path:
        path = self.path_of(name)
        if not path.exists():
            raise WorkspaceError(
                f"there is no {name} yet", where=self.display_path(), hint="Run the notebook that makes it first."
            )
        return path

    # reading

    def table(self, name: str) -> pd.DataFrame:
        """Read a Parquet artifact as a DataFrame."""
        return _read(read_table, self._existing(name), name)

    def json(self, name: str) -> Any:
        """Read a JSON artifact."""
        return _read(read_json, self._existing(name), name)

    # writing

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """Yield a temporary path for a file or folder; on success it becomes the artifact, whole and at once.

        The artifact counts only after :meth:`commit`.
        """
        with atomic_path(self.path_of(name)) as temporary:
            yield temporary

    # manifest

    def manifest(self) -> dict[str, Any]:
        """The manifest as it is on disk; an empty one where there is none."""
        path = self.path_of(MANIFEST)
        if not path.is_file():
            return {"format": FORMAT, "profile": None, "parameters": {}, "artifacts": {}, "notebooks": {}}
        try:
            manifest = read_json(path)
        except ValueError as error:  # JSON's, the encoding's, or a file too large
            what = error.what if isinstance(error, AsslError) else "the manifest is not valid JSON"
            raise WorkspaceError(what, where=self.display_path(MANIFEST), hint=_MEND) from error
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            raise WorkspaceError(
                f"the manifest has not format {FORMAT}",
                where=self.display_path(MANIFEST),
                hint="It was written by another version: use another folder.",
            )
        place = {"where": self.display_path(MANIFEST), "hint": _MEND}
        for part in ("parameters", "artifacts", "notebooks"):
            if not isinstance(manifest.setdefault(part, {}), dict):
                raise WorkspaceError(f"{part!r} of the manifest is not a mapping", **place)
        for part in ("artifacts", "notebooks"):
            for name, entry in manifest[part].items():
                if not isinstance(entry, dict) or (part == "artifacts" and not isinstance(entry.get("sha256"), str)):
                    raise WorkspaceError(f"the entry {name[:80]!r} of the manifest is damaged", **place)
                parents = entry.get("parents", [])
                if not isinstance(parents, list) or not all(isinstance(parent, str) for parent in parents):
                    raise WorkspaceError(f"the parents of {name[:80]!r} in the manifest are no list of names", **place)
        return manifest

    def update_manifest(self, part: str, values: Mapping[str, Any]) -> None:
        """Merge ``values`` into one part of the manifest (``parameters``, ``artifacts`` or ``notebooks``)."""
        with self._manifest_lock():
            manifest = self.manifest()
            manifest[part] = {**manifest.get(part, {}), **values}
            self._save(manifest)

    def _manifest_lock(self) -> FileLock:
        """Held between reading and writing the manifest, so that two processes do not lose each other's entries."""
        return lock_at(self.folder / ".manifest.lock")

    def _save(self, manifest: dict[str, Any]) -> None:
        manifest.setdefault("created", datetime.now(timezone.utc).isoformat(timespec="seconds"))
        manifest["versions"] = versions()
        order = ("format", "created", "versions", "profile", "parameters", "artifacts", "notebooks")
        write_json(self.folder / MANIFEST, {**{k: manifest.get(k) for k in order}, **manifest})

    def is_current(self, name: str, key: str) -> bool:
        """Whether the artifact is there, was committed with this key, and has not changed since (SHA-256)."""
        entry = self.manifest()["artifacts"].get(name)
        if not entry or entry.get("key") != key or not self.has(name):
            return False
        return sha256_file(self.path_of(name)) == entry["sha256"]

    def commit(
        self,
        name: str,
        *,
        key: str,
        parents: Sequence[str] = (),
        parameters: Mapping[str, Any] | None = None,
        seconds: float = 0.0,
        peak_memory_mb: float | None = None,
        notebook: str | None = None,
    ) -> None:
        """Enter a written artifact into the manifest.

        Parameters
        ----------
        name : str
            The artifact.
        key : str
            What it was made from and how: :meth:`is_current` compares it.
        parents : sequence of str
            The artifacts it was made from.
        parameters : mapping, optional
            The parameters it depends on.
        seconds : float
            How long it took.
        peak_memory_mb : float, optional
            The most memory its process has held until then.
        notebook : str, optional
            Who made it; default the environment variable ``ASSL_NOTEBOOK``, which the runner sets.

        Raises
        ------
        WorkspaceError
            If the artifact is not there.
        """
        entry = {
            "sha256": sha256_file(self._existing(name)),
            "key": key,
            "parents": list(parents),
            "parameters": dict(parameters or {}),
            "seconds": round(float(seconds), 2),
            "peak_memory_mb": None if peak_memory_mb is None else round(float(peak_memory_mb)),
            "notebook": notebook or os.environ.get("ASSL_NOTEBOOK"),
        }
        self.update_manifest("artifacts", {name: entry})

    # parameters

    def parameters(self, profile: str = DEFAULT_PROFILE, **declared: Any) -> Parameters:
        """The parameters of this run: the profile's, then those remembered here, then the declared ones.

        What comes out is remembered in the manifest, so that a notebook opened later and alone goes on with it. What
        was remembered under another profile is forgotten.

        Parameters
        ----------
        profile : str
            Name of a profile.
        **declared
            What the caller sets. A notebook declares in its ``parameters`` cell the defaults of ``tiny``; under another
            profile, a value left at that default follows the run or the profile.

        Returns
        -------
        Parameters

        Raises
        ------
        ParameterError
            As :func:`assl_kit.artifacts.parameters.resolve`.

        Examples
        --------
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> Workspace(folder).parameters("tiny", n_clusters=4).n_clusters
        4
        >>> Workspace(folder).parameters("tiny").n_clusters
        4
        """
        values = load_profile(DEFAULT_PROFILE) | load_profile(profile)
        check_names(declared)
        manifest = self.manifest()
        if manifest.get("profile") == profile:
            values |= {name: value for name, value in manifest["parameters"].items() if name in NAMES}
        if profile != DEFAULT_PROFILE:
            usual = Parameters()
            declared = {name: value for name, value in declared.items() if value != getattr(usual, name)}
        return self.remember(profile, validate({**values, **declared}))

    def current_parameters(self) -> Parameters:
        """The parameters this run remembers.

        Raises
        ------
        WorkspaceError
            If it remembers none.
        """
        values = self.manifest()["parameters"]
        if not values:
            raise WorkspaceError(
                "the run has no parameters yet", where=self.display_path(), hint="Run a notebook first."
            )
        return validate(values, where=self.display_path(MANIFEST))

    def remember(self, profile: str, parameters: Parameters) -> Parameters:
        """Make these the parameters of this run."""
        values = parameters.model_dump()
        with self._manifest_lock():
            manifest = self.manifest()
            if manifest.get("profile") != profile or manifest["parameters"] != values:
                self._save({**manifest, "profile": profile, "parameters": values})
        return parameters


def project_root() -> Path | None:
    """The nearest folder upwards from the current one that holds assl-kit's ``pyproject.toml``, or None."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        file = folder / "pyproject.toml"
        if file.is_file() and re.search(r'^name = "assl-kit"', file.read_text(encoding="utf-8"), re.MULTILINE):
            return folder
    return None


def runs_folder() -> Path:
    """Where runs are kept: the folder ``ASSL_RUNS`` names, else ``runs`` under the project's root or current folder."""
    folder = os.environ.get("ASSL_RUNS")
    return resolved(folder) if folder else (project_root() or Path.cwd()) / "runs"


def find_run(run: str) -> Path | None:
    """The folder of a run, given by its name under `runs_folder` or by its folder; None if there is none."""
    return next((folder for folder in (runs_folder() / run, Path(run)) if (folder / MANIFEST).is_file()), None)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide a result.

    Examples
    --------
    >>> "python" in versions()
    True
    """
    installed = {"python": platform.python_version()}
    for package in _PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            installed[package] = metadata.version(package)
    return installed


def _read(reader: Callable[[Path], Any], path: Path, name: str) -> Any:
    try:
        return reader(path)
    except Exception as error:  # the readers' own errors are of many kinds
        reason = error.what if isinstance(error, AsslError) else type(error).__name__
        raise WorkspaceError(
            f"{name} cannot be read ({reason})", where=name, hint="Delete it and run again."
        ) from error


def experts_folder(ws: Workspace) -> Path:
    """The folder of a run's bank.

    Raises
    ------
    WorkspaceError
        If the run has none yet.
    """
    if not ws.has("experts"):
        hint = "Let notebook 06 finish first: it trains them."
        raise WorkspaceError("the run has no experts yet", where=ws.display_path(), hint=hint)
    return ws.path_of("experts")
