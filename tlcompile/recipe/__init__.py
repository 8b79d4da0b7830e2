"""The source language: TOML -> a frozen, typed `Recipe`. Every mistake is reported at once, with its place.

Flat and complete: no inheritance, no interpolation, no environment variables; two recipes that differ are two files.
What the values do is not known here.
"""

from tlcompile.recipe.load import load, parse
from tlcompile.recipe.tables import Plugin, Recipe, Target

__all__ = ["Plugin", "Recipe", "Target", "load", "parse"]
