"""The stories of our own rooms, one file each; what is taken away in them stands beside."""
