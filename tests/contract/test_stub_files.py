import pytest

from tests.contract.upstream import needs_source

MODULE = "stub_files"


def test_gradio_writes_stubs_where_we_stop_it() -> None:
    # The function itself has been replaced once chatui.ui was imported.
    needs_source(
        "gradio.component_meta",
        r"def create_or_modify_pyi\( ?component_class: type, class_name: str, events: [^)]*\)",
        "create_or_modify_pyi no longer takes component_class, class_name and events",
        MODULE,
    )
    needs_source(
        "gradio.component_meta:ComponentMeta.__new__",
        r"create_or_modify_pyi\(",
        "ComponentMeta no longer calls create_or_modify_pyi for each class",
        MODULE,
    )


def test_no_stub_is_written_for_a_component_class(tmp_path: object) -> None:
    import chatui.ui  # noqa: F401 - imports Gradio as the server does

    with pytest.MonkeyPatch.context() as patch:
        from pathlib import Path

        import gradio as gr

        patch.setattr(Path, "write_text", lambda *_, **__: pytest.fail("a stub was written"))
        type("Box", (gr.Textbox,), {"__module__": __name__})
