"""Tables beside the user's own: what happened to instances, and whose numbers stand for what."""
