"""Splits replies in the harmony format of gpt-oss: https://github.com/openai/harmony."""

from dataclasses import dataclass, field

from chatui.reply_text.reply_parts import NOTHING, Parts
from chatui.reply_text.thinking_tags import HARMONY, Tags

MARK = "\ue0ff"
"""Stands before and behind a control token that the HarmonySplitter reads, so that no text is taken for one."""


def marked(token: str) -> str:
    """A control token as the HarmonySplitter reads it."""
    return f"{MARK}{token}{MARK}"


@dataclass
class HarmonySplitter:
    """A Splitter for gpt-oss: `<|channel|>analysis<|message|>...<|end|>`, then other messages, the last one `final`.

    Its control tokens come `marked`. Text in no channel is content.
    """

    channel: str = ""
    finished: bool = False
    _held: str = ""
    _header: str | None = None
    _apart: dict[bool, str] = field(default_factory=dict)
    _ended: bool = False

    @property
    def thinking(self) -> Tags | None:
        """See Splitter."""
        return HARMONY if self.channel == "analysis" and self._header is None and not self._ended else None

    def push(self, text: str) -> Parts:
        """See Splitter."""
        parts = (self._held + text).split(MARK)
        self._held = MARK + parts.pop() if len(parts) % 2 == 0 else ""
        content: list[str] = []
        thought: list[str] = []
        for number, part in enumerate(parts):
            if number % 2:
                self._control(part)
            elif self._header is not None:
                self._header += part
            elif part:
                thinks = self.channel == "analysis"
                (thought if thinks else content).append(self._apart.get(thinks, "") + part)
                self._apart[thinks] = ""
        return Parts("".join(content), "".join(thought))

    def flush(self) -> Parts:
        """See Splitter."""
        return NOTHING

    def _control(self, name: str) -> None:
        if name in ("<|start|>", "<|channel|>"):
            self._header = (self._header or "") + name
        elif name == "<|message|>":
            words = (self._header or "").rpartition("<|channel|>")[2].split()
            self.channel, self._header = words[0] if words else "", None
            self._apart, self._ended = dict.fromkeys(self._apart, "\n\n"), False
        elif name == "<|end|>":
            self._ended = True
            self.finished = self.channel not in ("analysis", "commentary")
