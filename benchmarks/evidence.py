"""The evidence: what the paper claims and leaves open, measured. Writes benchmarks/results/evidence.json.

    python benchmarks/evidence.py                                     embedded corpus, the tiny base, three seeds
    python benchmarks/evidence.py --data FOLDER --base gemma3-270m    CFLEB and FinEval as JSON lines, a real base

Every arm that is finished is kept under --work and not run again. Records of other data and bases already in the
output file stay there. With --affinity only the affinity of tasks is measured and only its records are replaced.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
import warnings
from pathlib import Path

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))


def main(arguments: list[str] | None = None) -> int:
    from evidence_arms import done, plan
    from evidence_study import SETTINGS, Study
    from evidence_summary import affinity_records, records_of
    from joblib import Parallel, delayed, parallel_config
    from tqdm.auto import tqdm

    from assl_kit.device import pick_device

    options = _parser().parse_args(arguments)
    setting = SETTINGS["quick" if options.quick else options.base if options.base in SETTINGS else "gemma3-270m"]
    label = "embedded" if options.data == "embedded" else "CFLEB"
    device = pick_device(options.device).device
    jobs = options.jobs or (min(2, os.cpu_count() or 1) if device == "cpu" else 1)
    studies = [
        Study(options.data, label, options.base, seed, options.work / f"{label}-{Path(options.base).name}" / str(seed),
              device, setting)
        for seed in options.seeds
    ]  # fmt: skip
    start = time.perf_counter()
    with parallel_config("loky", inner_max_num_threads=1 if jobs > 1 else None):
        pool = Parallel(n_jobs=jobs, batch_size=1, return_as="generator_unordered")
        ready = [] if options.affinity else studies
        for _ in tqdm(pool(delayed(_prepare)(study) for study in ready), total=len(ready), desc="prepare"):
            pass
        todo = [(study, job) for study in studies for job in plan(study) if not done(study, job)]
        todo = [(study, job) for study, job in todo if job[0] == "affinity" or not options.affinity]
        todo.sort(key=lambda item: plan(item[0]).index(item[1]))
        for _ in tqdm(pool(delayed(_run)(*item) for item in todo), total=len(todo), desc="arms"):
            pass
        print(f"trained and answered in {(time.perf_counter() - start) / 60:.0f} minutes", flush=True)
        found = affinity_records(studies) if options.affinity else records_of(studies, jobs)
    _write(options.out, found, label, options.base, device, "affinity" if options.affinity else None)
    return 0


def _prepare(study) -> None:
    """What many arms read, made once."""
    warnings.simplefilter("ignore")
    for encoder in study.encoders:
        study.space(encoder)
    study.scores()


def _run(study, job) -> None:
    from evidence_arms import run_job

    warnings.simplefilter("ignore")
    run_job(study, job)


def _write(out: Path, records: list[dict], label: str, base: str, device: str, part: str | None) -> None:
    """Put the records of a data set and base in the place of those of before; with ``part``, of that experiment."""
    from importlib.metadata import version

    from assl_kit.files import read_json, write_json

    kept = read_json(out) if out.is_file() else {"made": {}, "records": []}
    old = (label, base, part)
    kept["records"] = [
        r for r in kept["records"] if (r["data"], r["base"], r["experiment"] if part else None) != old
    ] + records
    versions = {name: version(name) for name in ("assl-kit", "torch", "transformers", "peft", "trl")}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    kept["made"][", ".join(filter(None, old))] = {
        "date": time.strftime("%Y-%m-%d"), "device": device, "machine": platform.machine(), "cores": cores,
        "python": platform.python_version(), "versions": versions,
    }  # fmt: skip
    write_json(out, kept)
    print(f"{len(records)} records of {label} on {base} in {out.name}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="embedded", help="'embedded', or a folder of JSON lines with CFLEB, FinEval")
    parser.add_argument("--base", default="tiny", help="'tiny', 'gemma3-270m', a folder, a GGUF file or a hub id")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--jobs", type=int, default=0, help="processes; default 2 on a CPU, 1 on a GPU")
    parser.add_argument("--quick", action="store_true", help="a sixth of the records, for a try")
    parser.add_argument("--affinity", action="store_true", help="measure only how tasks help each other")
    parser.add_argument("--work", type=Path, default=HERE.parent / "runs" / "evidence", help="for what is finished")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "evidence.json")
    return parser


if __name__ == "__main__":
    sys.exit(main())
