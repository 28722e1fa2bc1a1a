"""The user centre: profiles and wallets in 128 buckets over several databases, and the gateway before them.

`gateway` is the one way in: it knows in which bucket a user is, mints ids that say so, keeps e-mails unique over all
databases, and adds up answers of many. `entities` are the rows. Which databases there are is configuration: four SQLite
files by default, or as many MariaDB schemas as are named in `[apps.users.shards]` of the system file.
"""

from shop.users.user_core.entities import User, Wallet
from shop.users.user_core.gateway import UserGateway

__all__ = ["User", "UserGateway", "Wallet"]
