"""What `python app.py` and a Hugging Face Space start."""

from chatui.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
