"""A network from its features on: the head alone, and whatever the network does just in front of it.

Its parameters are those of the network itself, under the same names, so training it trains the network in place.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers.modeling_outputs import BaseModelOutputWithPooling

from tlcompile.artifacts import ImageSpec
from tlcompile.errors import Problem, RecipeError
from tlcompile.models._network import Network
from tlcompile.train.depth import transformers_part


def head_network(network: Network) -> Network:
    """`network` from its features on: `module(features)` with float32 [N, D] returns logits float32 [N, classes].

    Its parameters are those of `network`, under the same names; dropout in front of the head is kept. RecipeError where
    the head is in several parts and nothing is known of what stands between them.
    """
    found = transformers_part(network.module)
    if found is not None:
        name, model = found
        path = [*filter(None, name.split(".")), *model.base_model_prefix.split(".")]
        return replace(network, module=_Behind(network.module, path))
    if len(network.head) != 1:
        shown = ", ".join(f"'{part}'" for part in network.head) or "none"
        raise _unfit(f"'head' trains a head of one part, this network's are {shown}")
    return replace(network, module=_Layer(network))


class _Layer(nn.Module):
    """The head of an image network and the dropout in front of it, in the place where the network has the head."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        (self._path,) = network.head
        head = network.module.get_submodule(self._path)
        self.before = nn.Dropout(_dropout(network, head))
        *outer, last = self._path.split(".")
        holder: nn.Module = self
        for name in outer:
            holder.add_module(name, nn.Module())
            holder = holder.get_submodule(name)
        holder.add_module(last, head)

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.get_submodule(self._path)(self.before(features))
        return logits


class _Behind(nn.Module):
    """A transformers network whose body, the part at `path`, answers with the features that it is given.

    One token a text, whose state and pooled state they are: whatever the head takes of a text's states is that.
    """

    def __init__(self, module: nn.Module, path: Sequence[str]) -> None:
        super().__init__()
        self._body = (_Answers(),)  # in tuples, so that they do not count as parts of this module
        self._whole = (_with_body(module, path, self._body[0]),)
        for name, child in self._whole[0].named_children():
            self.add_module(name, child)

    def forward(self, features: Tensor) -> Tensor:
        self._body[0].features = features
        ones = torch.ones(len(features), 1, dtype=torch.long, device=features.device)
        logits: Tensor = self._whole[0](ones, ones)
        return logits


class _Answers(nn.Module):
    features: Tensor

    def forward(self, *_: Any, **__: Any) -> BaseModelOutputWithPooling:
        states: Any = self.features[:, None]
        return BaseModelOutputWithPooling(last_hidden_state=states, pooler_output=self.features)


def _with_body(module: nn.Module, path: Sequence[str], body: nn.Module) -> nn.Module:
    """A shallow copy of `module`, with `body` for its part at `path`; all other parts are the same objects."""
    twin = copy.copy(module)
    twin._modules = dict(module._modules)
    first, *rest = path
    twin._modules[first] = _with_body(module.get_submodule(first), rest, body) if rest else body
    return twin


def entrances(network: Network, rest: nn.Module) -> list[nn.Module]:
    """The layers of the head of which the first one called is where the features come in."""
    if isinstance(rest, _Behind):
        return [m for m in rest.modules() if isinstance(m, nn.Linear)]
    return [network.module.get_submodule(network.head[0])]


def require(network: Network, rest: nn.Module, found: Tensor, logits: Tensor) -> None:
    """RecipeError unless `found` is a vector an example, out of which `rest` makes `logits`."""
    shown = "', '".join(network.head)
    if found.ndim != 2 or len(found) != len(logits):
        raise _unfit(f"the head '{shown}' is fed {list(found.shape)} for {len(logits)} examples, not one vector each")
    with torch.no_grad():
        if not torch.allclose(rest.eval()(found), logits, rtol=1e-3, atol=1e-4):
            raise _unfit(f"the head '{shown}' on its own does not answer as the whole network does")


def _unfit(what: str) -> RecipeError:
    return RecipeError(Problem("train.trainable", f"{what}; use 'last:1'"))


class _Dropouts(TorchFunctionMode):
    """Notes the result and the probability of every dropout, whether a module's or a function's."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[Tensor, float]] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is nn.functional.dropout:
            self.found.append((result, (kwargs or {})["p"]))
        return result


def _dropout(network: Network, head: nn.Module) -> float:
    """The probability of the dropout that feeds `head`, 0 where there is none, seen by passing one image through."""
    assert isinstance(network.spec, ImageSpec)
    size = network.spec.image_size
    device = next(network.module.parameters()).device
    with _Dropouts() as noted:
        given, _ = fed(network.module.eval(), [head], [torch.zeros(1, 3, size, size, device=device)])
    return next((p for result, p in noted.found if result is given), 0.0)


@torch.no_grad()
def fed(module: nn.Module, layers: Sequence[nn.Module], arguments: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """(what the first of `layers` that is called is fed, what `module` returns)"""
    seen: list[Tensor] = []
    hooks = [layer.register_forward_pre_hook(lambda _, given: seen.append(given[0])) for layer in layers]
    try:
        logits = module(*arguments)
    finally:
        for hook in hooks:
            hook.remove()
    if not seen:
        raise _unfit("the layers of this network's head are not called as modules")
    return seen[0], logits
