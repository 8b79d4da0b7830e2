"""Any number of classes for each image."""

from tlcompile.tasks._multilabel import ACTIVATION, LABELS, LOSSES, METRIC, loss, score

__all__ = ["ACTIVATION", "KIND", "LABELS", "LOSSES", "METRIC", "loss", "score"]

KIND = "image"
