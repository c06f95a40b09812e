"""`python -m scripts.benchmark`: with `page` for what reaches the browser, with `chats` for many conversations,
with `traces` for what the Inspect view costs, with `restarts` for conversations that go on after one, with `gpu` for
the engine on a GPU, with `gateway` for what it costs to stand in front of another server, with `replicas` for
conversations over two servers of one model, with `memory` for that of the server and of its compilers, and with
`capacity` for what an installation carries.
"""

import sys

if sys.argv[1:2] == ["page"]:
    from scripts.benchmark import page

    raise SystemExit(page.main(sys.argv[2:]))

if sys.argv[1:2] == ["chats"]:
    from scripts.benchmark import chats

    raise SystemExit(chats.main(sys.argv[2:]))

if sys.argv[1:2] == ["traces"]:
    from scripts.benchmark import traces

    raise SystemExit(traces.main(sys.argv[2:]))

if sys.argv[1:2] == ["restarts"]:
    from scripts.benchmark import restarts

    raise SystemExit(restarts.main(sys.argv[2:]))

if sys.argv[1:2] == ["gpu"]:
    from scripts.benchmark import gpu

    raise SystemExit(gpu.main(sys.argv[2:]))

if sys.argv[1:2] == ["gateway"]:
    from scripts.benchmark import gateway

    raise SystemExit(gateway.main(sys.argv[2:]))

if sys.argv[1:2] == ["replicas"]:
    from scripts.benchmark import replicas

    raise SystemExit(replicas.main(sys.argv[2:]))

if sys.argv[1:2] == ["memory"]:
    from scripts.benchmark import memory

    raise SystemExit(memory.main(sys.argv[2:]))

if sys.argv[1:2] == ["capacity"]:
    from scripts.benchmark import capacity

    raise SystemExit(capacity.main(sys.argv[2:]))

from scripts.benchmark import run

raise SystemExit(run.main())
