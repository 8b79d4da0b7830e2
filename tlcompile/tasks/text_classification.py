"""One class for each text."""

from tlcompile.tasks._classification import correct, loss

__all__ = ["KIND", "correct", "loss"]

KIND = "text"
