"""The console proxy: lets whoever holds a session's token reach one server's console, once."""

import kumulus_runtime.imports  # noqa: F401 - must precede kubernetes
