"""Chains of compressors as text: `dropout(0.2)|uniform(8)`.

An expression joins calls of the compressors in `registry.COMPRESSORS` by `|`. Arguments are given
in order or by name. A number may differ between clients: `uniform([4,8,8])` lists the clients'
numbers, `uniform(4-8)` spreads a range evenly over clients. `feedback(...)` takes a chain; `none`
is the empty chain.
"""

import ast
import re
from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from jfedsl.compression.buckets import DEFAULT_BUCKET
from jfedsl.compression.compressor import Compressor, chain
from jfedsl.compression.registry import COMPRESSORS, Entry, Parameter, fault
from jfedsl.errors import as_text, close_to
from jfedsl.per_client import PerClient

# From a client's number, which may be traced, to its compressor.
ClientCompressor = Callable[[Any], Compressor]


class Call(NamedTuple):
    """One compressor of a chain.

    Attributes:
      name: its name in the table.
      arguments: by name, as written: words, or numbers for all clients.
      inner: the chain that it takes as its argument, if any.
    """

    name: str
    arguments: dict[str, str | PerClient]
    inner: tuple["Call", ...] = ()


class Constraints(NamedTuple):
    """What is allowed at one of the points of an exchange where compressors act.

    Attributes:
      batch: whether the first axis of the tensor is a batch.
      feedback: whether error feedback is allowed.
    """

    batch: bool = True
    feedback: bool = True


class ExpressionError(ValueError):
    """What is wrong with an expression, and where: a sentence to follow the expression."""


def parse(text: str, clients: int, constraints: Constraints) -> tuple[Call, ...]:
    """Reads an expression and checks it.

    Args:
      text: the expression.
      clients: C, for lists of numbers.
      constraints: what is allowed where the expression is used.

    Raises:
      ExpressionError: names the part that is wrong, where it is and what is allowed.
    """
    reader = _Reader(text, clients, constraints)
    lead = len(text) - len(text.lstrip())
    for forbidden in "\n#":  # Python's parser would accept them
        if forbidden in text:
            raise reader.wrong_at(text.index(forbidden))
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        if isinstance(tree, ast.Name) and tree.id == "none":
            return ()
        return reader._replace(lead=lead).chain(tree)
    except (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError) as error:
        if isinstance(error, ExpressionError):
            raise
        raise reader.wrong_at(lead + (getattr(error, "offset", None) or 1) - 1) from None


def build(calls: tuple[Call, ...], clients: int, seed: int) -> ClientCompressor:
    """The compressor that an expression describes, as a function of the client's number.

    Args:
      calls: from `parse`.
      clients: C.
      seed: of the random order in which ranges are spread over clients.
    """
    compressors = [build_call(call, clients, seed) for call in calls]
    return lambda client: chain(*(compressor(client) for compressor in compressors))


