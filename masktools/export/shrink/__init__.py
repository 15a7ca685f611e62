"""Remove the channels that refill dropped: constant, removable, absorbed, cut."""
