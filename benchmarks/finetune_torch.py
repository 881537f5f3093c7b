"""Split fine-tuning in PyTorch, one client after the other, for comparison.

Model, adapters, batches and Adam are the same, and clients share the frozen weights. Padding is not
masked, as the texts have none. Runs on a GPU if PyTorch has one, with TF32 products, which are the
default of JAX there. Needs the extra `bench`.
"""

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from finetune import ALPHA, CHECKED, RATE, START, Options
from splitfed_torch import matmul_peak, peak_bytes, wait
from torch import nn
from torch.nn import functional

_DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
_EPSILON = 1e-12
_ADAPTED = ("q", "v")
Tensors = dict[str, torch.Tensor]


class Part:
    """Consecutive layers: frozen tensors that all copies share, and trained ones of this copy."""

    def __init__(self, options: Options, blocks: range, frozen: Tensors, trained: Tensors) -> None:
        self._heads, self._scale = options.heads, ALPHA / options.rank
        self._blocks, self._frozen = blocks, frozen
        self.trained = {name: nn.Parameter(w.clone()) for name, w in trained.items()}
        self.optimizer = torch.optim.Adam(self.trained.values(), RATE)

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """Of ids `[B, T]`: `[B, T, D]`."""
        w = self._frozen
        x = functional.embedding(ids, w["embed.tokens.embedding"])
        x = x + w["embed.positions.embedding"][: ids.shape[1]] + w["embed.types.embedding"][0]
        return self._norm(x, "embed.norm")

    def blocks(self, x: torch.Tensor) -> torch.Tensor:
        """Of `[B, T, D]`: the same shape."""
        for n in self._blocks:
            name = f"block{n}"
            x = self._norm(x + self._attention(x, f"{name}.attention"), f"{name}.norm1")
            inner = functional.gelu(self._linear(x, f"{name}.mlp.up"))
            x = self._norm(x + self._linear(inner, f"{name}.mlp.down"), f"{name}.norm2")
        return x

    def head(self, x: torch.Tensor) -> torch.Tensor:
        """Scores of the classes, of `[B, T, D]`."""
        return x.mean(1) @ self.trained["head.kernel"] + self.trained["head.bias"]

    def _norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        scale, bias = (self._frozen[f"{name}.{kind}"] for kind in ("scale", "bias"))
        return functional.layer_norm(x, x.shape[-1:], scale, bias, _EPSILON)

    def _linear(self, x: torch.Tensor, name: str) -> torch.Tensor:
        y = functional.linear(x, self._frozen[f"{name}.kernel"], self._frozen[f"{name}.bias"])
        if name.rpartition(".")[2] not in _ADAPTED or f"{name}.lora_a" not in self.trained:
            return y
        a, b = (self.trained[f"{name}.lora_{factor}"] for factor in "ab")
        return y + self._scale * ((x @ a) @ b)

    def _attention(self, x: torch.Tensor, name: str) -> torch.Tensor:
        q, k, v = (
            self._linear(x, f"{name}.{kind}").unflatten(-1, (self._heads, -1)).transpose(1, 2)
            for kind in "qkv"
        )
        y = functional.scaled_dot_product_attention(q, k, v)
        return self._linear(y.transpose(1, 2).flatten(2), f"{name}.o")


class Rival:
    """Exchanges of all clients with one server, after their losses were found to be the same."""

    def __init__(self, options: Options) -> None:
        before = peak_bytes()
        with np.load(Path(options.folder) / START) as file:
            arrays = {name: torch.from_numpy(file[name]).to(_DEVICE) for name in file.files}
        losses, ids, labels = (arrays.pop(name) for name in ("losses", "ids", "labels"))
        self._ids, self._labels = list(ids.long()), labels.flatten().long()
        blocks, cut = range(1, options.blocks + 1), options.client_blocks
        names = {f"block{n}" for n in blocks[:cut]}
        trained = {k: w for k, w in arrays.items() if ".lora_" in k or k.startswith("head.")}
        # `linear` takes kernels by output.
        frozen = {
            k: w.T.contiguous() if k.endswith(".kernel") else w
            for k, w in arrays.items()
            if k not in trained
        }
        of_clients = {k: w for k, w in trained.items() if k.partition(".")[0] in names}
        of_server = {k: w for k, w in trained.items() if k not in of_clients}
        self._clients = [
            Part(options, blocks[:cut], frozen, of_clients) for _ in range(options.clients)
        ]
        self._server = Part(options, blocks[cut:], frozen, of_server)
        made = [self._exchange() for _ in range(CHECKED)]
        if not np.allclose(made, losses.cpu().numpy(), rtol=1e-4):
            raise RuntimeError(f"losses differ: {made} in PyTorch, {losses.tolist()} in jfedsl")
        self.facts: dict[str, Any] = {
            "framework": "torch",
            "losses_as_in_jfedsl": made,
            "compile_seconds": 0.0,
            "matmul_peaks": [],  # after each exchange, FLOP/s
            "peak_memory_bytes": peak_bytes() - before,
            "device_kind": torch.cuda.get_device_name() if _DEVICE.type == "cuda" else "cpu",
            "versions": {"torch": torch.__version__},
        }

    def run(self) -> float:
        """Seconds of one exchange."""
        began = time.perf_counter()
        self._exchange()
        wait()
        seconds = time.perf_counter() - began
        self.facts["matmul_peaks"].append(matmul_peak())
        return seconds

    def _exchange(self) -> float:
        """The mean loss of all clients before the step."""
        outputs = [
            client.blocks(client.embed(ids))
            for client, ids in zip(self._clients, self._ids, strict=True)
        ]
        smashed = torch.cat([output.detach() for output in outputs]).requires_grad_()
        server = self._server
        logits = server.head(server.blocks(smashed))
        loss = functional.cross_entropy(logits, self._labels)
        server.optimizer.zero_grad()
        loss.backward()
        server.optimizer.step()
        assert smashed.grad is not None
        # The loss is a mean over clients; each client takes the gradient of its own mean loss.
        gradients = (smashed.grad * len(self._clients)).chunk(len(self._clients))
        for client, output, gradient in zip(self._clients, outputs, gradients, strict=True):
            client.optimizer.zero_grad()
            output.backward(gradient)
            client.optimizer.step()
        return float(loss.detach())
