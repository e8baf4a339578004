"""A world where the truth is known: its law (`world`), its events (`events`), and what can be known (`belief`)."""

from dien.data.synthetic.events import write_events
from dien.data.synthetic.world import World

__all__ = ["World", "write_events"]
