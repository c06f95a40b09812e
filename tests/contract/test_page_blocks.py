from tests.contract.upstream import find, needs, needs_parameters, needs_source

MODULE = "page_blocks"


def test_an_event_runs_by_the_methods_that_we_wrap() -> None:
    needs_parameters("gradio.blocks:Blocks.process_api", ["block_fn", "inputs", "state", "request"], MODULE)
    needs_parameters("gradio.blocks:Blocks.preprocess_data", ["block_fn", "inputs", "state"], MODULE)
    needs_parameters("gradio.blocks:Blocks.postprocess_data", ["block_fn", "predictions", "state"], MODULE, only=True)
    needs_source(
        "gradio.blocks:Blocks.process_api",
        r"await self\.postprocess_data\(block_fn, ",
        "Blocks.process_api no longer makes an event's answer by Blocks.postprocess_data",
        MODULE,
    )


def test_the_page_is_sent_from_config() -> None:
    needs_source(
        "gradio.routes:App.create_app",
        r"source_config = blocks\.config",
        "The page's route no longer reads Blocks.config, by which each visitor gets a page of their own",
        MODULE,
    )
    needs_source(
        "gradio.blocks:Blocks.__exit__",
        r"self\.config = self\.get_config_file\(\)",
        "Blocks no longer sets its attribute config",
        MODULE,
    )


def test_components_and_events_have_the_parts_that_are_read() -> None:
    import gradio as gr

    with gr.Blocks() as page:
        box = gr.Textbox("x", label="Name")
        event = gr.Button("Go").click(lambda: "y", None, box)
    needs(isinstance(getattr(box, "_id", None), int), "A component has no number _id any more", MODULE)
    number = event["id"] if hasattr(event, "__getitem__") else None
    needs(number in page.fns, "An event's dependency no longer has the id by which Blocks.fns knows it", MODULE)
    outputs = page.fns[number].outputs
    needs(outputs == [box], "BlockFunction.outputs is no longer the list of output components", MODULE)
    sent = {each["id"]: each["props"] for each in page.config["components"]}
    needs(sent[box._id]["value"] == "x", "config no longer has components with id and props", MODULE)
    needs(gr.skip() == {"__type__": "update"}, "gr.skip() is no longer an update of nothing", MODULE)
    shown = gr.update(value=1)
    needs(shown.get("__type__") == "update", "gr.update() no longer has __type__ update", MODULE)
    needs(find("gradio.block_function:BlockFunction", MODULE), "BlockFunction is gone", MODULE)


async def test_an_event_redraws_no_more_than_it_gives() -> None:
    import gradio as gr

    from chatui.ui.gradio_compat.page_blocks import PageBlocks

    with PageBlocks() as page:
        first, second = gr.Textbox(), gr.Textbox()
        gr.Button().click(lambda: {}, None, [first, second])
    shown = await page.postprocess_data(page.fns[0], {second: "b"}, None)
    assert shown == [gr.skip(), "b"]
