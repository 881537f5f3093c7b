"""Chains of compressors as text: `dropout(0.2)|uniform(8)`.

Calls of the compressors in `table.COMPRESSORS`, joined by `|`, arguments in order or by name. A
number may differ by client: `uniform([4,8,8])` lists them, `uniform(4-8)` spreads them evenly.
`feedback(...)` takes a chain; `none` is the empty one.
"""

import ast
import re
from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jfedsl.compression.buckets import DEFAULT_BUCKET
from jfedsl.compression.compressor import Compressor, chain
from jfedsl.compression.registry import COMPRESSORS, Entry, Parameter, fault
from jfedsl.errors import as_text, close_to
from jfedsl.per_client import PerClient

# From a client's number, which may be traced, to its link.
Link = Callable[[Any], Compressor]


class Call(NamedTuple):
    """One compressor of a chain.

    Attributes:
      name: in the table.
      arguments: words, or numbers of clients.
      inner: the chain that it takes, if any.
    """

    name: str
    arguments: dict[str, str | PerClient]
    inner: tuple["Call", ...] = ()


class Place(NamedTuple):
    """What a place that messages pass allows.

    Attributes:
      batch: whether the first axis of what is sent is a batch.
      feedback: whether what a message lacks may be remembered.
    """

    batch: bool = True
    feedback: bool = True


class ExpressionError(ValueError):
    """What is wrong with an expression, and where: a sentence to follow the expression."""


def parse(text: str, clients: int, place: Place) -> tuple[Call, ...]:
    """Reads an expression and checks it.

    Args:
      text: the expression.
      clients: C, for lists of numbers.
      place: where it is used.

    Raises:
      ExpressionError: names the part that is wrong, where it is and what is allowed.
    """
    reader = _Reader(text, clients, place)
    lead = len(text) - len(text.lstrip())
    for strange in "\n#":
        if strange in text:
            raise reader.wrong_at(text.index(strange))
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        if isinstance(tree, ast.Name) and tree.id == "none":
            return ()
        return reader._replace(lead=lead).chain(tree)
    except (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError) as error:
        if isinstance(error, ExpressionError):
            raise
        raise reader.wrong_at(lead + (getattr(error, "offset", None) or 1) - 1) from None


def build(calls: tuple[Call, ...], clients: int, seed: int) -> Link:
    """The links of clients that an expression describes, as a function of the client's number.

    Args:
      calls: from `parse`.
      clients: C.
      seed: of the order in which ranges are spread.
    """
    links = [link(call, clients, seed) for call in calls]
    return lambda client: chain(*(one(client) for one in links))


def is_unbiased(calls: tuple[Call, ...]) -> bool:
    """Whether what a chain delivers has the expectation of what was sent, for every client."""

    def one(call: Call) -> bool:
        unbiased = COMPRESSORS[call.name].unbiased
        return unbiased if isinstance(unbiased, bool) else unbiased(**call.arguments)

    return all(map(one, calls))


def has_memory(calls: tuple[Call, ...], clients: int) -> bool:
    """Whether a chain keeps a state from one message to the next.

    Args:
      calls: from `parse`.
      clients: C.
    """
    like = jax.ShapeDtypeStruct((1, 1), jnp.float32)
    return bool(jax.tree.leaves(jax.eval_shape(build(calls, clients, 0)(0).init, like)))


