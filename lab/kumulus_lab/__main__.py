"""``python -m kumulus_lab``."""

from kumulus_lab.main import main

main()
