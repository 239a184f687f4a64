"""Training as it goes: the loss while it falls."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from IPython.display import display
from matplotlib import pyplot as plt
from transformers import TrainerCallback

from .style import styled_figure

if TYPE_CHECKING:
    from IPython.display import DisplayHandle

_EVERY = 1.0  # seconds between two drawings: drawing takes time from training


class LiveLoss(TrainerCallback):
    """A picture of the loss under the cell that trains, drawn anew while training goes on.

    Give it to ``train_adapter`` by ``Session(callbacks=[LiveLoss()])``; without a notebook it prints nothing.

    Parameters
    ----------
    title : str
    """

    def __init__(self, title: str = "Loss while it is trained") -> None:
        self.title = title
        self.trained: list[tuple[int, float]] = []
        self.held_out: list[tuple[int, float]] = []
        self._picture: DisplayHandle | None = None
        self._drawn = -_EVERY

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        """Take what was logged in; draw if the last time is long enough ago."""
        for name, points in (("loss", self.trained), ("eval_loss", self.held_out)):
            if logs and name in logs:
                points.append((state.global_step, logs[name]))
        if time.monotonic() - self._drawn >= _EVERY:
            self._draw(state.max_steps)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Draw what came since the last time."""
        self._draw(state.max_steps)

    def _draw(self, steps: int) -> None:
        figure, axes = styled_figure(7.5, 3.4)
        axes.plot(*zip(*self.trained, strict=True) if self.trained else ([], []), marker=".", label="trained on")
        if self.held_out:
            axes.plot(*zip(*self.held_out, strict=True), marker="o", color="black", label="held out")
        axes.set(xlim=(0, steps), xlabel="step", ylabel="loss on the answer (nats a token)", title=self.title)
        axes.legend(fontsize=8.5)
        if self._picture is None:
            self._picture = display(figure, display_id=True)
        else:
            self._picture.update(figure)
        plt.close(figure)
        self._drawn = time.monotonic()