def most_extra_bytes(calls: tuple[Call, ...], size: int) -> int:
    """An upper limit of the bytes that a tensor takes besides its entries: headers and positions.

    Args:
      calls: from `parse`.
      size: number of entries of the tensor.
    """
    total = 0
    for call in calls:
        names = [parameter.name for parameter in COMPRESSORS[call.name].parameters]
        bucket = _bucket(call) or size or 1
        headers = -(-size // bucket) * 8 if "bucket" in names else 0
        # A bitmap, or a list if that is shorter, and a count, with a few bytes to spare.
        total += headers + size // 8 + 9 + most_extra_bytes(call.inner, size)
    return total


def _bucket(call: Call) -> int:
    size = call.arguments.get("bucket", PerClient((float(DEFAULT_BUCKET),)))
    assert isinstance(size, PerClient)
    return int(size.values[0])


class _Reader(NamedTuple):
    """Reads the syntax tree of an expression; its fields are the context.

    Attributes:
      text: the expression.
      clients: C.
      constraints: what is allowed where the expression is used.
      lead: number of blanks before the expression.
      in_feedback: whether the part being read is inside `feedback`.
    """

    text: str
    clients: int
    constraints: Constraints
    lead: int = 0
    in_feedback: bool = False

    def at(self, node: ast.expr | ast.keyword) -> tuple[str, int]:
        """The text of a part, and the number of its first character in the expression, from 1."""
        source = self.text.strip()
        before = source.encode()[: node.col_offset].decode(errors="ignore")
        return as_text(ast.get_source_segment(source, node) or ""), self.lead + len(before) + 1

    def wrong(
        self, text: str, node: ast.expr | ast.keyword, names: Collection[str] = ()
    ) -> ExpressionError:
        """The error that the part at `node` is wrong, with `text` as its predicate.

        The part may be a misspelling of one of `names`.
        """
        snippet, position = self.at(node)
        close = close_to(re.split("[(=]", snippet)[0], names)
        return ExpressionError(f"{snippet} at character {position} {text}{close}")

    def wrong_at(self, index: int) -> ExpressionError:
        """A syntax error at an index of the text, from 0."""
        syntax = "compressors are joined by |, as in dropout(0.2)|uniform(8)"
        return ExpressionError(f"syntax error at character {index + 1}; {syntax}")

    def chain(self, node: ast.expr) -> tuple[Call, ...]:
        """Reads calls joined by |, and checks their order."""
        nodes = list(_joined(node))
        calls = tuple(self.call(part) for part in nodes)
        quantized = False
        for call, part in zip(calls, nodes, strict=True):
            if quantized:
                text = "follows a compressor that quantizes, which must be the last"
                raise self.wrong(text, part)
            quantized = _quantizes(call)
        return calls

    def call(self, node: ast.expr) -> Call:
        """Reads one compressor with its arguments; a name alone is a call without arguments."""
        name = node.func if isinstance(node, ast.Call) else node
        known = f"must be one of {', '.join(COMPRESSORS)}, or none alone"
        if not isinstance(name, ast.Name) or name.id not in COMPRESSORS:
            raise self.wrong(known, node, [*COMPRESSORS, "none"])
        entry = COMPRESSORS[name.id]
        call = node if isinstance(node, ast.Call) else ast.Call(name, [], [])
        if entry.batch and not self.constraints.batch:
            raise self.wrong("is for activations and their gradients only", node)
        if entry.scales and self.in_feedback:
            raise self.wrong("scales what it keeps, which feedback would take for an error", node)
        if entry.nests:
            if not self.constraints.feedback:
                raise self.wrong("is of no use here, where changes contain what was lost", node)
            if len(call.args) != 1 or call.keywords:
                raise self.wrong("must take one chain of compressors", node)
            return Call(name.id, {}, self._replace(in_feedback=True).chain(call.args[0]))
        return Call(name.id, self.arguments(entry, name.id, call, node))

    def arguments(
        self, entry: Entry, name: str, call: ast.Call, node: ast.expr
    ) -> dict[str, str | PerClient]:
        """Reads the arguments of a call by name; `node` is the part that errors point at."""
        signature = f"{name}({', '.join(p.name for p in entry.parameters)})"
        parameters = {parameter.name: parameter for parameter in entry.parameters}
        if len(call.args) > len(parameters):
            surplus = call.args[len(parameters)]
            raise self.wrong(f"is one argument too many for {signature}", surplus)
        by_name: dict[str, ast.expr] = dict(zip(parameters, call.args, strict=False))
        for keyword in call.keywords:
            if keyword.arg not in parameters:
                raise self.wrong(f"is no argument of {signature}", keyword, parameters)
            if keyword.arg in by_name:
                raise self.wrong(f"gives an argument of {signature} a second time", keyword)
            by_name[keyword.arg] = keyword.value
        missing = [p.name for p in entry.parameters[: entry.required] if p.name not in by_name]
        if missing:
            raise self.wrong(f"lacks the argument {missing[0]} of {signature}", node)
        return {key: self.value(parameters[key], argument) for key, argument in by_name.items()}

    def value(self, parameter: Parameter, node: ast.expr) -> str | PerClient:
        """Reads and checks the value of one argument."""
        value = _value(node)
        wrong = parameter.allowed if value is None else fault(parameter, value, self.clients)
        if wrong is not None or value is None:
            snippet, position = self.at(node)
            text = f"{parameter.name} at character {position} must be {wrong}, not {snippet}"
            raise ExpressionError(text + close_to(snippet, parameter.words))
        if value in parameter.batch and not self.constraints.batch:
            raise self.wrong("is for activations and their gradients only", node)
        return value


def _joined(node: ast.expr) -> Iterator[ast.expr]:
    """The parts of an expression that are joined by |, in order."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        yield from _joined(node.left)
        yield from _joined(node.right)
    else:
        yield node


def _quantizes(call: Call) -> bool:
    return COMPRESSORS[call.name].quantizes or any(map(_quantizes, call.inner))


def _value(node: ast.expr) -> str | PerClient | None:
    """A word, a number, a list of numbers or a range; None for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.List):
        numbers = [_number(element) for element in node.elts]
        return PerClient(tuple(n for n in numbers if n is not None)) if _all(numbers) else None
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub):
        low, high = _number(node.left), _number(node.right)
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


def build_call(call: Call, clients: int, seed: int, deployed: bool = False) -> ClientCompressor:
    """The compressor of one call, as a function of the client's number; see `build`.

    Args:
      call: one compressor of a chain.
      clients: C.
      seed: of the random order in which ranges are spread over clients.
      deployed: whether to build its deterministic form, `Entry.deployed`.
    """
    entry = COMPRESSORS[call.name]
    make = (entry.deployed or entry.make) if deployed else entry.make
    if entry.nests:
        inner = [build_call(part, clients, seed, deployed) for part in call.inner]
        return lambda client: make(*(compressor(client) for compressor in inner))
    whole = {parameter.name: parameter.whole for parameter in entry.parameters}
    values = {
        key: value if isinstance(value, str) else value.spread(clients, seed)
        for key, value in call.arguments.items()
    }
    return lambda client: make(**{k: _of_client(v, whole[k], client) for k, v in values.items()})


def _of_client(value: str | np.ndarray, whole: bool, client: Any) -> str | int | float | Array:
    """A client's argument: a word or a Python number, or a traced scalar where clients differ.

    Args:
      value: a word, or the numbers of all clients, float64 `[C]`.
      whole: whether the numbers are whole numbers.
      client: the client's number, which may be traced.
    """
    if isinstance(value, str):
        return value
    table = np.rint(value).astype(np.int32) if whole else value.astype(np.float32)
    if np.all(value == value[0]):
        return int(value[0]) if whole else float(value[0])
    return jnp.asarray(table)[client]
