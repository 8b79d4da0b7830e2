"""Fit the new head on the frozen body's features before anything is fine-tuned.

A random head sends large gradients into a pretrained body and spoils it before it has learnt anything itself. Starting
from the logistic regression on frozen features keeps the body's features and is a fair result already (A. Kumar et al.,
"Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution", ICLR 2022, section 3: LP-FT).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from tlcompile.errors import Problem, RecipeError
from tlcompile.models._network import Network
from tlcompile.train.features import BATCH, fed_to

if TYPE_CHECKING:
    from tlcompile.data._split import Split


def fit(network: Network, split: Split) -> float:
    """Set weight and bias of the head; its accuracy on `split`. RecipeError where the head is not one linear layer."""
    from sklearn.linear_model import LogisticRegression

    head = network.module.get_submodule(network.head[-1])
    if not isinstance(head, nn.Linear):
        what = f"the head '{network.head[-1]}' is a {type(head).__name__}, not one linear layer"
        raise RecipeError(Problem("train.head_start", what))
    fed = [rows.float().cpu().numpy() for rows, _ in fed_to(network, [head], split, BATCH)]
    x, y = np.concatenate(fed), np.asarray(split.labels)
    scale = x.std() or 1.0  # one number for all features: the solver sees unit scale, the geometry stays
    model = LogisticRegression(C=0.1, max_iter=1000, fit_intercept=head.bias is not None).fit(x / scale, y)
    weight, bias = model.coef_ / scale, model.intercept_
    if len(bias) == 1:  # two classes: one row of log-odds
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    with torch.no_grad():
        head.weight[model.classes_] = torch.tensor(weight, dtype=head.weight.dtype)
        if head.bias is not None:
            head.bias[model.classes_] = torch.tensor(bias, dtype=head.bias.dtype)
    return float(model.score(x / scale, y))
