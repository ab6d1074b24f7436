"""`unbox app`."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class App:
    """Open the explorer in a browser: pictures, the features behind them, search, painting with features."""

    model: str = "shapes-turbo"
    """System's name, Hub id or diffusers folder."""
    saes: Path | None = None
    """Folder of SAEs that `unbox train` wrote; default: those of the bundled model, made once if need be."""
    atlas: Path | None = None
    """Folder that `unbox atlas` wrote."""
    figures: Path | None = None
    """figures.json that `unbox evaluate --out` wrote, for the page of blocks."""
    bench: Path | None = None
    """Folder that `unbox bench shapes --out` wrote, for the page of blocks."""
    host: str = "127.0.0.1"
    """Address to serve at; any but this machine's own asks visitors for a password."""
    port: int | None = None
    """Port; default the first free one from 7860."""
    password: str | None = None
    """Password of the user `unbox`; made up and printed where one is needed and none is given."""
    device: str | None = None
    """Where to compute, like cuda or cpu; the accelerator if there is one."""
    browser: bool = False
    """Open the browser at once."""

    def run(self) -> None:
        """Serve until Ctrl-C."""
        import os

        # Gradio reads it while it is imported: nothing is reported to anybody.
        os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
        from unbox.explorer.interface import serve
        from unbox.explorer.open_session import open_session
        from unbox.models import load

        model = load(self.model, device=self.device)
        session = open_session(model, self.saes, self.atlas, self.figures, self.bench)
        app = serve(
            session, self.host, self.port, password=self.password, open_browser=self.browser, block=False
        )
        print(f"The explorer is at {app.local_url} (Ctrl-C ends it)", flush=True)
        app.block_thread()
