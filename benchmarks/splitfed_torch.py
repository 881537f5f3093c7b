"""SplitFed and FedAvg in PyTorch, one client after the other, for comparison.

Layers, batches and plain SGD are the same, and nothing is copied needlessly. Of contiguous and
channels-last memory the faster one is used. Runs on a GPU if PyTorch has one, with TF32 products,
which are the default of JAX there. Needs the extra `bench`.
"""

import copy
import resource
import time
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional

_RATE = 0.05
_DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True


class Shapes(NamedTuple):
    """The model and the sizes of a comparison.

    Attributes:
      layers: name and output channels or units of each layer.
      cut: number of client-side layers.
      clients: number of clients.
      batch_size: examples of each client in a step.
      image: height, width and channels of an input.
      steps: steps in a call.
    """

    layers: list[tuple[str, int]]
    cut: int
    clients: int
    batch_size: int
    image: tuple[int, int, int]
    steps: int


class SplitFed:
    """SplitFed V2-like training: one client-side model a client, one server-side model."""

    def __init__(self, shapes: Shapes, memory_format: torch.memory_format) -> None:
        torch.manual_seed(0)
        self._steps = shapes.steps
        modules = _modules(shapes)
        client = nn.Sequential(*modules[: shapes.cut]).to(_DEVICE, memory_format=memory_format)
        self._clients = [copy.deepcopy(client) for _ in range(shapes.clients)]
        server = nn.Sequential(*modules[shapes.cut :])
        self._server = server.to(_DEVICE, memory_format=memory_format)
        self._optimizers = [torch.optim.SGD(model.parameters(), _RATE) for model in self._clients]
        self._server_optimizer = torch.optim.SGD(self._server.parameters(), _RATE)
        self._images = _images(shapes, memory_format)
        self._labels = torch.randint(10, (shapes.clients * shapes.batch_size,), device=_DEVICE)

    def run(self) -> None:
        """All exchanges of a timed call."""
        for _ in range(self._steps):
            self.step()

    def step(self) -> None:
        """One exchange of all clients with the one shared server."""
        outputs = [client(x) for client, x in zip(self._clients, self._images, strict=True)]
        smashed = torch.cat([output.detach() for output in outputs]).requires_grad_()
        loss = functional.cross_entropy(self._server(smashed), self._labels)
        self._server_optimizer.zero_grad()
        loss.backward()
        self._server_optimizer.step()
        assert smashed.grad is not None
        # The loss is a mean over clients; each client takes the gradient of its own mean loss.
        gradients = (smashed.grad * len(self._clients)).chunk(len(self._clients))
        for output, gradient, optimizer in zip(outputs, gradients, self._optimizers, strict=True):
            optimizer.zero_grad()
            output.backward(gradient)
            optimizer.step()


class FedAvg:
    """FedAvg: one whole model a client; all are averaged after every call."""

    def __init__(self, shapes: Shapes, memory_format: torch.memory_format) -> None:
        torch.manual_seed(0)
        self._steps = shapes.steps
        whole = nn.Sequential(*_modules(shapes)).to(_DEVICE, memory_format=memory_format)
        self._clients = [copy.deepcopy(whole) for _ in range(shapes.clients)]
        self._weights = [list(client.parameters()) for client in self._clients]
        self._mean = [w.detach().clone() for w in whole.parameters()]
        self._optimizers = [torch.optim.SGD(weights, _RATE) for weights in self._weights]
        self._images = _images(shapes, memory_format)
        self._labels = torch.randint(10, (shapes.clients, shapes.batch_size), device=_DEVICE)

    def run(self) -> None:
        """One round: clients receive the mean, take their steps, and are averaged."""
        rows = zip(
            self._clients, self._weights, self._optimizers, self._images, self._labels, strict=True
        )
        for client, weights, optimizer, images, labels in rows:
            with torch.no_grad():
                torch._foreach_copy_(weights, self._mean)
            for _ in range(self._steps):
                loss = functional.cross_entropy(client(images), labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        with torch.no_grad():
            torch._foreach_zero_(self._mean)
            for weights in self._weights:
                torch._foreach_add_(self._mean, weights, alpha=1 / len(self._clients))


def _images(shapes: Shapes, memory_format: torch.memory_format) -> list[torch.Tensor]:
    """A mini-batch of noise for every client."""
    height, width, channels = shapes.image
    size = (shapes.batch_size, channels, height, width)
    return [
        torch.randn(size).to(_DEVICE, memory_format=memory_format) for _ in range(shapes.clients)
    ]


def _modules(shapes: Shapes) -> list[nn.Module]:
    """The module of each layer, by its name."""
    height, width, channels = shapes.image
    modules: list[nn.Module] = []
    x = torch.zeros(1, channels, height, width)
    for name, outputs in shapes.layers:
        module: nn.Module
        if name.startswith("conv"):
            module = nn.Sequential(nn.Conv2d(x.shape[1], outputs, 3, padding=1), nn.ReLU())
        elif name.startswith("pool"):
            module = nn.MaxPool2d(2)
        elif name == "flatten":
            module = nn.Flatten()
        elif name == "logits":
            module = nn.Linear(x.shape[1], outputs)
        else:
            module = nn.Sequential(nn.Linear(x.shape[1], outputs), nn.ReLU())
        modules.append(module)
        x = module(x)
    return modules


class Rival:
    """Training in the faster of two memory formats, after a warm-up."""

    def __init__(self, kind: type[SplitFed] | type[FedAvg], shapes: Shapes) -> None:
        before = peak_bytes()
        formats = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
        works = {name: kind(shapes, layout) for name, layout in formats.items()}
        seconds = {}
        for name, self._work in works.items():
            self.run()
            seconds[name] = min(self.run() for _ in range(2))
        best = min(seconds, key=seconds.__getitem__)
        self._work = works[best]
        self.facts: dict[str, Any] = {
            "framework": "torch",
            "memory_format": best,
            "compile_seconds": 0.0,
            "matmul_peak_flops": matmul_peak(),
            "peak_memory_bytes": peak_bytes() - before,
            "device_kind": torch.cuda.get_device_name() if _DEVICE.type == "cuda" else "cpu",
            "versions": {"torch": torch.__version__},
        }

    def run(self) -> float:
        """Seconds of one call."""
        began = time.perf_counter()
        self._work.run()
        wait()
        return time.perf_counter() - began


def peak_bytes() -> int:
    """The most memory of the device that the process has had so far."""
    if _DEVICE.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def wait() -> None:
    """Waits until the device has finished."""
    if _DEVICE.type == "cuda":
        torch.cuda.synchronize()


def matmul_peak() -> float:
    """FLOP/s of the fastest of six products of large square matrices."""
    size = 8192 if _DEVICE.type == "cuda" else 2048
    a, times = torch.randn(size, size, device=_DEVICE), []
    for _ in range(6):
        began = time.perf_counter()
        torch.mm(a, a)
        wait()
        times.append(time.perf_counter() - began)
    return 2 * size**3 / min(times)
