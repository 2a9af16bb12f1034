"""Bodies: msgpack of typed structures, opaque to brokers on their way.

Only client and worker read the bodies of REQUEST and REPLY. A body that does not fit its type raises
`InvalidRequest` with the field named.
"""

import re
from typing import Any, TypeVar

import msgspec

from mesh.errors import InvalidRequest
from mesh.model import AnyAnswer, AnyOperation
from mesh.protocol import limits


class Hello(msgspec.Struct, frozen=True, omit_defaults=True):
    """HELLO and WELCOME: who I am and what I speak."""

    #: "client" or "peer"; a WELCOME says "broker".
    role: str
    #: The region of a peer or a broker, empty for a client.
    region: str = ""
    #: A new one at each start, so that both sides know when to forget what they counted.
    epoch: str = ""
    versions: tuple[int, ...] = limits.VERSIONS
    #: Hex of the region map's digest.
    map_digest: str = ""
    #: In a WELCOME: all regions of the mesh.
    regions: tuple[str, ...] = ()
    #: Software version, for people.
    software: str = ""


class Ready(msgspec.Struct, frozen=True, omit_defaults=True):
    """READY: a worker offers itself."""

    instance: str
    epoch: str
    #: Jobs it runs at the same time.
    slots: int = 1
    #: Jobs it takes in all, running and waiting, at most.
    window: int = 8
    service: str = "places"
    map_digest: str = ""


class Reply(msgspec.Struct, frozen=True, array_like=True):
    """REPLY of the places service: the answer, and which worker gave it ("south/1")."""

    answer: AnyAnswer
    served_by: str = ""


T = TypeVar("T")
_encoder = msgspec.msgpack.Encoder()
_operation: "msgspec.msgpack.Decoder[AnyOperation]" = msgspec.msgpack.Decoder(AnyOperation)
_reply = msgspec.msgpack.Decoder(Reply)
_hello = msgspec.msgpack.Decoder(Hello)
_ready = msgspec.msgpack.Decoder(Ready)
_any = msgspec.msgpack.Decoder()

#: The field that msgspec speaks of in the text, not in the path.
_FIELD = re.compile(r"unknown field `(?P<unknown>[^`]*)`|missing required field `(?P<missing>[^`]*)`")
#: What msgspec appends to a validation error: "... - at `$.place[1]`".
_AT = re.compile(r"^(?P<what>.*?)(?: - at `(?P<path>[^`]*)`)?$", re.DOTALL)

encode = _encoder.encode


def decode_operation(body: bytes) -> AnyOperation:
    """Return the operation of a REQUEST; raises `InvalidRequest`."""
    return _decode(_operation, body)


def decode_reply(body: bytes) -> Reply:
    """Return the body of a REPLY; raises `InvalidRequest`."""
    return _decode(_reply, body)


def decode_hello(body: bytes) -> Hello:
    """Return the body of a HELLO or WELCOME; raises `InvalidRequest`."""
    return _decode(_hello, body)


def decode_ready(body: bytes) -> Ready:
    """Return the body of a READY; raises `InvalidRequest`."""
    return _decode(_ready, body)


def decode_any(body: bytes) -> Any:
    """Return an untyped body, as STATUS answers have; raises `InvalidRequest`."""
    return _decode(_any, body)


def encode_text(text: str) -> bytes:
    """Return the body of a NACK: a line for people, cut to `limits.MAX_TEXT_BYTES`."""
    return text.encode("utf-8", "replace")[: limits.MAX_TEXT_BYTES]


def decode_text(body: bytes) -> str:
    """Return the text of a NACK."""
    return body[: limits.MAX_TEXT_BYTES].decode("utf-8", "replace")


def _decode(decoder: "msgspec.msgpack.Decoder[T]", body: bytes) -> T:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"the body is not the msgpack it should be: {error}", field="body") from None


def _invalid(text: str) -> InvalidRequest:
    match = _AT.match(text)
    what, path = (match["what"], match["path"]) if match else (text, None)
    inside = (path or "$").removeprefix("$").removeprefix(".")
    named = _FIELD.search(what)
    parts = (inside, (named["unknown"] or named["missing"]) if named else "")
    return InvalidRequest(what[:1].lower() + what[1:], field=".".join(filter(None, parts)) or "body")
