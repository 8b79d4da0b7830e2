"""Which parameters are trained, and at which share of the learning rate.

'head' and 'last:N' freeze the rest; 'gradual' opens the blocks from the head down over the epochs (J. Howard and
S. Ruder, "Universal Language Model Fine-tuning for Text Classification", ACL 2018, section 3.3); 'lora' freezes all but
the head and low-rank updates of some layers (E. Hu et al., "LoRA", ICLR 2022, section 4.1), which `merge` folds into
them. Dropout in frozen blocks stays on; their batch norms keep their statistics (`frozen_norms`).
"""

from __future__ import annotations

from tlcompile.errors import Problem, RecipeError
from tlcompile.models._network import Network
from tlcompile.recipe.train_table import TrainTable
from tlcompile.train import lora, machine
from tlcompile.train.depth import blocks, inside


def prepare(network: Network, table: TrainTable) -> None:
    """Set `requires_grad` as `table.trainable` asks, and inject LoRA. RecipeError where that can't be."""
    how = table.trainable
    if how == "lora":
        lora.inject(network, table.lora)
    elif how.startswith("last:"):
        _open(network, _last(network, int(how.removeprefix("last:"))))
    elif how in ("head", "gradual"):
        _open(network, 0)
    if not any(p.requires_grad for p in network.module.parameters()):
        shown = ", ".join(f"'{name}'" for name in network.head) or "none"
        what = f"'{how}' leaves nothing to train: the parts of the head ({shown}) have no parameters"
        raise RecipeError(Problem("train.trainable", what))


def unfreeze(network: Network, table: TrainTable, epoch: int) -> bool:
    """Open what 'gradual' trains in `epoch` (from 0 on); whether that is another set of parameters than before.

    One more block each epoch, or as many as it takes to have all open in the last one.
    """
    if table.trainable != "gradual":
        return False
    body, last = _body_depth(network), max(1, table.epochs - 1)
    return _open(network, min(body, max(epoch, body * epoch // last)))


def rates(network: Network, table: TrainTable) -> dict[str, float]:
    """Name of each parameter that is or will be trained -> what its learning rate is multiplied by.

    A block learns at `layer_decay` times the rate of the one behind it (K. Clark et al., "ELECTRA", ICLR 2020,
    appendix B), the head at `head_lr_scale`.
    """
    body = _body_depth(network)
    found: dict[str, float] = {}
    parameters = dict(network.module.named_parameters())
    for depth, prefixes in enumerate(blocks(network)):
        factor = table.head_lr_scale if depth == body else table.layer_decay ** (body - depth)
        found |= dict.fromkeys((name for name in parameters if inside(name, prefixes)), factor)
    return {n: found[n] for n, p in parameters.items() if p.requires_grad or table.trainable == "gradual"}


def merge(network: Network) -> None:
    """Fold LoRA into the weights: `network.module` has the structure and the state dict keys it had before."""
    lora.merge(network.module)


def frozen_norms(network: Network) -> None:
    """Norms with running statistics go to evaluation mode where they are frozen. To be called after each `.train()`.

    One without parameters of its own is frozen with the part that it stands in.
    """
    modules = dict(network.module.named_modules())
    for name, module in modules.items():
        if getattr(module, "running_mean", None) is not None:
            holder = name
            while next(modules[holder].parameters(), None) is None:
                holder = holder.rpartition(".")[0]
            if not any(p.requires_grad for p in modules[holder].parameters()):
                module.eval()


def reopen(network: Network, table: TrainTable) -> None:
    """Set `requires_grad` of a trained network as in the last epoch; with LoRA folded in, its body counts as frozen."""
    how = table.trainable
    if how in ("all", "gradual"):
        network.module.requires_grad_(True)
    else:
        _open(network, int(how.removeprefix("last:")) if how.startswith("last:") else 0)


def train_mode(network: Network, table: TrainTable) -> None:
    """Training mode, but for the batch norms that keep their statistics."""
    network.module.train()
    frozen_norms(network)
    if table.freeze_norm:
        machine.freeze_norm(network.module)


def _body_depth(network: Network) -> int:
    """Blocks below the head."""
    return sum(not inside(prefixes[0], network.head) for prefixes in blocks(network))


def _last(network: Network, asked: int) -> int:
    depth = _body_depth(network)
    if asked > depth:
        what = f"found 'last:{asked}', the network has {depth} blocks below its head: at most 'last:{depth}'"
        raise RecipeError(Problem("train.trainable", what))
    return asked


def _open(network: Network, n: int) -> bool:
    """Train the head and the last `n` blocks of the body alone; whether that changed anything."""
    found = blocks(network)
    body = _body_depth(network)
    trained = [prefix for prefixes in found[body - n :] for prefix in prefixes]
    changed = False
    for name, parameter in network.module.named_parameters():
        wanted = inside(name, trained)
        changed |= parameter.requires_grad != wanted
        parameter.requires_grad = wanted
    return changed
