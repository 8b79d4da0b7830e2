"""The ranges of shapes that a TensorRT engine accepts: its optimization profiles, out of the recipe and the signature.

Kernels are chosen for the middle of a range, so one engine can hold several: say, one that is fastest for single
examples and one for large batches. The runner takes the profile whose best size is nearest to the feed, and cuts a
feed of more examples than any takes into several calls.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Annotated

from pydantic import ConfigDict, Strict, field_validator

from tlcompile.artifacts import TextSpec
from tlcompile.compile._options import EngineOptions
from tlcompile.errors import Problem, TlcompileError
from tlcompile.options import Field
from tlcompile.options import Options as BaseOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tlcompile.artifacts import Signature

Range = tuple[int, int, int]
Sizes = tuple[int, ...]
Shapes = dict[str, tuple[Sizes, Sizes, Sizes]]  # input -> minimum, best, maximum
_Range = Annotated[Range, Strict(False)]
_MIN_MAX = "[minimum, the one to be fastest at, maximum]"


def _ordered(value: Range | None) -> Range | None:
    if value is not None and not 1 <= value[0] <= value[1] <= value[2]:
        raise ValueError(f"expected 1 <= minimum <= best <= maximum, found {list(value)}")
    return value


class Profile(BaseOptions):
    """One more range; what it leaves out is as in the first."""

    model_config = ConfigDict(defer_build=True)

    batch: _Range | None = Field(None, description=f"examples of one call: {_MIN_MAX}")
    image_px: _Range | None = Field(None, description=f"height and width of raw images: {_MIN_MAX}")
    tokens: _Range | None = Field(None, description=f"tokens of a text: {_MIN_MAX}")

    _order = field_validator("batch", "image_px", "tokens")(_ordered)


class ProfileOptions(EngineOptions):
    """What both TensorRTs have. A feed that no range takes, whole or in pieces, is refused with a sentence."""

    model_config = ConfigDict(defer_build=True)  # their schemas are made when a recipe names them

    batch: _Range = Field((1, 1, 32), description=f"examples of one call: {_MIN_MAX}")
    image_px: _Range = Field((1, 256, 1024), description=f"height and width of raw images: {_MIN_MAX}")
    tokens: _Range | None = Field(
        None, description=f"tokens of a text: {_MIN_MAX}; [1, at most 64, the model's limit] where not given"
    )
    profiles: Annotated[tuple[Profile, ...], Strict(False)] = Field(
        (), max_length=7, description="further ranges, each a table with batch, image_px or tokens; 7 at most"
    )
    tf32: bool = Field(False, description="let fp32 products be rounded to TF32 (10 bits of mantissa): faster")
    sparse_weights: bool = Field(False, description="look for kernels that skip the zeros of 2:4 sparse weights")
    cuda_graphs: bool = Field(
        False, description="record the launches of shapes that come again in a row, and replay them"
    )

    _order = field_validator("batch", "image_px", "tokens")(_ordered)

    def unfit(self, tokens: int | None) -> list[Problem]:
        """Feeds of a build that no range takes: of one example (larger ones are cut to pieces), and of documents of
        `tokens` tokens (0: as many as the recipe's defaults make of the model's limit, None: no text is longer than
        that limit).
        """
        profiles: tuple[ProfileOptions | Profile, ...] = (self, *self.profiles)
        batches = [profile.batch or self.batch for profile in profiles]
        texts = [profile.tokens for profile in profiles if profile.tokens]
        found = []
        if min(low for low, *_ in batches) > 1:
            what = f"found {_shown(batches)}, which takes no 1; it is judged with single examples too"
            found.append(Problem("batch", what))
        if texts and tokens is not None and (not tokens or max(high for *_, high in texts) < tokens):
            longest = f"up to {tokens} tokens" if tokens else "more tokens than the model takes"
            what = f"found {_shown(texts)}, but views of documents read {longest}"
            found.append(Problem("tokens", f"{what}; leave it out, then each graph takes what it reads"))
        return found


def _shown(ranges: Sequence[Range]) -> str:
    return ", ".join(str(list(found)) for found in ranges)


def shapes(options: ProfileOptions, signature: Signature) -> list[Shapes]:
    """The smallest, best and largest shape of every input of the graph, for each profile."""
    found: list[Shapes] = []
    profiles: tuple[ProfileOptions | Profile, ...] = (options, *options.profiles)
    for profile in profiles:
        made = _of_inputs(_ranges(options, profile, signature), signature)
        if made in found:
            what = f"two ranges are the same for these inputs: {made}"
            raise TlcompileError(Problem("profiles", what))
        found.append(made)
    return found


def _ranges(options: ProfileOptions, profile: ProfileOptions | Profile, signature: Signature) -> dict[str, Range]:
    """Dimension -> range."""
    pixels = profile.image_px or options.image_px
    ranges = {"batch": profile.batch or options.batch, "height": pixels, "width": pixels}
    if isinstance(signature.spec, TextSpec):
        limit = signature.spec.max_length
        tokens = profile.tokens or options.tokens or (1, min(64, limit), limit)
        if tokens[2] > limit:
            raise TlcompileError(Problem("tokens", f"found {list(tokens)}, but the model takes {limit} at most"))
        ranges["tokens"] = tokens
    return ranges


def _of_inputs(ranges: dict[str, Range], signature: Signature) -> Shapes:
    found: Shapes = {}
    for tensor in signature.inputs:
        if unknown := [size for size in tensor.shape if isinstance(size, str) and size not in ranges]:
            what = f"no range is known for its dimension '{unknown[0]}'"
            raise TlcompileError(Problem(f"input '{tensor.name}'", what))
        low, best, high = (
            tuple(size if isinstance(size, int) else ranges[size][at] for size in tensor.shape) for at in range(3)
        )
        found[tensor.name] = (low, best, high)
    return found


def nearest_profile(profiles: Sequence[Shapes], feed: dict[str, Sizes]) -> int | None:
    """The profile that accepts the shapes of `feed` and is fastest nearest to them; None where none accepts them."""

    def far(profile: Shapes) -> float:
        """How much larger or smaller the feed is than the best shapes: the product of the ratios of their sides."""
        product = 1.0
        for name, (_, best, _) in profile.items():
            for size, wanted in zip(feed[name], best, strict=True):
                product *= max(size, wanted) / min(size, wanted)
        return product

    fitting = [index for index, profile in enumerate(profiles) if _fits(profile, feed)]
    return min(fitting, key=lambda index: far(profiles[index]), default=None)


def _fits(profile: Shapes, feed: dict[str, Sizes], first: int = 0) -> bool:
    """Whether `profile` accepts the sizes of `feed` from axis `first` on."""
    return all(
        low <= size <= high
        for name, ranges in profile.items()
        for low, size, high in zip(ranges[0][first:], feed[name][first:], ranges[2][first:], strict=True)
    )


def pieces(profiles: Sequence[Shapes], feed: dict[str, Sizes]) -> tuple[int, ...]:
    """How many examples of `feed` (its shapes, examples first) go into each call; () where no profile takes them."""
    inputs = [list(profile.values()) for profile in profiles if _fits(profile, feed, first=1)]
    ranges = {(max(low[0] for low, _, _ in sizes), min(high[0] for _, _, high in sizes)) for sizes in inputs}
    return _fewest(next(iter(feed.values()))[0], tuple(sorted(ranges)))


@lru_cache(maxsize=256)
def _fewest(count: int, ranges: tuple[tuple[int, int], ...]) -> tuple[int, ...]:
    """The fewest numbers, each inside one of `ranges`, that add up to `count`, the largest first; () where none do."""
    if any(low <= count <= high for low, high in ranges):
        return (count,)
    calls, last = [0], [0]  # to take 0, 1, … examples, and how many of these the last call takes
    for total in range(1, count + 1):
        sizes = [size for low, high in ranges for size in range(low, min(high, total) + 1)]
        fewest = [(1 + calls[total - size], -size) for size in sizes if calls[total - size] >= 0]
        call, size = min(fewest, default=(-1, 0))
        calls.append(call)
        last.append(-size)
    found: list[int] = []
    while calls[count] > 0:
        found.append(last[count])
        count -= last[count]
    return tuple(found)
