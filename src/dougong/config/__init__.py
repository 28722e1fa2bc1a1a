"""Settings: typed, layered, and able to say where each value came from.

The one idea: **a settings class is the whole truth.** Its fields are all there is to set, its annotations say what is
allowed, its defaults are the first layer. Files (TOML), the environment and overrides are laid over it in that order,
and whatever fits no field or no type is refused at start, naming the file or variable, the setting and what it expects.

    class Settings(msgspec.Struct, frozen=True):
        listen: str = "127.0.0.1:0"
        peers: list[str] = []
        database_password: Secret = Secret("")

    loaded = load(Settings, files=[Path("orders.toml")])
    loaded.value.listen                 # DOUGONG_LISTEN=0.0.0.0:80 in the environment wins over the file
    loaded.why("listen")                # environment variable DOUGONG_LISTEN

Missing, null and empty are three things. Missing keeps the layer below. Null (`DOUGONG_X=null`) sets None where the
type allows it. Empty (`peers = []`, `DOUGONG_X=`) is a value like any other and replaces what was there.

Tables of nested classes merge field by field; lists and dicts are values and replace as a whole, and the environment
reaches single entries of them: `DOUGONG_PEERS__0=a:1`, `DOUGONG_LIMITS__ORDERS=5`. Text beside its variable in a file,
as secret stores provide it, comes by `DOUGONG_DATABASE_PASSWORD_FILE=/run/secrets/db`. A `Secret` is never printed.

What it does not do: it reads once and watches nothing, and it does not read YAML.
"""

from dougong.config.layers import Layer, Source
from dougong.config.loading import Loaded, load
from dougong.config.secret import Secret

__all__ = ["Layer", "Loaded", "Secret", "Source", "load"]
