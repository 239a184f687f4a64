"""`Points` on a torch device: half-precision products rule pairs out, float64 measures those left, all of it there.

A row x is split into x̂, its entries rounded to float16, and a rest whose length is known. Then (Cauchy and Schwarz)

    |x·y - x̂·ŷ| ≤ |x - x̂||y| + |x̂||y - ŷ|,

for unit rows about 0.0004, which a product on tensor cores takes a tenth of float32's time for. Pairs that this leaves
open are measured in float64, in the order of ``tiles.squared_distance``, so the results are the CPU's bits. Where it
leaves too many, as among nearly equal rows, the product is made again in float32, whose bound is far tighter.

Nothing here is particular to CUDA: the tests run it on torch's own CPU device. A search waits for the device twice a
block of rows, to learn how many pairs are left, and copies its results once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from assl_kit.common.device import full_float32, torch_device, upload

from . import tiles
from .points import STEP, Points
from .rows import LARGEST, check_rows

if TYPE_CHECKING:
    import torch

ENTRIES = 2**28  # of a block of products: 1 GB as float32
PAIRS = 2**15  # measured together
WAITING = 2**21  # pairs collected before they are measured
MOST = 2**22  # groups looked into together
GROUP, GROUPS = 32, 16  # columns of a group at most; groups for each wanted neighbour at least
HALF_SUM = 1.5 * 2.0**-23  # error of a tensor core's sum, a term: beside Σ|terms|
NEVER = -1e30  # less than any product


class Asked(NamedTuple):
    """Rows that a search is about, and what `tiles.Rules` says of them; ``bar`` is the limit as a closeness."""

    number: torch.Tensor
    group: torch.Tensor
    place: torch.Tensor
    tie: torch.Tensor
    limit: torch.Tensor
    bar: torch.Tensor


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
        self, X: np.ndarray, subset: np.ndarray | None = None, *, device: str, threads: int = 1, progress: bool = False
    ) -> None:  # fmt: skip
        self.device = torch_device(device)
        self.rows: Any  # the distinct rows there; None after `detach`, as what `_halve` makes of them
        self.half: Any
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

    def rows_beside(self, columns: int) -> int:
        """How many rows go into a block of products with so many columns."""
        return max(1, ENTRIES // max(1, columns))

    def _parts(self, count: int) -> list[slice]:
        return [slice(start, start + PAIRS) for start in range(0, count, PAIRS)]

    def _fold(self) -> None:
        import torch

        self._send(self.source)
        n, d = self.rows.shape
        odd = np.random.default_rng(0).integers(-(2**62), 2**62, d) * 2 + 1  # a digest is a sum of multiples
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
        squared = self._tensor(self.squared) * self.power**2
        self.middle = float(self.squared.max() + self.squared.min()) * self.power**2 / 2
        h = (squared - self.middle) / 2
        one = h.half()
        two = (h - one.double()).half()
        lost = (h - one.double() - two.double()).abs().amax()
        self.half = torch.zeros((u, -(-(d + 4) // 8) * 8), dtype=torch.float16, device=self.device)
        self.half[:, d], self.half[:, d + 1], self.half[:, d + 2 : d + 4] = -one, -two, 1.0
        rest = []
        for part in self._parts(u):
            rows = self._centred(part) * self.power
            self.half[part, :d] = rows.half()
            rest.append((rows - self.half[part, :d].float()).double().square_().sum(dim=1))
        gone, norm = torch.cat(rest).sqrt(), squared.sqrt()
        far, most = norm.amax(), gone.amax()
        # Tensor cores cut off, at each step, what is below 2^-23 of the greatest of four or more terms and their sum so
        # far (Fasi et al. 2021, "Numerical behavior of NVIDIA tensor cores"), none of which exceeds the sum of sizes.
        sizes = (norm + gone) * (far + most) + h.abs() + h.abs().amax()
        both = (norm + far) ** 2
        error = gone * far + (norm + gone) * most + 2 * lost + self.half.shape[1] * HALF_SUM * sizes + 2.0**-21 * both
        self.shares = h.float()
        self.errors = torch.stack([error, self.bound * both / 2 + 2.0**-23 * both]).float()

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

    def _bar(self, limit: torch.Tensor) -> torch.Tensor:
        """What the closeness of a pair within these squared radii is at least."""
        return (self.middle - limit * (self.unit / 2)).clamp(min=NEVER).float()

    def _most(self, close: torch.Tensor, error: torch.Tensor) -> torch.Tensor:
        """Squared distances, in float64, that pairs of this closeness are surely not beyond."""
        return (self.middle - close.double() + error.double()) * (2 / self.unit)

    def _squared(self, numbers: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        """As `Points.distances`, there."""
        import torch

        out = torch.empty(len(numbers), dtype=torch.float64, device=self.device)
        for part in self._parts(len(numbers)):
            out[part] = tiles.halved_squares(self.rows[numbers[part]].double().sub_(self.rows[others[part]]))
        return out

    def distances(self, numbers: np.ndarray, others: np.ndarray) -> np.ndarray:
        """As `Points.distances`."""
        return self._squared(self._tensor(numbers), self._tensor(others)).cpu().numpy()

    def neighbours(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k ≥ 1 nearest others of each row: squared distances ascending, and numbers, which settle ties."""
        import torch

        u, lists, waiting, first = len(self), [], [], 0
        step = self.rows_beside(u)
        for start in range(0, u, step):
            stop = min(start + step, u)
            waiting += self._around(slice(start, stop), k)
            if stop == u or sum(map(len, waiting)) > WAITING:
                pairs = torch.cat(waiting).sort().values  # by row, then by number
                i, j = pairs // u, pairs % u
                once, at = torch.unique(torch.minimum(i, j) * u + torch.maximum(i, j), return_inverse=True)
                squared = self._squared(once // u, once % u)[at]
                order = squared.sort(stable=True).indices  # equal ones stay in order of number
                order = order[i[order].sort(stable=True).indices]
                begin = torch.searchsorted(i, torch.arange(first, stop, device=self.device))
                best = order[begin[:, None] + torch.arange(k, device=self.device)]
                lists.append((squared[best], j[best]))
                waiting, first = [], stop
        squared, index = (torch.cat(parts).cpu().numpy() for parts in zip(*lists, strict=True))
        return squared, index

    def _around(self, rows: slice, k: int, precise: bool = False) -> list[torch.Tensor]:
        """Pairs of these rows and others, as ``row · u + number``, among which the k nearest of each row are."""
        u = len(self)
        close, error = self._closeness(rows, slice(None), precise)
        close.diagonal(rows.start).fill_(NEVER)
        size = min(GROUP, max(1, u // (GROUPS * k)))
        greatest = tiles.group_greatest(close, size)
        # The k-th greatest of the greatest of groups: k entries reach it, few besides, and only groups are sorted.
        low = greatest.topk(k, dim=1).values[:, -1] - 2 * error
        row, group = (greatest >= low[:, None]).nonzero(as_tuple=True)
        if not precise and tiles.too_many(row, close, k):
            return self._around(rows, k, precise=True)
        if len(row) > MOST and len(close) > 1:
            middle = rows.start + len(close) // 2
            halves = slice(rows.start, middle), slice(middle, rows.stop)
            return [pairs for half in halves for pairs in self._around(half, k, precise)]
        i, j = tiles.group_entries(close, row, group, size, low)
        return [(i + rows.start) * u + j]

    def nearest(
        self, rows: np.ndarray, columns: np.ndarray, rules: tiles.Rules, grouped: bool, any_one: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """For each row the nearest column by the rules, or any that they allow, and its squared distance or a bound."""
        import torch

        step = self.rows_beside(len(columns))
        ours, theirs = self._asked(rows, rules), self._asked(columns, rules)
        kind = grouped, len(rules.place) > 0, any_one
        parts = [
            self._search(Asked(*(x[a : a + step] for x in ours)), theirs, *kind) for a in range(0, len(rows), step)
        ]
        numbers, squared = torch.cat(parts, dim=1).cpu().numpy()
        return numbers.astype(np.int64), squared

    def _asked(self, numbers: np.ndarray, rules: tiles.Rules) -> Asked:
        """What the rules say of rows, sent at once: each copy to a device costs as much as a search of a few rows."""
        place = rules.place[numbers] if len(rules.place) else numbers
        values = np.stack([numbers, rules.group[numbers], place, rules.tie[numbers], rules.limit[numbers]])
        there = self._tensor(values)
        number, group, place, tie = there[:4].long()
        return Asked(number, group, place, tie, there[4], self._bar(there[4]))

    def _search(
        self, r: Asked, c: Asked, grouped: bool, sequence: bool, any_one: bool, precise: bool = False
    ) -> torch.Tensor:
        import torch

        close, error = self._closeness(r.number, c.number, precise or any_one)
        out = c.place >= r.place[:, None] if sequence else c.number == r.number[:, None]
        if grouped:
            out |= c.group != r.group[:, None]
        close.masked_fill_(out, 2 * NEVER)
        room = close - torch.maximum(r.bar[:, None], c.bar)
        if any_one:
            surest, at = room.max(dim=1)
            open_yet = ((surest < error) & (surest >= -error)).nonzero()[:, 0]
            i, j = (room[open_yet] >= -error[open_yet, None]).nonzero(as_tuple=True)
            i = open_yet[i]
        else:
            least = close.masked_fill(room < error[:, None], 2 * NEVER).amax(dim=1) - 2 * error
            i, j = ((room >= -error[:, None]) & (close >= least[:, None])).nonzero(as_tuple=True)
            if not precise and tiles.too_many(i, close):
                return self._search(r, c, grouped, sequence, any_one, precise=True)
        squared = self._squared(r.number[i], c.number[j])
        squared[squared > torch.minimum(r.limit[i], c.limit[j])] = torch.inf
        nearest = torch.full_like(r.limit, torch.inf).scatter_reduce_(0, i, squared, "amin")
        none = torch.full_like(r.number, torch.iinfo(torch.int64).max)
        tie = torch.where((squared == nearest[i]) & (squared < torch.inf), c.tie[j], none[:1])
        first = none.scatter_reduce(0, i, tie, "amin")
        number = torch.where((tie == first[i]) & (tie < none[:1]), c.number[j], -1)
        number = torch.full_like(r.number, -1).scatter_reduce_(0, i, number, "amax")
        if any_one:
            most = self._most(close.gather(1, at[:, None])[:, 0], error)
            most, sure = torch.minimum(most, torch.minimum(r.limit, c.limit[at])), surest >= error
            number, nearest = torch.where(sure, c.number[at], number), torch.where(sure, most, nearest)
        return torch.stack([number.double(), nearest])

    def greedy(
        self, rows: np.ndarray, limit: np.ndarray, group: np.ndarray, hint: np.ndarray, hint_squared: np.ndarray,
        state: np.ndarray,
    ) -> None:  # fmt: skip
        """As `Points.greedy`: again and again those are kept that no earlier undecided row covers."""
        import torch

        there = self._tensor(np.stack([rows, group[rows], state[rows], limit[rows]]))
        r, most, bar = there[0].long(), there[3], self._bar(there[3])
        close, error = self._closeness(r, r, True)
        room = close - torch.maximum(bar[:, None], bar)
        room.masked_fill_(there[1][:, None] != there[1], 2 * NEVER)
        covers = (room >= error[:, None]).triu_(1)
        i, j = ((room.abs() < error[:, None]) | (room == -error[:, None])).triu_(1).nonzero(as_tuple=True)
        covers[i, j] = self._squared(r[i], r[j]) <= torch.minimum(most[i], most[j])
        kept, by = tiles.first_kept(covers.float(), (there[2] != 2).float())
        at = torch.arange(len(r), device=self.device)
        squared = torch.minimum(self._most(close[by, at], error[by]), torch.minimum(most[by], most))
        kept_here, by_here, squared_here = torch.stack([kept.double(), by.double(), squared]).cpu().numpy()
        gone = (kept_here == 0) & (state[rows] != 2)
        state[rows[kept_here > 0]], state[rows[gone]] = 1, 2
        hint[rows[gone]], hint_squared[rows[gone]] = rows[by_here.astype(np.int64)[gone]], squared_here[gone]

    def linked(
        self, numbers: np.ndarray, names: np.ndarray, count: int, reach: np.ndarray, precise: bool = False
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Pairs of the first ``count`` rows and all rows, of different names, that may lie within both squared radii.

        Gives places among the numbers, and which pairs surely lie so. Rows of one name should stand together: then
        groups of columns mostly have one name, and few are looked into.
        """
        import torch

        size = GROUP if len(numbers) >= 2 * GROUP else 1
        width = len(numbers) // size
        inner = size * width
        order = np.arange(len(numbers))  # columns, so that a group is of rows side by side
        order[:inner] = order[:inner].reshape(width, size).T.ravel()
        least, most, easy = (
            np.concatenate([extreme(values[:inner].reshape(width, size), axis=1), values[inner:]])
            for values, extreme in ((names, np.min), (names, np.max), (reach, np.max))
        )
        row, name_r, bar_r = map(self._tensor, (numbers[:count], names[:count], reach[:count]))
        column, name, bar_c = map(self._tensor, (numbers[order], names[order], reach[order]))
        bar_r, bar_c = self._bar(bar_r), self._bar(bar_c)
        close, error = self._closeness(row, column, precise)
        greatest = tiles.group_greatest(close, size) + error[:, None]
        near = (self._tensor(least) != name_r[:, None]) | (self._tensor(most) != name_r[:, None])
        near &= (greatest >= bar_r[:, None]) & (greatest >= self._bar(self._tensor(easy)))
        i, group = near.nonzero(as_tuple=True)
        if not precise and tiles.too_many(i, close, GROUP):
            yield from self.linked(numbers, names, count, reach, precise=True)
            return
        if len(i) > MOST and count > 1:
            for a, part in ((0, count // 2), (count // 2, count - count // 2)):
                for i, j, sure in self.linked(numbers[a:], names[a:], part, reach[a:], precise):
                    yield i + a, j + a, sure
            return
        i, j = tiles.group_entries(close, i, group, size, bar_r - error)
        room = close[i, j] - torch.maximum(bar_r[i], bar_c[j])
        near = (room >= -error[i]) & (name_r[i] != name[j])
        i, j, sure = torch.stack([i, j, (room >= error[i]).long()])[:, near].cpu().numpy()
        yield i, order[j], sure > 0
