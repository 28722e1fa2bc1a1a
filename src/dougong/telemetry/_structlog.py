"""structlog, loaded without rich.

Where rich is installed structlog loads it, and rich loads pygments and attrs, for tracebacks with local variables.
Ours never have those: whatever secret is in one would be in the log. So every process would carry 4 MB for nothing.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import cast

__all__ = ["structlog"]

if "structlog" in sys.modules or "rich" in sys.modules:  # somebody wanted them
    import structlog
else:
    sys.modules["rich"] = cast("ModuleType", None)  # the import system's word for what is not installed
    try:
        import structlog
    finally:
        del sys.modules["rich"]
