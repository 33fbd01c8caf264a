"""The numbers in the squares of a matrix, as one artist of matplotlib: the heat maps of a report have thousands.

`plots.py` adds a `SquareNumbers` to a panel in the place of one text object for each square. The picture is the same;
the size of each distinct text is measured once, not once for each square, which saves a third of the CPU time.
matplotlib is imported at the top here, so plots.py imports this module where a figure is made.
"""
from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.colors import to_rgba
from matplotlib.font_manager import FontProperties
from matplotlib.text import Text


class SquareNumber(NamedTuple):
    """A text in the middle of a square."""

    x: float
    """middle of the square, in the data coordinates of the panel"""
    y: float
    text: str
    colour: str


class SquareNumbers(Artist):
    """Short texts of one font in a panel, each centred on its square, with the figure's standard size of letters."""

    def __init__(self, panel: Axes, numbers: Sequence[SquareNumber]) -> None:
        super().__init__()
        self.panel = panel
        self.numbers = list(numbers)
        self.font = FontProperties()
        self.sample = Text(0, 0, "0", va="baseline", transform=panel.transData, fontproperties=self.font)
        self.sample.set_figure(panel.get_figure())
        self.zorder = self.sample.get_zorder()

    def draw(self, renderer: RendererBase) -> None:
        """Write every text, its middle on the middle of its square: half of its width to the left, half of the font's
        ascent below."""
        renderer.open_group("numbers", self.get_gid())
        _, canvas_height = renderer.get_canvas_width_height()
        places = self.panel.transData.transform([(number.x, number.y) for number in self.numbers])
        _, baseline = self.panel.transData.transform((0, 0))
        ascent = self.sample.get_window_extent(renderer).y1 - baseline
        widths: dict[str, float] = {}
        for number, (x, y) in zip(self.numbers, places, strict=True):
            if number.text not in widths:
                widths[number.text], _, _ = renderer.get_text_width_height_descent(number.text, self.font, False)
            y -= ascent / 2
            if renderer.flipy():
                y = canvas_height - y
            context = renderer.new_gc()
            context.set_foreground(to_rgba(number.colour), isRGBA=True)
            renderer.draw_text(context, x - widths[number.text] / 2, y, number.text, self.font, 0)
            context.restore()
        renderer.close_group("numbers")
        self.stale = False
