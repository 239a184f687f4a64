"""Changes of the experts: routing, banks, merging, training, answering."""

from __future__ import annotations

from .mutation import Mutation as M

_ROUTER = ("experts/test_router.py",)
_BANK = ("experts/test_bank.py",)
_ALTERNATIVES = ("experts/test_alternatives.py",)
_AGAIN = ("experts/test_train_experts.py::test_finished_is_not_trained_again_unless_something_changed",)

MUTATIONS = (
    M(
        "copies do not weigh in a centroid",
        "experts/router.py",
        "np.add.at(means, clusters, X * repeats[:, None])",
        "np.add.at(means, clusters, X)",
        _ROUTER,
    ),
    M(
        "a router takes 0 for no min_similarity",
        "experts/router.py",
        "floor = self.min_similarity if min_similarity is None else check_min_similarity(min_similarity)",
        "floor = check_min_similarity(min_similarity or self.min_similarity)",
        _ROUTER,
    ),
    M(
        "half of the usual similarity is no bound",
        "experts/router.py",
        "min(least, usual / 2)",
        "min(least, usual)",
        _ROUTER,
    ),
    M(
        "a bank without a floor abstains below 0",
        "experts/bank.py",
        "floor = -1.0 if origin.min_similarity is None",
        "floor = 0.0 if origin.min_similarity is None",
        _BANK,
    ),
    M(
        "a bank takes 0 for no min_similarity",
        "experts/bank.py",
        "floor = self.min_similarity if min_similarity is None else min_similarity",
        "floor = min_similarity or self.min_similarity",
        _BANK,
    ),
    M(
        "the adapter that was active stays off after a merge",
        "experts/merging.py",
        "            peft_model.set_adapter(before, inference_mode=True)\n",
        "",
        ("experts/test_merging.py::test_nothing_is_left_behind",),
    ),
    M(
        "unknown words count as known",
        "experts/silversight.py",
        "encode(self.encoder, questions), known=known, min_similarity",
        "encode(self.encoder, questions), min_similarity",
        ("experts/test_silversight.py::test_questions_go_to_the_expert_of_their_kind",),
    ),
    M(
        "a stream forgets min_similarity",
        "experts/silversight.py",
        "max_length=max_length)\n        routes = self.route(questions, min_similarity=min_similarity)",
        "max_length=max_length)\n        routes = self.route(questions)",
        ("experts/test_silversight.py::test_below_min_similarity_the_base_answers",),
    ),
    M(
        "two threads ask the model at once",
        "experts/silversight.py",
        "        with self._lock:\n",
        "        if True:\n",
        ("experts/test_silversight.py::test_threads_answer_one_after_the_other",),
    ),
    M(
        "experts are resumed though that is not asked for",
        "experts/train_experts.py",
        'name=f"expert {k}", resume=workplace.resume, base_fingerprint',
        'name=f"expert {k}", base_fingerprint',
        ("experts/test_train_experts.py::test_experts_are_told_whether_to_resume",),
    ),
    M(
        "a bank with another floor is taken as it is",
        "experts/train_experts.py",
        "        and bank.min_similarity == origin.min_similarity\n",
        "",
        ("experts/test_train_experts.py::test_a_bank_of_the_same_inputs_is_taken_as_it_is",),
    ),
    M(
        "the base is no part of an adapter's fingerprint",
        "experts/training/data.py",
        "sha256_of([self.input_ids, self.labels, settings, base_fingerprint])",
        "sha256_of([self.input_ids, self.labels, settings])",
        _AGAIN,
    ),
    M(
        "the seed is no part of an adapter's fingerprint",
        "experts/training/config.py",
        "if key not in _HOW}",
        'if key not in (*_HOW, "seed")}',
        _AGAIN,
    ),
    M(
        "eight records are too few to hold out",
        "experts/training/data.py",
        "if n < LEAST_HELD_OUT:",
        "if n <= LEAST_HELD_OUT:",
        ("experts/test_training.py::test_no_copy_of_a_held_out_record_is_trained_on",),
    ),
    M(
        "an interrupted training of anything else is gone on with",
        "experts/training/adapter.py",
        "mark.is_file() and read_json(mark) == fingerprint:",
        "mark.is_file():",
        ("experts/test_train_experts.py::test_an_interrupted_training_is_not_gone_on_with_by_another",),
    ),
    M(
        "the first loss shown is the last",
        "experts/training_table.py",
        """"first_loss": [r.log["loss"].iloc[0]""",
        """"first_loss": [r.log["loss"].iloc[-1]""",
        ("experts/test_training.py::test_the_table_has_one_row_per_expert",),
    ),
    M(
        "a learned router answers what should go to the base",
        "experts/alternatives/learned_router.py",
        "np.where(routes.experts < 0, -1, chosen)",
        "chosen",
        _ALTERNATIVES,
    ),
    M(
        "evolution keeps its last child",
        "experts/alternatives/composition.py",
        "        if better:\n",
        "        if True:\n",
        _ALTERNATIVES,
    ),
    M(
        "adapters are compared by A alone",
        "experts/alternatives/adapter_groups.py",
        "((B1.T @ B2) * (A1 @ A2.T)).sum()",
        "(A1 @ A2.T).sum()",
        _ALTERNATIVES,
    ),
    M(
        "examples stand before the system message",
        "experts/alternatives/few_shot.py",
        "[*system, *examples, *question[len(system) :]]",
        "[*examples, *question]",
        _ALTERNATIVES,
    ),
)
