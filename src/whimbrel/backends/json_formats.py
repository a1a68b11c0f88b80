"""Formats of strings in JSON Schema: which are enforced, and which constrain nothing.

Dates and times are cut more exactly here than in the library, which takes 29 February in every year and the second 60.
"""

_YEAR = r"(?:[1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])"
_DAY = (
    r"(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    r"|02-(?:0[1-9]|1[0-9]|2[0-8]))"
)
_FOURTH = r"(?:0[48]|[2468][048]|[13579][26])"
_DATE = rf"(?:{_YEAR}-{_DAY}|(?:[0-9]{{2}}{_FOURTH}|{_FOURTH}00)-02-29)"
_TIME = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,9})?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"

CUT_BY_PATTERN = {"date": f"^{_DATE}$", "time": f"^{_TIME}$", "date-time": f"^{_DATE}T{_TIME}$"}
"""RFC 3339, without leap seconds; the year 0 is none."""

ENFORCED = (*CUT_BY_PATTERN, "duration", "email", "hostname", "ipv4", "ipv6", "uri", "uuid")
"""The rest is the library's own."""

ANNOTATED = frozenset({"int32", "int64", "float", "double", "byte", "binary", "password"})
"""OpenAPI's hints about storage and display: they say nothing about which strings or numbers are valid JSON."""
