"""Which tests can exist on this machine."""

from __future__ import annotations

from tests import engines

collect_ignore = [
    *([] if engines.can_cut_networks() else ["test_network.py"]),
    *([] if engines.can_slow_disks() else ["test_slow_disk.py"]),
]
