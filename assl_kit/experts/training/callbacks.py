"""What goes along with a training: the stop when nothing improves, the progress bar, TensorBoard's files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tqdm import tqdm
from transformers import EarlyStoppingCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from assl_kit.common.packages import need


class Patience(EarlyStoppingCallback):
    """Early stopping that stays stopped: a training resumed after its stop, but before its adapter was written, ends.

    The trainer looks for the stop only after a step; that step is neither logged, measured nor saved.
    """

    def _over(self) -> bool:
        return self.early_stopping_patience_counter >= self.early_stopping_patience

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.too_late = self._over()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.too_late:
            control.should_log = control.should_evaluate = control.should_save = False
            control.should_training_stop = True


class Steps(TrainerCallback):
    """Moves a bar from ``start`` on by the steps of one training, and names it with its loss."""

    def __init__(self, bar: tqdm, name: str):
        self.bar, self.name, self.start = bar, name, bar.n

    def _show(self, step: int) -> None:
        self.bar.update(self.start + step - self.bar.n)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.bar.set_description(self.name)
        self._show(state.global_step)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._show(state.global_step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        names = {"loss": "loss", "eval_loss": "held_out"}
        shown = {names[key]: f"{float(value):.3f}" for key, value in (logs or {}).items() if key in names}
        if shown:
            self.bar.set_postfix(shown)


def tensorboard(folder: Path) -> TrainerCallback:
    """The library's callback, writing into ``folder``.

    Raises
    ------
    ParameterError
        If the package tensorboard is not installed.
    """
    from transformers.integrations import TensorBoardCallback

    check_tensorboard()
    from torch.utils.tensorboard import SummaryWriter

    return TensorBoardCallback(SummaryWriter(str(folder)))


def check_tensorboard() -> None:
    """Refuse TensorBoard where it is not installed, with a ``ParameterError``."""
    need("tensorboard", "tensorboard=true", "train", name="TensorBoard", instead="set tensorboard=false")
