"""The short facts of a model that is served: its software, precision, size and context, as far as they are known."""

from chatui.chat import ModelInfo
from chatui.i18n import _, format_number, join_isolated, localize_numbers
from chatui.units import human_bytes, human_count


def facts_line(info: ModelInfo) -> str:
    """The facts in one line, without markup, and the device or the server that runs it."""
    parts = [info.server.software if info.server is not None else "", info.precision, _size(info)]
    if info.server is not None and info.context_length:
        parts.append(_("context {count}", count=format_number(info.context_length)))
    return join_isolated(filter(None, (*parts, info.device)))


def _size(info: ModelInfo) -> str:
    """The parameters and bytes of the weights; a server may tell neither of them."""
    count, size = localize_numbers(human_count(info.parameters)), localize_numbers(human_bytes(info.weight_bytes))
    if info.parameters and info.weight_bytes:
        return _("{count} parameters · {size}", count=count, size=size)
    if info.parameters:
        return _("{count} parameters", count=count)
    return size if info.weight_bytes else ""
