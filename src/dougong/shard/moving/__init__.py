"""Buckets on their way from one database to another, while they are read and written.

The one idea: **note which keys change, copy, work off the notes, and only then stop the writers, for milliseconds.**
The map is switched in one transaction; before it the source serves and nothing was risked, after it the target does and
the source keeps a copy that can be brought up to date in the same way, backwards. So going back, cancelling and
completing need nothing of their own.
"""
