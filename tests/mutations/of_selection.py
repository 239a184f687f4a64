"""Changes of the two stages: budgets, thinning, MMR, duplicates."""

from __future__ import annotations

from .mutation import Mutation as M

_SUMMARY = ("selection/test_redistribute.py::test_summary_and_kept_by",)
_CURVES = ("selection/test_curves.py",)
_DUPLICATES = ("selection/test_duplicates.py",)

MUTATIONS = (
    M(
        "a cluster may give its last place away",
        "selection/budgets.py",
        "budgets[clusters == clusters[i]].sum() > 1]",
        "budgets[clusters == clusters[i]].sum() > 0]",
        ("selection/test_redistribute.py::test_a_cluster_never_gets_the_last_record_of_another",),
    ),
    M(
        "small groups get no place of their own",
        "selection/redistribute.py",
        '{"floor": space.grouped}',
        '{"floor": False}',
        ("selection/test_cells.py::test_a_group_of_one_record_is_chosen",),
    ),
    M(
        "a curve's gain is that of the record after the next",
        "selection/curves.py",
        "(have + 1) ** exponent[i]",
        "(have + 2) ** exponent[i]",
        _CURVES,
    ),
    M(
        "flat curves are served by their place, not by size",
        "selection/curves.py",
        "have / int(sizes[i]), i)",
        "0.0, i)",
        _CURVES,
    ),
    M(
        "the system message is no part of a question",
        "selection/duplicates.py",
        "for name in OPTIONAL:",
        "for name in OPTIONAL[1:]:",
        _DUPLICATES,
    ),
    M(
        "leakage has the same answer wherever that answer is known",
        "selection/duplicates.py",
        "same = np.isin(both[n:], both[:n])",
        "same = np.isin(answer[n:], answer[:n])",
        _DUPLICATES,
    ),
    M(
        "rows of equal ids in any order",
        "selection/ids.py",
        'order = np.argsort(values, kind="stable")',
        "order = np.argsort(values)",
        ("selection/test_ids.py",),
    ),
    M(
        "a long centroid makes relevance weigh more",
        "selection/mmr.py",
        "return values / length",
        "return values",
        ("selection/test_mmr.py::test_equals_the_plain_loop_on_random_rows_with_duplicates",),
    ),
    M(
        "pools are rounded down",
        "selection/redistribute.py",
        "np.ceil(self.pool_factor * budgets - 1e-9)",
        "np.floor(self.pool_factor * budgets + 1e-9)",
        ("selection/test_redistribute.py::test_a_pool_of_parts_is_rounded_up",),
    ),
    M(
        "the densest records are repeated",
        "selection/redistribute.py",
        """np.lexsort((picks, -table["core_distance"].to_numpy()))""",
        """np.lexsort((picks, table["core_distance"].to_numpy()))""",
        ("selection/test_redistribute.py::test_everything_adds_up",),
    ),
    M(
        "another power by default",
        "selection/redistribute.py",
        "budget_power: float = 0.25",
        "budget_power: float = 0.5",
        ("artifacts/test_steps.py::test_a_selection_is_told_the_parameters",),
    ),
    M(
        "copies count as records kept",
        "selection/table.py",
        '"share": kept / available}',
        '"share": copies / available}',
        _SUMMARY,
    ),
    M(
        "the first cluster counts as noise",
        "selection/table.py",
        '(self.table["label"] < 0)',
        '(self.table["label"] <= 0)',
        _SUMMARY,
    ),
    M(
        "records without a score are not counted as excluded",
        "selection/redistribute.py",
        "excluded=int(space.excluded.sum() + np.isnan(scores).sum())",
        "excluded=int(space.excluded.sum())",
        ("selection/test_cells.py::test_excluded_records_are_left_out_and_counted",),
    ),
    M(
        "eps is a quantile of the different rows",
        "selection/adbscan.py",
        "np.quantile(kappa[points.inverse], 0.9)",
        "np.quantile(kappa, 0.9)",
        ("selection/test_adbscan.py::test_fit_equals_plain",),
    ),
    M(
        "min_samples rows are too few for a core",
        "selection/adbscan.py",
        "reach(eps) if n >= m else",
        "reach(eps) if n > m else",
        ("selection/test_adbscan.py::test_fit_equals_plain", "selection/test_adbscan.py::test_degenerate_sizes"),
    ),
)
