"""Who is logged in, for how long, and how that ends.

Access tokens (`JwtIssuer`) are short and asked about nowhere; a *session*, a row in the bucket of its user, gives out
new ones against a refresh token that changes at each use. A copy of one shows itself, because it is used twice.

`Auth` is what the service calls. `Sessions` are the rows, decided about by pure rules (`_session`, `_throttle`).
`EndedFeed` and `EndedWatch` tell of sessions that end before their access tokens do. docs/user-centre.md has the flows,
decision 0032 the reasons.
"""

from shop.users.auth_jwt._auth import Auth, Grant
from shop.users.auth_jwt._feed import EndedFeed, EndedWatch, FeedPage
from shop.users.auth_jwt._session import Refused, Rotated, Session, SessionRules, open_session, rotate
from shop.users.auth_jwt._sessions import Sessions
from shop.users.auth_jwt._throttle import Allowance, LoginLimits, LoginThrottle, Rate, network_of
from shop.users.auth_jwt._tokens import RefreshToken, read_token

__all__ = [
    "Allowance",
    "Auth",
    "EndedFeed",
    "EndedWatch",
    "FeedPage",
    "Grant",
    "LoginLimits",
    "LoginThrottle",
    "Rate",
    "RefreshToken",
    "Refused",
    "Rotated",
    "Session",
    "SessionRules",
    "Sessions",
    "network_of",
    "open_session",
    "read_token",
    "rotate",
]
