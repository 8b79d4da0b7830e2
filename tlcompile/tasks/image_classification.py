"""One class for each image."""

from tlcompile.tasks._classification import correct, loss

__all__ = ["KIND", "correct", "loss"]

KIND = "image"
