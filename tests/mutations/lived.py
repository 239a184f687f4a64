"""The changes that every test let live when they were tried first, where the code is today."""

from __future__ import annotations

from .mutation import Mutation as M

_RATES = ("experts/test_train_experts.py::test_the_learning_rate_rises_and_falls_as_a_cosine",)
_ALARM = ("runner/test_report.py::test_every_notebook_that_did_not_finish_has_an_alarm",)
_VERDICTS = ("benchmarks/test_evidence.py::test_what_is_judged_by_seeds_has_its_thresholds",)

MUTATIONS = (
    M(
        "the largest cluster gets the place that is left, not the largest remainder",
        "selection/budgets.py",
        "np.lexsort((np.arange(len(sizes)), -(share - budgets)))",
        "np.lexsort((np.arange(len(sizes)), -sizes))",
        ("selection/test_redistribute.py::test_budgets_by_hand",),
    ),
    M(
        "an interval of 90 % passes as one of 95 %",
        "evaluation/intervals.py",
        'arm: str = "answers",\n    n_bootstrap: int = 1000,\n    seed: int = 0,\n    level: float = 0.95,',
        'arm: str = "answers",\n    n_bootstrap: int = 1000,\n    seed: int = 0,\n    level: float = 0.9,',
        ("evaluation/test_intervals.py::test_the_bounds_of_an_interval_are_its_quantiles",),
    ),
    M(
        "100.5 is as good as 100",
        "evaluation/metrics.py",
        "return abs(a - b) <= 1e-6 * max(1.0, abs(a))",
        "return abs(a - b) <= 1e-2 * max(1.0, abs(a))",
        ("evaluation/test_metrics.py::test_scores_by_hand",),
    ),
    M(
        "an artifact's key without its parents' hashes",
        "artifacts/steps.py",
        """parents = {parent: made[STEPS[parent].file]["sha256"] for parent in step.parents}""",
        "parents = dict.fromkeys(step.parents)",
        ("artifacts/test_steps.py::test_a_parameter_of_the_parent_alone_makes_the_child_again",),
    ),
    M(
        "an artifact's key by the path of its data",
        "artifacts/steps.py",
        "values[parameter] = sha256_file(values[parameter])",
        "values[parameter] = str(values[parameter])",
        ("artifacts/test_steps.py::test_the_same_path_with_other_data_makes_all_again",),
    ),
    M(
        "a notebook's key without its own values",
        "runner/resume.py",
        '"values": plan.values_for(book) | {name: values[name] for name in sorted(named)}',
        '"values": {name: values[name] for name in sorted(named)}',
        ("runner/test_run.py::test_a_notebook_runs_again_when_a_value_of_its_own_changes",),
    ),
    M(
        "a notebook's key without its inputs",
        "runner/resume.py",
        '"inputs": {name: made.get(STEPS[name].file, {}).get("sha256") for name in inputs}',
        '"inputs": inputs',
        ("runner/test_run.py::test_a_notebook_runs_again_where_its_input_was_made_anew_by_another",),
    ),
    M(
        "learning rates fall along a line",
        "experts/training/trainer.py",
        'lr_scheduler_type="cosine"',
        'lr_scheduler_type="linear"',
        _RATES,
    ),
    M(
        "no warm-up",
        "experts/training/trainer.py",
        "warmup_steps=round(config.warmup_ratio * plan.steps)",
        "warmup_steps=0",
        _RATES,
    ),
    M(
        "gradients are not clipped",
        "experts/training/trainer.py",
        "max_grad_norm=config.max_grad_norm",
        "max_grad_norm=0.0",
        ("experts/test_train_experts.py::test_gradients_are_clipped",),
    ),
    M(
        "rows of length 2 stay as an encoder gave them",
        "space/encoder.py",
        "off = np.abs(lengths - 1) > 1e-6",
        "off = np.abs(lengths - 1) > 1e6",
        ("space/test_encoder.py::test_rows_of_any_length_become_unit_rows",),
    ),
    M(
        "TF-IDF rows keep their lengths before the SVD",
        "space/static_encoder.py",
        "normalize(sublinear @ diags(idf)), rank",
        "sublinear @ diags(idf), rank",
        ("space/test_encoder.py::test_a_long_text_counts_no_more_than_a_short_one",),
    ),
    M(
        "a bank's centroids may have any length",
        "experts/bank_check.py",
        "np.linalg.norm(centroids, axis=1), 1, atol=1e-3",
        "np.linalg.norm(centroids, axis=1), 1, atol=10",
        ("experts/test_bank.py::test_centroids_of_another_length_are_refused",),
    ),
    M(
        "a question exactly at min_similarity is left to the base",
        "experts/router.py",
        "np.where(best < np.float32(floor), -1, nearest)",
        "np.where(best <= np.float32(floor), -1, nearest)",
        ("experts/test_router.py::test_below_min_similarity_the_base_answers_alone",),
    ),
    M(
        "'a' and 'a ' are two texts",
        "data/splits.py",
        'records["input"].str.strip() != "", records["instruction"]).str.strip()',
        'records["input"].str.strip() != "", records["instruction"])',
        ("data/test_splits.py::test_white_space_around_a_text_makes_no_other_text",),
    ),
    M(
        "tied rows of a pool are picked in the order of rows",
        "selection/redistribute.py",
        """work = work[~np.isnan(scores)].sort_values("order")""",
        "work = work[~np.isnan(scores)]",
        ("selection/test_redistribute.py::test_tied_rows_of_a_pool_are_picked_by_id_in_any_order_of_rows",),
    ),
    M(
        "a dropped row is represented by a later one",
        "selection/thinning.py",
        '{"place": self.place, "group": self.labels}, np.isin(np.arange(u), self.visit)',
        '{"group": self.labels}, np.isin(np.arange(u), self.visit)',
        ("selection/test_adbscan.py::test_cover",),
    ),
    M(
        "crowding is not divided by the radius",
        "selection/thinning.py",
        "ratio = np.sqrt(squared[some]) / self.radii[rows]",
        "ratio = np.sqrt(squared[some])",
        ("selection/test_adbscan.py::test_surplus_rows_go_where_rows_are_crowded_beside_their_radius",),
    ),
    M(
        "the search for the thinning scale ends early",
        "selection/thinning.py",
        "TOLERANCE = 1e-6",
        "TOLERANCE = 5e-2",
        ("selection/test_adbscan.py::test_the_scale_is_found_to_a_millionth",),
    ),
    M(
        "files take their place before they are on the disk",
        "common/files.py",
        "os.fsync(handle.fileno())",
        "handle.flush()",
        ("common/test_files.py::test_all_is_on_the_disk_before_it_takes_its_place",),
    ),
    M(
        "no alarm for an interrupted notebook",
        "runner/report.py",
        'if note.get("status") != "done":',
        'if note.get("status") not in ("done", "interrupted"):',
        _ALARM,
    ),
    M(
        "no alarm for a notebook that was broken off",
        "runner/report.py",
        'if note.get("status") != "done":',
        'if note.get("status") not in ("done", "running"):',
        _ALARM,
    ),
    M(
        "routing 70 % of questions home counts as mostly",
        "teaching/evidence.py",
        '"mostly" if values.mean() >= 0.8',
        '"mostly" if values.mean() >= 0.6',
        _VERDICTS,
    ),
    M(
        "regrets of 0 and 0.08 count as none",
        "teaching/evidence.py",
        '"holds" if high <= CLOSE else',
        '"holds" if low <= CLOSE else',
        _VERDICTS,
    ),
)
