"""llama.cpp's own server, as the benchmark asks it: python llama_cpp_peer.py MODEL.gguf USERS [THREADS].

Runs in an environment of its own (peers.py), with nothing but the standard library and xllamacpp. Prints its address
when it is ready, and ends with its standard input.
"""

import os
import sys

import xllamacpp

CONTEXT = 8192
"""Tokens of each user."""


def serving(model: str, users: int, threads: int = 0) -> xllamacpp.Server:
    """A server in this process, at a free port. 0 threads are one for each core."""
    params = xllamacpp.CommonParams()
    params.model.path = model
    params.n_parallel, params.n_ctx = users, CONTEXT * users
    params.hostnames, params.port = ["127.0.0.1"], 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads or len(os.sched_getaffinity(0))
    params.use_jinja, params.warmup, params.endpoint_metrics = True, True, True
    return xllamacpp.Server(params)


def main(model: str, users: int, threads: int = 0) -> None:
    """Serve until the standard input ends."""
    server = serving(model, users, threads)
    print(f"ready {server.listening_address}", flush=True)
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:4]))
