"""A network as blocks from input to output: what 'last:N', gradual unfreezing and layer-wise rates count in.

A timm network is cut where timm's own layer decay cuts it; a transformers model into embeddings, its layers and what
stands behind them; any other network into the elements of its containers. The head is always a block of its own, the
last one; norms alone are none and belong to what stands before them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from timm.models import group_parameters
from torch import nn
from transformers import PreTrainedModel

from tlcompile.models._network import Network

Names = list[str]  # of parameters
ROW = 3
"""So many parts of one class behind each other are the layers of a network."""


def blocks(network: Network) -> list[tuple[str, ...]]:
    """Prefixes of the parameters of each block, from input to output. Each parameter belongs to exactly one block."""
    module = network.module
    parameters = dict(module.named_parameters())
    found: list[Names] = []
    for group in _groups(module):
        body = [name for name in group if not inside(name, network.head)]
        if found and all(parameters[name].ndim < 2 for name in body):
            found[-1] += body
        elif body:
            found.append(body)
    head = tuple(part for part in network.head if any(inside(name, [part]) for name in parameters))
    return [_prefixes(group, list(parameters)) for group in found] + ([head] if head else [])


def inside(name: str, prefixes: Sequence[str]) -> bool:
    """Whether the parameter or module `name` is one of `prefixes` or lies below one."""
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def transformers_part(module: nn.Module) -> tuple[str, PreTrainedModel] | None:
    """(its name, the transformers model) within `module`, if there is one."""
    return next(((n, m) for n, m in module.named_modules() if isinstance(m, PreTrainedModel)), None)


def _groups(module: nn.Module) -> list[Names]:
    matcher: Any = getattr(module, "group_matcher", None)
    if matcher is not None:
        return [list(names) for names in group_parameters(module, matcher()).values()]
    row = _longest_list(module) if transformers_part(module) else None
    return _around(module, row) if row else _children(module)


def _longest_list(module: nn.Module) -> str | None:
    """The name of the list of layers: the one with the most parameters, the outermost of such."""
    lists = {name: m for name, m in module.named_modules() if isinstance(m, nn.ModuleList)}
    return max(lists, key=lambda name: sum(p.numel() for p in lists[name].parameters()), default=None)


def _around(module: nn.Module, row: str) -> list[Names]:
    """[what stands before the list `row`, each of its layers, what stands behind].

    An encoder that begins with its layers may hold what all of them use (relative positions): that counts as before.
    """
    names = [name for name, _ in module.named_parameters()]
    encoder = row.rpartition(".")[0]
    is_shared = inside(next(n for n in names if inside(n, [encoder])), [row])
    start = next(i for i, n in enumerate(names) if inside(n, [row]))
    before: Names = []
    behind: Names = []
    for i, name in enumerate(names):
        if not inside(name, [row]):
            (before if i < start or (is_shared and inside(name, [encoder])) else behind).append(name)
    layers: dict[str, Names] = {}
    for name in names:
        if inside(name, [row]):
            layers.setdefault(name[len(row) + 1 :].partition(".")[0], []).append(name)
    return [before, *layers.values(), behind]


def _children(module: nn.Module) -> list[Names]:
    """The parts of `module` in the order it holds them, parameters that lie in none of them first."""
    names = [name for name, _ in module.named_parameters()]
    places = list(_parts(module, "", outer=True))
    parts = [[name for name in names if inside(name, [place])] for place in places]
    loose = [name for name in names if not inside(name, places)]
    return [loose + parts[0], *parts[1:]] if parts else [loose]


def _parts(module: nn.Module, at: str, outer: bool) -> Iterator[str]:
    """Names of the parts below `module`: containers are opened, and outside of all containers what holds a row."""
    children = [(n, m) for n, m in module.named_children() if next(m.parameters(), None) is not None]
    for name, child in children:
        if _is_container(child):
            yield from _parts(child, f"{at}{name}.", outer=False)
        elif outer and (len(children) == 1 or any(_is_row(m) for m in child.modules())):
            yield from _parts(child, f"{at}{name}.", outer=True)
        else:
            yield f"{at}{name}"


def _is_container(module: nn.Module) -> bool:
    """A plain `nn.Module` only holds the parts of a traced network whose names have dots."""
    return isinstance(module, (nn.Sequential, nn.ModuleList, nn.ModuleDict)) or type(module) is nn.Module


def _is_row(module: nn.Module) -> bool:
    kinds = {type(child) for child in module.children()}
    return _is_container(module) and len(kinds) == 1 and len(list(module.children())) >= ROW


def _prefixes(group: Names, names: Names) -> tuple[str, ...]:
    """The shortest prefixes that cover `group` and nothing else of `names`."""
    others = [name for name in names if name not in set(group)]
    found: list[str] = []
    for name in group:
        if not inside(name, found):
            steps = name.split(".")
            starts = [".".join(steps[:i]) for i in range(1, len(steps) + 1)]
            found.append(next(s for s in starts if not any(inside(other, [s]) for other in others)))
    return tuple(found)
