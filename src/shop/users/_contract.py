"""What users says on the wire."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from dougong.contract import Message, Subject

__all__ = [
    "AddUpWallets",
    "ChangePassword",
    "Charge",
    "EndSessions",
    "EndedPage",
    "EndedSession",
    "EndedSince",
    "FeedMark",
    "GetProfile",
    "GetWallet",
    "ListSessions",
    "LogOut",
    "LogOutEverywhere",
    "LoggedOut",
    "Login",
    "Profile",
    "Refresh",
    "Register",
    "SessionInfo",
    "SessionList",
    "Token",
    "UpdateProfile",
    "Wallet",
    "WalletBooks",
]

# No control characters, nor those that turn the direction of text: such a name is made to look like another one.
_PRINTED = r"(?!.*[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069])"
Email = Annotated[str, Meta(min_length=3, max_length=254, pattern=r"^" + _PRINTED + r"[^@\s]+@[^@\s]+\.[^@\s]+$(?!\n)")]
Password = Annotated[str, Meta(min_length=8, max_length=128)]
Name = Annotated[str, Meta(min_length=1, max_length=100, pattern=r"^" + _PRINTED + r".*$(?!\n)")]


class Register(Message):
    """A new customer."""

    email: Email
    password: Password
    name: Name


class Profile(Message):
    """A user, as the user sees it. Ids are strings, because JSON numbers round."""

    user_id: str
    email: str
    name: str
    role: str
    created_us: int


class GetProfile(Message):
    """Whose profile; one's own if left out."""

    user_id: Subject = ""


class UpdateProfile(Message):
    """A new display name."""

    user_id: Subject = ""
    name: Name


class Login(Message):
    """Credentials."""

    email: Email
    password: Annotated[str, Meta(max_length=128)]


class Token(Message):
    """A bearer token and how many seconds it is good for; and what to get the next one with (`POST /v1/token`).

    A refresh token is good once: keep the one that comes with the answer.
    """

    token: str
    expires_in_s: int
    user_id: str
    refresh_token: str = ""
    refresh_expires_in_s: int = 0
    """Until the session is over if it is not used; each use begins this anew, up to the session's longest life."""
    session_id: str = ""


class Refresh(Message):
    """The refresh token of the last answer."""

    refresh_token: Annotated[str, Meta(max_length=200)]


class LogOut(Message):
    """Which of one's own sessions is over; the one that the token comes from if left out."""

    user_id: Subject = ""
    session_id: Annotated[str, Meta(max_length=19)] = ""


class LogOutEverywhere(Message):
    """All of one's own sessions are over."""

    user_id: Subject = ""


class EndSessions(Message):
    """Whose sessions are over: all, or that one."""

    user_id: Annotated[str, Meta(max_length=19)]
    session_id: Annotated[str, Meta(max_length=19)] = ""


class LoggedOut(Message):
    """How many sessions ended. Their access tokens are refused everywhere within two seconds or so."""

    sessions: int


class ListSessions(Message):
    """Whose sessions; one's own if left out."""

    user_id: Subject = ""


class SessionInfo(Message):
    """One login. `used_us` is when it last got an access token."""

    session_id: str
    created_us: int
    used_us: int
    current: bool = False
    """Whether it is the one that asks."""


class SessionList(Message):
    """The sessions that live, the one used last first."""

    items: list[SessionInfo]


class ChangePassword(Message):
    """The old password and a new one. All other sessions end."""

    user_id: Subject = ""
    old_password: Annotated[str, Meta(max_length=128)]
    new_password: Password


class FeedMark(Message):
    """How far the list of one process of users was read."""

    feed: str
    position: int


class EndedSince(Message):
    """How far the lists of all processes of users were read that answered lately."""

    marks: Annotated[tuple[FeedMark, ...], Meta(max_length=64)] = ()


class EndedSession(Message):
    """A session whose tokens are not to be believed, and until when (µs) one of them could live."""

    session_id: str
    until_us: int


class EndedPage(Message):
    """What follows on the mark of the process that answers; ask again at once if there is more."""

    mark: FeedMark
    items: list[EndedSession]
    more: bool


class GetWallet(Message):
    """Whose wallet; one's own if left out."""

    user_id: Subject = ""


class Wallet(Message):
    """Money in minor units: available to spend, frozen for orders in progress, spent; the three add up to deposited."""

    user_id: str
    currency: str
    available: int
    frozen: int
    spent: int
    deposited: int


class AddUpWallets(Message):
    """Add up the books."""


class WalletBooks(Message):
    """The books over all wallets."""

    wallets: int
    available: int
    frozen: int
    spent: int
    deposited: int


class Charge(Message):
    """A branch of an order: take so much of a user's money. A negative amount gives spent money back."""

    user_id: int
    amount_minor: int
    currency: str
