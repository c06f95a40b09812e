"""`python -m chatui`: the command line."""

from chatui.cli import main

raise SystemExit(main())
