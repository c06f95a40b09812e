"""Builds the configuration of a page once, when it is first read, and shares its parts among all page views.

Replaced: `get_config_file`, `_resolve_ssr_mode` and the attribute `config` of `Blocks` (`gradio/blocks.py`).
Why: Gradio builds all of it at four steps of a start and uses the last: 0.05 s of processor time each. It copies all
of it for each page view, a fifth of the time that one takes. There is no setting.
Upstream: `Blocks.__exit__` does so for the page and for the chat within it, `mount_gradio_app` or `Blocks.launch`, and
`App.setup_mcp_server`, each by `blocks.config = blocks.get_config_file()`. Meanwhile `_resolve_ssr_mode` alone reads
it: how many pages there are, unless `disable_when_multi_page` is false. `main` in `gradio/routes.py` copies the parts
by `copy.deepcopy`, and changes nothing within them but the URLs of files (`add_root_url` in
`gradio/processing_utils.py`).
"""

from typing import Any

import gradio as gr

FILE = "gradio.FileData"
"""What tells a file among the values of a component."""


class SharedPart(dict[str, Any]):
    """A component or an event of the configuration that nobody changes: a copy would be the same."""

    def __deepcopy__(self, memo: Any) -> "SharedPart":
        return self


class LazyConfig(gr.Blocks):
    """Blocks of one page. `config` is built when it is read; the later steps of a start change what it will be."""

    _config: Any = None

    def get_config_file(self) -> Any:
        """None: what `config` is set to until it is read."""
        return None

    @property
    def config(self) -> Any:
        """The configuration that Gradio sends to the browser."""
        if self._config is None:
            config: Any = super().get_config_file()
            parts = {name: [_shared(part) for part in config[name]] for name in ("components", "dependencies")}
            self._config = {**config, **parts}
        return self._config

    @config.setter
    def config(self, config: Any) -> None:
        self._config = config

    def _resolve_ssr_mode(
        self,
        ssr_mode: bool | None,
        disable_when_multi_page: bool = False,  # noqa: ARG002 - to know the number of pages would build all of them
    ) -> bool:
        """Whether Node renders the page."""
        return super()._resolve_ssr_mode(ssr_mode, disable_when_multi_page=False)


def _shared(part: dict[str, Any]) -> dict[str, Any]:
    """The part to share; as it is if it has a file, whose URL is each visitor's own."""
    return part if FILE in str(part.get("props")) else SharedPart(part)
