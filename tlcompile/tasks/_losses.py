"""The losses, each a function of logits float [N, K] and targets, computed in fp32 (or in fp64 where given that).

Targets of classes may be soft: float [N, K]. Hard ones, int64 [N], count as one-hot. A weighted mean is divided by the
weight of its targets, as in torch's cross-entropy, so that weights change no loss's scale.
All stay finite, with finite gradients, wherever the logits and their differences are finite.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def class_weights(asked: str | Sequence[float], counts: Sequence[int] | None) -> list[float] | None:
    """A weight a class; 'balanced' is n / (K · count), 0 for a class without examples. None: all weigh the same."""
    if asked == "none":
        return None
    if not isinstance(asked, str):
        return [float(weight) for weight in asked]
    if not counts:
        raise ValueError("balanced weights need the counts of the classes")
    mean = sum(counts) / len(counts)
    return [mean / count if count else 0.0 for count in counts]


def at_least_fp32(logits: Tensor) -> Tensor:
    import torch

    return logits if logits.dtype == torch.float64 else logits.float()


def soft(targets: Tensor, logits: Tensor, smoothing: float = 0.0) -> Tensor:
    """Targets as probabilities [N, K] in the type of `logits`; `smoothing` of each is spread over all classes."""
    from torch.nn.functional import one_hot

    given = one_hot(targets, logits.shape[-1]) if targets.ndim == 1 else targets
    given = given.to(logits.dtype)
    return given * (1 - smoothing) + smoothing / logits.shape[-1] if smoothing else given


def weighted_mean(per_class: Tensor, targets: Tensor, weight: Tensor | None) -> Tensor:
    """Sum of `per_class` [N, K] times the weights, over the weight of `targets` [N, K]."""
    if weight is None:
        return per_class.sum() / len(per_class)
    return (per_class * weight).sum() / (targets @ weight).sum().clamp_min(1e-12)


def cross_entropy(logits: Tensor, targets: Tensor, weight: Tensor | None = None, smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy in nats."""
    from torch.nn import functional as f

    if targets.ndim == 1:
        return f.cross_entropy(logits, targets, weight, label_smoothing=smoothing)
    total = f.cross_entropy(logits, targets.to(logits.dtype), weight, label_smoothing=smoothing, reduction="sum")
    given = soft(targets, logits)
    return total / (len(logits) if weight is None else (given @ weight).sum().clamp_min(1e-12))


def focal(
    logits: Tensor, targets: Tensor, gamma: float, weight: Tensor | None = None, smoothing: float = 0.0
) -> Tensor:
    """-(1 - p)^gamma · log p of the target's class (T.-Y. Lin et al., ICCV 2017, equation 5, with a softmax)."""
    logp = logits.log_softmax(-1)
    missing = (-logp.expm1()).clamp_min(1.2e-38)  # 1 - p without cancellation; a power of 0 has no finite gradient
    given = soft(targets, logits)
    return weighted_mean(-soft(targets, logits, smoothing) * missing**gamma * logp, given, weight)


def hinge(logits: Tensor, targets: Tensor, weight: Tensor | None = None) -> Tensor:
    """max(0, 1 + the best other logit - the target's) (K. Crammer and Y. Singer, JMLR 2001, section 3)."""
    best = logits.topk(2, dim=-1)
    is_best = soft(best.indices[:, 0], logits).bool()
    other = best.values[:, 1:].where(is_best, best.values[:, :1])  # [N, K]: the best logit beside each class's own
    given = soft(targets, logits)
    return weighted_mean(given * (1 + other - logits).clamp_min(0), given, weight)


def kl(logits: Tensor, targets: Tensor, weight: Tensor | None = None, smoothing: float = 0.0) -> Tensor:
    """KL divergence in nats of the predicted from the target distribution: cross-entropy less the target's entropy."""
    import torch

    given = soft(targets, logits, smoothing)
    return weighted_mean(torch.xlogy(given, given) - given * logits.log_softmax(-1), soft(targets, logits), weight)


def cosine(logits: Tensor, targets: Tensor, weight: Tensor | None = None, smoothing: float = 0.0) -> Tensor:
    """1 - cosine of logits and target distribution (B. Barz and J. Denzler, WACV 2020, section 3)."""
    from torch.nn.functional import cosine_similarity

    given = soft(targets, logits, smoothing)
    scaled = logits / logits.detach().abs().amax(-1, keepdim=True).clamp_min(1)  # no square can overflow
    distance = 1 - cosine_similarity(scaled, given, dim=-1, eps=1e-6)
    return weighted_mean(distance[:, None] * soft(targets, logits), soft(targets, logits), weight)


def bce(logits: Tensor, targets: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean binary cross-entropy in nats over N and K; `weight` [K] multiplies what the positives of a class count."""
    from torch.nn.functional import binary_cross_entropy_with_logits

    return binary_cross_entropy_with_logits(logits, targets, pos_weight=weight)


def binary_focal(logits: Tensor, targets: Tensor, gamma: float, weight: Tensor | None = None) -> Tensor:
    """Mean of -(1 - p_t)^gamma · log p_t over N and K (T.-Y. Lin et al., ICCV 2017, equation 5).

    `weight` [K] multiplies what the positives of a class count.
    """
    from torch.nn.functional import softplus

    positive, negative = softplus(-logits), softplus(logits)  # -log p, -log(1 - p)
    wrong, right = (-(-negative).expm1()).clamp_min(1.2e-38), (-(-positive).expm1()).clamp_min(1.2e-38)  # p, 1 - p
    on = targets * right**gamma * positive
    return ((on if weight is None else on * weight) + (1 - targets) * wrong**gamma * negative).mean()


def mse(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error, in variances of the target."""
    from torch.nn.functional import mse_loss

    return mse_loss(outputs, targets)


def huber(outputs: Tensor, targets: Tensor, delta: float) -> Tensor:
    """Half the squared error up to `delta`, linear beyond (P. Huber, Annals of Mathematical Statistics 35, 1964)."""
    from torch.nn.functional import huber_loss

    return huber_loss(outputs, targets, delta=delta)
