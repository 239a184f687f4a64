"""The card of a bank on the hub: base, data, licence and results in its head, experts and how to open it below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from assl_kit.common.cards import as_text, table
from assl_kit.common.hub import HUB_ID


def bank_card(
    info: Mapping[str, Any],
    repo_id: str,
    *,
    license: str = "unknown",
    datasets: Sequence[str] = (),
    scores: Sequence[Mapping[str, Any]] = (),
) -> str:
    """The README.md of a bank.

    Parameters
    ----------
    info : mapping
        The content of ``bank.json``.
    repo_id : str
        ``owner/name``.
    license : str
        The hub's short name of a licence.
    datasets : sequence of str
        Hub ids of what it was trained on.
    scores : sequence of mapping
        ``task``, ``metric``, ``value`` and optionally ``n`` of each measured task: the results in the head.

    Examples
    --------
    >>> experts = [{"name": "expert-0", "tasks": {"qa": 12}}]
    >>> info = {"base": {"id": "Qwen/Qwen2.5-0.5B"}, "encoder": {"id": "fit", "dim": 256}, "experts": experts}
    >>> print(bank_card(info, "me/bank").split("---")[1].strip().splitlines()[0])
    base_model: Qwen/Qwen2.5-0.5B
    """
    from huggingface_hub import EvalResult, ModelCardData

    base, name = str(info["base"]["id"]), repo_id.split("/")[-1]
    on = list(datasets) or ["unknown"]
    results = [
        EvalResult(
            task_type="text-generation",
            task_name=str(score["task"]),
            dataset_type=on[0],
            dataset_name=f"{score['task']}, held-out questions",
            dataset_config=str(score["task"]),  # what tells the results of one data set apart
            dataset_split="test",
            metric_type=str(score["metric"]),
            metric_value=round(float(score["value"]), 4),
        )
        for score in scores
    ]
    is_on_hub = bool(HUB_ID.match(base))
    head = ModelCardData(
        base_model=base if is_on_hub else None,
        base_model_relation="adapter" if is_on_hub else None,
        datasets=list(datasets) or None,
        license=license,
        library_name="peft",
        pipeline_tag="text-generation",
        tags=["lora", "mixture-of-experts", "assl-kit"],
        metrics=sorted({str(score["metric"]) for score in scores}) or None,
        model_name=name if results else None,
        eval_results=results or None,
    )
    return f"---\n{head.to_yaml()}\n---\n\n" + "\n\n".join(_body(info, repo_id, base, scores)) + "\n"


def _body(info: Mapping[str, Any], repo_id: str, base: str, scores: Sequence[Mapping[str, Any]]) -> list[str]:
    experts = info["experts"]
    rows = [
        [
            expert["name"],
            sum(expert.get("tasks", {}).values()),
            ", ".join(f"{t} {n}" for t, n in expert.get("tasks", {}).items()),
        ]
        for expert in experts
    ]
    parts = [
        f"# {as_text(repo_id.split('/')[-1])}",
        f"{len(experts)} LoRA experts on {as_text(base)}, and a router: a question goes to the expert whose centroid "
        f"is nearest in the space of the encoder {as_text(info['encoder']['id'])}. Trained with "
        "[assl-kit](https://arxiv.org/abs/2404.04949) (adaptive semantic space learning).",
        "```python\nfrom assl_kit import SilverSight\n\n"
        f'silversight = SilverSight.from_pretrained("{repo_id}")\nsilversight.generate(["…"])\n```',
        f"Each expert is an ordinary PEFT adapter in a folder of its own: "
        f'`PeftModel.from_pretrained(base, "{repo_id}", subfolder="expert-0")`.',
        "## Experts\n\n" + table(["expert", "records", "tasks"], rows),
    ]
    if scores:
        shown = [
            [score["task"], score["metric"], int(score.get("n") or 0), f"{score['value']:.3f}"] for score in scores
        ]
        parts.append("## Results\n\n" + table(["task", "measure", "questions", "value"], shown))
    return parts
