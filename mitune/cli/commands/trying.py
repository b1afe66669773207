"""The verb with a page to type a prompt into: try."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from mitune.arguments.fields import Given, stands_for
from mitune.cli.defaults import of_preset
from mitune.cli.options.model import Common
from mitune.cli.options.settings import configured, of_one, settings_of
from mitune.config.runtime import Runtime
from mitune.core.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Try(Common):
    """Serve a page to type a prompt into: candidates with their mutual information, the most first,
    and with --adapter base beside tuned on the same noise. It draws for one request after the
    other."""

    adapter: Annotated[Path | None, stands_for("none")] = None
    """A LoRA or DoRA on the model, to compare with it."""
    candidates: int = 8
    """Pictures of a prompt, unless the form has another number."""
    steps: Annotated[int | None, of_preset("sampler.steps")] = None
    """Denoising steps."""
    guidance: Annotated[float | None, of_preset("use_guidance")] = None
    """Classifier-free guidance scale."""
    title: str = "Try a prompt"
    """Of the page."""
    host: str = "127.0.0.1"
    """The address to listen on; 0.0.0.0 is every network, whose users may then all draw."""
    port: int = 8001
    """The port; 0 is any that is free."""
    root_path: Annotated[str | None, stands_for("none")] = None
    """The path that the page is below, such as /try, whether or not a proxy in front takes it
    away."""
    behind_proxy: bool = False
    """Believe the proxy's X-Forwarded headers."""
    space: Annotated[Path | None, stands_for("none")] = None
    """Serve nothing, and write into this new folder what a Space of the Hugging Face hub needs to
    show the same page."""
    settings: Annotated[Given, settings_of(Runtime, of_one(Runtime()), {"cuda_graphs"})] = field(
        default_factory=dict
    )

    def run(self) -> dict[str, Any]:
        from mitune.web.serve import address_of, check_below, check_server, listen, serve

        if self.space is not None:
            from mitune.trying.space import write_space

            written = write_space(self.space, model=self.model, adapter=self.adapter)
            print(f"space: {self.space}")
            return {"files": [str(path) for path in written]}
        check_server("try")
        from mitune.evaluation.report import use_sampler
        from mitune.trying.app import MOST, application
        from mitune.trying.drawer import Drawer

        if not 1 <= self.candidates <= MOST:
            raise UserError(f"candidates is {self.candidates}: expected 1 to {MOST}")
        below = check_below((self.root_path or "").rstrip("/"))
        listening = listen(self.host, self.port)
        model = self.load()
        sampler = use_sampler(model, steps=self.steps, guidance=self.guidance)
        drawer = Drawer(model, self.adapter, sampler, configured(self, Runtime()))
        page = application(drawer, self.title, count=self.candidates, below=below)
        address = address_of(listening, below)
        print(f"page: {address}/", flush=True)
        serve(page, listening, behind_proxy=self.behind_proxy)
        print("stopped")
        return {"page": f"{address}/"}
