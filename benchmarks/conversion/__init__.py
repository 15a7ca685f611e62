"""How long a conversion takes, how it grows, and what its blocks retain."""
