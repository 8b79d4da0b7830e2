"""Image views as nodes: on the network's input, or of the raw image by doing a part of the preprocessing again."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from tlcompile.errors import Problem, TlcompileError
from tlcompile.optimize._views import View
from tlcompile.optimize._views_cut import Parts, Writer, copied

if TYPE_CHECKING:
    import onnx

    from tlcompile.artifacts import ImageSpec


def tensor_of(view: View, parts: Parts, spec: ImageSpec, write: Writer, raw: RawViews) -> str:
    """float32 [N, 3, S, S], the network's input in this view."""
    found = raw.tensor(view, write)
    for kind, values in view.moves:
        if kind == "rotate":
            found = _rotated(found, values[0], spec, write)
        else:
            found = _moved(found, kind, values, spec.image_size, write)
    return found


def _moved(x: str, kind: str, values: tuple[float, ...], size: int, write: Writer) -> str:
    """Mirrored, turned or shifted: rows and columns in another order."""
    turned = kind in ("rot90", "rot270")
    rows, columns = order(kind, values, size)
    if turned:
        x = write("Transpose", x, perm=[0, 1, 3, 2])
    for axis, wanted in ((2, rows), (3, columns)):
        if (wanted != np.arange(size)).any():
            x = write("Gather", x, write.constant(wanted), axis=axis)
    return x


def order(kind: str, values: tuple[float, ...], size: int) -> tuple[np.ndarray, np.ndarray]:
    """Which row and column (int64 [size]) each row and column comes from; after a transpose for rot90 and rot270."""
    plain = np.arange(size)
    back = plain[::-1].copy()
    if kind == "shift":
        right, down = (np.abs(plain - int(v)) for v in values)  # reflected at the first row, and below at the last
        return tuple(np.where(i >= size, 2 * (size - 1) - i, i) for i in (down, right))  # type: ignore[return-value]
    rows = back if kind in ("vflip", "rot180", "rot90") else plain
    columns = back if kind in ("hflip", "rot180", "rot270") else plain
    return rows, columns


def _rotated(x: str, degrees: float, spec: ImageSpec, write: Writer) -> str:
    """Bilinear: four pixels, each with its weight; what lies outside is the mean colour."""
    size = spec.image_size
    flat = write("Reshape", x, write.whole(0, 3, size * size))
    total = ""
    for places, weights in taps(degrees, size):
        part = write("Mul", write("Gather", flat, write.constant(places), axis=2), write.constant(weights))
        total = write("Add", total, part) if total else part
    return write("Reshape", total, write.whole(0, 3, size, size))


