"""Tables of the tcc room; fence and log number theirs apart, since they live in different databases."""
