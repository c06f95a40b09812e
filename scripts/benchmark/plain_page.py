"""The loop of a plain Gradio page, in a process of its own: one line of JSON in is a request, lines out are its reply.

`generate` in a thread with a TextIteratorStreamer, the text joined by the reader, one reply at a time.
"""

import json
import sys
import threading
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, TextIteratorStreamer

ANSWERS = sys.stdout


class Page:
    """A model as most pages load and run it."""

    def __init__(self, folder: str) -> None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        loading: Any = AutoModelForCausalLM
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self.model: Any = loading.from_pretrained(folder, dtype=torch.bfloat16).to(device)

    def weight_bytes(self) -> int:
        """Bytes read for a token: all weights but a table of embeddings that is not the output layer too."""
        total = sum(parameter.nbytes for parameter in self.model.parameters())
        table, output = self.model.get_input_embeddings(), self.model.get_output_embeddings()
        return int(total if output is None or output.weight is table.weight else total - table.weight.nbytes)

    def reply(self, messages: list[dict[str, str]], tokens: int) -> None:
        """Write the pieces of a reply as they come, then its usage."""
        inputs = self.tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        ).to(self.model.device)
        prompt_tokens = inputs["input_ids"].shape[1]
        streamer: Any = TextIteratorStreamer(self.tokenizer, skip_prompt=True, skip_special_tokens=True)
        result: list[Any] = []

        def generate() -> None:
            try:
                settings = {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False}
                result.append(self.model.generate(**inputs, streamer=streamer, **settings))
            except Exception as error:
                result.append(error)
                streamer.end()

        thread = threading.Thread(target=generate)
        thread.start()
        text = ""
        for piece in streamer:
            text += piece
            if piece:
                write_line(text=piece)
        thread.join()
        if isinstance(result[0], Exception):
            write_line(error=f"{type(result[0]).__name__}: {result[0]}")
        else:
            write_line(prompt_tokens=prompt_tokens, completion_tokens=result[0].shape[1] - prompt_tokens)


def write_line(**fields: Any) -> None:
    """A line to the measuring process."""
    print(json.dumps(fields), file=ANSWERS, flush=True)


if __name__ == "__main__":
    # Libraries that print must not get between the lines.
    sys.stdout = sys.stderr
    page = Page(sys.argv[1])
    write_line(weight_bytes=page.weight_bytes())
    for line in sys.stdin:
        page.reply(**json.loads(line))
