"""The views of one graph as one answer: what each view is run on, how they are averaged, and where the first may do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tlcompile.artifacts import FIRST_VOICE, ImageSpec, TextSpec
from tlcompile.optimize import _views_mean as mean
from tlcompile.optimize import _views_tokens as tokens
from tlcompile.optimize._early_exit import leave
from tlcompile.optimize._views_cut import Parts, Writer, again
from tlcompile.optimize._views_pixels import RawViews, tensor_of

if TYPE_CHECKING:
    from tlcompile.optimize._views import View
    from tlcompile.optimize.fuse_tta import Options


@dataclass(frozen=True)
class Voices:
    """`framing` says how texts are framed; None of images."""

    parts: Parts
    spec: ImageSpec | TextSpec
    framing: tokens.Special | None
    options: Options
    activation: mean.Activation

    def answer(self, views: Sequence[View], write: Writer) -> str:
        """What is averaged, [N, K]: see `mean.combine`."""
        if self.options.exit_at is None:
            return self._all(views, write)
        first = write("Identity", self._logits(views[:1], write), called=FIRST_VOICE)
        alone = self._mean(first, 1, self.options.model_copy(update={"weights": ()}), write)

        def every(rest: Writer) -> str:
            others = self._logits(views[1:], rest)
            return self._mean(rest("Concat", first, others, axis=0), len(views), self.options, rest)

        constants = {tensor.name: tensor for tensor in self.parts.model.graph.initializer}
        return leave(alone, every, self.activation, self.options, self.parts.width, constants, write)

    def _all(self, views: Sequence[View], write: Writer) -> str:
        if views[0].all_windows:
            return self._all_windows(views, write)
        return self._mean(self._logits(views, write), len(views), self.options, write)

    def _mean(self, logits: str, count: int, options: Options, write: Writer) -> str:
        """Of logits [V * N, K], those of the first view first."""
        stacked = write("Reshape", logits, write.whole(count, -1, self.parts.width))
        return mean.combine(stacked, write.constant(mean.column(options, count)), self.activation, options, write)

    def _logits(self, views: Sequence[View], write: Writer) -> str:
        """[V * N, K], those of the first view first."""
        groups = [[view] for view in views] if self.options.layout == "unrolled" else [views]
        if isinstance(self.spec, TextSpec):
            return _stacked([self._read(self._windows(g, write), write, i) for i, g in enumerate(groups)], write)
        raw = RawViews(self.parts, self.spec, "tta.views")
        pixels = [[tensor_of(view, self.parts, self.spec, write, raw) for view in group] for group in groups]
        return _stacked([self._run([_stacked(group, write)], write, i) for i, group in enumerate(pixels)], write)

    def _run(self, inputs: Sequence[str], write: Writer, index: int = 0) -> str:
        """The network's logits of `inputs`, in the order of its seam."""
        return again(self.parts, inputs, f"{write.prefix}view{index}/", write)

    def _windows(self, views: Sequence[View], write: Writer) -> tokens.Windows:
        assert isinstance(self.spec, TextSpec)
        inputs = [value.name for value in self.parts.model.graph.input]
        return tokens.windows(inputs, views, self.spec, self.framing or tokens.Special(), write)

    def _read(self, cut: tokens.Windows, write: Writer, index: int = 0) -> str:
        """Logits [W * N, K] of windows."""
        inputs = [value.name for value in self.parts.model.graph.input]
        seen = dict(zip(inputs, (cut.ids, cut.mask), strict=True))
        return self._run([seen[name] for name in self.parts.seam], write, index)

    def _all_windows(self, views: Sequence[View], write: Writer) -> str:
        """As many windows as the longest document of the batch needs; a shorter one's empty ones count nothing."""
        cut = self._windows(views, write)
        shape = write("Concat", write.whole(-1), cut.documents, write.whole(self.parts.width), axis=0)
        column = cut.used
        if self.options.aggregation != "max":
            column = write("Div", column, write("ReduceSum", column, write.whole(0), keepdims=1))
        stacked = write("Reshape", self._read(cut, write), shape)
        return mean.combine(stacked, column, self.activation, self.options, write)


def _stacked(names: Sequence[str], write: Writer) -> str:
    """Tensors one below the other."""
    return write("Concat", *names, axis=0) if len(names) > 1 else names[0]
