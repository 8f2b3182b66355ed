"""An OpenAI-compatible server over one model and memories on disk.

app        routes, and what they return when something is wrong     (asyncio)
requests   what a client may send
replies    what it gets: whole, or piece by piece
worker     the one thread that owns the model, and the requests that wait for it
answering  a prompt, what of a memory is read for it, and the text   (the worker's thread)
memories   the memories that were opened, and changes of them
"""
