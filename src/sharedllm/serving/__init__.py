"""An OpenAI-compatible server over one model and memories on disk.

app        routes and their errors     (asyncio)
requests   the requests that a client may send
replies    the responses: whole, or piece by piece
worker     the one thread that owns the model, and its queue of requests
answering  prompt, selection from a memory, and generated text   (the worker's thread)
memories   the open memories, and changes of them
"""
