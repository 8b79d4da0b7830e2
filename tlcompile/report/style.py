"""How pictures look: one face for all, colours that colour-blind readers can tell apart, the same bytes every time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # Okabe and Ito
INK, FAINT = "#222222", "#8a8a8a"
_DPI = 110
_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.color": INK,
    "text.parse_math": False,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "grid.color": "#e6e6e6",
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 9,
}


@contextmanager
def figure(path: Path, width: float, height: float) -> Iterator[Figure]:
    """An empty figure of `width` x `height` inches that is saved as PNG when the block ends. No display, no pyplot."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        made = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
        FigureCanvasAgg(made)
        yield made
        path.parent.mkdir(parents=True, exist_ok=True)
        made.savefig(path, metadata={"Software": None})


def whole_numbers(axes: Axes) -> None:
    """Ticks of the x axis at whole numbers only, and none beyond the data."""
    low, high = axes.dataLim.intervalx
    axes.set_xlim(low - 0.4, high + 0.4)
    step = next(s for m in (1, 10, 100, 1000, 10**4) for s in (m, 2 * m, 5 * m) if (high - low) / s <= 10)
    first = -(-int(low) // step) * step
    axes.set_xticks(range(first, int(high) + 1, step))


def names(classes: list[str], longest: int = 26) -> list[str]:
    """Class names as the font can draw them: the middle left out where long, `#index` where a letter is missing."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    known = get_font(findfont(FontProperties(family="DejaVu Sans"))).get_charmap()
    drawable = (all(ord(letter) in known for letter in name) and name.strip() for name in classes)
    shown = (name if fine else f"#{i}" for i, (name, fine) in enumerate(zip(classes, drawable, strict=True)))
    half = longest // 2
    return [name if len(name) <= longest else f"{name[:half]}…{name[1 - half :]}" for name in shown]
