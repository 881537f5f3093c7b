"""What of a transformer is trained: everything, low-rank adapters (LoRA), or nothing.

Hu et al. 2021, arXiv 2106.09685.
"""

from typing import NamedTuple

# Short names of the projections of a block: attention, then the two or three of the MLP.
PROJECTIONS = ("q", "k", "v", "o", "gate", "up", "down")
ALL = "all"  # in the place of their names


class Form(NamedTuple):
    """How one projection is stored and trained.

    Attributes:
      trained: whether kernel and bias are parameters; else they are frozen.
      storage: of a frozen kernel, one of `weight_only.STORAGES`.
      rank: r, of its adapter; 0 for none.
      alpha: the adapter's product is multiplied by alpha / r.
      fixed_a: whether the adapter's first factor is frozen, as drawn (arXiv 2403.12313).
    """

    trained: bool = True
    storage: str = "float32"
    rank: int = 0
    alpha: float = 1.0
    fixed_a: bool = False


class Adapter(NamedTuple):
    """What is trained of a transformer's layers on one side of the cut.

    >>> Adapter("lora", rank=4, alpha=8.0, on=("q", "v")).form("q").rank
    4

    Attributes:
      kind: none, full (all weights) or lora (adapters beside frozen weights). A head for
        classes is trained in any case.
      rank: r, the rank of every adapter.
      alpha: the product of an adapter's factors is multiplied by alpha / r.
      on: names of the projections with an adapter, among `PROJECTIONS`, or `ALL`.
      norms: whether scales and biases of normalisation are trained beside adapters.
      storage: of frozen weights, one of `weight_only.STORAGES`.
      fixed_a: whether the first factor of every adapter is frozen, as drawn.
    """

    kind: str = "full"
    rank: int = 0
    alpha: float = 1.0
    on: tuple[str, ...] = ()
    norms: bool = False
    storage: str = "float32"
    fixed_a: bool = False

    def form(self, name: str) -> Form:
        """How the projection of this name is stored and trained; `""` for one without adapters."""
        if self.kind == "full":
            return Form()
        has_adapter = name != "" and (name in self.on or self.on == (ALL,))
        rank = self.rank if self.kind == "lora" and has_adapter else 0
        return Form(False, self.storage, rank, self.alpha, self.fixed_a)

    @property
    def trains_norms(self) -> bool:
        """Whether scales and biases of normalisation are parameters."""
        return self.kind == "full" or (self.kind == "lora" and self.norms)