def most_extra_bytes(calls: tuple[Call, ...], size: int) -> int:
    """Bytes of headers and of what tells positions, at most, for a tensor of some size."""
    total = 0
    for call in calls:
        names = [parameter.name for parameter in COMPRESSORS[call.name].parameters]
        bucket = _bucket(call) or size or 1
        headers = -(-size // bucket) * 8 if "bucket" in names else 0
        total += headers + size // 8 + 9 + most_extra_bytes(call.inner, size)
    return total


def _bucket(call: Call) -> int:
    given = call.arguments.get("bucket", PerClient((float(DEFAULT_BUCKET),)))
    assert isinstance(given, PerClient)
    return int(given.values[0])


class _Reader(NamedTuple):
    """What reading needs to know everywhere.

    Attributes:
      text: the expression.
      clients: C.
      place: where it is used.
      lead: blanks before the expression.
      remembers: whether this is inside `feedback`.
    """

    text: str
    clients: int
    place: Place
    lead: int = 0
    remembers: bool = False

    def at(self, node: ast.expr | ast.keyword) -> tuple[str, int]:
        """The text of a part, and at which character of the expression it begins, from 1."""
        source = self.text.strip()
        before = source.encode()[: node.col_offset].decode(errors="ignore")
        return as_text(ast.get_source_segment(source, node) or ""), self.lead + len(before) + 1

    def wrong(
        self, text: str, node: ast.expr | ast.keyword, names: Collection[str] = ()
    ) -> ExpressionError:
        """An error: the part at `node` is its subject, `text` its predicate, `names` were meant."""
        snippet, place = self.at(node)
        close = close_to(re.split("[(=]", snippet)[0], names)
        return ExpressionError(f"{snippet} at character {place} {text}{close}")

    def wrong_at(self, place: int) -> ExpressionError:
        form = "compressors are joined by |, as in dropout(0.2)|uniform(8)"
        return ExpressionError(f"syntax error at character {place + 1}; {form}")

    def chain(self, node: ast.expr) -> tuple[Call, ...]:
        """Reads calls joined by |, and checks their order."""
        nodes = list(_joined(node))
        calls = tuple(self.call(one) for one in nodes)
        written = False
        for call, one in zip(calls, nodes, strict=True):
            if written:
                raise self.wrong("follows a compressor that quantizes, which must be the last", one)
            written = _writes(call)
        return calls

    def call(self, node: ast.expr) -> Call:
        named = node.func if isinstance(node, ast.Call) else node
        known = f"must be one of {', '.join(COMPRESSORS)}, or none alone"
        if not isinstance(named, ast.Name) or named.id not in COMPRESSORS:
            raise self.wrong(known, node, [*COMPRESSORS, "none"])
        entry = COMPRESSORS[named.id]
        given = node if isinstance(node, ast.Call) else ast.Call(named, [], [])
        if entry.batch and not self.place.batch:
            raise self.wrong("is for activations and their gradients only", node)
        if entry.scales and self.remembers:
            raise self.wrong("scales what it keeps, which feedback would take for an error", node)
        if entry.nests:
            if not self.place.feedback:
                raise self.wrong("is of no use here, where changes contain what was lost", node)
            if len(given.args) != 1 or given.keywords:
                raise self.wrong("must take one chain of compressors", node)
            return Call(named.id, {}, self._replace(remembers=True).chain(given.args[0]))
        return Call(named.id, self.arguments(entry, named.id, given, node))

    def arguments(
        self, entry: Entry, name: str, given: ast.Call, node: ast.expr
    ) -> dict[str, str | PerClient]:
        form = f"{name}({', '.join(p.name for p in entry.parameters)})"
        parameters = {parameter.name: parameter for parameter in entry.parameters}
        if len(given.args) > len(parameters):
            raise self.wrong(f"is one argument too many for {form}", given.args[len(parameters)])
        named: dict[str, ast.expr] = dict(zip(parameters, given.args, strict=False))
        for keyword in given.keywords:
            if keyword.arg not in parameters:
                raise self.wrong(f"is no argument of {form}", keyword, parameters)
            if keyword.arg in named:
                raise self.wrong(f"gives an argument of {form} a second time", keyword)
            named[keyword.arg] = keyword.value
        missing = [p.name for p in entry.parameters[: entry.required] if p.name not in named]
        if missing:
            raise self.wrong(f"lacks the argument {missing[0]} of {form}", node)
        return {key: self.value(parameters[key], argument) for key, argument in named.items()}

    def value(self, parameter: Parameter, node: ast.expr) -> str | PerClient:
        found = _value(node)
        wrong = parameter.allowed if found is None else fault(parameter, found, self.clients)
        if wrong is not None or found is None:
            snippet, place = self.at(node)
            text = f"{parameter.name} at character {place} must be {wrong}, not {snippet}"
            raise ExpressionError(text + close_to(snippet, parameter.words))
        if found in parameter.batch and not self.place.batch:
            raise self.wrong("is for activations and their gradients only", node)
        return found


def _joined(node: ast.expr) -> Iterator[ast.expr]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        yield from _joined(node.left)
        yield from _joined(node.right)
    else:
        yield node


def _writes(call: Call) -> bool:
    return COMPRESSORS[call.name].writes or any(map(_writes, call.inner))


def _value(node: ast.expr) -> str | PerClient | None:
    """A word, a number, a list of numbers or a range; None for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.List):
        numbers = [_number(one) for one in node.elts]
        return PerClient(tuple(n for n in numbers if n is not None)) if _all(numbers) else None
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub):
        ends = [_number(node.left), _number(node.right)]
        low, high = ends
        if low is None or high is None or low > high:
            return None
        return PerClient((low, high), True)
    single = _number(node)
    return None if single is None else PerClient((single,))


def _all(numbers: list[float | None]) -> bool:
    return bool(numbers) and None not in numbers


def _number(node: ast.expr) -> float | None:
    number = isinstance(node, ast.Constant) and type(node.value) in (int, float)
    return float(node.value) if number else None  # type: ignore[attr-defined]


def link(call: Call, clients: int, seed: int, deployed: bool = False) -> Link:
    """The links of clients for one compressor; see `build`.

    Args:
      call: the compressor.
      clients: C.
      seed: of the order in which ranges are spread.
      deployed: in its deterministic form.
    """
    entry = COMPRESSORS[call.name]
    make = (entry.deployed or entry.make) if deployed else entry.make
    if entry.nests:
        links = [link(inner, clients, seed, deployed) for inner in call.inner]
        return lambda client: make(*(one(client) for one in links))
    whole = {parameter.name: parameter.whole for parameter in entry.parameters}
    values = {
        key: value if isinstance(value, str) else value.spread(clients, seed)
        for key, value in call.arguments.items()
    }
    return lambda client: make(**{k: _of(v, whole[k], client) for k, v in values.items()})


def _of(value: str | np.ndarray, whole: bool, client: Any) -> str | int | float | Array:
    """A client's value: a plain one where all clients have the same."""
    if isinstance(value, str):
        return value
    table = np.rint(value).astype(np.int32) if whole else value.astype(np.float32)
    if np.all(value == value[0]):
        return int(value[0]) if whole else float(value[0])
    return jnp.asarray(table)[client]
