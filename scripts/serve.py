"""Serve a finished run over HTTP: `python scripts/serve.py RUN --port 8000`; see docs/serving.md."""

from dien.serving.command import main

if __name__ == "__main__":
    main()
