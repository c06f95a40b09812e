"""The log probabilities of a reply's tokens, in OpenAI's format. Knows no connection and no backend.

They are of the model's own distribution, before penalties, temperature and filters, as vLLM's default
`--logprobs-mode raw_logprobs` has them: https://docs.vllm.ai/en/stable/cli/serve/
"""

import math
import re
from collections.abc import Callable, Sequence

from chatui.api.responses import Fields
from chatui.chat import ReplyDelta, TraceSnapshot
from chatui.traces import TokenTrace

LOWEST_LOGPROB = -9999.0
"""OpenAI's value for a token of which nothing more is known than that it is very unlikely."""
PARTIAL_CHARACTER = re.compile(r"(?:<0x[0-9A-F]{2}>)+")

DecodeTokens = Callable[[set[int]], dict[int, str]]
"""Backend.decode_tokens of one model."""


class LogprobsReader:
    """Reads the log probabilities of a reply's tokens from its deltas, with the `top` likeliest tokens of each.

    All tokens of the reply count, as in vLLM: those of the thought and the one that ends the reply too.
    """

    def __init__(self, top: int, decode_tokens: DecodeTokens) -> None:
        self._top = top
        self._decode_tokens = decode_tokens
        self._snapshot: Callable[[], TraceSnapshot] | None = None
        self._received = self._read = 0

    def read(self, deltas: Sequence[ReplyDelta]) -> Fields | None:
        """The `logprobs` of the tokens of these deltas; None if there are none.

        A backend in another process sends its traces in portions: then they come with later deltas, the last ones with
        the last delta.
        """
        for delta in deltas:
            self._received += delta.tokens
            self._snapshot = delta.snapshot or self._snapshot
        if self._snapshot is None or self._received == self._read:
            return None
        traces = self._snapshot().traces[self._read : self._received]
        self._read += len(traces)
        texts = self._decode_tokens(traces.all_ids) if len(traces) else {}
        content = [self._token(trace, texts) for trace in traces]
        return {"content": content, "refusal": None} if content else None

    def _token(self, trace: TokenTrace, texts: dict[int, str]) -> Fields:
        likeliest = sorted(zip(trace.steps[0], trace.ids, strict=True), key=lambda pair: -pair[0])[: self._top]
        return {
            **_entry(trace.id, trace.probability, texts),
            "top_logprobs": [_entry(id, probability, texts) for probability, id in likeliest],
        }


def _entry(id: int, probability: float, texts: dict[int, str]) -> Fields:
    """The fields of a token. A part of a character is spelled as its bytes, such as \\xe2."""
    text = texts.get(id, "")
    data = text.encode()
    if PARTIAL_CHARACTER.fullmatch(text):
        data = bytes.fromhex(re.sub("<0x|>", "", text))
        text = "".join(chr(byte) if 0x20 <= byte < 0x7F else f"\\x{byte:02x}" for byte in data)
    logprob = max(math.log(probability), LOWEST_LOGPROB) if probability > 0 else LOWEST_LOGPROB
    return {"token": text, "logprob": logprob, "bytes": list(data)}
