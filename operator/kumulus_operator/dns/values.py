"""Values of records as zone files have them: checked and written anew by dnspython, so that nothing else gets in.

The library takes memory. It is imported when the first value is looked at: a cloud without zones never does.
"""

from __future__ import annotations

from functools import lru_cache

from kumulus_api.dns import RecordType

_STRING = 255
"""Bytes of one string of a TXT record (RFC 1035, section 3.3)."""
_NAMED = {
    RecordType.CNAME: "target",
    RecordType.NS: "target",
    RecordType.PTR: "target",
    RecordType.SRV: "target",
    RecordType.MX: "exchange",
}
"""Which field of a type's value is a name."""


@lru_cache(maxsize=8192)
def canonical(kind: RecordType, text: str) -> str:
    """Give a value in one line as a zone file has it: `10 mail.example.test.`, `"v=spf1 -all"`.

    Args:
        kind: the record's type.
        text: as the user wrote it.

    Raises:
        ValueError: it is no value of the type; the message says why.
    """
    import dns.exception  # noqa: PLC0415 - see above
    import dns.rdata  # noqa: PLC0415
    from dns.rdataclass import IN  # noqa: PLC0415
    from dns.rdatatype import RdataType  # noqa: PLC0415

    if not (text.isascii() and text.isprintable()):
        raise ValueError("has characters that are not printable ASCII")
    if kind is RecordType.TXT and not text.startswith('"'):
        text = _quoted(text)
    try:
        value = dns.rdata.from_text(IN, RdataType[kind.value], text, relativize=False)
    except dns.exception.DNSException as error:
        raise ValueError(str(error) or type(error).__name__) from error
    if value.rdcomment is not None:
        raise ValueError("has a comment; a semicolon stands in quotes")
    if kind in _NAMED and not getattr(value, _NAMED[kind]).is_absolute():
        raise ValueError("names another name without the dot at its end")
    written = value.to_text()
    if not (written.isascii() and written.isprintable()):
        raise ValueError("cannot be written in one line")
    return written


def _quoted(text: str) -> str:
    """Give a text as the strings of a TXT value."""
    parts = (text[start : start + _STRING] for start in range(0, len(text), _STRING))
    return " ".join('"' + part.replace("\\", "\\\\").replace('"', '\\"') + '"' for part in parts)
