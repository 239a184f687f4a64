"""`Points` on a torch device: half-precision products rule pairs out, float64 measures those left, all of it there.

A row x is split into x̂, its entries rounded to float16, and a rest whose length is known. Then (Cauchy and Schwarz)

    |x·y - x̂·ŷ| ≤ |x - x̂||y| + |x̂||y - ŷ|,

for unit rows about 0.0004, which a product on tensor cores takes a tenth of float32's time for. Pairs that this leaves
open are measured in float64, in the order of ``tiles.squared_distance``, so the results are the CPU's bits. Where it
leaves too many, as among nearly equal rows, the product is made again in float32, whose bound is far tighter.

Nothing here is particular to CUDA: the tests run it on torch's own CPU device. Each search waits for the device once a
block of rows, to learn how many pairs are left, and copies its results once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from assl_kit.common.device import full_float32, torch_device, upload

from . import tiles
from .points import STEP, Points
from .rows import LARGEST, check_rows

if TYPE_CHECKING:
    import torch

ENTRIES = 2**27  # of a block of products: 512 MB as float32
PAIRS = 2**15  # measured together
WAITING = 2**21  # pairs collected before they are measured
MANY = 32  # pairs a row and wanted neighbour beyond which a product is made again in float32
GROUPS = 16  # groups of columns for each wanted neighbour, whose greatest products tell where its threshold is
HALF_SUM = 1.5 * 2.0**-23  # error of a tensor core's sum, a term: beside Σ|terms|
NEVER = -1e30  # less than any product


class DevicePoints(Points):
    """The distinct rows of a matrix, held on a torch device.

    Parameters
    ----------
    X, subset, threads, progress
        As `Points`; one thread drives the device.
    device : str
        A torch device.

    Raises
    ------
    ParameterError
        If the device is not there.
    """

    def __init__(
        self,
        X: np.ndarray,
        subset: np.ndarray | None = None,
        *,
        device: str,
        threads: int = 1,
        progress: bool = False,
    ) -> None:
        self.device = torch_device(device)
        self.rows: Any  # the distinct rows there; None after `detach`, as what follows
        self.half: Any  # the same as the products take them: float16, with columns that make distances of products
        self.shares: Any
        self.errors: Any
        super().__init__(X, subset, threads=threads, progress=progress)
        self.threads = 1
        self._halve()

    def detach(self) -> None:
        """As `Points.detach`; what the device holds goes too."""
        self.X = self.rows = self.half = self.shares = self.errors = None

    def attach(self, X: np.ndarray) -> None:
        """As `Points.attach`; the device gets the rows again."""
        self.X = X
        self._send(self.source[self.first])
        self._halve()

    def _project(self) -> None:
        """No short vectors here."""

    def _arrange(self) -> None:
        """Nor an order, which serves them only."""

    def _tensor(self, values: Any) -> torch.Tensor:
        import torch

        return torch.as_tensor(values, device=self.device)

    def _send(self, at: np.ndarray) -> None:
        """Let the device hold these rows of X."""
        whole = len(at) == len(self.X) and bool((at == np.arange(len(at))).all())
        starts = range(0, len(at), STEP)
        blocks = (self.X[a : a + STEP] if whole else self.X[at[a : a + STEP]] for a in starts)
        self.rows = upload(blocks, (len(at), self.X.shape[1]), self.device)

    def _parts(self, count: int) -> list[slice]:
        return [slice(start, start + PAIRS) for start in range(0, count, PAIRS)]

    def _fold(self) -> None:
        import torch

        self._send(self.source)
        n, d = self.rows.shape
        odd = (
            np.random.default_rng(0).integers(-(2**62), 2**62, d) * 2 + 1
        )  # a digest is a sum of multiples: any will do
        words, digests, squared, most = self._tensor(odd), [], [], []
        total = torch.zeros(d, dtype=torch.float64, device=self.device)
        for part in self._parts(n):
            rows = self.rows[part] + 0.0  # no -0
            digests.append((rows.view(torch.int32) * words).sum(dim=1))
            exact = rows.double()
            total += exact.sum(dim=0)
            squared.append(exact.square_().sum(dim=1))
            most.append(rows.abs().amax())
        digest = torch.cat(digests)
        in_order = digest.sort().values
        if bool((in_order[1:] == in_order[:-1]).any()):
            self._group(digest.cpu().numpy().view(np.uint64))
            self.rows = self.rows[self._tensor(self.first)]
        else:
            self.first = self.inverse = np.arange(n)
            self.counts = np.ones(n, np.int64)
        largest = float(torch.stack(most).amax())
        if not largest <= LARGEST:  # or NaN
            check_rows(self.X, convert=False)  # which names the row
        self._frame(torch.cat(squared).cpu().numpy(), total.cpu().numpy() / n, largest)

    def _spread(self) -> float:
        import torch

        parts = [(self.rows[part] - self._tensor(self.centre)).abs().amax() for part in self._parts(len(self))]
        return float(torch.stack(parts).amax())

    def _squares(self) -> np.ndarray:
        import torch

        parts = [self._centred(part).double().square_().sum(dim=1) for part in self._parts(len(self))]
        return torch.cat(parts).cpu().numpy()

    def _centred(self, rows: Any) -> torch.Tensor:
        """As `Points.centred`, by number, of the rows there."""
        if self.centre is None:
            return self.rows[rows]
        return (self.rows[rows] - self._tensor(self.centre)) * float(self.scale)

    def _halve(self) -> None:
        """Round the rows to float16, and bound what that and the sums of a product can change.

        The product of a row of ``half`` and another, whose extra columns are swapped, is ``x̂·ŷ - h(x) - h(y)``: with
        h = |x|²/2 less ``middle / 2`` that is ``middle - |x - y|²/2``, in units of ``unit``. Taking the middle away
        leaves nothing of h where all rows have one length, and so nothing that a sum could lose.
        """
        import torch

        (u, d), longest = self.rows.shape, np.sqrt(self.squared.max())
        self.power = 2.0 ** (7 - int(np.frexp(longest)[1])) if longest else 1.0  # float16 holds 2^-24 to 65504
        self.unit = self.power**2 * self.scale_squared
        h = self.squared * self.power**2 / 2
        self.middle = h.max() + h.min()
        h -= self.middle / 2
        one = h.astype(np.float16)
        two = (h - one).astype(np.float16)
        lost = np.abs(h - one - two).max()
        self.half = torch.zeros((u, -(-(d + 4) // 8) * 8), dtype=torch.float16, device=self.device)
        self.half[:, d + 2 : d + 4] = 1.0
        self.half[:, d] = self._tensor(-one)
        self.half[:, d + 1] = self._tensor(-two)
        rest = []
        for part in self._parts(u):
            rows = self._centred(part) * self.power
            self.half[part, :d] = rows.half()
            rest.append((rows - self.half[part, :d].float()).double().square_().sum(dim=1))
        gone = torch.cat(rest).sqrt().cpu().numpy()
        norm = np.sqrt(self.squared) * self.power
        far, most = norm.max(), gone.max()
        # Tensor cores cut off, at each step, what is below 2^-23 of the greatest of four or more terms and their sum so
        # far (Fasi et al. 2021, "Numerical behavior of NVIDIA tensor cores"), none of which exceeds the sum of sizes.
        sizes = (norm + gone) * (far + most) + np.abs(h) + np.abs(h).max()
        both = (norm + far) ** 2
        error = gone * far + (norm + gone) * most + 2 * lost + self.half.shape[1] * HALF_SUM * sizes + 2.0**-21 * both
        self.shares = self._tensor(h.astype(np.float32))
        self.errors = self._tensor(np.stack([error, self.bound * both / 2 + 2.0**-23 * both]).astype(np.float32))

    def _closeness(self, rows: Any, columns: Any, precise: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """``middle - |x - y|²/2`` of each row and column, and for each row a bound of the error of that.

        Rows and columns are numbers, or slices of them; ``precise`` makes the product in float32.
        """
        import torch

        error = self.errors[int(precise)][rows]
        with full_float32():
            if precise:
                x, y = self._centred(rows) * self.power, self._centred(columns) * self.power
                return torch.addmm(-self.shares[columns], x, y.T).sub_(self.shares[rows][:, None]), error
            d = self.rows.shape[1]
            left, right = self.half[rows], self.half[columns]
            left = torch.cat([left[:, :d], left[:, d + 2 : d + 4], left[:, d : d + 2], left[:, d + 4 :]], dim=1)
            if self.device.type == "cuda" and hasattr(torch.ops.aten.mm, "dtype"):
                return torch.mm(left, right.T, out_dtype=torch.float32), error
            return left.float() @ right.float().T, error

    def _bar(self, limit: np.ndarray) -> torch.Tensor:
        """What the closeness of a pair within these squared radii is at least."""
        return self._tensor(np.maximum(self.middle - limit * (self.unit / 2), NEVER).astype(np.float32))

    def _most(self, close: torch.Tensor, error: torch.Tensor) -> torch.Tensor:
        """Squared distances, in float64, that pairs of this closeness are surely not beyond."""
        return (self.middle - close.double() + error.double()) * (2 / self.unit)

    def _squared(self, numbers: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        """As `Points.distances`, there."""
        import torch

        out = torch.empty(len(numbers), dtype=torch.float64, device=self.device)
        for part in self._parts(len(numbers)):
            terms = self.rows[numbers[part]].double()
            terms.sub_(self.rows[others[part]]).square_()
            n = terms.shape[1]  # halves added to halves, as `tiles.squared_distance` does
            while n > 1:
                half = (n + 1) // 2
                terms[:, : n - half].add_(terms[:, half:n])
                n = half
            out[part] = terms[:, 0]
        return out

    def distances(self, numbers: np.ndarray, others: np.ndarray) -> np.ndarray:
        """As `Points.distances`."""
        return self._squared(self._tensor(numbers), self._tensor(others)).cpu().numpy()

    def neighbours(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k ≥ 1 nearest others of each row: squared distances ascending, and numbers, which settle ties."""
        import torch

        u = len(self)
        step = max(1, ENTRIES // u)
        lists: list[tuple[torch.Tensor, torch.Tensor]] = []
        waiting: list[tuple[torch.Tensor, torch.Tensor]] = []
        first = 0
        for start in range(0, u, step):
            stop = min(start + step, u)
            waiting.append(self._around(slice(start, stop), k))
            if stop == u or sum(len(i) for i, _ in waiting) > WAITING:
                i, j = (torch.cat(parts) for parts in zip(*waiting, strict=True))
                squared = self._squared(i, j)
                order = squared.sort(stable=True).indices  # j ascends, so equal ones stay in order of number
                order = order[i[order].sort(stable=True).indices]
                begin = torch.searchsorted(i, torch.arange(first, stop, device=self.device))
                best = order[begin[:, None] + torch.arange(k, device=self.device)]
                lists.append((squared[best], j[best]))
                waiting, first = [], stop
        squared, index = (torch.cat(parts).cpu().numpy() for parts in zip(*lists, strict=True))
        return squared, index

    def _around(self, rows: slice, k: int, precise: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        """Pairs of these rows and others, in order, among which the k nearest of each row are."""
        close, error = self._closeness(rows, slice(None), precise)
        close.diagonal(rows.start).fill_(NEVER)
        i, j = (close >= (_kth(close, k) - 2 * error)[:, None]).nonzero(as_tuple=True)
        if len(i) > MANY * k * len(close) and not precise:
            return self._around(rows, k, precise=True)
        return i + rows.start, j

    def nearest(
        self, rows: np.ndarray, columns: np.ndarray, rules: tiles.Rules, grouped: bool, any_one: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """For each row the nearest column by the rules, or any that they allow, and its squared distance or a bound."""
        import torch

        step = max(1, ENTRIES // len(columns))
        parts = [self._search(rows[a : a + step], columns, rules, grouped, any_one) for a in range(0, len(rows), step)]
        numbers, squared = torch.cat(parts, dim=1).cpu().numpy()
        return numbers.astype(np.int64), squared

    def _search(
        self, rows: np.ndarray, columns: np.ndarray, rules: tiles.Rules, grouped: bool, any_one: bool,
        precise: bool = False,
    ) -> torch.Tensor:  # fmt: skip
        import torch

        r, c = self._tensor(rows), self._tensor(columns)
        limit_r, limit_c = self._tensor(rules.limit[rows]), self._tensor(rules.limit[columns])
        close, error = self._closeness(r, c, precise or any_one)
        out = r[:, None] == c
        if grouped:
            out |= self._tensor(rules.group[rows])[:, None] != self._tensor(rules.group[columns])
        if len(rules.place):
            out |= self._tensor(rules.place[columns]) >= self._tensor(rules.place[rows])[:, None]
        close.masked_fill_(out, 2 * NEVER)
        room = close - torch.maximum(self._bar(rules.limit[rows])[:, None], self._bar(rules.limit[columns]))
        near = room >= -error[:, None]
        if any_one:
            surest, at = room.max(dim=1)
            sure = surest >= error
            near &= ~sure[:, None]
        else:
            near &= close >= (close.masked_fill(room < error[:, None], 2 * NEVER).amax(dim=1) - 2 * error)[:, None]
        i, j = near.nonzero(as_tuple=True)
        if len(i) > MANY * len(r) and not (precise or any_one):
            return self._search(rows, columns, rules, grouped, any_one, precise=True)
        squared = self._squared(r[i], c[j])
        squared[squared > torch.minimum(limit_r[i], limit_c[j])] = torch.inf
        least = torch.full((len(r),), torch.inf, dtype=torch.float64, device=self.device)
        least.scatter_reduce_(0, i, squared, "amin")
        far = torch.iinfo(torch.int64).max
        tie = torch.where((squared == least[i]) & (squared < torch.inf), self._tensor(rules.tie[columns])[j], far)
        first = torch.full((len(r),), far, device=self.device).scatter_reduce_(0, i, tie, "amin")
        number = torch.where((tie == first[i]) & (tie < far), c[j], -1)
        number = torch.full((len(r),), -1, device=self.device).scatter_reduce_(0, i, number, "amax")
        if any_one:
            most = self._most(close.gather(1, at[:, None])[:, 0], error)
            most = torch.minimum(most, torch.minimum(limit_r, limit_c[at]))
            number, least = torch.where(sure, c[at], number), torch.where(sure, most, least)
        return torch.stack([number.double(), least])

    def greedy(
        self, rows: np.ndarray, limit: np.ndarray, group: np.ndarray, hint: np.ndarray, hint_squared: np.ndarray,
        state: np.ndarray,
    ) -> None:  # fmt: skip
        """As `Points.greedy`, from the pairs that the device finds within reach."""
        import torch

        r, bar, most = self._tensor(rows), self._bar(limit[rows]), self._tensor(limit[rows])
        names = self._tensor(group[rows])
        close, error = self._closeness(r, r, True)
        room = close - torch.maximum(bar[:, None], bar)
        near = (room >= -error[:, None]) & (names[:, None] == names)
        i, j = near.triu_(1).nonzero(as_tuple=True)
        squared = torch.minimum(self._most(close[i, j], error[i]), torch.minimum(most[i], most[j]))
        open_yet = (room[i, j] < error[i]).nonzero()[:, 0]
        squared[open_yet] = self._squared(r[i[open_yet]], r[j[open_yet]])
        pairs = torch.stack([i.double(), j.double(), squared]).cpu().numpy()
        decision = tiles.Decision(limit, group, hint, hint_squared, state)
        tiles.greedy_pairs(rows, pairs[0].astype(np.int64), pairs[1].astype(np.int64), pairs[2], decision)

    def unite(self, numbers: np.ndarray, limit: np.ndarray, parent: np.ndarray) -> None:
        """Unite in ``parent`` the sets of rows within the lesser of their squared radii."""
        rows, bar = self._tensor(numbers), self._bar(limit[numbers])
        step = max(1, ENTRIES // len(numbers))
        for start in range(0, len(numbers), step):
            names = self._tensor(tiles.roots(parent, numbers))
            self._unite_block(numbers, rows, bar, names, slice(start, start + step), limit, parent)

    def _unite_block(
        self, numbers: np.ndarray, rows: torch.Tensor, bar: torch.Tensor, names: torch.Tensor, a: slice,
        limit: np.ndarray, parent: np.ndarray, precise: bool = False,
    ) -> None:  # fmt: skip
        """Unite rows of the places ``a`` with those of these and later places."""
        import torch

        close, error = self._closeness(rows[a], rows[a.start :], precise)
        near = close >= (bar[a] - error)[:, None]
        near &= names[a][:, None] != names[a.start :]
        near &= close.add_(error[:, None]) >= bar[a.start :]
        i, j = near.nonzero(as_tuple=True)
        if len(i) > MANY * len(close) and not precise:
            return self._unite_block(numbers, rows, bar, names, a, limit, parent, precise=True)
        sure = close[i, j] >= torch.maximum(bar[a][i], bar[a.start :][j]) + 2 * error[i]
        at, other, sure = torch.stack([i, j, sure.long()]).cpu().numpy() + np.array([[a.start], [a.start], [0]])
        one, two, sure = numbers[at], numbers[other], sure > 0
        tiles.unite(parent, one[sure], two[sure])
        one, two = one[~sure], two[~sure]
        apart = tiles.roots(parent, one) != tiles.roots(parent, two)
        one, two = one[apart], two[apart]
        linked = self.distances(one, two) <= np.minimum(limit[one], limit[two])
        tiles.unite(parent, one[linked], two[linked])
        return None


def _kth(close: torch.Tensor, k: int) -> torch.Tensor:
    """For each row a value that at least k entries reach, near the k-th greatest.

    The k-th greatest of the greatest of groups of columns: that needs a sort of some groups only.
    """
    import torch

    size = min(32, max(1, close.shape[1] // (GROUPS * k)))
    width = close.shape[1] // size
    greatest = close[:, : size * width].unflatten(1, (size, width)).amax(dim=1)
    return torch.cat([greatest, close[:, size * width :]], dim=1).topk(k, dim=1).values[:, -1]
