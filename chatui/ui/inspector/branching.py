"""A stored reply cut at one of its tokens and continued with another token there. Pure."""

from dataclasses import replace

from chatui.inspection import Inspection
from chatui.store.records import StoredMessage
from chatui.ui.inspector.token_text import join_texts


def text_with_token(inspection: Inspection, position: int, token_id: int) -> str:
    """The reply's text before the token at `position`, followed by `token_id`; stop tokens are left out."""
    stop_ids = set(inspection.model.stop_ids)
    ids = [*inspection.traces.chosen_ids[:position], token_id]
    return join_texts(inspection.texts, (id for id in ids if id not in stop_ids))


def reply_with_token(inspection: Inspection, reply: StoredMessage, position: int, token_id: int) -> StoredMessage:
    """The reply before the token at `position`, followed by `token_id`, split into reasoning and content.

    The split is found by where the stored reasoning and content are in the generated text, so that it does not depend
    on how the model marks its reasoning.
    """
    text = text_with_token(inspection, position, token_id)
    author = reply.author
    if not reply.reasoning or (author and author.prefix):
        return replace(reply, content=(author.prefix if author else "") + text, reasoning="")
    prefix = author.prefix_reasoning if author else ""
    generated = _generated_text(inspection)
    reasoning = reply.reasoning.removeprefix(prefix).strip("\n")
    start = max(0, generated.find(reasoning))
    end = start + len(reasoning)
    content_start = generated.find(reply.content.strip("\n"), end) if reply.content else -1
    end_tag = generated[end:content_start].strip() if content_start >= 0 else ""
    text_before = _generated_text(inspection, position)
    if content_start >= 0 and len(text_before) >= content_start:
        return replace(reply, content=text[content_start:].lstrip("\n"), reasoning=prefix + reasoning)
    token_text = inspection.texts.get(token_id, "").strip()
    if token_text and end_tag.startswith(token_text):
        return replace(reply, content="", reasoning=prefix + text_before[start:].rstrip("\n"))
    return replace(reply, content="", reasoning=prefix + text[start:])


def _generated_text(inspection: Inspection, position: int | None = None) -> str:
    """All that the model generated, stop tokens too, before the token at `position`."""
    return join_texts(inspection.texts, inspection.traces.chosen_ids[:position])
