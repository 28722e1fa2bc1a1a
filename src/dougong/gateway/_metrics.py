"""What a gateway counts."""

from __future__ import annotations

from dougong.telemetry import counter, gauge

connections = gauge("dougong_gateway_connections", "Connections of this process, those in the handshake included.")
closed = counter("dougong_gateway_closed_total", "Connections that ended, by why.", labels=("why",))
refused = counter(
    "dougong_gateway_refused_total", "Connections that were refused, by status or reason.", labels=("why",)
)
delivered = counter("dougong_gateway_delivered_total", "Published messages written to connections, or kept for them.")
dropped = counter(
    "dougong_gateway_dropped_total", "Messages that slow readers did not get, by policy.", labels=("slow",)
)
untold = counter(
    "dougong_gateway_untold_total", "Messages that too many waited before; their members were told that some are lost."
)
received = counter("dougong_gateway_received_total", "Messages from clients.")
fan_out_cut = counter("dougong_gateway_fan_out_cut_total", "Processes that the hub cut off because they did not read.")
fan_out_lost = counter(
    "dougong_gateway_fan_out_lost_total", "Times that a topic's members were told that messages are lost."
)
fan_out_interrupted = counter(
    "dougong_gateway_fan_out_interrupted_total",
    "Joined topics, each time the connection was lost: what was published there without being kept did not get here.",
)
fan_out_connected = gauge("dougong_gateway_fan_out_connected", "Whether this process has what carries messages.")
