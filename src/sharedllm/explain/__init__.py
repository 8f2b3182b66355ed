"""A page that explains an answer: which pieces of a text were read at which stride, and how much attention they got.

attention.py  how much attention an answer paid to each kept token
facts.py      everything on the page, as plain numbers and texts: what there is; gathering.py computes it
page.py       one HTML file that shows it, from page.html, page.css and page.js
"""

from .attention import LayerAttention, attention_paid
from .facts import Facts
from .gathering import gather
from .page import render

__all__ = ["Facts", "LayerAttention", "attention_paid", "gather", "render"]
