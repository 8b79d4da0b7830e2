"""tlcompile: from a TOML recipe and labelled data to a deployment artifact that is proven good.

Importing this package is free: it imports neither torch nor any inference runtime.
"""

__version__ = "0.1.0"
