"""Several adapters on one model, each token computed with its own, in one pass.

The thin matrices of all adapters lie side by side as one pair (as S-LoRA and Punica have it, arXiv:2311.03285 and
2310.18547, without kernels of their own). All tokens are multiplied by the first; of the result each token keeps the
columns of its own adapter, the others become zero; then all are multiplied by the second. So a mixed batch costs two
more products for each matrix, however many adapters there are; their size grows with the ranks of all of them.

What a token gets depends on no other token of the pass, to the last bit, where the products are packed: the columns of
other adapters add zeros to its sums. A token without an adapter gets what the model alone gives.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from components.model.adapters.stacked_rows import StackedRows
from components.model.adapters.unmerged import Change, Unmerged
from components.model.packed_product import Product, ProductWith, product_with
from components.model.transformer import Transformer

_NO_CHANGE = Change()


@dataclass(frozen=True)
class Chosen:
    """Which adapter each token of a pass has."""

    numbers: Int[Tensor, " tokens"]
    """Counted from one; 0 for none."""
    own: Sequence[Float[Tensor, "tokens columns"]]
    """1 in the columns of a token's own adapter and 0 in the others, for every way in which these lie."""


@dataclass(frozen=True)
class _Thin:
    """The thin matrices of all adapters for one place of a block."""

    down: ProductWith
    up: ProductWith
    columns: int
    """Whose columns are where: a position of ``Chosen.own``."""


@dataclass(frozen=True)
class Correction:
    """What the adapters make of one product of a block."""

    thin: _Thin | None
    inputs: Float[Tensor, "adapters inputs"] | None
    """A row for each adapter, and a first row of ones."""
    outputs: Float[Tensor, "adapters outputs"] | None

    def __call__(
        self, multiply: Product, rows: Float[Tensor, "tokens inputs"], chosen: Chosen
    ) -> Float[Tensor, "tokens outputs"]:
        """``multiply(rows)``, each row with its own adapter."""
        found = multiply(rows if self.inputs is None else rows * self.inputs[chosen.numbers])
        if self.thin is not None:
            found = self.thin.up(self.thin.down(rows, chosen.own[self.thin.columns]), found)
        return found if self.outputs is None else found * self.outputs[chosen.numbers]


class AdapterStack:
    """Adapters of one model, laid out to compute with. For one thread."""

    def __init__(self, model: Transformer, adapters: Sequence[Unmerged]) -> None:
        """``model``: whose device and dtype the weights get."""
        self._adapters = adapters
        self._like = model.output_weight
        self._columns: dict[tuple[int, ...], int] = {}
        self.rows = StackedRows([adapter.rows for adapter in adapters], self._like)
        """Their rows of the embedding and of the head."""
        self._last: tuple[tuple[int, ...], Chosen] | None = None

    def correction(self, matrices: Mapping[str, nn.Linear]) -> Correction | None:
        """Of the product by these matrices, which have the same input, by name; ``None`` if no adapter changes it."""
        changes = [[adapter.changes.get(name, _NO_CHANGE) for name in matrices] for adapter in self._adapters]
        if all(change is _NO_CHANGE for of_one in changes for change in of_one):
            return None
        sizes = [each.out_features for each in matrices.values()]
        inputs = [next((each.inputs for each in of_one if each.inputs is not None), None) for of_one in changes]
        outputs = [_side_by_side(of_one, sizes) for of_one in changes]
        return Correction(self._thin(changes, sizes), self._table(inputs), self._table(outputs))

    def chosen(self, numbers: Sequence[int]) -> Chosen | None:
        """For a pass over tokens of these adapters; ``None`` if none of them has one."""
        if not any(numbers):
            return None
        key = tuple(numbers)
        if self._last is None or self._last[0] != key:  # the next token of the same texts: the same again
            self._last = key, self._chosen(torch.tensor(key, device=self._like.device))
        return self._last[1]

    def _chosen(self, numbers: Int[Tensor, " tokens"]) -> Chosen:
        owners = [torch.tensor(columns, device=numbers.device) for columns in self._columns]
        return Chosen(numbers, [(each == numbers[:, None]).to(self._like.dtype) for each in owners])

    def _thin(self, changes: Sequence[Sequence[Change]], sizes: Sequence[int]) -> _Thin | None:
        downs, ups, owners = list[Tensor](), list[Tensor](), list[int]()
        for number, of_one in enumerate(changes, start=1):
            for at, change in enumerate(of_one):
                if change.down is not None and change.up is not None:
                    downs.append(change.down)
                    ups.append(F.pad(change.up, (0, 0, sum(sizes[:at]), sum(sizes[at + 1 :]))))
                    owners += [number] * len(change.down)
        if not downs:
            return None
        columns = self._columns.setdefault(tuple(owners), len(self._columns))
        down, up = torch.cat(downs).to(self._like), torch.cat(ups, dim=1).to(self._like)
        return _Thin(product_with(down, "mul"), product_with(up, "add"), columns)

    def _table(self, factors: Sequence[Tensor | None]) -> Tensor | None:
        known = next((each for each in factors if each is not None), None)
        if known is None:
            return None
        ones = torch.ones_like(known)
        return torch.stack([ones, *(ones if each is None else each for each in factors)]).to(self._like)


def _side_by_side(changes: Sequence[Change], sizes: Sequence[int]) -> Float[Tensor, " outputs"] | None:
    """The factors of the outputs of one adapter; ``None`` if it has none."""
    known = next((change.outputs for change in changes if change.outputs is not None), None)
    if known is None:
        return None
    both = zip(changes, sizes, strict=True)
    return torch.cat([known.new_ones(size) if each.outputs is None else each.outputs for each, size in both])
