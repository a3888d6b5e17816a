"""`python -m kumulus_cli`."""

from kumulus_cli.main import app

app(prog_name="kubectl kumulus")
