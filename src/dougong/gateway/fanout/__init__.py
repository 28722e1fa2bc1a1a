"""What carries messages between gateways, and from services that hold no connections to them.

`InProcess` is for a gateway that is alone, `LocalFanOut` for the processes of one machine, `RedisFanOut` for several
machines. All three say the same of a topic: the same offsets in every process, and what is missed is told, not hidden.
"""

from dougong.gateway.fanout._protocol import Deliver, FanOut, Lost, Published
from dougong.gateway.fanout.hub import Hub
from dougong.gateway.fanout.in_process import InProcess
from dougong.gateway.fanout.local import LocalFanOut
from dougong.gateway.fanout.publisher import Publisher
from dougong.gateway.fanout.redis import RedisFanOut

__all__ = ["Deliver", "FanOut", "Hub", "InProcess", "LocalFanOut", "Lost", "Published", "Publisher", "RedisFanOut"]