def taps(degrees: float, size: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Four of (places int64 [size²] in the flat picture, weights float32 [size²]) of a turn counter-clockwise."""
    angle, middle = np.deg2rad(degrees), (size - 1) / 2
    y, x = (v.ravel() - middle for v in np.mgrid[:size, :size].astype(np.float64))
    from_x = np.cos(angle) * x - np.sin(angle) * y + middle
    from_y = np.sin(angle) * x + np.cos(angle) * y + middle
    found = []
    for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
        at_y, at_x = np.floor(from_y) + row, np.floor(from_x) + column
        weight = (1 - np.abs(from_y - at_y)) * (1 - np.abs(from_x - at_x))
        inside = (at_y >= 0) & (at_y < size) & (at_x >= 0) & (at_x < size)
        places = (np.where(inside, at_y, 0) * size + np.where(inside, at_x, 0)).astype(np.int64)
        found.append((places, np.where(inside, weight, 0).astype(np.float32)))
    return found


class RawViews:
    """Other crops and sizes of the raw image: the preprocessing once more, with another offset or length of side.

    Only nodes that depend on what changes are copied, and views that change the same share them. The preprocessing is
    read as `export.preprocess` writes it: an offset along an axis is the output of its `Round`, half of the margin;
    the length of the short side is the constant that both sides are multiplied with before they are divided by `Min`.
    """

    def __init__(self, parts: Parts, spec: ImageSpec, where: str) -> None:
        self.parts, self.spec, self.where = parts, spec, where
        self.maker = {name: node for node in parts.before for name in node.output}
        self.pixels = parts.pixels(where)
        self.done: dict[tuple[str, tuple[tuple[str, str], ...]], str] = {}

    def tensor(self, view: View, write: Writer) -> str:
        """float32 [N, 3, S, S] with the view's zoom and corner; the tensor of the graph where it has none."""
        if view.zoom == 1 and not view.corner:
            return self.pixels
        changes: dict[str, str] = {}
        if view.zoom != 1:
            changes["side"] = write.whole(self._side(view))
        if view.corner:
            changes |= dict(zip(("down", "across"), view.corner.split("-"), strict=True))
        return self._made(self.pixels, changes, write)

    def _side(self, view: View) -> int:
        side = int(self.spec.resize_to * view.zoom)
        if side < self.spec.image_size:
            least = self.spec.image_size / self.spec.resize_to
            what = f"'{view.name}' shows more than there is of the image: a zoom of {least:g} shows all of it"
            raise TlcompileError(Problem(self.where, what))
        return side

    def _made(self, name: str, changes: dict[str, str], write: Writer) -> str:
        """`name` computed under `changes`."""
        changes = {key: value for key, value in changes.items() if key in self._touched(name)}
        if not changes:
            return name
        key = (name, tuple(sorted(changes.items())))
        if key not in self.done:
            self.done[key] = self._computed(name, changes, write)
        return self.done[key]

    def _computed(self, name: str, changes: dict[str, str], write: Writer) -> str:
        if name == self._short_side:
            return changes["side"]
        axis = self._axes.get(name)
        if axis and axis in changes:
            margin = self.maker[self.maker[name].input[0]].input
            whole = next(i for i in margin if i in self.maker)
            return write.real(0) if changes[axis] in ("top", "left") else self._made(whole, changes, write)
        node = self.maker[name]
        inputs = {i: self._own(i, write) or self._made(i, changes, write) for i in node.input}
        copy = copied([node], f"{write.prefix}raw{len(self.done)}/", inputs)[0]
        write.nodes.append(copy)
        return str(copy.output[0])

    def _own(self, name: str, write: Writer) -> str:
        """A copy of a constant of a colour each: OpenVINO reshapes such in place where another reader wants it flat."""
        from onnx import numpy_helper

        found = self._constants.get(name)
        return write.constant(numpy_helper.to_array(found)) if found is not None and len(found.dims) == 4 else ""

    def _touched(self, name: str) -> set[str]:
        """Which changes reach `name`."""
        if name not in self._reach:
            own = {"side"} if name == self._short_side else {self._axes[name]} if name in self._axes else set()
            above = self.maker[name].input if name in self.maker else ()
            self._reach[name] = own.union(*(self._touched(i) for i in above))
        return self._reach[name]

    @cached_property
    def _reach(self) -> dict[str, set[str]]:
        return {}

    @cached_property
    def _products(self) -> list[onnx.NodeProto]:
        """The two products of the short side's new length with a side of the image."""
        short = {name for node in self.parts.before if node.op_type == "Min" for name in node.output}
        ratios = [node for node in self.parts.before if node.op_type == "Div" and short & set(node.input)]
        found = [self.maker[node.input[0]] for node in ratios if node.input[0] in self.maker]
        if len(found) != 2 or any(node.op_type != "Mul" for node in found):
            what = "the preprocessing of this graph is not the one that crops and zooms can be moved in"
            raise TlcompileError(Problem(self.where, what))
        return found

    @cached_property
    def _short_side(self) -> str:
        return str(next(name for name in self._products[0].input if name not in self.maker))

    @cached_property
    def _axes(self) -> dict[str, str]:
        """Name of an offset -> 'down' or 'across'."""
        found: dict[str, str] = {}
        for node in self.parts.before:
            if node.op_type == "Round":
                sides = {name for product in self._products if self._above(node, product) for name in product.input}
                side = next(self.maker[name] for name in sides if name in self.maker)  # Slice of the shape
                found[node.output[0]] = "down" if self._integer(side.input[1]) == 1 else "across"
        return found

    def _above(self, node: onnx.NodeProto, wanted: onnx.NodeProto) -> bool:
        return node is wanted or any(self._above(self.maker[i], wanted) for i in node.input if i in self.maker)

    @cached_property
    def _constants(self) -> dict[str, onnx.TensorProto]:
        return {tensor.name: tensor for tensor in self.parts.model.graph.initializer}

    def _integer(self, name: str) -> int:
        from onnx import numpy_helper

        return int(numpy_helper.to_array(self._constants[name]).flat[0])
