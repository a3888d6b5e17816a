"""The operator's and the agent's images, built from the Dockerfile and put into the hosts."""

from kumulus_lab.containers.images import build_and_import, build_and_push

__all__ = ["build_and_import", "build_and_push"]
