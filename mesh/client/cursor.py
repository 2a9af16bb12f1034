"""The opaque `next` of a page: where it ended, bound to the question it answered.

It is not secret and not signed: it says nothing that the page did not show, and a forged one only starts elsewhere.
"""

import base64
import binascii
import hashlib

import msgspec

from mesh.errors import InvalidRequest
from mesh.model import Mark, Query

_HINT = "give after= the `next` of a page of the same query, with the same arguments"


class _Token(msgspec.Struct, frozen=True, array_like=True):
    query: bytes
    mark: Mark


_decoder = msgspec.msgpack.Decoder(_Token)


def encode(query: Query, mark: Mark) -> str:
    """Return the token for the page of *query* that starts after *mark*."""
    token = msgspec.msgpack.encode(_Token(_fingerprint(query), mark))
    return base64.urlsafe_b64encode(token).rstrip(b"=").decode()


def decode(query: Query, token: str) -> Mark:
    """Return the mark in a token of `encode`; a token of another query is an `InvalidRequest`."""
    try:
        raw = base64.b64decode(token.encode() + b"=" * (-len(token) % 4), altchars=b"-_", validate=True)
        found = _decoder.decode(raw)
    except (msgspec.DecodeError, binascii.Error, ValueError, AttributeError):
        raise InvalidRequest("not a token of this mesh", field="after", hint=_HINT) from None
    if found.query != _fingerprint(query):
        raise InvalidRequest("this token belongs to another query", field="after", hint=_HINT)
    return found.mark


def _fingerprint(query: Query) -> bytes:
    # The limit may change from page to page, so that a reader can take larger steps.
    plain = msgspec.structs.replace(query, after=None, limit=1)
    return hashlib.blake2b(msgspec.msgpack.encode(plain, order="sorted"), digest_size=8).digest()
