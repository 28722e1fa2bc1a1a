"""Users: accounts, tokens and wallets; a participant in every order.

`Users` answers questions and issues tokens; `WalletHolds` is its part in transactions. The one rule: available + frozen
+ spent = deposited.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from dougong.app import App
from shop.users._contract import (
    AddUpWallets,
    Charge,
    GetProfile,
    GetWallet,
    Login,
    Profile,
    Register,
    Token,
    UpdateProfile,
    Wallet,
    WalletBooks,
)
from shop.users._demo import DEMO_PASSWORD, OPERATOR_EMAIL, PARTNER_EMAIL, seed
from shop.users._holds import WalletHolds
from shop.users._passwords import Passwords
from shop.users._service import Users
from shop.users._settings import UsersSettings

__all__ = [
    "DEMO_PASSWORD",
    "OPERATOR_EMAIL",
    "PARTNER_EMAIL",
    "AddUpWallets",
    "Charge",
    "GetProfile",
    "GetWallet",
    "Login",
    "Profile",
    "Register",
    "Token",
    "UpdateProfile",
    "Users",
    "UsersSettings",
    "Wallet",
    "WalletBooks",
    "WalletHolds",
    "app",
]


async def passwords() -> AsyncIterator[Passwords]:
    made = Passwords()
    yield made
    made.close()


app = App(
    "users",
    services=[Users],
    participants=[WalletHolds],
    migrations="shop.users.migrations",
    settings=UsersSettings,
    provide=[passwords],
    prepare=[seed],
)
