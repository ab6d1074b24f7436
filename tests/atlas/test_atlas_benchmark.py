"""The benchmark that docs/explorer.md quotes runs to its end, at a size of seconds: it once lost forty
minutes of work to a page that asked for more than it had."""

from benchmarks.atlas import main

LINE = "--images 20 --latents 40 --blocks 2 --side 4 --width 8 --k 3 --whole 1000"
MEASURED = (
    "build",
    "processor time",
    "extrapolated",
    "peak memory",
    "atlas on disk",
    "feature page",
    "search by",
)


def test_every_line_of_the_page_is_measured(capsys):
    main(LINE.split())
    out = capsys.readouterr().out
    assert "80 features, 20 images of 4x4 places, k 3, width 8" in out
    assert all(f"\n{name}" in out for name in MEASURED)
