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


class LossPicture:
    """A picture of a loss under the cell that trains, drawn anew while training goes on.

    Parameters
    ----------
    title : str
    steps : int
        Where the picture ends on its right.

    Examples
    --------
    >>> picture = LossPicture("a loop", steps=2)
    >>> picture.trained.append((1, 0.7))
    """

    def __init__(self, title: str, steps: int) -> None:
        self.title, self.steps = title, steps
        self.trained: list[tuple[int, float]] = []
        self.held_out: list[tuple[int, float]] = []
        self._picture: DisplayHandle | None = None
        self._drawn = -_EVERY

    def add(self, step: int, trained: float | None = None, held_out: float | None = None) -> None:
        """Take the losses of a step; draw if the last time is long enough ago, or if it is the last step."""
        for points, loss in ((self.trained, trained), (self.held_out, held_out)):
            if loss is not None:
                points.append((step, loss))
        if step >= self.steps or time.monotonic() - self._drawn >= _EVERY:
            self.draw()

    def draw(self) -> None:
        """Draw all that came so far."""
        figure, axes = styled_figure(7.5, 3.4)
        axes.plot(*zip(*self.trained, strict=True) if self.trained else ([], []), marker=".", label="trained on")
        if self.held_out:
            axes.plot(*zip(*self.held_out, strict=True), marker="o", color="black", label="held out")
        axes.set(xlim=(0, self.steps), xlabel="step", ylabel="loss on the answer (nats a token)", title=self.title)
        axes.legend(fontsize=8.5)
        if self._picture is None:
            self._picture = display(figure, display_id=True)
        else:
            self._picture.update(figure)
        plt.close(figure)
        self._drawn = time.monotonic()


class LiveLoss(TrainerCallback):
    """The same picture for a training by transformers' trainer.

    Give it to ``train_adapter`` by ``Session(callbacks=[LiveLoss()])``; without a notebook it prints nothing.

    Parameters
    ----------
    title : str
    """

    def __init__(self, title: str = "Loss while it is trained") -> None:
        self.picture = LossPicture(title, 1)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        """Take what was logged in; draw if the last time is long enough ago."""
        self.picture.steps = state.max_steps
        losses = logs or {}
        self.picture.add(state.global_step, losses.get("loss"), losses.get("eval_loss"))

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Draw what came since the last time."""
        self.picture.draw()
