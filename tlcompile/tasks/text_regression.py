"""A number for each text."""

from tlcompile.tasks._regression import ACTIVATION, LABELS, LOSSES, METRIC, loss, score

__all__ = ["ACTIVATION", "KIND", "LABELS", "LOSSES", "METRIC", "loss", "score"]

KIND = "text"
