"""Changes of a run's artifacts: parameters, keys, builders, the workspace."""

from __future__ import annotations

from .mutation import Mutation as M

_KEYS = ("artifacts/test_steps.py::test_a_key_counts_what_its_builder_reads_and_nothing_else",)
_SELECTION = ("artifacts/test_steps.py::test_a_selection_is_told_the_parameters",)
_TRAINING = ("artifacts/test_steps.py::test_a_training_is_told_the_parameters",)
_WORKSPACE = ("artifacts/test_workspace.py",)
_PARAMETERS = ("artifacts/test_parameters.py",)

MUTATIONS = (
    M(
        "the key of answers without n_test",
        "artifacts/steps.py",
        '(*_ANSWERING, "min_similarity", "n_test", "seed")',
        '(*_ANSWERING, "min_similarity", "seed")',
        _KEYS,
    ),
    M(
        "the key of the selection without mmr_scale",
        "artifacts/steps.py",
        '_MMR = (*_WEIGHTS, "mmr_scale")',
        "_MMR = _WEIGHTS",
        _KEYS,
    ),
    M(
        "what an artifact notes is not shared with it",
        "artifacts/steps.py",
        "{part: parts[part] for part in step.notes if part in parts}",
        "{}",
        ("runner/test_sweep.py::test_what_an_artifact_notes_is_shared_with_it",),
    ),
    M(
        "an answer as long as longest_answer is too long",
        "artifacts/build_data.py",
        "if len(answer) > most:",
        "if len(answer) >= most:",
        ("runner/test_left_out.py::test_an_answer_as_long_as_may_be_stays",),
    ),
    M(
        "one record for each group is not enough",
        "artifacts/build_data.py",
        'parameters.selection == "default" and wanted < n_groups:',
        'parameters.selection == "default" and wanted <= n_groups:',
        ("runner/test_place.py::test_the_embedded_corpus_has_bounds_too",),
    ),
    M(
        "all records cannot be chosen",
        "artifacts/build_data.py",
        "if not parameters.n_clusters <= wanted <= n:",
        "if not parameters.n_clusters <= wanted < n:",
        ("artifacts/test_steps.py::test_too_few_or_too_many_to_choose",),
    ),
    M(
        "unmeasured curves rise as the mean one",
        "artifacts/build_evaluation.py",
        "curves.loc[unknown, name] = curves[name].median()",
        "curves.loc[unknown, name] = curves[name].mean()",
        ("artifacts/test_steps.py::test_a_curve_that_was_not_measured_rises_as_the_middle_one",),
    ),
    M(
        "all records of a source count as kept",
        "artifacts/build_evaluation.py",
        'kept=("copies", "count")',
        'kept=("copies", "size")',
        ("artifacts/test_steps.py::test_metrics_cover_every_arm_and_task",),
    ),
    M(
        "the seed does not reach the referee",
        "artifacts/build_evaluation.py",
        'by="group", n_draws=p.referee_draws, curves=True, seed=p.seed)',
        'by="group", n_draws=p.referee_draws, curves=True)',
        ("artifacts/test_steps.py::test_the_referee_is_told_copies_draws_and_seed",),
    ),
    M(
        "a step of several parts has several times its records",
        "artifacts/build_experts.py",
        "p.train_batch_size // p.gradient_accumulation,",
        "p.train_batch_size,",
        _TRAINING,
    ),
    M(
        "alpha is the rank",
        "artifacts/build_experts.py",
        '"alpha": p.lora_alpha',
        '"alpha": p.lora_rank',
        _TRAINING,
    ),
    M(
        "the hardest records are not left out",
        "artifacts/build_experts.py",
        "*alike, tail=p.score_tail)",
        "*alike)",
        ("artifacts/test_steps.py::test_the_hardest_of_those_alike_are_left_out",),
    ),
    M(
        "the seed does not reach the clusters",
        "artifacts/build_space.py",
        "random_state=p.seed",
        "random_state=0",
        _KEYS,
    ),
    M(
        "relevance and diversity change places",
        "artifacts/build_selection.py",
        "weights=(p.mmr_relevance, p.mmr_score, p.mmr_diversity)",
        "weights=(p.mmr_diversity, p.mmr_score, p.mmr_relevance)",
        _SELECTION,
    ),
    M(
        "a pool factor of 1.5 is too small for scores",
        "artifacts/parameters.py",
        "self.mmr_score > 0 and self.pool_factor < 1.5:",
        "self.mmr_score > 0 and self.pool_factor <= 1.5:",
        _PARAMETERS,
    ),
    M(
        "a run is created anew with every entry",
        "artifacts/workspace.py",
        'manifest.setdefault("created", datetime.now(timezone.utc).isoformat(timespec="seconds"))',
        'manifest["created"] = datetime.now(timezone.utc).isoformat(timespec="seconds")',
        _WORKSPACE,
    ),
    M(
        "two processes write the manifest at once",
        "artifacts/workspace.py",
        "        with self._manifest_lock():\n            manifest = self.manifest()\n            manifest[part]",
        "        if True:\n            manifest = self.manifest()\n            manifest[part]",
        ("artifacts/test_workspace.py::test_an_entry_that_comes_while_another_is_written_is_kept",),
    ),
)
