"""What users says on the wire."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from dougong.contract import Message, Subject

__all__ = [
    "AddUpWallets",
    "Charge",
    "GetProfile",
    "GetWallet",
    "Login",
    "Profile",
    "Register",
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
    """A bearer token and how many seconds it is good for."""

    token: str
    expires_in_s: int
    user_id: str


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
