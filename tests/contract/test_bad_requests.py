import inspect

import pytest

from tests.contract.upstream import find, needs, needs_parameters, needs_source

MODULE = "bad_requests"


def test_gradio_reads_values_where_we_watch_it() -> None:
    found = find("gradio.route_utils:FnIndexInferError", MODULE)
    needs(issubclass(found, Exception), "FnIndexInferError is no exception any more", MODULE)
    needs(
        inspect.iscoroutinefunction(find("gradio.blocks:Blocks.preprocess_data", MODULE)),
        "Blocks.preprocess_data is not async any more",
        MODULE,
    )
    needs_source(
        "gradio.blocks:Blocks.process_api",
        r"await self\.preprocess_data\(",
        "Blocks.process_api no longer reads a client's values by Blocks.preprocess_data",
        MODULE,
    )
    needs_parameters("gradio.exceptions:Error.__init__", ["message", "print_exception"], MODULE)


async def test_an_error_of_gradios_is_told_from_ours() -> None:
    import gradio as gr

    from chatui.ui.gradio_compat.bad_requests import refuse_bad_values

    with gr.Blocks() as page:
        gr.Button().click(lambda value: value, gr.Slider(), None)
    with pytest.raises(gr.Error, match="do not fit"), refuse_bad_values():
        await page.preprocess_data(page.fns[0], [{"no": "number"}], None)
    with pytest.raises(ValueError, match="ours"), refuse_bad_values():
        raise ValueError("ours")
