"""Changes of the runner: plans, notebooks one after the other, reports, comparisons, sweeps, chosen files."""

from __future__ import annotations

from .mutation import Mutation as M

_REPORT = ("runner/test_report.py",)
_COMPARE = ("runner/test_compare.py",)
_OWN = ("runner/test_run.py::test_numbers_of_a_notebook_alone_have_the_kind_and_the_least_value_that_fits",)
_AT_WORK = ("runner/test_run.py::test_a_notebook_at_work_is_noted_and_an_interrupt_too",)

MUTATIONS = (
    M(
        "an interval that touches 0 is beyond it",
        "runner/choice.py",
        '''"better than" if row["low"] > 0 else''',
        '''"better than" if row["low"] >= 0 else''',
        _REPORT,
    ),
    M(
        "as good as the majority counts as better",
        "runner/choice.py",
        "best.get(task, 0.0) <= score]",
        "best.get(task, 0.0) < score]",
        _REPORT,
    ),
    M(
        "equal scores in the order of rows",
        "runner/choice.py",
        '''sort_values(["raw", "id"], ascending=[False, True])''',
        '''sort_values("raw", ascending=False, kind="stable")''',
        _REPORT,
    ),
    M(
        "questions with another right answer are compared",
        "runner/compare.py",
        '''(records["split"] == "test") & (records["output"] == records["output B"])''',
        '''records["split"] == "test"''',
        _COMPARE,
    ),
    M(
        "a difference is A - B",
        "runner/compare.py",
        '''both["B"].astype(float) - both["A"].astype(float)''',
        '''both["A"].astype(float) - both["B"].astype(float)''',
        _COMPARE,
    ),
    M(
        "a notebook that was broken off runs for ever",
        "runner/manifest_rows.py",
        'note.get("status") == "running" and not running else',
        'note.get("status") == "running" and running else',
        _REPORT,
    ),
    M(
        "small negative numbers are shown as 0",
        "runner/page.py",
        "0 < abs(value) < 0.01",
        "0 < value < 0.01",
        _REPORT,
    ),
    M(
        "one draw is too few",
        "runner/plan.py",
        "name in LEAST and value < LEAST[name]:",
        "name in LEAST and value <= LEAST[name]:",
        _OWN,
    ),
    M(
        "a notebook's number takes no whole number",
        "runner/plan.py",
        " or (kind is float and type(value) is int)):",
        "):",
        _OWN,
    ),
    M(
        "data once read serves for another test share",
        "runner/plan.py",
        '"base_model", "test_share", "seed")',
        '"base_model", "seed")',
        ("runner/test_sweep.py::test_a_sweep_keeps_away_from_runs_and_data_is_read_once",),
    ),
    M(
        "an interrupted notebook counts as failed",
        "runner/run.py",
        'note: dict[str, Any] = {"status": "interrupted"}',
        'note: dict[str, Any] = {"status": "failed"}',
        _AT_WORK,
    ),
    M(
        "a notebook at work is not noted",
        "runner/run.py",
        '    ws.update_manifest("notebooks", {book.name: {"status": "running", **declared}})\n',
        "",
        _AT_WORK,
    ),
    M(
        "the bounds of a sweep's intervals change places",
        "runner/sweep.py",
        '''f"{arm} low": row["low"], f"{arm} high": row["high"]}''',
        '''f"{arm} low": row["high"], f"{arm} high": row["low"]}''',
        ("runner/test_sweep.py::test_the_results_of_a_job_are_those_of_its_artifacts",),
    ),
    M(
        "a group of the choice for a target gets as much as a large one",
        "runner/selecting/choose.py",
        "Redistributor(budget_power=1.0, verbose=progress) if for_target",
        "Redistributor(verbose=progress) if for_target",
        ("runner/test_select_file.py::test_a_choice_for_a_target_is_nearer_to_it",),
    ),
    M(
        "a copy of a chosen record is called near",
        "runner/selecting/reasons.py",
        '''    kind[duplicates.exact] = "exact"\n''',
        "",
        ("runner/test_select_file.py::test_duplicates_are_dropped_before_the_choice",),
    ),
    M(
        "who stands for a record may be of another group",
        "runner/selecting/choose.py",
        "for part in (where.cells(), where.group_numbers(), np.zeros(n, np.int64)):",
        "for part in (where.cells(), np.zeros(n, np.int64)):",
        ("runner/test_select_file.py::test_every_record_has_its_reason",),
    ),
    M(
        "leakage into the choice counts all training records",
        "runner/selecting/select.py",
        '{"chosen": int(chosen[asked].sum())}',
        '{"chosen": len(asked)}',
        ("runner/test_select_file.py::test_leakage_into_the_choice_counts_chosen_records_only",),
    ),
)  # fmt: skip
