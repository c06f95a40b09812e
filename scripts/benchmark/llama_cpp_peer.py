"""llama.cpp's own server, as the benchmark asks it: python llama_cpp_peer.py MODEL.gguf USERS.

Runs in an environment of its own (peers.py), with nothing but the standard library and xllamacpp. Prints its address
when it is ready, and ends with its standard input.
"""

import os
import sys

import xllamacpp

CONTEXT = 8192
"""Tokens of each user."""


def main(model: str, users: int) -> None:
    """Serve until the standard input ends."""
    params = xllamacpp.CommonParams()
    params.model.path = model
    params.n_parallel, params.n_ctx = users, CONTEXT * users
    params.hostnames, params.port = ["127.0.0.1"], 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = len(os.sched_getaffinity(0))
    params.use_jinja, params.warmup = True, True
    server = xllamacpp.Server(params)
    print(f"ready {server.listening_address}", flush=True)
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
