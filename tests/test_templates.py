"""HTML is written by templates, which escape; by nothing else."""

import ast
import re
from pathlib import Path

import jinja2
import pytest

import unbox
from unbox.templates import Templates

PACKAGE = Path(unbox.__file__).parent
#: An element's start or end.
TAG = re.compile(
    r"</?(a|b|i|p|u|h[1-6]|ul|ol|li|dl|dt|dd|br|div|nav|img|span|small|label|input|table|thead|tbody|tr|td|th"
    r"|svg|path|figure|figcaption|section|header|button|canvas|details|summary|script|style)[\s/>]"
)


def literals(path: Path) -> list[str]:
    """The texts in a module, parts of f-strings too, without docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    texts = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in prose]
    return [node.value for node in texts if isinstance(node.value, str)]


def test_no_module_writes_html():
    found = {str(path.relative_to(PACKAGE)): [text for text in literals(path) if TAG.search(text)]
             for path in PACKAGE.rglob("*.py")}  # fmt: skip
    assert {path: texts for path, texts in found.items() if texts} == {}


def test_templates_escape_and_want_every_name(tmp_path, monkeypatch):
    package = tmp_path / "pages"
    (package / "templates").mkdir(parents=True)
    (package / "__init__.py").touch()
    page = "<p>{{ name }} {{ name | loud }}</p><button data-go='{{ {\"f\": name} | tojson }}'></button>"
    (package / "templates" / "page.html").write_text(page)
    monkeypatch.syspath_prepend(tmp_path)
    templates = Templates("pages", loud=str.upper)
    html = templates.render("page.html", name="<b>'")
    assert html == (
        '<p>&lt;b&gt;&#39; &lt;B&gt;&#39;</p><button data-go=\'{"f": "\\u003cb\\u003e\\u0027"}\'></button>'
    )
    (package / "templates" / "unknown.html").write_text("{{ other }}")
    with pytest.raises(jinja2.UndefinedError, match="other"):
        templates.render("unknown.html", name="x")


@pytest.mark.parametrize("template", sorted(PACKAGE.rglob("templates/*.html")), ids=lambda path: path.name)
def test_every_template_escapes(template):
    """`safe` only for what matplotlib drew."""
    marked = re.findall(r"{{-? *([^}]*)\| *safe", template.read_text(encoding="utf-8"))
    assert all(name.strip() in ("svg", "curves") for name in marked)
