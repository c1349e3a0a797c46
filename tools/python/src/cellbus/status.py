"""The closed set of ways in which a message fails. Numbers are those on the wire; they are appended, never changed."""

from __future__ import annotations

from enum import Enum, IntEnum


class StatusClass(Enum):
    """What a status says about the work that was asked for."""

    REFUSED = "refused"
    """Certainly not done."""
    UNKNOWN = "unknown"
    """May have been done."""
    FAILED = "failed"
    """Done, and the handler reported failure."""


class Status(IntEnum):
    """Why a message has failed. `Status.DEADLINE.value` is the number on the wire."""

    NO_ROUTE = 1
    """No link leads towards the destination cell."""
    BAD_TARGET = 2
    """The destination is not an address that this message can have."""
    NO_HANDLER = 3
    """The destination cell has no handler for the channel and topic."""
    TTL_EXCEEDED = 4
    """The message has used up its hops."""
    LOOP = 5
    """The way to the destination leads back where the message came from."""
    PEER_UNKNOWN = 6
    """The sender has no registration here."""
    PEER_LOST = 7
    """The link died after the message had been handed over."""
    PEER_RESTARTED = 8
    """The destination has been restarted since the message was addressed."""
    EXPIRED_IN_QUEUE = 16
    """The budget was spent before the message was handed to a handler."""
    DEADLINE = 17
    """No reply arrived within the budget."""
    OVERLOADED = 24
    """A queue or budget on the path is full; try again later."""
    SLOW_CONSUMER = 25
    """The next cell takes messages too slowly."""
    RATE_LIMIT = 26
    """The sender exceeds its rate."""
    TOO_LARGE = 27
    """The message, or a part of it, is larger than allowed."""
    DRAINING = 28
    """The cell finishes what it has and takes nothing new."""
    SHUTTING_DOWN = 29
    """The cell is stopping."""
    ABORTED_RUNNING = 30
    """The cell stopped while the handler was running."""
    STALE_ID = 40
    """The id is older than the window in which repeats are recognised."""
    DUPLICATE = 41
    """The id has been seen before."""
    CLOCK_SKEW = 42
    """The message was signed too long ago, or in the future, by this cell's clock."""
    NO_HELLO = 48
    """Something came before HELLO."""
    NO_TOKEN = 49
    """The message carries no session token."""
    BAD_TOKEN = 50
    """The session token is not one that the server issued."""
    TOKEN_EXPIRED = 51
    """The session token has ended."""
    TOKEN_REVOKED = 52
    """The session token has been revoked."""
    TOKEN_WRONG_CONN = 53
    """The session token belongs to another connection."""
    ORIGIN_MISMATCH = 54
    """The origin does not lie where the message came from."""
    NOT_DIRECT = 55
    """The message is only for a direct neighbour."""
    NO_CHALLENGE = 56
    """No challenge is pending on this connection."""
    CHALLENGE_EXPIRED = 57
    """The challenge was answered too late."""
    CHALLENGE_LIMIT = 58
    """Too many challenges are pending."""
    BAD_SIGNATURE = 59
    """The signature does not verify."""
    CERT_NAME = 60
    """The certificate does not carry the name that is claimed."""
    CERT_KIND = 61
    """The certificate is of the wrong kind."""
    CERT_EXPIRED = 62
    """The certificate has ended or is not yet valid."""
    CERT_REVOKED = 63
    """The certificate has been revoked."""
    TOPIC_DENIED = 64
    """No rule allows the channel and topic for this sender and destination."""
    JOB_SCOPE = 65
    """A job cell addressed something outside its job."""
    FORBIDDEN = 66
    """The peer may not do this."""
    DUPLICATE_NAME = 67
    """Another holder of this name is alive."""
    REPLY_UNSOLICITED = 68
    """The reply answers nothing that is outstanding."""
    DISABLED = 69
    """The name has been disabled."""
    DEST_NOT_LOCAL = 70
    """The message is not for this cell and may not be passed on."""
    UNAUTHENTICATED = 71
    """The peer is not authenticated."""
    NOT_SEALED = 72
    """Only sealed messages are taken here."""
    SEAL_BROKEN = 73
    """The sealed message is not what its origin sealed for this cell."""
    SEAL_KEY = 74
    """No key is at hand that the message can be sealed or opened with."""
    STALE_LIST = 75
    """The signed list is older than the one that is held, or another of its version."""
    BAD_FRAME = 96
    """The frame cannot be decoded."""
    BAD_HEADER = 97
    """The header cannot be decoded, or a field of it is not allowed."""
    TOO_DEEP = 98
    """The value is nested too deeply."""
    BAD_FQCN = 99
    """A cell name is malformed."""
    VERSION = 100
    """The peer speaks a version, or uses a critical field, that this cell does not know."""
    FILTER_ERROR = 112
    """A filter stopped the message before the handler."""
    HANDLER_PANIC = 113
    """The handler panicked."""
    HANDLER_GONE = 114
    """The handler ended without an answer."""
    HANDLER_FAILED = 115
    """The handler ran and reported an error; the payload says which."""
    STORAGE_FULL = 128
    """Storage is full."""
    STORAGE_DEGRADED = 129
    """Storage failed earlier and is not trusted until it is checked."""
    AUDIT_UNAVAILABLE = 130
    """The audit trail cannot be written, so nothing privileged is done."""
    COMMIT_UNKNOWN = 131
    """The write was made and its sync failed."""
    SOURCE_CHANGED = 144
    """What a transfer is read from is no longer what its reference describes."""
    DIGEST_MISMATCH = 145
    """The bytes of the transfer are not those that its digest stands for."""
    TRANSFER_EXPIRED = 146
    """The transfer has ended, or its reference has expired."""
    TRANSFER_UNKNOWN = 147
    """No transfer of this id is served here."""
    TRANSFER_STALLED = 148
    """No byte of the transfer has advanced for as long as its receiver waits."""
    TRANSFER_CANCELLED = 149
    """One of the ends has given the transfer up."""
    TRANSFER_NOT_READY = 150
    """The holder still reads what the transfer is read from; the detail says how far it is."""

    @property
    def kind(self) -> StatusClass:
        """What this status says about the work."""
        if self in _UNKNOWN:
            return StatusClass.UNKNOWN
        return StatusClass.FAILED if self is Status.HANDLER_FAILED else StatusClass.REFUSED


_UNKNOWN = frozenset(
    {
        Status.PEER_LOST,
        Status.PEER_RESTARTED,
        Status.DEADLINE,
        Status.ABORTED_RUNNING,
        Status.HANDLER_PANIC,
        Status.HANDLER_GONE,
        Status.COMMIT_UNKNOWN,
    }
)
