"""The kubectl plugin `kubectl kumulus`."""
