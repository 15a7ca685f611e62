"""One layer's mask into a channel-wise or a group-wise one."""
