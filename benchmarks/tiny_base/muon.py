"""Muon: momentum whose matrix is made orthogonal before each step. In float32, matrices of one shape at a time."""

from __future__ import annotations

import torch


class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/) for the hidden matrices of a network.

    PyTorch has one too, which works in bfloat16: ten times slower on a CPU without units for it. The scale of a step,
    0.2 √max(shape), lets it share AdamW's learning rate (Liu et al. 2025, arXiv 2502.16982).

    Parameters
    ----------
    params : iterable of torch.nn.Parameter
        Matrices only.
    lr : float
        Learning rate.
    momentum, weight_decay : float
        Nesterov momentum, and decoupled decay.
    """

    def __init__(self, params, lr: float, momentum: float = 0.95, weight_decay: float = 0.05):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None) -> None:
        """One step."""
        for group in self.param_groups:
            alike: dict[torch.Size, list] = {}
            for weight in group["params"]:
                alike.setdefault(weight.shape, []).append(weight)
                if not self.state[weight]:
                    self.state[weight]["momentum"] = torch.zeros_like(weight)
            for weights in alike.values():
                gradients = [weight.grad for weight in weights]
                means = [self.state[weight]["momentum"] for weight in weights]
                torch._foreach_lerp_(means, gradients, 1 - group["momentum"])
                updates = orthogonal(torch.stack(torch._foreach_lerp(gradients, means, group["momentum"])))
                torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(weights, updates.unbind(), alpha=-group["lr"] * 0.2 * max(weights[0].shape) ** 0.5)


def orthogonal(matrices: torch.Tensor) -> torch.Tensor:
    """Nearly the orthogonal factors of matrices (n, a, b): five Newton-Schulz steps bring singular values near 1."""
    wide = matrices.mT if matrices.shape[-2] > matrices.shape[-1] else matrices
    wide = wide / (torch.linalg.matrix_norm(wide, keepdim=True) + 1e-7)
    for _ in range(5):
        square = wide @ wide.mT
        wide = 3.4445 * wide + (-4.7750 * square + 2.0315 * square @ square) @ wide
    return wide.mT if matrices.shape[-2] > matrices.shape[-1] else wide
