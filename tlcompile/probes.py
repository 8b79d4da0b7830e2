"""What else than golden examples a graph or an engine is asked, to see more of it."""

from __future__ import annotations

from tlcompile.artifacts import Feed, ImageSpec, Signature


def cut(feeds: list[Feed], signature: Signature) -> list[Feed]:
    """Of images the same pictures at the size at which the resize does nothing; none of texts.

    A runtime that sums in another order rounds a pixel here and there to the next grey level, and a network can amplify
    that beyond a small fault. Where the resize has nothing to mix, the pixels are exact in every runtime. As pixels are
    left out and not averaged, edges are sharper than in any example: channels answer that are silent on those.
    """
    import numpy as np

    if not isinstance(signature.spec, ImageSpec):
        return []
    side, found = signature.spec.resize_to, []
    for feed in feeds:
        rows, columns = (np.arange(side) * length // side for length in feed["image"].shape[1:3])
        found.append({"image": np.ascontiguousarray(feed["image"][:, rows][:, :, columns])})
    return found


def jittered(feeds: list[Feed]) -> list[Feed]:
    """The pictures of `feeds` with every pixel moved by up to one grey level: more than rounding otherwise does."""
    import numpy as np

    rng = np.random.default_rng(0)
    moves = [rng.integers(-1, 2, feed["image"].shape) for feed in feeds]
    return [
        {"image": (feed["image"] + move).clip(0, 255).astype(np.uint8)} for feed, move in zip(feeds, moves, strict=True)
    ]
