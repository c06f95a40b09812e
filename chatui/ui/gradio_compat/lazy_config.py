"""Builds the configuration of a page once, when it is first read.

Replaced: `get_config_file`, `_resolve_ssr_mode` and the attribute `config` of `Blocks` (`gradio/blocks.py`).
Why: Gradio builds all of it at four steps of a start and uses the last: 0.05 s of processor time each. There is no
setting.
Upstream: `Blocks.__exit__` does so for the page and for the chat within it, `mount_gradio_app` or `Blocks.launch`, and
`App.setup_mcp_server`, each by `blocks.config = blocks.get_config_file()`. Meanwhile `_resolve_ssr_mode` alone reads
it: how many pages there are, unless `disable_when_multi_page` is false.
"""

from typing import Any

import gradio as gr


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
            self._config = super().get_config_file()
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
