"""What an answer to a probe consists of, for every way to serve one."""

PHRASES = {200: "OK", 404: "Not Found", 405: "Method Not Allowed", 503: "Service Unavailable"}


def headers(text: str) -> "list[tuple[str, str]]":
    """Return the headers of an answer with this text."""
    return [
        ("Content-Type", "text/plain; charset=utf-8"),
        ("Content-Length", str(len(text.encode()))),
        ("Cache-Control", "no-store"),
    ]
