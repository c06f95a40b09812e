"""The web page: the only package that imports Gradio."""

from chatui.ui.gradio_compat.stub_files import import_gradio

import_gradio()  # before any other module of this package imports Gradio
