"""A figure that notebooks show; only this module and ``plots`` use matplotlib."""

from io import BytesIO

from matplotlib import figure


class Figure(figure.Figure):
    """A figure as a picture in every notebook, which otherwise shows one only after pyplot has been used."""

    def _repr_png_(self) -> bytes:
        picture = BytesIO()
        self.savefig(picture, format="png", bbox_inches="tight")
        return picture.getvalue()
