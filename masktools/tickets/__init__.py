"""Find lottery tickets with a training of your own, in any framework; every round is kept."""

from masktools.tickets import posts, sources
from masktools.tickets.finding import find_ticket
from masktools.tickets.heads import with_head
from masktools.tickets.retraining import Retraining, extreme, retrain
from masktools.tickets.search import Round, Search

__all__ = [
    "Retraining",
    "Round",
    "Search",
    "extreme",
    "find_ticket",
    "posts",
    "retrain",
    "sources",
    "with_head",
]
