"""What an answer was made of, to be looked at: which pieces of a text were read how finely, and what attention they got.

attention.py  how much of its attention an answer paid to each kept token
facts.py      everything that is shown, as plain numbers and texts
page.py       one HTML file that shows them, from page.html, page.css and page.js
"""

from .attention import LayerAttention, attention_paid
from .facts import Facts, gather
from .page import render

__all__ = ["Facts", "LayerAttention", "attention_paid", "gather", "render"]
