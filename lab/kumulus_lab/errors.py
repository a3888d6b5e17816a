"""Errors of the lab.

LabError
├── Unsuitable      the machine lacks something; the message says what and how to get it
├── CommandFailed   a tool returned a status other than 0; the message holds the end of its output
└── TimedOut        a limit passed; the message says what was awaited and where its log is
"""


class LabError(Exception):
    """Whatever the lab cannot go on from; its text is meant for the user, in one line where possible."""


class Unsuitable(LabError):
    """The machine cannot carry the lab as it is."""


class CommandFailed(LabError):
    """A tool that the lab called has failed."""


class TimedOut(LabError):
    """Something did not happen within its limit."""
