"""`unbox app`."""

from unbox.cli.model_options import Group, Mismatch, ModelOptions
from unbox.explorer.limits import Host, LargestPicture, Password, RootPath
from unbox.validation import FilePath, Port, validated


@validated
class AppCommand:
    """Open the explorer in a browser: pictures, the features behind them, search, painting with features."""

    saes: FilePath | None = None
    """Folder of SAEs that `unbox train` wrote; None: those of the bundled model, made once if need be."""
    atlas: FilePath | None = None
    """Folder that `unbox atlas` wrote."""
    figures: FilePath | None = None
    """`figures.json` that `unbox evaluate --out` wrote, shown on the page of blocks."""
    bench: FilePath | None = None
    """Folder that `unbox bench shapes --out` wrote, shown on the page of blocks."""
    diff: FilePath | None = None
    """Folder that `unbox diff` wrote, shown on the page of systems; with --saes DIFF/saes/joint its features
    open their pages."""
    host: Host = "127.0.0.1"
    """Address to serve at; one that other machines can reach asks visitors for a password."""
    port: Port | None = None
    """Port; None: the first free one from 7860."""
    password: Password | None = None
    """Password of the user `unbox`; made up and printed where one is needed and none given."""
    root_path: RootPath = ""
    """Path under which a proxy serves the explorer, like /unbox, or the whole address."""
    largest: LargestPicture = 4.0
    """A picture's pixels at most, in those of its system's own size."""
    browser: bool = False
    """Open the browser at once."""
    model_mismatch: Mismatch = "warn"
    model: Group[ModelOptions] = ModelOptions()

    def run(self) -> None:
        import os
        import time

        # Gradio reads it while it is imported: nothing is reported to anybody.
        os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
        from unbox.explorer.image_recipe import OpenedModel
        from unbox.explorer.interface import serve
        from unbox.explorer.open_session import open_session

        given = self.saes, self.atlas, self.figures, self.bench, self.diff
        opened = OpenedModel(self.model.line(), self.model.python())
        session = open_session(
            self.model.load(), *given, model_mismatch=self.model_mismatch, opened=opened, largest=self.largest
        )
        app = serve(
            session, self.host, self.port, password=self.password, root_path=self.root_path,
            open_browser=self.browser, block=False,
        )  # fmt: skip
        print(f"The explorer is at {app.local_url} (Ctrl-C ends it)", flush=True)
        try:
            while True:
                time.sleep(60)  # ended by a signal, which `unbox.stopping` raises
        finally:
            app.close(verbose=False)
