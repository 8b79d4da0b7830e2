"""One class for each text."""

from tlcompile.tasks._classification import ACTIVATION, LABELS, LOSSES, METRIC, loss, score

__all__ = ["ACTIVATION", "KIND", "LABELS", "LOSSES", "METRIC", "loss", "score"]

KIND = "text"
