"""The texts and code of the cells that a notebook has beside the code of the Python script."""

LOAD = """\
## Step 1: load the model and its tokenizer

The tokenizer turns text into numbers and back. The model computes from numbers which one comes next. Both come from \
one source and belong together: another tokenizer would number the same words differently."""

TEMPLATE = """\
## Step 2: apply the chat template

A conversation is a list of messages, each with a role and a content. A language model reads one text, so the chat \
template, which comes with the tokenizer, writes the messages in the form that the model was trained on. The text ends \
where the reply begins."""
TEXT = """\
chat_text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True{options})
print(chat_text)
"""
CONTINUED_TEXT = """\
# This reply goes on where it had been cut off, so its first part is the end of the text.
try:
    chat_text = tokenizer.apply_chat_template(messages, tokenize=False, continue_final_message=True{options})
except Exception as error:
    chat_text = ""
    print("This template cannot do that:", error)
print(chat_text)
"""

TOKENIZE = """\
## Step 3: tokenize

The text is cut into tokens: words, parts of words and control tokens such as the ends of messages. Each has an id. \
`apply_chat_template` does steps 2 and 3 in one call. The template has already written the tokens that begin a text; \
`add_special_tokens=False` keeps the tokenizer from adding them twice."""
TOKENS = """\
ids = tokenizer(chat_text, add_special_tokens=False)["input_ids"]
print("Tokenized by itself, the text has the same ids:", ids == prompt[0].tolist())
print("(If not, someone typed a control token, or the template could not continue the reply.)")
for token_id in prompt[0, :40].tolist():
    print(f"{token_id:8} {tokenizer.decode([token_id])!r}")
"""

GENERATE = """\
## Step 4: generate

One forward pass gives a score to each token of the vocabulary; softmax turns the scores into probabilities. \
`generate()` chooses one token, appends it, and repeats this until a token ends the reply or the limit is reached. \
Keys and values of all tokens so far are cached, so that each pass computes only the new token."""
FORWARD = """\
with torch.inference_mode():
    result = model(prompt)
probabilities = result.logits[0, -1].float().softmax(-1)
for probability, token_id in zip(*(part.tolist() for part in probabilities.topk(5))):
    print(f"{probability:6.1%} {tokenizer.decode([token_id])!r}")
"""

DECODE = """\
## Step 5: decode

The new ids become text again. Control tokens, such as the one that ended the reply, are left out."""

PIPELINE = """\
## All steps in one call

`pipeline` does the five steps itself. With the same arguments it gives the same reply."""
PIPELINE_CODE = """\
from transformers import pipeline

pipe = pipeline("text-generation", model=model, tokenizer=tokenizer, device=model.device)
answer = {call}[0]["generated_text"]
print(answer)
print("The pipeline gives the same reply:", answer == text_of(reply))
"""

STREAM = """\
## Streamed

A streamer gets each token as soon as it is chosen, so that the text can be read while the rest is generated. This one \
also notes the times, from which the speed below is computed."""
STREAM_CODE = """\
import time

from transformers import TextStreamer


class TimedStreamer(TextStreamer):
    \"\"\"Prints the text as it grows; `times` are those of the prompt and of each token.\"\"\"

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.times = []

    def put(self, value):
        self.times.append(time.perf_counter())
        super().put(value)


streamer = TimedStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
streamed = {call}
print("Streamed, the reply is the same:", streamed[0, prompt.shape[1] :].tolist() == reply)
"""

MEMORY = """\
## Memory

The weights take the number of parameters times the bytes of one: 4 in float32, 2 in bfloat16, 1 in 8 bits, 0.5 in 4 \
bits (and a little more for the scales of quantized weights). The KV cache grows with each token of a conversation."""
MEMORY_CODE = """\
parameters = sum(parameter.numel() for parameter in model.parameters())
for precision, size in {"float32": 4, "bfloat16": 2, "8 bits": 1, "4 bits": 0.5}.items():
    print(f"{precision:9} {parameters:,} parameters x {size} B = {parameters * size / 1e9:.3f} GB")
weight_bytes = model.get_memory_footprint()
print(f"loaded here, in {model.dtype}: {weight_bytes / 1e9:.3f} GB")

cached = 0
for layer in getattr(result.past_key_values, "layers", []):
    for part in (getattr(layer, "keys", None), getattr(layer, "values", None)):
        cached += part.nbytes if part is not None else 0
print(f"KV cache: {cached:,} B / {prompt.shape[1]:,} tokens = {cached / prompt.shape[1]:,.0f} B for each token")
"""

SPEED = """\
## Speed

For each token the weights are read from memory once. So the bandwidth of the memory divided by the size of the \
weights is the most tokens per second for one reply. Fewer bytes for each parameter make it faster, and so do fewer \
parameters that take part in a token."""
SPEED_CODE = """\
first, last = streamer.times[1], streamer.times[-1]
tokens = len(streamer.times) - 2
if tokens:
    speed = tokens / (last - first)
    print(f"prefill of {prompt.shape[1]:,} tokens: {first - streamer.times[0]:.2f} s")
    print(f"{tokens:,} tokens / {last - first:.2f} s = {speed:.1f} tokens/s")
    print(f"{speed:.1f} tokens/s x {weight_bytes / 1e9:.3f} GB = {speed * weight_bytes / 1e9:.1f} GB/s of weights read")
"""
