"""HTML: jinja2 templates that escape every value. No other module of the package writes a tag."""

from collections.abc import Callable

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup


class Templates:
    """The HTML files in the folder `templates` of a package; `filters`: what they may call besides jinja2's
    own. What `tojson` gives belongs between single quotes: `data-go='{{ {"feature": name} | tojson }}'`.
    """

    def __init__(self, package: str, **filters: Callable[..., str]) -> None:
        self._environment = Environment(
            loader=PackageLoader(package), autoescape=True, undefined=StrictUndefined,
            trim_blocks=True, lstrip_blocks=True,
        )  # fmt: skip
        self._environment.filters |= filters

    def render(self, template: str, /, **values: object) -> Markup:
        """A template filled; what it gives can be a value of another. A name that it uses and `values` lacks
        raises jinja2's UndefinedError."""
        return Markup(self._environment.get_template(template).render(values))
